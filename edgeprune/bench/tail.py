"""The slow end of two engines of one run, set against each other. Pure.

Rules:
- Two figures of each engine's samples, pooled over all rounds: the percentile itself, and the geometric mean of what
  lies behind it. One slow call in a hundred stands on the very edge of p99, which may fall on either side of it; the
  mean of the slowest hundredth shows it for sure. Geometric, because one wild sample moves an arithmetic mean so far
  that bootstrap intervals of it mislead several times as often as they say (tests/bench/test_tail.py).
- The percentile is p99 where both engines have the samples that early stopping asks for (662), else p90 (64), else
  there is no figure at all: a tail that was hardly seen is not judged.
- Slow samples come in bursts, so the bootstrap resamples whole rounds, the same ones for both engines, and takes both
  figures of the pooled blocks.
- Two looks at one tail: each interval has half of the error that is allowed (Bonferroni); and half of that again, for
  bootstrap intervals over some forty rounds with a dozen slow samples mislead nearly twice as often as they say. With
  it, an engine against itself isn't called slower more often than the confidence allows (tested on recorded noise).

Sources: Dean & Barroso 2013, 'The Tail at Scale'; Acerbi & Tasche 2002, 'On the coherence of expected shortfall' (the
mean behind a percentile); Davison & Hinkley 1997, 'Bootstrap Methods and their Application', 2.4 and 3.8 (percentile
intervals, clusters); MLPerf Inference Rules, 'Early Stopping Criterion' (the fewest samples).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from edgeprune.bench.early_stopping import min_queries
from edgeprune.records.measurement import Tail

#: The percentile that is looked at, the highest that there are samples for.
PERCENTILES = (0.99, 0.9)
#: Resamples at a time: what they need stays within some megabytes.
CHUNK = 1000
#: Times as many of the slowest samples as lie behind the percentile: enough for nearly every resample.
REACH = 4

Blocks = Sequence[Sequence[float]]
Values = npt.NDArray[np.float64]


def compare_tails(build: Blocks, parent: Blocks, picks: npt.NDArray[np.int64], confidence: float) -> Tail | None:
    """The tail of a build against its parent's.

    Args:
        build, parent: Latencies by round, paired, milliseconds.
        picks: Rounds of every resample, shape (resamples, rounds).
        confidence: That neither interval misleads.

    Returns:
        None where an engine has too few samples for any of the percentiles.
    """
    fewest = min(sum(map(len, blocks)) for blocks in (build, parent))
    percentile = next((p for p in PERCENTILES if fewest >= min_queries(p)), None)
    if percentile is None:
        return None
    every = np.arange(len(build))[None]
    (own, own_mean), (its, its_mean) = (_tails(blocks, every, percentile)[0] for blocks in (build, parent))
    resampled = _tails(build, picks, percentile) / _tails(parent, picks, percentile)
    error = (1 - confidence) / 2 / resampled.shape[1] / 2
    low, high = np.quantile(resampled, [error, 1 - error], axis=0)
    return Tail(
        percentile=percentile, samples=fewest, build_ms=own, parent_ms=its, low=low[0], high=high[0],
        build_behind_ms=own_mean, parent_behind_ms=its_mean, behind_low=low[1], behind_high=high[1],
        confidence=confidence,
    )  # fmt: skip


def _tails(blocks: Blocks, picks: npt.NDArray[np.int64], percentile: float) -> Values:
    """Percentile (NumPy's, interpolated) and geometric mean of the samples behind it, for each resample of rounds.

    Every sample is sorted once, slowest first; a resample only says how often each counts. Only the slow ones matter.
    """
    sizes = np.array([len(block) for block in blocks])
    values = np.concatenate([np.asarray(block, dtype=np.float64) for block in blocks])
    order = np.argsort(values)[::-1]
    values, owner = values[order], np.repeat(np.arange(len(blocks)), sizes)[order]
    logs = np.log(np.maximum(values, 1e-9))
    found = []
    for start in range(0, len(picks), CHUNK):
        chosen = picks[start : start + CHUNK] + np.arange(len(picks[start : start + CHUNK]))[:, None] * len(blocks)
        times = np.bincount(chosen.ravel(), minlength=len(chosen) * len(blocks)).reshape(-1, len(blocks))
        total = times @ sizes
        place = (total - 1) * (1 - percentile)  # of the percentile, counted from the slowest
        behind = np.maximum(1, np.rint(total * (1 - percentile)))
        reach = REACH * int(behind.max())
        while reach < len(values) and (times[:, owner[:reach]].sum(axis=1) < place + 2).any():
            reach *= 2
        seen = times[:, owner[:reach]].cumsum(axis=1)  # how many samples of the resample are at least as slow
        slower, quicker = (values[(seen <= at[:, None]).sum(axis=1)] for at in (np.floor(place), np.floor(place) + 1))
        weights = np.diff(np.minimum(seen, behind[:, None]), prepend=0)
        means = np.exp(weights @ logs[:reach] / behind)
        found.append(np.stack((slower + (quicker - slower) * (place % 1), means), axis=1))
    return np.concatenate(found)
