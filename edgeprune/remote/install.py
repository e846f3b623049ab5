"""Installs the device side. Runs ON the device with its own python3 and nothing else: standard library only.

    python3 install.py '{"root", "name", "incoming", "wheel", "constraints", "wheels", "runtime", "extras", "rooms"}'

Rules:
- Everything is made in NAME.part and renamed; then the link `current` is replaced. Who starts `current/bin/python`
  gets the old installation or the new one. Whatever ends this process early but a power cut or SIGKILL removes the
  .part; the next one removes what those left.
- Nothing is installed twice: an installation of this name that is whole is only linked.
- Checked before it counts: every device room imports with torch blocked, and the runtime imports.
- Only what these imports used is compiled: byte code of all of NumPy and Pygments is 25 MB that nobody loads.
- What was copied for it goes with its end, well or not; what copies that broke off left, an hour later.
- A runtime that is the board's own (TensorRT) is taken from the system's packages, which the environment then sees; pip
  installs nothing for it, and what the system's packages have in the tested versions isn't installed again.
- pip goes when it has done its work (17 MB); the next setup brings its own.

The last line out is one JSON object: the record of the installation, or {"error": kind, "detail": text} with exit
code 3.

Sources: venv and pip documentation; rename(2) and symlink(2): both atomic; flock(2).
"""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

#: Where the record of an installation lies in it; written last.
RECORD = "installed.json"

_CHECK = """
import importlib, importlib.abc, json, sys, time
class Block(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in {"torch", "torchvision", "ultralytics"}:
            raise ImportError(name + " is not for devices")
sys.meta_path.insert(0, Block())
rooms, runtime = json.loads(sys.argv[1])
start = time.perf_counter()
for room in rooms:
    importlib.import_module(room)
import_s = time.perf_counter() - start
if runtime:
    precision = "fp16" if runtime == "tensorrt" else "fp32"
    importlib.import_module("edgeprune.runtime.session").available(runtime, precision)
print(json.dumps(import_s))
"""

_SIZES = """
import importlib.metadata as m, json, os, pathlib, sys
from edgeprune.machine import emulated
def size(distribution):
    paths = {str(distribution.locate_file(f)) for f in distribution.files or ()}
    return sum(os.lstat(p).st_size for p in paths if os.path.lexists(p))
runtime, boards_own = sys.argv[1:]
here = os.path.realpath(sys.prefix)
found = {d.metadata["Name"]: d for d in m.distributions() if os.path.realpath(d.locate_file("")).startswith(here)}
versions = {n: d.version for n, d in found.items()}
if boards_own:
    versions[runtime] = __import__(runtime).__version__
about = {"runtime_bytes": 0 if boards_own else size(found[runtime]), "emulated": emulated(pathlib.Path("/"))}
print(json.dumps({"versions": versions} | about))
"""


class Refused(Exception):
    """What can't be done, for the host to say."""

    def __init__(self, kind: str, detail: str) -> None:
        super().__init__(kind)
        self.kind, self.detail = kind, detail


def main() -> int:
    request = json.loads(sys.argv[1])
    for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGINT):
        signal.signal(number, lambda *_: sys.exit(143))
    try:
        print(json.dumps(install(request), sort_keys=True))
    except Refused as refused:
        print(json.dumps({"error": refused.kind, "detail": refused.detail}))
        return 3
    return 0


def install(request: dict[str, Any]) -> dict[str, Any]:
    """Make the installation, or find it made."""
    root = Path(request["root"])
    with open(root / ".lock", "w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise Refused("busy", str(root)) from None
        final, part = root / request["name"], root / f"{request['name']}.part"
        for left in [*root.glob("venv-*.part"), *filter(forgotten, root.glob("incoming-*"))]:
            shutil.rmtree(left)
        try:
            if not (final / RECORD).is_file():
                shutil.rmtree(final, ignore_errors=True)
                make(part, final, request)
                os.sync()
                os.rename(part, final)
        finally:
            shutil.rmtree(part, ignore_errors=True)
            shutil.rmtree(request["incoming"], ignore_errors=True)
        link = root / "current.part"
        link.unlink(missing_ok=True)
        link.symlink_to(final.name)
        os.replace(link, root / "current")
        for old in root.glob("venv-*"):
            if old != final:
                shutil.rmtree(old)
        os.sync()
        return json.loads((final / RECORD).read_text())


def forgotten(folder: Path) -> bool:
    """Whether nobody has copied into a folder for an hour."""
    return time.time() - folder.stat().st_mtime > 3600


def make(part: Path, final: Path, request: dict[str, Any]) -> None:
    """Fill the .part."""
    own = request.get("boards_own", False)
    run("no-venv", [sys.executable, "-m", "venv", *(["--system-site-packages"] if own else []), str(part)])
    python = str(part / "bin" / "python")
    pip = [python, "-m", "pip", "--disable-pip-version-check", "--no-input", "--quiet"]
    wanted = request["wheel"] + (f"[{','.join(request['extras'])}]" if request["extras"] else "")
    given = ["--no-index", "--find-links", request["wheels"]] if request["wheels"] else []
    run("pip", [*pip, "install", "--no-compile", "--no-cache-dir", *given, "-c", request["constraints"], wanted])
    rooms = json.dumps([request["rooms"], None])
    run("check", [python, "-I", "-c", _CHECK, json.dumps([request["rooms"], request["runtime"]])])
    import_s = min(float(run("check", [python, "-I", "-c", _CHECK, rooms])) for _ in range(3))
    run("pip", [*pip, "uninstall", "-y", "pip", "setuptools"])
    sizes = json.loads(run("check", [python, "-I", "-c", _SIZES, request["runtime"], "yes" if own else ""]))
    for script in (part / "bin").iterdir():  # they name the interpreter by its path, which is about to change
        if script.is_file() and not script.is_symlink():
            script.write_bytes(script.read_bytes().replace(os.fsencode(part), os.fsencode(final)))
    total = sum(p.lstat().st_size for p in part.rglob("*") if p.is_symlink() or p.is_file())
    record = {
        "name": request["name"], "runtime": request["runtime"], "python": sys.version.split()[0],
        "versions": sizes["versions"], "runtime_bytes": sizes["runtime_bytes"],
        "install_bytes": total - sizes["runtime_bytes"], "import_s": import_s, "emulated": sizes["emulated"],
    }  # fmt: skip
    (part / RECORD).write_text(json.dumps(record, indent=2, sort_keys=True) + "\n")


def run(kind: str, command: list[str]) -> str:
    """Run a command to its end; what it writes is its answer, or the reason."""
    kept = {k: v for k, v in os.environ.items() if k not in {"PYTHONPATH", "PYTHONHOME", "VIRTUAL_ENV"}}
    process = subprocess.Popen(
        command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=kept
    )
    try:
        out, err = process.communicate()
    except BaseException:
        process.kill()
        process.wait()
        raise
    if process.returncode:
        said = f"{out}\n{err}".strip()
        if "Errno 28" in said or "No space left" in said:
            kind = "full"
        raise Refused(kind, said[-2000:])
    return out


if __name__ == "__main__":
    sys.exit(main())
