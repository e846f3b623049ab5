"""Both solvers against every point there is; steps, cliffs and widths that save nothing."""

from __future__ import annotations

import ctypes
import itertools
import os
from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import nn

from edgeprune.graph.build import build
from edgeprune.graph.channels import ChannelGraph
from edgeprune.graph.cost import Widths
from edgeprune.graph.trace import trace
from edgeprune.prune.importance import Scores
from edgeprune.prune.ladder import Limits, ladders_of, widths_at
from edgeprune.prune.milp import _silence, best
from edgeprune.prune.search import Rungs, Space, Walk, greedy
from tests import nets
from tests.prune.evidence import random_scores
from tests.prune.machine import Kernel, Machine, smooth, steps


class Six(nets.Net):
    """Six clusters, a concatenation among them: few enough points to try them all."""

    def __init__(self) -> None:
        super().__init__(
            a=nets.conv(3, 32, 3), b=nets.conv(32, 64, 3), c=nets.conv(64, 64), d=nets.conv(64, 48, 3),
            e=nets.conv(112, 64), f=nets.conv(64, 32, 3), out=nn.Conv2d(32, 4, 1),
        )  # fmt: skip

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        c = self.c(self.b(self.a(x)))
        return self.out(self.f(self.e(torch.cat((c, self.d(c)), 1))))


@pytest.fixture(scope="module")
def graph() -> ChannelGraph:
    return build(trace(Six().eval(), (1, 3, 32, 32)))


def scores_of(graph: ChannelGraph, seed: int) -> Scores:
    """Random scores, layers of different weight."""
    scale = np.exp(np.random.default_rng(seed).normal(size=len(graph.groups)))
    return {name: s * k for (name, s), k in zip(random_scores(graph, seed).items(), scale, strict=True)}


def space_of(graph: ChannelGraph, machine: Machine, seed: int = 0, multiple: int = 8) -> Space:
    return Space(graph, ladders_of(graph, scores_of(graph, seed), Limits(multiple, 8, 0.9)), machine)


@pytest.mark.parametrize("kernel", [steps, smooth])
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_programs_come_near_the_best_of_all_points_and_greed_never_beats_them(
    graph: ChannelGraph, kernel: Kernel, seed: int
) -> None:
    machine = Machine(graph, kernel, error=0.5, seed=seed)
    space = space_of(graph, machine, seed)
    points = np.array(list(itertools.product(*(range(len(la.widths)) for la in space.ladders))), dtype=np.intp)
    lost = np.sum([la.lost[points[:, i]] for i, la in enumerate(space.ladders)], axis=0)
    rows = np.zeros((len(points), len(graph.groups)))
    for i, ladder in enumerate(space.ladders):
        rows[:, list(ladder.cluster)] = np.array(ladder.widths)[points[:, i]]
    times = machine.all_ms(rows)
    for speedup in (1.3, 2.0, 3.5):
        budget = space.ms(space.whole) / speedup
        least = lost[times <= budget].min()
        found, by_greed = best(space, budget), greedy(space, budget)
        assert found is not None
        assert by_greed is not None
        assert space.ms(found) <= budget
        assert least <= space.loss(found) * (1 + 1e-9)
        assert space.loss(found) <= 1.05 * least  # module docstring of milp.py: mostly the best itself
        assert space.loss(found) <= space.loss(by_greed) * (1 + 1e-9)


def single_steps(space: Space, budget: float) -> bool:
    """Greed that looks one rung ahead and takes what saves: whether it reaches the budget."""
    point = space.whole
    while space.ms(point) > budget:
        ahead = [point + (np.arange(len(point)) == i) for i in range(len(point)) if point[i] < space.narrowest[i]]
        faster = [p for p in ahead if space.ms(p) < space.ms(point)]
        if not faster:
            return False
        point = min(faster, key=space.loss)
    return True


def test_greed_jumps_over_plateaus_that_single_steps_stay_on(graph: ChannelGraph) -> None:
    machine = Machine(graph, lambda channels: np.ceil(channels / 32) * 32)
    space = space_of(graph, machine)
    budget = space.ms(space.whole) / 2
    assert not single_steps(space, budget)
    point = greedy(space, budget)
    assert point is not None
    assert space.ms(point) <= budget


@pytest.mark.parametrize("solve", [greedy, best])
def test_no_channel_group_ends_narrower_than_the_budget_asks(
    graph: ChannelGraph, solve: Callable[[Space, float], Rungs | None]
) -> None:
    for kernel in (steps, smooth):
        space = space_of(graph, Machine(graph, kernel, error=0.3))
        budget = space.ms(space.whole) / 2
        point = solve(space, budget)
        assert point is not None
        for cluster, rung in itertools.product(range(len(point)), range(int(point.max()))):
            if rung < point[cluster]:
                wider = point.copy()
                wider[cluster] = rung
                assert space.ms(wider) > budget


class Flat(Machine):
    """A machine on which the width of some channel groups costs nothing."""

    def __init__(self, graph: ChannelGraph, flat: list[int]) -> None:
        super().__init__(graph)
        self._flat, self._whole = flat, np.array([g.size for g in graph.groups], dtype=np.float64)

    def ms(self, widths: Widths) -> float:
        widths = widths.copy()
        widths[self._flat] = self._whole[self._flat]
        return super().ms(widths)


@pytest.mark.parametrize("solve", [greedy, best])
def test_width_that_saves_no_time_is_never_cut(
    graph: ChannelGraph, solve: Callable[[Space, float], Rungs | None]
) -> None:
    flat = [1, 4]
    space = space_of(graph, Flat(graph, flat))
    for speedup in (1.5, 3.0):
        point = solve(space, space.ms(space.whole) / speedup)
        assert point is not None
        widths = widths_at(space.ladders, point)
        assert all(widths[g] == graph.groups[g].size for g in flat)
        assert any(widths[g] < graph.groups[g].size for g in range(len(graph.groups)))


def test_fastest_is_wider_than_narrowest_where_narrow_kernels_are_slow(graph: ChannelGraph) -> None:
    machine = Machine(graph, lambda channels: np.where(channels < 16, 64.0, channels))
    space = space_of(graph, machine)
    assert space.ms(space.fastest) < space.ms(space.narrowest)
    assert greedy(space, space.ms(space.fastest) * 0.99) is None
    assert best(space, space.ms(space.fastest) * 0.99) is None
    reached = best(space, space.ms(space.fastest))
    assert reached is not None
    assert space.ms(reached) <= space.ms(space.fastest)


def test_table_is_the_time_of_each_point_after_any_moves(graph: ChannelGraph) -> None:
    space = space_of(graph, Machine(graph, steps, error=0.3))
    walk = Walk(space, space.whole)
    random = np.random.default_rng(0)
    for _ in range(10):
        walk.go([int(o) for o in random.choice(len(space.of), 2)])
        fresh = Walk(space, walk.point)
        assert walk.ms == fresh.ms
        assert np.allclose(walk.change, fresh.change, rtol=0, atol=1e-9)


def test_what_a_library_prints_while_it_solves_stays_out_and_the_rest_comes_through(
    capfd: pytest.CaptureFixture[str],
) -> None:
    c = ctypes.CDLL(None)
    c.printf(b"before\n")
    with _silence():
        c.printf(b"HighsMipSolverData\n")  # buffered by C where the output is no terminal
        os.write(1, b"more\n")
    c.printf(b"after\n")
    c.fflush(None)
    assert capfd.readouterr().out == "before\nafter\n"
