"""What is installed on a device: this project's wheel and the versions that it was tested with.

Rules:
- From a source checkout, the wheel is built from a copy of it: setuptools builds in the tree, and what an earlier build
  left there would get into the wheel.
- Same sources, same bytes (no clock in it), so that a second setup of the same sources has nothing to do.
- Where edgeprune itself came out of a wheel, what is installed can't be made into one again: it has to be given.

Source: PEP 427 (file name); reproducible-builds.org, SOURCE_DATE_EPOCH, which setuptools' bdist_wheel takes as the time
of every entry.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import zipfile
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from edgeprune.errors import DeviceError
from edgeprune.version import __version__

#: What a wheel is built from.
SOURCES = ("pyproject.toml", "README.md", "LICENSE", "constraints.txt", "edgeprune", "targets", "calibration")
#: pyproject's build-system.requires.
SETUPTOOLS = 77
#: 1980-01-01, the earliest time that a zip can hold.
EPOCH = "315532800"
#: A build takes seconds; with build isolation and a slow network, minutes.
TIMEOUT_S = 300

_CHECKOUT = Path(__file__).resolve().parent.parent.parent


def find_wheel(given: Path | None, folder: Path) -> Path:
    """The wheel to install: the given one, else one built into `folder`.

    Raises:
        DeviceError: It isn't edgeprune's, of this version; or there is none and none can be built.
    """
    if given is not None:
        return _checked(given)
    if not all((_CHECKOUT / name).exists() for name in SOURCES):
        raise DeviceError(
            "This edgeprune was not installed from a source checkout, so its wheel can't be built.",
            where=_CHECKOUT, next_step=f"--wheel edgeprune-{__version__}-py3-none-any.whl, what it was installed from",
        )  # fmt: skip
    return _build(folder)


def find_constraints() -> Path:
    """constraints.txt: of the checkout, else where a wheel installs it.

    Raises:
        DeviceError: There is none.
    """
    for file in (_CHECKOUT / "constraints.txt", Path(sys.prefix) / "share" / "edgeprune" / "constraints.txt"):
        if file.is_file():
            return file
    raise DeviceError("The tested versions are not known.", expected="constraints.txt, as in the source checkout")


def _build(folder: Path) -> Path:
    tree = folder / "source"
    for name in SOURCES:
        source = _CHECKOUT / name
        if source.is_dir():
            shutil.copytree(source, tree / name, ignore=shutil.ignore_patterns("__pycache__", "*.egg-info"))
        else:
            tree.mkdir(parents=True, exist_ok=True)
            shutil.copy2(source, tree / name)
    for path in tree.rglob("*"):
        path.chmod(0o755 if path.is_dir() else 0o644)  # the checkout's umask must not get into the wheel
    command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-cache-dir", "--wheel-dir", folder]
    if _has_setuptools():
        command.append("--no-build-isolation")
    try:
        done = subprocess.run(
            [*map(str, command), str(tree)], capture_output=True, text=True, timeout=TIMEOUT_S,
            env=os.environ | {"SOURCE_DATE_EPOCH": EPOCH}, stdin=subprocess.DEVNULL, cwd=folder,
        )  # fmt: skip
        said = done.stderr.strip().splitlines() or [f"exit code {done.returncode}"]
    except subprocess.TimeoutExpired:
        said = [f"no end within {TIMEOUT_S} s"]
    found = list(folder.glob("edgeprune-*.whl"))
    if len(found) != 1:
        raise DeviceError("edgeprune's wheel can't be built.", where=_CHECKOUT, got=said[-1])
    return _checked(found[0])


def _has_setuptools() -> bool:
    try:
        found = re.match(r"\d+", version("setuptools"))
    except PackageNotFoundError:
        return False
    return found is not None and int(found[0]) >= SETUPTOOLS


def _checked(wheel: Path) -> Path:
    expected = f"edgeprune-{__version__}-"
    if not wheel.is_file():
        raise DeviceError("There is no such wheel.", where=wheel)
    if not wheel.name.startswith(expected) or wheel.suffix != ".whl" or not zipfile.is_zipfile(wheel):
        raise DeviceError(
            "This is not the wheel of this edgeprune.", where=wheel, expected=f"{expected}….whl", got=wheel.name
        )
    return wheel
