"""AMC: its bounds hold the budget whatever the agent does, its state is the paper's, and it learns what is precious."""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgeprune.errors import DeviceError
from edgeprune.prune.amc import Episode, amc, replayed, run
from tests.prune.machine import Machine, steps
from tests.prune.searches import Case


@pytest.fixture(scope="module")
def case() -> Case:
    return Case()


@settings(max_examples=60, deadline=None)
@given(actions=st.lists(st.floats(0, 1), min_size=6, max_size=6), share=st.floats(0.15, 1.0), cliffs=st.booleans())
def test_bounded_actions_hold_any_budget_within_reach(
    case: Case, actions: list[float], share: float, cliffs: bool
) -> None:
    case.machine = Machine(case.graph, steps) if cliffs else Machine(case.graph)
    problem = case.problem(1.0)
    space = problem.space
    fastest, whole = space.ms(space.fastest), space.ms(space.whole)
    budget = fastest + share * (whole - fastest)
    episode = run(problem, budget, replayed(actions))
    assert episode.done
    assert space.ms(episode.point) <= budget
    for cluster, action, taken in zip(episode.order, actions, episode.actions, strict=True):
        ladder = space.ladders[cluster]
        gone = [1 - row[0] / ladder.widths[0][0] for row in ladder.widths]
        wanted = min(range(len(gone)), key=lambda r: abs(gone[r] - action))
        assert cliffs or taken >= gone[wanted] - 1e-9  # bounds only ask for more


def test_first_layer_gives_up_what_the_rest_can_not(case: Case) -> None:
    """MACs by layer as in test_netadapt.py, 76768 in all. With b to f at 8 channels: a 864, b 32*8*9 = 2304,
    c 64, d 576, e (8 + 8)*8 = 128, f 576, out 32: 4544. At 24 of 32 channels of a: 648 + 1728 + 1376 = 3752."""
    counted = Case(in_time=False)
    problem = counted.problem(1.0)

    def first(budget: float) -> float:
        episode = Episode(problem, budget / 76768)
        episode.step(0.0)
        return episode.actions[0]

    assert first(4544) == 0.0
    assert first(4543) == 0.25
    assert first(3752) == 0.25
    assert first(3751) == 0.5
    assert first(76768) == 0.0


def test_state_is_the_papers(case: Case) -> None:
    counted = Case(in_time=False)
    problem = counted.problem(1.0)
    episode = Episode(problem, 0.5)
    # t, n, c, h, w, stride, k, MACs of layer a, over the largest of all six; reduced, rest, last action
    least = (0.25 * 864 + 2304 / 4 + 64 + 576 + 128 + 576 + 32) / 76768
    expected = [0, 32 / 64, 3 / 112, 1, 1, 1, 1, 864 / 27648, 0, 1 - least, 0]
    np.testing.assert_allclose(episode.state, expected, rtol=1e-5)
    episode.step(0.25)
    reduced = (864 / 4 + 18432 / 4) / 76768
    here = 1 - reduced
    least = (0.75 * 864 + 0.75 * 2304 + 64 + 576 + 128 + 576 + 32) / 76768
    expected = [1 / 5, 1, 32 / 112, 1, 1, 1, 1, 18432 / 27648, reduced, here - least, 0.25]
    np.testing.assert_allclose(episode.state, expected, rtol=1e-5)


@pytest.mark.parametrize("in_time", [True, False])
def test_it_ends_within_the_budget_better_than_chance_and_the_same_every_time(in_time: bool) -> None:
    points = []
    for _ in range(2):
        case = Case(in_time)
        problem = case.problem(0.5, trials=24, seed=3)
        solve = amc(problem).by_name["amc"]
        points.append(solve(problem.budget))
        assert case.asked <= 24 + 10
    assert (points[0] == points[1]).all()
    assert problem.space.ms(points[0]) <= problem.budget
    random = np.random.default_rng(0)
    chance = [problem.loss(run(problem, problem.budget, lambda s: float(random.random())).point) for _ in range(40)]
    assert problem.loss(points[0]) < float(np.median(chance))
    asked = case.asked
    less = solve(0.9 * problem.budget)
    assert problem.space.ms(less) <= 0.9 * problem.budget
    assert case.asked <= asked + 10  # nothing is learned anew


def test_nothing_is_written_anywhere(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    case = Case()
    problem = case.problem(0.5, trials=3)
    amc(problem).by_name["amc"](problem.budget)
    assert not list(tmp_path.iterdir())


def test_without_its_library_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "stable_baselines3", None)
    with pytest.raises(DeviceError, match="stable-baselines3") as caught:
        amc(Case().problem(0.5))
    assert "edgeprune[search]" in str(caught.value)
