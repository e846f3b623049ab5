"""Pruning curves: the order they were built with, thresholds by hand, and scores that sum up to what was measured."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest

from edgeprune.prune.importance import Evidence, magnitude
from edgeprune.prune.sensitivity import STAY, measured, sensitivity
from tests.prune.searches import PRICES, Case


@pytest.mark.parametrize("in_time", [True, False])
@pytest.mark.parametrize("share", [0.3, 0.5, 0.8])
def test_the_more_sensitive_keeps_more_within_the_budget(in_time: bool, share: float) -> None:
    case = Case(in_time)
    problem = case.problem(share)
    point = sensitivity(problem).by_name["sensitivity"](problem.budget)
    assert problem.space.ms(point) <= problem.budget
    stays = case.stays(problem, point)
    order = sorted(PRICES, key=lambda name: PRICES[name])
    kept = [stays[name] for name in order]
    # floors are 8 of 32, of 48 and of 64 channels; and what is left of the budget goes where a rung, 8 of 64, fits
    assert all(less <= more + 8 / 64 for less, more in pairwise(kept))
    assert kept[0] < kept[-1]


def test_every_cluster_goes_down_to_the_lowest_threshold_that_holds() -> None:
    """Curves of price x gone^2 are measured at a third, two thirds and the end, and straight in between: computed here
    again, from the prices."""
    case = Case()
    problem = case.problem(0.5)
    space = problem.space
    curves = {}
    for name, price in PRICES.items():
        ladder = space.ladders[case.cluster(problem, name)]
        gone = [1 - row[0] / ladder.widths[0][0] for row in ladder.widths]
        at = [0, *sorted({max(1, round(ladder.last * cut)) for cut in (1 / 3, 2 / 3, 1)})]
        curves[name] = np.interp(range(ladder.last + 1), at, [price * gone[i] ** 2 for i in at])
    best = None
    for limit in sorted({float(v) for curve in curves.values() for v in curve}):
        point = space.whole
        for name, curve in curves.items():
            # free clusters have curves that are all zero: their own ties are broken by hardly anything
            point[case.cluster(problem, name)] = sum(v <= limit + 1e-5 for v in curve) - 1
        if space.ms(point) <= problem.budget:
            best = point
            break
    assert best is not None
    found = sensitivity(problem).by_name["sensitivity"](problem.budget)
    assert (found <= best).all()
    assert space.ms(found) <= problem.budget
    for index in np.flatnonzero(found):  # what was left has been given back: nobody could be wider
        wider = found.copy()
        wider[index] -= 1
        assert space.ms(wider) > problem.budget


def test_a_flat_net_is_cut_evenly_and_not_more_than_needed() -> None:
    case = Case(prices={})
    problem = case.problem(0.6)
    point = sensitivity(problem).by_name["sensitivity"](problem.budget)
    assert 0.5 * problem.space.ms(problem.space.whole) < problem.space.ms(point) <= problem.budget
    shares = [rung / ladder.last for rung, ladder in zip(point, problem.space.ladders, strict=True) if ladder.last]
    assert max(shares) - min(shares) <= 1 / 3


def test_curves_are_measured_once_and_told_of() -> None:
    case, told = Case(), []
    problem = case.problem(0.5, on_trial=lambda done, total: told.append((done, total)))
    solve = sensitivity(problem).by_name["sensitivity"]
    asked = case.asked
    assert asked == 1 + 6 * 3  # the whole net, and three cuts of six clusters
    assert told == [(i + 1, 18) for i in range(18)]
    assert problem.space.ms(solve(0.4 * problem.budget)) <= 0.4 * problem.budget
    assert case.asked == asked


def test_scores_sum_up_to_the_rise_that_was_measured() -> None:
    case = Case()
    scores = measured(Evidence(case.graph, case.model, 0, cut_loss=case.loss))
    scale = np.concatenate(list(scores.values())).mean()
    assert scale == pytest.approx(1.0)
    order = magnitude(case.graph, case.model, 2)
    by_layer = {g.name.split(".")[0]: g for g in case.graph.groups if g.locked is None}
    # a: 32 channels, price 16: its curve 16 x gone^2 is convex, so that it is its own hull
    rise = {stay: 16.0 * (1 - stay) ** 2 for stay in STAY}
    group = by_layer["a"]
    lowest_first = scores[group.name][np.argsort(order[group.name], kind="stable")]
    assert (np.diff(lowest_first) >= -1e-12).all()  # what went first when it was measured goes first again
    gone = np.cumsum(lowest_first)
    assert gone[24 - 1] / gone[8 - 1] == pytest.approx(rise[0.25] / rise[0.75])
    assert gone[16 - 1] / gone[8 - 1] == pytest.approx(rise[0.5] / rise[0.75])
    # b has 64 channels at a price of 0.5
    other = scores[by_layer["b"].name][np.argsort(order[by_layer["b"].name], kind="stable")]
    assert np.cumsum(other)[32 - 1] / gone[16 - 1] == pytest.approx(0.5 / 16)
    assert not scores[by_layer["f"].name].any()


def test_a_curve_that_flattens_is_spread_evenly() -> None:
    """Half of a cluster costs 1 and the other half nothing more: the hull is a straight line."""
    case = Case()

    def loss(keeps: dict[str, tuple[int, ...]]) -> float:
        return 2.0 if len(keeps.get("a.0", range(32))) < 32 else 1.0

    scores = measured(Evidence(case.graph, case.model, 0, cut_loss=loss))
    np.testing.assert_allclose(scores["a.0"], scores["a.0"][0])
    assert scores["a.0"][0] > 0
    assert not scores["b.0"].any()
