"""Holding this process to cores, before its runtime makes threads.

Rules:
- All threads that there are get the cores, and those to come inherit them; libraries that are imported make some.
- The kernel takes a list in silence as long as one core of it is there, so what it made of it is read back.
- Cores that the system keeps apart (isolcpus) aren't in a process's own list, but can be had.
- Within those cores each runtime places its own threads, one a core (session.py, openvino.py): the kernel doesn't move
  threads between isolated cores, so that a list alone would leave them all on the first.

Sources: sched_setaffinity(2); Linux Documentation/admin-guide/kernel-parameters, 'isolcpus'.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from edgeprune.errors import DeviceError


def pin(cores: Sequence[int]) -> None:
    """Hold every thread of this process to some cores; no cores: leave it alone.

    Raises:
        DeviceError: This machine hasn't all of them, or they are denied to the process.
    """
    if not cores:
        return
    if not hasattr(os, "sched_setaffinity"):
        raise DeviceError("Processes can't be held to cores on this system.", got=f"cores {_listed(cores)}")
    before = os.sched_getaffinity(0)
    try:
        os.sched_setaffinity(0, cores)
    except OSError:
        refuse(cores, set(), before)
    got = os.sched_getaffinity(0)
    if got != set(cores):
        os.sched_setaffinity(0, before)
        refuse(cores, got, before)
    for task in Path("/proc/self/task").iterdir():
        try:
            os.sched_setaffinity(int(task.name), cores)
        except ProcessLookupError:
            continue  # it has ended since


def refuse(cores: Sequence[int], got: set[int], before: set[int]) -> None:
    """Raise the error for cores that can't be had."""
    missing = sorted(set(cores) - got)
    raise DeviceError(
        f"This machine has no core {_listed(missing)} for the engine.",
        expected=f"some of the cores {_listed(sorted(before))}, or isolated ones",
        got=f"cores {_listed(cores)}", next_step="`affinity` of the target, or `pinned`: the device then chooses",
    )  # fmt: skip


def first_core_for_me(cores: Sequence[int]) -> None:
    """Hold the calling thread to the first core: a pool's threads have the others."""
    if cores:
        os.sched_setaffinity(0, cores[:1])


def _listed(cores: Sequence[int]) -> str:
    return " ".join(map(str, cores))
