"""A power cut at one system call: strace ends the agent with SIGKILL where it enters its Nth write, fsync, rename …, or
has that call answer that the disk is full or broken.

The agent's only thread that touches the disk is traced; the self-test's process dies with it, as with a power cut.
Thousands of points need haste: the agent is a fork of the test's process, and so is its self-test, which is the real
one but for the fresh interpreter. The command itself, with a fresh process for both, is cut off at some points too.

Source: strace(1), 'Tampering' (inject=SET:signal=|error=:when=N).
"""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from edgeprune.agent import selftest, trial
from edgeprune.machine import die_with_parent
from tests.agent.simulator import Device

#: What changes a disk, or promises that it has changed.
CALLS = (
    "write", "pwrite64", "fsync", "fdatasync", "rename", "renameat", "renameat2", "link", "linkat", "unlink",
    "unlinkat", "symlink", "symlinkat", "mkdir", "mkdirat", "rmdir", "ftruncate", "openat",
)  # fmt: skip
#: Of openat, only those calls that make a file.
KINDS = ("signal=SIGKILL", "error=ENOSPC", "error=EIO")


@dataclass(frozen=True)
class Point:
    """One call, and what happens there."""

    call: str
    when: int
    kind: str

    def __str__(self) -> str:
        return f"{self.call} {self.when} {self.kind.partition('=')[2]}"


def strace() -> str | None:
    return shutil.which("strace")


def calls(device: Device, log: Path) -> dict[str, list[int]]:
    """Run the agent once, traced; returns the calls that it made on its folder: name -> which, counted from 1."""
    code, said = _traced(device, log, "-y", "-e", f"trace={','.join(CALLS)}")
    assert code in (0, 30, 33), said
    found: dict[str, list[int]] = {}
    counted: dict[str, int] = {}
    here = str(device.folder.parent)
    for line in log.read_text(errors="replace").splitlines():
        name = re.match(r"(\w+)\(", line)
        if name is None:
            continue
        counted[name[1]] = counted.get(name[1], 0) + 1
        if here in line and (name[1] != "openat" or "O_CREAT" in line):
            found.setdefault(name[1], []).append(counted[name[1]])
    return found


def points(made: dict[str, list[int]]) -> Iterator[Point]:
    """Every point of every kind."""
    for call, counts in made.items():
        for when in counts:
            for kind in KINDS:
                yield Point(call, when, kind)


def cut(device: Device, point: Point) -> tuple[int, str]:
    """Run the agent up to a point; returns its exit code (negative: the signal) and what it said."""
    inject = f"inject={point.call}:{point.kind}:when={point.when}"
    return _traced(device, Path("/dev/null"), "-e", f"trace={point.call}", "-e", inject)


def cut_command(device: Device, point: Point, share: float) -> tuple[int, str]:
    """The same for the agent as a command, start and all, a share of the way through its calls of that name."""
    log = device.folder.parent.with_name("log")
    probe = device.copy(device.folder.parent.with_name("probe"))
    probe.command("once", before=("strace", "-qq", "-o", str(log), "-e", f"trace={point.call}"))
    made = len(re.findall(rf"^{point.call}\(", log.read_text(errors="replace"), re.MULTILINE))
    shutil.rmtree(probe.folder.parent)
    inject = f"inject={point.call}:{point.kind}:when={max(1, round(share * made))}"
    done = device.command(
        "once", before=("strace", "-qq", "-o", "/dev/null", "-e", f"trace={point.call}", "-e", inject)
    )
    return done.returncode, done.stdout + done.stderr


@contextmanager
def forked_self_tests() -> Iterator[None]:
    """The agent's self-tests in forks of its own process, as long as the block lasts."""
    import cv2  # noqa: F401
    import onnxruntime  # noqa: F401

    def run(arguments: list[str], most_s: float, most_bytes: int | None) -> selftest.Tried:
        out, into = os.pipe()
        child = os.fork()
        if child == 0:
            code = 1
            try:
                die_with_parent()
                answer = trial.test(Path(arguments[1]), float(arguments[2]), int(arguments[3]))
                os.write(into, json.dumps(answer).encode())
                code = 0
            finally:
                os._exit(code)
        os.close(into)
        with os.fdopen(out, "rb") as answered:
            said = answered.read()
        _, status = os.waitpid(child, 0)
        assert status == 0
        return selftest._judge(json.loads(said), most_bytes)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(selftest, "_run", run)
        yield


def _traced(device: Device, log: Path, *options: str) -> tuple[int, str]:
    """The agent in a fork of this process, which has imported everything: strace takes hold of it before it begins."""
    out = device.folder.parent.with_name("said")
    child = os.fork()
    if child == 0:
        code = 1
        try:
            handle = os.open(out, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644)
            os.dup2(handle, 1)
            os.dup2(handle, 2)
            signal.alarm(0)
            os.kill(os.getpid(), signal.SIGSTOP)
            ending = device.agent().once()
            os.write(2, ending.said.encode())
            code = int(ending.code)
        except BaseException:
            import traceback

            os.write(2, traceback.format_exc().encode())
        finally:
            os._exit(code)
    os.waitpid(child, os.WUNTRACED)
    tracer = subprocess.Popen(["strace", "-qq", "-o", str(log), *options, "-p", str(child)], stderr=subprocess.PIPE)
    try:
        end = time.monotonic() + 600
        while "TracerPid:\t0" in Path(f"/proc/{child}/status").read_text():
            assert tracer.poll() is None, tracer.stderr and tracer.stderr.read()
            assert time.monotonic() < end
            time.sleep(0.002)
        os.kill(child, signal.SIGCONT)
        _, status = os.waitpid(child, 0)
    except BaseException:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        raise
    finally:
        tracer.terminate()
        tracer.communicate()
    sys.stdout.flush()
    return os.waitstatus_to_exitcode(status), out.read_text(errors="replace") if out.is_file() else ""
