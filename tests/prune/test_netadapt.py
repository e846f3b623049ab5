"""NetAdapt: its first iteration by hand, its end within the budget and not far from the best there is."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest

from edgeprune.prune.choose import choose
from edgeprune.prune.importance import CutLoss
from edgeprune.prune.ladder import Keeps, widths_at
from edgeprune.prune.netadapt import STEP, candidates, iterate, netadapt
from edgeprune.prune.problem import Means
from edgeprune.prune.time import Timing
from tests.prune.machine import Machine, steps
from tests.prune.searches import Case


def test_first_iteration_is_the_one_computed_by_hand() -> None:
    """Six nets in a row, each with one cluster cut as little as saves the step; the least of their losses wins.

    MACs of a pixel, by layer (in x out x kernel; 32 x 32 pixels each, so they drop out):
        a 3*32*9 = 864, b 32*64*9 = 18432, c 64*64 = 4096, d 64*48*9 = 27648, e 112*64 = 7168, f 64*32*9 = 18432,
        out 32*4 = 128: together 76768, a fortieth is 1919.2.
    One rung of each cluster saves:
        a, 24 of 32: 864/4 + 18432/4 = 4824          loses 16 * (1/4)^2 = 1
        b, 56 of 64: 18432/8 + 4096/8 = 2816         loses 0.5 / 64 = 0.0078
        c, 56 of 64: 4096/8 + 27648/8 + 8*64 = 4480  loses 8 / 64 = 0.125
        d, 40 of 48: 27648/6 + 8*64 = 5120           loses 0.1 / 36 = 0.0028
        e, 56 of 64: 7168/8 + 18432/8 = 3200         loses 4 / 64 = 0.0625
        f, 24 of 32: 18432/4 + 128/4 = 4640          loses nothing
    """
    case = Case(in_time=False)
    problem = case.problem(0.5)
    space = problem.space
    limit = 1 - STEP
    found = {
        case.graph.groups[space.ladders[c.cluster].cluster[0]].name: c for c in candidates(problem, space.whole, limit)
    }
    saved = {name.split(".")[0]: (1 - space.ms(c.point)) * 76768 for name, c in found.items()}
    assert saved == pytest.approx({"a": 4824, "b": 2816, "c": 4480, "d": 5120, "e": 3200, "f": 4640})
    losses = {name.split(".")[0]: problem.loss(c.point) - 1 for name, c in found.items()}
    assert losses == pytest.approx({"a": 1, "b": 0.5 / 64, "c": 0.125, "d": 0.1 / 36, "e": 0.0625, "f": 0})
    first = iterate(problem, [], space.whole, limit)
    assert first is not None
    assert case.stays(problem, first) == {"a": 1, "b": 1, "c": 1, "d": 1, "e": 1, "f": 0.75, "out": 1}


def test_a_step_that_one_rung_does_not_save_takes_more_rungs() -> None:
    case = Case(in_time=False)
    problem = case.problem(0.5)
    limit = 1 - 4800 / 76768
    by_cluster = {c.cluster: c.point for c in candidates(problem, problem.space.whole, limit)}
    point = by_cluster[case.cluster(problem, "b")]
    assert case.stays(problem, point)["b"] == 48 / 64  # 2 x 2816 is over 4800
    assert case.stays(problem, by_cluster[case.cluster(problem, "a")])["a"] == 24 / 32
    assert not list(candidates(problem, problem.space.narrowest, limit / 10))


@pytest.mark.parametrize("in_time", [True, False])
@pytest.mark.parametrize("share", [0.3, 0.5, 0.8])
def test_it_ends_within_the_budget_near_the_best_of_all_points(in_time: bool, share: float) -> None:
    case = Case(in_time)
    problem = case.problem(share)
    point = netadapt(problem).by_name["netadapt"](problem.budget)
    best = case.best(problem)[1]
    assert problem.space.ms(point) <= problem.budget
    assert best <= problem.loss(point) + 1e-9
    assert problem.loss(point) - 1 <= 1.5 * (best - 1) + 0.05


def test_another_budget_goes_the_same_way_and_asks_for_little_more() -> None:
    case = Case()
    problem = case.problem(0.5)
    solve = netadapt(problem).by_name["netadapt"]
    solve(problem.budget)
    asked = case.asked
    again = solve(problem.budget)
    assert case.asked == asked
    less = solve(0.95 * problem.budget)
    assert case.asked - asked <= 2 * 6 * 2  # the last iteration anew, and perhaps one more
    assert problem.space.ms(less) <= 0.95 * problem.budget < problem.space.ms(again)


def test_candidates_go_on_from_the_last_that_won() -> None:
    """Made up: what was trained with a cluster cut has forgotten what that cost, so the price of every way is known."""
    case = Case(in_time=False)
    ways: list[int] = []

    def adapted(way: Sequence[Keeps]) -> CutLoss:
        ways.append(len(way))
        return lambda keeps: case.loss(keeps) - (case.loss(way[-1]) if way else 1.0)

    problem = case.problem(0.8, adapted=adapted)
    point = netadapt(problem).by_name["netadapt"](problem.budget)
    assert problem.space.ms(point) <= problem.budget
    iterations = ways[-1] + 1
    assert iterations > 3
    assert list(dict.fromkeys(ways)) == list(range(iterations))  # each from all that won before
    alone = case.problem(0.8)
    assert (netadapt(alone).by_name["netadapt"](alone.budget) == point).all()  # such a constant changes nobody's rank
    turned = case.problem(0.8, adapted=lambda way: lambda keeps: -case.loss(keeps))
    worst = netadapt(turned).by_name["netadapt"](turned.budget)
    assert problem.loss(worst) > problem.loss(point)  # it is the adapted loss that decides


def test_budget_out_of_reach_ends_at_what_can_be_had() -> None:
    case = Case()
    problem = case.problem(0.5)
    point = netadapt(problem).by_name["netadapt"](0.0)
    assert (point == problem.space.narrowest).all()


def test_what_it_proposes_is_measured_and_corrected_like_any_other() -> None:
    case = Case()
    device = Machine(case.graph, steps, ms=13.0, error=0.15, noise=0.002)
    whole = device.ms(case.costs.widths)
    timing = Timing(case.machine, whole / 2, device.measure)
    keeps, planned = choose(
        case.graph, case.costs, case.scores, timing, "netadapt", case.limits, Means(case.model, loss=case.loss)
    )
    assert {c.method for c in planned.choices} == {"netadapt"}
    assert planned.chosen.measured_ms is not None
    assert planned.chosen.measured_ms <= timing.budget_ms
    assert planned.chosen.round > 1
    widths = np.array([float(len(keeps[g.name])) for g in case.graph.groups])
    assert device.ms(widths) == pytest.approx(planned.chosen.measured_ms, rel=0.01)
    problem = case.problem(0.5)
    assert (widths_at(problem.space.ladders, problem.space.whole) >= widths).all()
