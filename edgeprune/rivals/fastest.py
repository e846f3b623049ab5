"""The fastest way to run one engine: its ways raced among themselves, in one run, few rounds."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from edgeprune.bench.ask import Bench, race
from edgeprune.bench.measure import compare
from edgeprune.records.request import Engine
from edgeprune.records.rivals import Way, Ways
from edgeprune.records.target import TargetProfile
from edgeprune.rivals.roll import Rival
from edgeprune.rivals.ways import arithmetic


def fastest(
    rival: Rival, found: Sequence[Way], file: str, *, profile: TargetProfile, bench: Bench, images: Sequence[Path],
    seed: int, rounds: int, on_round: Callable[[int, int], None],
) -> Ways:  # fmt: skip
    """How a rival comes, and how it is fastest where that is another way.

    Args:
        found: From `ways.ways`, how it comes first.
        file: What the runtime loads.
        rounds: Blocks of each way.

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
    run = race(bench, engines, images, profile.input_shape, seed=seed, rounds=rounds, on_round=on_round)
    medians = [float(np.median([np.median(block) for block in m.blocks_ms])) for m in run.measurements]
    order = np.argsort(medians, kind="stable").tolist()
    best = order[0]
    faster = best != 0 and compare(run.measurements[best], run.measurements[0]).faster
    return Ways(
        ways=(found[0], found[best]) if faster else (found[0],),
        raced=tuple(f"{medians[n]:.3f} ms: {told[n]}{' (as it comes)' if n == 0 else ''}" for n in order),
    )
