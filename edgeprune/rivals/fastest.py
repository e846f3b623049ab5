"""The fastest way to run one engine: its ways raced among themselves, by successive halving as a build's are."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from edgeprune.bench.ask import Bench, race
from edgeprune.bench.halving import halve, planned
from edgeprune.records import BenchRun
from edgeprune.records.request import Engine
from edgeprune.records.rivals import Way, Ways
from edgeprune.records.target import TargetProfile
from edgeprune.rivals.roll import Rival
from edgeprune.rivals.ways import arithmetic


def fastest(
    rival: Rival, found: Sequence[Way], file: str, *, profile: TargetProfile, bench: Bench, images: Sequence[Path],
    seed: int, most_rounds: int, on_block: Callable[[int, int], None],
) -> Ways:  # fmt: skip
    """How a rival comes, and how it is fastest where that is another way.

    Args:
        found: From `ways.ways`, how it comes first.
        file: What the runtime loads.
        most_rounds: Of a race, if it is to be shorter than it would be.
        on_block: Told how many blocks have run, of about how many.

    Raises:
        DeviceError: As `Bench.ask`.
    """
    if len(found) == 1:
        return Ways(ways=(found[0],))
    told = [f"{arithmetic(rival, way.precision)}, {way.settings.words()}" for way in found]
    engines = [
        Engine(
            name=f"{number}: {words}", runtime=profile.runtime, precision=way.precision, file=file,
            settings=way.settings,
        )
        for number, (way, words) in enumerate(zip(found, told, strict=True))
    ]  # fmt: skip
    blocks = 0

    def heat(indices: Sequence[int], asked: int) -> BenchRun:
        nonlocal blocks
        of = min(asked, most_rounds)
        run = race(
            bench, [engines[i] for i in indices], images, profile.input_shape, seed=seed, rounds=of,
            on_round=lambda done, _: on_block(blocks + done * len(indices), planned(len(found))),
        )  # fmt: skip
        blocks += of * len(indices)
        return run

    placed = halve(len(found), heat)
    best, as_it_comes = placed[0].index, next(p for p in placed if p.index == 0)
    faster = best != 0 and as_it_comes.apart
    return Ways(
        ways=(found[0], found[best]) if faster else (found[0],),
        raced=tuple(
            f"{p.latency_ms.p50:.3f} ms: {told[p.index]}{' (as it comes)' if p.index == 0 else ''}" for p in placed
        ),
    )
