"""Which of many candidates is the fastest, without a long race for each: successive halving. Pure but for the race.

Rules:
- All run a few rounds; the better half goes on and runs twice as many, until one or two are left. So a race of many
  costs little more than its first rung, and those that are hard to tell apart are told apart with the most rounds.
- In the first rung, whose rounds are few, those who can't be told from the winner go on too (their interval reaches
  1), the better ones first, until three quarters of all go on: halving must come to an end.
- An engine is a process and takes memory, so that no more than `HEAT` run at a time. More candidates race in heats, the
  leader so far in each; who wasn't in the winner's heat is set against it by way of that leader.
- Where two are alike, the first of the list goes before.

Source: Jamieson & Talwalkar 2016, 'Non-stochastic best arm identification and hyperparameter optimization' (successive
halving: the better half, an equal budget for each rung); Karnin et al. 2013 for the name. Rounds double here as they do
there; the rule on the first rung is ours.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import ceil

import numpy as np
import numpy.typing as npt

from edgeprune.bench.measure import RESAMPLES, median_interval
from edgeprune.records import BenchRun, Latency, Measurement

#: Rounds of the first rung: a block of each is 0.15 s, and what is half as fast as another shows in one.
FIRST_ROUNDS = 4
#: … and of any at most. A verdict has 40; 16 tell a difference of some per cent, and smaller ones don't matter here.
MOST_ROUNDS = 16
#: … and of the last at least.
LAST_ROUNDS = 10
#: Engines of one race at most, each a process: a small board has memory for so many.
HEAT = 8
#: Share of the candidates that may survive the first rung.
FIRST_KEEP = 0.75

#: Candidates by their place in the list, and rounds -> a run with their measurements in that order.
Race = Callable[[Sequence[int], int], BenchRun]


@dataclass(frozen=True)
class Placed:
    """Where a candidate ended.

    Attributes:
        index: Its place in the list of candidates.
        rung: The last rung that it ran in, from 1.
        rounds: Rounds of that rung.
        field: Candidates of that rung.
        winner: Place of that rung's winner.
        ratio, low, high: Its time : that winner's, with its interval; 1 for the winner.
    """

    index: int
    rung: int
    rounds: int
    field: int
    winner: int
    latency_ms: Latency
    ratio: float
    low: float
    high: float

    @property
    def apart(self) -> bool:
        """Whether it is slower than the winner beyond the interval."""
        return self.low > 1


@dataclass(frozen=True)
class Ran:
    """A candidate's run in one heat.

    Attributes:
        pacer: The run of the one that runs in every heat, from the same heat.
    """

    index: int
    measured: Measurement
    pacer: Measurement

    @property
    def relative(self) -> npt.NDArray[np.float64]:
        """Its time : the pacer's, round by round."""
        return block_medians(self.measured) / block_medians(self.pacer)


def halve(count: int, race: Race, enough: Callable[[float], bool] = lambda best_ms: False) -> list[Placed]:
    """Find the fastest.

    Args:
        count: Of candidates; at least one.
        race: Runs some of them.
        enough: Told the winner's p50 after the first rung, says whether the race is to end there.

    Returns:
        Every candidate, the winner first, then those that came furthest.
    """
    alive: list[int] = list(range(count))
    fallen: list[Placed] = []
    for rung in itertools.count(1):
        last, rounds = len(alive) <= 2, rounds_of(rung, len(alive))
        ran = [run for heat in heats(alive) for run in _of_heat(heat, race(heat, rounds))]
        placed = places(ran, rung, rounds)
        over = last or (rung == 1 and enough(placed[0].latency_ms.p50))
        stay = 1 if over else survivors(placed)
        fallen = [*placed[stay:], *fallen]
        if over:
            return [placed[0], *fallen]
        alive = [p.index for p in placed[:stay]]
    raise AssertionError("unreachable: the number of candidates falls in every rung")


def rounds_of(rung: int, field: int) -> int:
    """Rounds of a rung, from 1, with so many candidates."""
    rounds = min(FIRST_ROUNDS * 2 ** (rung - 1), MOST_ROUNDS)
    return max(rounds, LAST_ROUNDS) if field <= 2 else rounds


def planned(count: int) -> int:
    """Blocks of a race of so many, if half of them fall in every rung."""
    blocks = 0
    for rung in itertools.count(1):
        blocks += sum(map(len, heats(range(count)))) * rounds_of(rung, count)
        if count <= 2:
            return blocks
        count = ceil(count / 2)
    raise AssertionError("unreachable: the number of candidates falls in every rung")


def heats(candidates: Sequence[int]) -> list[list[int]]:
    """Candidates in as few equal heats as hold them, the first of all in each."""
    leader, others = candidates[0], candidates[1:]
    number = max(1, ceil(len(others) / (HEAT - 1)))
    return [[leader, *others[part::number]] for part in range(number)]


def places(ran: Sequence[Ran], rung: int, rounds: int) -> list[Placed]:
    """A rung's candidates, the fastest first, each against the fastest."""
    once = {r.index: r for r in reversed(ran)}  # the pacer runs in every heat: its first counts
    order = sorted(once.values(), key=lambda r: (float(np.median(r.relative)), r.index))
    best = order[0]
    found = []
    for run in order:
        ratio, low, high = (1.0, 1.0, 1.0) if run is best else against(run, best)
        found.append(Placed(run.index, rung, rounds, len(order), best.index, run.measured.latency_ms, ratio, low, high))
    return found


def survivors(placed: Sequence[Placed]) -> int:
    """How many of a rung, the fastest first, go on to the next."""
    half = ceil(len(placed) / 2)
    if placed[0].rung > 1:
        return half
    close = sum(not p.apart for p in placed)
    return max(half, min(close, int(len(placed) * FIRST_KEEP)))


def against(run: Ran, best: Ran, seed: int = 0) -> tuple[float, float, float]:
    """Time of a candidate : that of another, with its interval: over the rounds that they ran together, or, from
    different heats, by way of the pacer, whose rounds are then resampled apart."""
    generator = np.random.default_rng(seed)
    together = run.pacer is best.pacer
    reference = best.measured if together else run.pacer if best.measured is best.pacer else None
    if reference is not None:
        ratios = block_medians(run.measured) / block_medians(reference)
        picks = generator.integers(0, len(ratios), (RESAMPLES, len(ratios)))
        return float(np.median(ratios)), *median_interval(ratios, picks)
    own, other = run.relative, best.relative
    drawn = [np.median(r[generator.integers(0, len(r), (RESAMPLES, len(r)))], axis=1) for r in (own, other)]
    each = np.arange(RESAMPLES)[:, None]  # resamples that are medians already: each stands for itself
    return float(np.median(own) / np.median(other)), *median_interval(drawn[0] / drawn[1], each)


def block_medians(measurement: Measurement) -> npt.NDArray[np.float64]:
    """Milliseconds, one a round."""
    return np.array([np.median(block) for block in measurement.blocks_ms])


def _of_heat(heat: Sequence[int], run: BenchRun) -> list[Ran]:
    pacer = run.measurements[0]
    return [Ran(index, measured, pacer) for index, measured in zip(heat, run.measurements, strict=True)]
