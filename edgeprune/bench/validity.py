"""Whether a run counts: throttled or disturbed runs are void. Pure, from what was read to sentences.

Rules:
- Throttled: a bit of the Raspberry Pi's that holds in any reading, or that has come to hold since the first one; a
  counter of the kernel's that went up; a frequency limit that fell under the first one.
- Disturbed: others had more than `OTHERS` of the processor time on the cores that the benchmark may use, the thief of a
  virtual machine among them; or latency at the run's end is off that at its start by more than `DRIFT`.
- Emulated: its times are no machine's; its detections count.
- In a sustained run heat and what comes of it are the finding: they are notes, and only the rest makes it void.
- What can't be known is a note too: no sensor is no proof of coolness.

Source: MLPerf Inference Rules (the system under test runs nothing else); Raspberry Pi documentation, 'get_throttled'.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from edgeprune.bench.sensors import SINCE_BOOT, THROTTLED, throttled_names
from edgeprune.records.benchmark import CpuUse, Load, Reading

#: Share of the cores' time that others may have: housekeeping takes a per cent or two; five are a neighbour.
OTHERS = 0.05
#: How far the median of the last fifth of queries may be from that of the first fifth.
DRIFT = 0.10
#: Queries under which a fifth is too few for a median.
FEWEST = 50


def judge(
    load: Load,
    readings: Sequence[Reading],
    cpu: CpuUse | None,
    query_ms: Sequence[float],
    emulation: str | None = None,
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Why a run is void, and what else there is to say.

    Args:
        load: What was asked for.
        readings: First before, last after the run.
        cpu: Processor time over the run, where it is known.
        query_ms: Latency of every query in order.
        emulation: Why the machine is taken for an emulated one, if it is.

    Returns:
        Reasons (none: the run counts) and notes.
    """
    heat, notes = throttling(readings)
    drifted = drift(query_ms)
    if drifted:
        heat.append(drifted)
    reasons = [why for why in heat if not load.sustained or THROTTLED[0] in why]
    if emulation:
        reasons.insert(0, f"emulated: {emulation}")
    notes += [f"sustained: {why}" for why in heat if why not in reasons]
    if cpu is None:
        notes.append("noise: this system doesn't report the processor time of others")
    elif cpu.busy_s - cpu.own_s > OTHERS * cpu.available_s:
        share = (cpu.busy_s - cpu.own_s) / cpu.available_s
        reasons.append(f"noisy: others had {share:.1%} of the processor time, over the {OTHERS:.0%} that is let pass")
    return tuple(reasons), tuple(notes)


def throttling(readings: Sequence[Reading]) -> tuple[list[str], list[str]]:
    """What throttled, and what couldn't be known."""
    first, found, notes = readings[0], [], []
    bits = [reading.throttled for reading in readings if reading.throttled is not None]
    if bits:
        seen = 0
        for value in bits:
            seen |= value & ((1 << SINCE_BOOT) - 1) | (value & ~bits[0]) >> SINCE_BOOT
        found += [f"throttled: {name} (bit {bit})" for bit, name in THROTTLED.items() if seen >> bit & 1]
        before = throttled_names(bits[0] >> SINCE_BOOT)
        if before and len(bits) < len(readings):
            notes.append(
                f"{', '.join(before)} had occurred before the run, and the bits were read before and after it only: "
                "whether it occurred again can't be told; restart the board"
            )
    for name in first.throttle_events:
        counts = [reading.throttle_events[name] for reading in readings if name in reading.throttle_events]
        if counts[-1] > counts[0]:
            found.append(f"throttled: {name} went up by {counts[-1] - counts[0]}")
    for policy, limit in first.frequency_limit_mhz.items():
        lowest = min(reading.frequency_limit_mhz.get(policy, limit) for reading in readings)
        if lowest < limit:
            found.append(f"throttled: the limit of {policy} fell from {limit:.0f} to {lowest:.0f} MHz")
    if not bits and not first.throttle_events and not first.frequency_limit_mhz:
        notes.append("throttling: this machine reports none of its signs")
    return found, notes


def drift(query_ms: Sequence[float]) -> str | None:
    """How latency moved over the run, if it did."""
    if len(query_ms) < FEWEST:
        return None
    fifth = len(query_ms) // 5
    start, end = float(np.median(query_ms[:fifth])), float(np.median(query_ms[-fifth:]))
    if abs(end / start - 1) <= DRIFT:
        return None
    return f"drifted: the median went from {start:.2f} to {end:.2f} ms over the run"
