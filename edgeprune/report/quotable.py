"""Why figures may not be quoted. Pure.

Rules:
- A void run doesn't count, and its own reasons say why.
- A quick run is there to see that all works.
- An emulator's clock tells how fast the emulator is, not the device; a benchmark there is void already.
"""

from __future__ import annotations

from collections.abc import Mapping

from edgeprune.records import Benchmark


def doubts(found: Benchmark) -> tuple[str, ...]:
    """Everything that keeps a benchmark's figures from being quoted; empty where nothing does."""
    quick = ("quick: a run to see that all works, too short to quote",) if found.request.load.quick else ()
    return (*found.void, *quick)


def emulated(environment: Mapping[str, str]) -> tuple[str, ...]:
    """Whether the machine that was measured is an emulated one, as it says itself (machine.py)."""
    why = environment.get("emulated")
    return (f"emulated: {why}; its latencies are the emulator's",) if why else ()
