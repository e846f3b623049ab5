"""Which cores an engine is best held to: read from the kernel's files, best first.

Rules:
- Where the system keeps cores apart (isolcpus), these alone: somebody has set them aside for this.
- The first thread of every physical core before any second one.
- Then the faster kind: capacity on ARM's mixed cores (big.LITTLE), else the highest clock. Where all are alike, as on a
  Raspberry Pi or an Orin, the number decides.
- Core 0 is the last of its kind: interrupts go there unless told otherwise.

Sources: Linux Documentation/ABI/testing/sysfs-devices-system-cpu (isolated, topology, cpu_capacity, cpufreq);
Documentation/core-api/irq (default affinity).
"""

from __future__ import annotations

import os
from pathlib import Path

from edgeprune.bench.sensors import integer
from edgeprune.machine import text


def best_first(root: Path = Path("/"), allowed: set[int] | None = None) -> tuple[int, ...]:
    """Core numbers, best first.

    Args:
        root: '/', or a recorded tree.
        allowed: Cores that a process may use by itself; none = this one's.
    """
    if allowed is None:
        allowed = os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else set(range(os.cpu_count() or 1))
    cpu = root / "sys/devices/system/cpu"
    apart = numbers(text(cpu / "isolated") or "")

    def rank(core: int) -> tuple[int, int, bool, int]:
        here = cpu / f"cpu{core}"
        siblings = sorted(numbers(text(here / "topology/thread_siblings_list") or str(core)))
        speed = integer(here / "cpu_capacity") or integer(here / "cpufreq/cpuinfo_max_freq") or 0
        return siblings.index(core) if core in siblings else 0, -speed, core == 0, core

    return tuple(sorted(apart or allowed, key=rank))


def numbers(listed: str) -> set[int]:
    """The kernel's '0-3,8' as numbers."""
    found: set[int] = set()
    for part in filter(None, listed.split(",")):
        first, _, last = part.partition("-")
        found.update(range(int(first), int(last or first) + 1))
    return found
