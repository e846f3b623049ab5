"""An engine against itself: how often the comparison sees a difference where there is none."""

from __future__ import annotations

import numpy as np
import pytest

from edgeprune.bench.measure import RESAMPLES, median_interval
from edgeprune.records import Comparison
from tests.aa import ASKED, Found


def compared(low: float, high: float) -> Comparison:
    return Comparison(build="same", parent="one", ratio=1.0, low=low, high=high, confidence=0.99, pairs=10)


def test_races_whose_interval_excludes_1_are_counted_on_either_side() -> None:
    found = Found((compared(0.98, 1.02), compared(0.9, 0.99), compared(1.001, 1.1), compared(0.99, 1.0)))
    assert (found.wrong, found.share, found.wrong_tails) == (2, 0.5, 0)


@pytest.mark.parametrize("rounds", [10, 40])
def test_drawn_races_of_alike_engines_differ_in_at_most_one_of_twenty(rounds: int) -> None:
    """400 races, by seed: blocks of two engines with the same noise, outliers in it, and a drift that both share."""
    generator = np.random.default_rng(rounds)
    wrong = 0
    for _ in range(400):
        blocks = generator.lognormal(0, 0.05, (2, rounds)) * np.linspace(1, 1.3, rounds)
        blocks[generator.random(blocks.shape) < 0.1] *= 2
        picks = generator.integers(0, rounds, (RESAMPLES // 10, rounds))
        low, high = median_interval(blocks[0] / blocks[1], picks)
        wrong += low > 1 or high < 1
    assert wrong / 400 <= ASKED
