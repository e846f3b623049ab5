"""Why figures may not be quoted. Pure.

Rules:
- A void run doesn't count, and its own reasons say why.
- A quick run is there to see that all works.
- An emulator's clock tells how fast the emulator is, not the device.
"""

from __future__ import annotations

from collections.abc import Mapping

from edgeprune.records import Benchmark

#: Words by which a processor of another architecture than the machine's gives an emulator away.
_X86 = ("Intel", "AMD")


def doubts(found: Benchmark) -> tuple[str, ...]:
    """Everything that keeps a benchmark's figures from being quoted; empty where nothing does."""
    quick = ("quick: a run to see that all works, too short to quote",) if found.request.load.quick else ()
    return (*found.void, *emulated(found.run.environment), *quick)


def emulated(environment: Mapping[str, str]) -> tuple[str, ...]:
    """Whether the machine that was measured is an emulated one, as far as it tells."""
    cpu, machine = environment.get("cpu", ""), environment.get("machine", "")
    foreign = machine in ("aarch64", "arm64", "armv7l") and any(word in cpu for word in _X86)
    if foreign or "QEMU" in cpu:
        return (f"emulated: {machine} on {cpu}; its latencies are the emulator's",)
    return ()
