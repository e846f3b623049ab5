"""The self-test seen from outside: a process that is given so much time and memory, and whatever it does is an answer.

Rules:
- A crash, a hang and a process that takes too much memory are refusals of the model, each with its word.
- The process dies with the agent, and with it all that it started.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

from edgeprune.machine import die_with_parent, text
from edgeprune.records.agent import Limits
from edgeprune.records.release import ReleaseBuild

#: Seconds between looks at the process.
LOOK_S = 0.02
_PAGE = os.sysconf("SC_PAGE_SIZE")


@dataclass(frozen=True)
class Tried:
    """What became of a self-test.

    Attributes:
        reason: Why the model is refused: kind, colon, what happened; None where it isn't.
        latency_ms: Median; None where it didn't come so far.
    """

    reason: str | None
    latency_ms: float | None = None


def build(slot: Path, limits: Limits) -> str | None:
    """Build a slot's engine of its kit; returns why it can't be had."""
    return _run(["build", str(slot)], limits.build_s, None).reason


def test(slot: Path, build: ReleaseBuild, limits: Limits) -> Tried:
    """Test a slot's model against what its release says of it."""
    budget = build.latency_ms * build.latency_tolerance
    found = _run(["test", str(slot), repr(budget), str(limits.test_images)], limits.self_test_s, limits.memory_bytes)
    if found.reason is None and found.latency_ms is not None and found.latency_ms > budget:
        return Tried(
            f"latency: {found.latency_ms:.3g} ms, {budget:.3g} allowed "
            f"({build.latency_ms:.3g} measured x {build.latency_tolerance:g})",
            found.latency_ms,
        )
    return found


def _run(arguments: list[str], most_s: float, most_bytes: int | None) -> Tried:
    with tempfile.TemporaryFile() as said, tempfile.TemporaryFile() as complained:
        process = subprocess.Popen(
            [sys.executable, "-m", "edgeprune.agent.trial", *arguments], stdin=subprocess.DEVNULL, stdout=said,
            stderr=complained, start_new_session=True,
            preexec_fn=die_with_parent,  # one thread, and nothing but a system call
        )  # fmt: skip
        try:
            reason = _wait(process, most_s, most_bytes)
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        said.seek(0)
        complained.seek(0)
        lines, errors = said.read().decode(errors="replace").splitlines(), complained.read().decode(errors="replace")
    if reason:
        return Tried(reason)
    if process.returncode:
        how = f"signal {-process.returncode}" if process.returncode < 0 else f"exit code {process.returncode}"
        last = errors.strip().splitlines()[-1:] or ["without a word"]
        return Tried(f"crash: the self-test ended with {how}: {last[0]}")
    try:
        answer = json.loads(lines[-1])
        return _judge(answer, most_bytes)
    except (IndexError, ValueError, KeyError, TypeError):
        return Tried("crash: the self-test ended without an answer")


def _judge(answer: dict[str, object], most_bytes: int | None) -> Tried:
    peak, latency = answer.get("peak_bytes"), answer.get("latency_ms")
    reason = None if answer["reason"] is None else str(answer["reason"])
    if reason is None and most_bytes is not None and isinstance(peak, int) and peak > most_bytes:
        reason = f"memory: {peak >> 20} MiB, {most_bytes >> 20} allowed"
    return Tried(reason, latency if isinstance(latency, float) else None)


def _wait(process: subprocess.Popen[bytes], most_s: float, most_bytes: int | None) -> str | None:
    """Wait for the end; returns why it isn't waited for any longer."""
    end = time.monotonic() + most_s
    while process.poll() is None:
        if time.monotonic() > end:
            return f"hang: the self-test hadn't ended after {most_s:g} s"
        resident = 0 if most_bytes is None else _resident_bytes(process.pid)
        if most_bytes is not None and resident > most_bytes:
            return f"memory: {resident >> 20} MiB, {most_bytes >> 20} allowed"
        time.sleep(LOOK_S)
    return None


def _resident_bytes(pid: int) -> int:
    pages = (text(Path(f"/proc/{pid}/statm")) or "").split()[1:2]
    return int(pages[0]) * _PAGE if pages else 0
