"""NSGA-II and TPE over widths: within the budget, better than equal shares, the same whether interrupted or not."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest

from edgeprune.errors import DeviceError
from edgeprune.prune.allocate import uniform
from edgeprune.prune.candidates import remembered
from edgeprune.prune.choose import choose
from edgeprune.prune.problem import Depth, Means
from edgeprune.prune.search import Rungs
from edgeprune.prune.study import nsga2, tpe
from edgeprune.prune.time import Timing
from edgeprune.records.methods import METHODS
from tests.prune.machine import Machine, steps
from tests.prune.searches import Case

SEARCHES = pytest.mark.parametrize("name", ["nsga2", "tpe"])


def solved(case: Case, name: str, share: float = 0.5, **means: object) -> Rungs:
    problem = case.problem(share, trials=60, **means)
    return METHODS["allocation"][name].function(problem).by_name[name](problem.budget)


@SEARCHES
@pytest.mark.parametrize("in_time", [True, False])
def test_it_beats_equal_shares_and_knows_no_better_than_the_best(name: str, in_time: bool) -> None:
    case = Case(in_time)
    problem = case.problem(0.5)
    point = solved(case, name)
    alike = uniform(problem).by_name["uniform"](problem.budget)
    best = case.best(problem)[1]
    assert problem.space.ms(point) <= problem.budget
    assert (
        best - 1e-9
        <= case.loss(problem.keeps(point))
        < case.loss(problem.keeps(alike)) - 0.25 * (case.loss(problem.keeps(alike)) - best)
    )


@SEARCHES
@pytest.mark.parametrize(("costs", "deep"), [(0.01, 1), (8.0, 0)])
def test_blocks_go_where_what_they_lose_is_less_than_what_channels_would(name: str, costs: float, deep: int) -> None:
    """Without a block, channels have twice the budget, which is known to lose less; the block costs what is given."""
    case = Case(in_time=False)
    whole = case.problem(0.3, trials=60)
    shorter = case.problem(0.6, trials=60, supernet=lambda _: lambda keeps: case.loss(keeps) + costs)
    gains = case.best(whole)[1] - case.best(shorter)[1]
    assert 0.25 < gains < 2
    alike = range(len(whole.space.ladders))
    depths = [lambda: Depth(whole, alike), lambda: Depth(shorter, alike)]
    assert METHODS["allocation"][name].function_of_depth(depths) == deep


def test_a_shorter_net_has_the_rungs_of_the_clusters_that_are_left() -> None:
    problem = Case(in_time=False).problem(0.5)
    ladders = problem.space.ladders
    depth = Depth(problem, list(reversed(range(len(ladders)))))
    point = depth.point(np.arange(len(ladders), dtype=np.intp))
    assert point.tolist() == [min(len(ladders) - 1 - n, ladder.last) for n, ladder in enumerate(ladders)]


@SEARCHES
def test_the_seed_decides(name: str) -> None:
    one, same = (solved(Case(), name, seed=1) for _ in range(2))
    assert (one == same).all()
    asked: list[list[str]] = []
    for seed in (1, 2):
        case, points = Case(), list[str]()

        def loss(keeps: Mapping[str, tuple[int, ...]], case: Case = case, points: list[str] = points) -> float:
            points.append(str({name: len(keep) for name, keep in keeps.items()}))
            return case.loss(keeps)

        solved(case, name, seed=seed, supernet=lambda problem, loss=loss: loss)
        asked.append(points)
    assert asked[0][0] == asked[1][0]  # equal shares, whatever the seed
    assert asked[0] != asked[1]


@SEARCHES
def test_an_interrupted_search_goes_on_and_ends_as_the_others_do(name: str, tmp_path: Path) -> None:
    file = tmp_path / "losses.jsonl"
    whole = solved(Case(), name)
    case = Case()

    def stopped(keeps: Mapping[str, tuple[int, ...]]) -> float:
        if case.asked == 12:
            raise KeyboardInterrupt
        return case.loss(keeps)

    with pytest.raises(KeyboardInterrupt):
        solved(case, name, supernet=lambda problem: remembered(stopped, file))
    assert len(file.read_text().splitlines()) == 12
    again = Case()
    assert (solved(again, name, supernet=lambda problem: remembered(again.loss, file)) == whole).all()
    fresh = Case()
    solved(fresh, name, supernet=lambda problem: remembered(fresh.loss, None))
    assert again.asked == fresh.asked - 12


def test_points_over_the_budget_cost_tpe_nothing() -> None:
    case = Case()
    problem = case.problem(0.3, trials=40)
    spent: list[float] = []

    def loss(keeps: Mapping[str, tuple[int, ...]]) -> float:
        spent.append(case.machine.ms(case.widths(keeps)))
        return case.loss(keeps)

    given = case.problem(0.3, trials=40, supernet=lambda problem: remembered(loss, None))
    tpe(given).by_name["tpe"](given.budget)
    assert spent
    assert max(spent) <= problem.budget
    assert len(spent) < 40


def test_nsga2_answers_every_budget_from_one_search() -> None:
    case = Case()
    problem = case.problem(0.6, trials=60)
    solve = nsga2(problem).by_name["nsga2"]
    losses = []
    for share in (0.9, 0.6, 0.3, 0.15):
        point = solve(share * problem.budget)
        assert problem.space.ms(point) <= share * problem.budget
        losses.append(case.loss(problem.keeps(point)))
    assert losses == sorted(losses)


@SEARCHES
def test_what_it_proposes_is_measured_and_corrected_like_any_other(name: str) -> None:
    case = Case()
    device = Machine(case.graph, steps, ms=13.0, error=0.15, noise=0.002)
    timing = Timing(case.machine, device.ms(case.costs.widths) / 2, device.measure)
    means = Means(case.model, trials=60, supernet=lambda problem: case.loss)
    _, planned = choose(case.graph, case.costs, case.scores, timing, name, case.limits, means)
    assert {c.method for c in planned.choices} == {name}
    assert planned.chosen.measured_ms is not None
    assert planned.chosen.measured_ms <= timing.budget_ms


@SEARCHES
def test_without_its_library_the_extra_is_named(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "optuna", None)
    with pytest.raises(DeviceError, match="optuna") as caught:
        METHODS["allocation"][name].function(Case().problem(0.5))
    assert "edgeprune[search]" in str(caught.value)


@SEARCHES
def test_nothing_is_written_anywhere(name: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    solved(Case(), name)
    assert not list(tmp_path.iterdir())
