"""Whether an engine remembers its answers: a run in which it does is void.

Rules:
- After the timed run, in a pass of its own: blocks in which one input is repeated against blocks whose every input was
  never seen before (an image moved sideways by another number of pixels each time), in pairs, each pair in an order
  drawn by seed. What has never been seen can't come from any cache, however large.
- Inference alone is timed: it is what could remember. Letterbox runs before each call, in both kinds of block.
- A block's median forgets its first call, which a cache has to miss.
- The repeated input may be at most 10 % faster. Void is a run whose whole bootstrap interval over pairs lies beyond
  that: a busy machine's blocks scatter both ways, and its interval reaches over the limit.

Source: MLPerf Inference, compliance TEST04 (a sample repeated against samples that differ, at most 10 % faster).
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

import numpy as np

from edgeprune.bench.measure import CONFIDENCE, RESAMPLES, median_interval
from edgeprune.records.benchmark import Caching
from edgeprune.runtime.preprocess import Pixels

PAIRS = 24
#: An engine that takes so long that they would last more than a minute gets fewer, but so many at least.
FEWEST, LONGEST_S = 8, 60.0
#: Inferences of a block: with three of five the median is a repeated call's.
CALLS = 5
#: Time of a repeated input : of a new one, under which something is remembered.
LIMIT = 0.9

#: Nanoseconds of an image's inference.
Infer = Callable[[Pixels], int]


def check(infer: Infer, held: Sequence[Pixels], seed: int = 0) -> Caching:
    """Time repeated against new inputs.

    Args:
        infer: Runs the engine.
        held: Images in memory.
        seed: Of the order within pairs and of the bootstrap.
    """
    generator = np.random.default_rng(seed)
    blocks: dict[bool, list[tuple[float, ...]]] = {True: [], False: []}
    begin = time.perf_counter()
    for pair in range(PAIRS):
        if pair >= FEWEST and time.perf_counter() - begin > LONGEST_S:
            break
        repeated = held[pair % len(held)]
        for again in generator.permutation([True, False]).tolist():
            turns = range(pair * CALLS + 1, (pair + 1) * CALLS + 1)
            inputs = (repeated if again else moved(held[turn % len(held)], turn) for turn in turns)
            blocks[again].append(tuple(infer(image) / 1e6 for image in inputs))
    return judged(blocks[True], blocks[False], generator)


def moved(image: Pixels, turn: int) -> Pixels:
    """The image moved sideways by `turn` pixels, and up by one more each time it has gone round."""
    width = image.shape[1]
    return np.roll(image, (turn // width, turn % width), axis=(0, 1))


def judged(
    repeated: Sequence[Sequence[float]], new: Sequence[Sequence[float]], generator: np.random.Generator
) -> Caching:
    """The ratio of paired blocks with its interval.

    Args:
        repeated, new: Milliseconds of each call, by block, in the order of the pairs.
    """
    ratios = np.array([np.median(own) / np.median(other) for own, other in zip(repeated, new, strict=True)])
    low, high = median_interval(ratios, generator.integers(0, len(ratios), (RESAMPLES, len(ratios))))
    return Caching(
        repeated_ms=tuple(map(tuple, repeated)), new_ms=tuple(map(tuple, new)), ratio=float(np.median(ratios)),
        low=low, high=high, confidence=CONFIDENCE,
    )  # fmt: skip


def void(found: Caching) -> tuple[str, ...]:
    """Why the run doesn't count, if something is remembered."""
    if found.high >= LIMIT:
        return ()
    return (
        f"caching: an input that is repeated takes {found.ratio:.2f} of a new one's time ({found.confidence:.0%} "
        f"interval {found.low:.2f} to {found.high:.2f}), under the {LIMIT} that is let pass: answers are remembered",
    )
