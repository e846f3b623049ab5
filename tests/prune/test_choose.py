"""Plans for a budget of time: what is kept, what is measured, what is refused."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, reject, settings
from hypothesis import strategies as st
from torch import nn

from edgeprune.errors import PlanError
from edgeprune.graph.build import build
from edgeprune.graph.channels import ChannelGraph
from edgeprune.graph.cost import CostModel, Widths
from edgeprune.graph.trace import trace
from edgeprune.prune import importance
from edgeprune.prune.choose import ROUNDS, choose
from edgeprune.prune.ladder import Keeps, Limits, ladders_of, uniform_rungs
from edgeprune.prune.make import prune_checkpoint
from edgeprune.prune.request import Request
from edgeprune.prune.search import Space
from edgeprune.prune.time import Timing
from edgeprune.prune.traced import channel_graph
from edgeprune.records import PlannedTime, PrunePlan, read_json
from edgeprune.records.model import ModelFiles
from edgeprune.yolo.load import load
from tests import nets
from tests.prune.evidence import random_scores
from tests.prune.machine import Machine, smooth, steps

Traced = tuple[ChannelGraph, CostModel]


class Deep(nets.Net):
    """Wide enough that a budget can be met to a few per cent."""

    def __init__(self) -> None:
        widths = [3, 64, 96, 128, 128, 160, 128, 96]
        layers = {f"c{i}": nets.conv(a, b, 3) for i, (a, b) in enumerate(pairwise(widths))}
        super().__init__(**layers, out=nn.Conv2d(96, 4, 1))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for layer in self.children():
            x = layer(x)
        return x


def traced(model: nn.Module) -> Traced:
    graph = build(trace(model.eval(), (1, 3, 32, 32)))
    return graph, CostModel(graph, model)


@pytest.fixture(scope="module")
def deep() -> Traced:
    return traced(Deep())


@pytest.fixture(scope="module")
def odd() -> list[Traced]:
    """Nets with chunks, heads, groups, shuffles, shortcuts and what can't be cut."""
    kinds = (nets.Chunk, nets.Heads, nets.Grouped, nets.Residual, nets.Shuffle, nets.ShuffledGroups, nets.OverChannels)
    return [traced(kind()) for kind in kinds]


def widths_of(graph: ChannelGraph, keeps: Keeps) -> Widths:
    return np.array([float(len(keeps[g.name])) for g in graph.groups])


class Device:
    """The machine itself, which the model that plans were made with doesn't know: slower, each layer differently."""

    def __init__(self, graph: ChannelGraph, noise: float, seed: int, slower: float = 1.3) -> None:
        self._machine = Machine(graph, steps, ms=10.0 * slower, error=0.15, noise=noise, seed=seed)
        self.whole_ms = self._machine.ms(np.array([float(g.size) for g in graph.groups]))
        self.runs = 0

    def measure(self, candidates: Sequence[Widths]) -> list[float]:
        self.runs += 1
        return self._machine.measure(candidates)


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("allocation", ["global", "uniform"])
def test_measured_time_ends_within_5_percent_under_the_budget(deep: Traced, allocation: str, seed: int) -> None:
    graph, costs = deep
    scores, device = random_scores(graph, seed), Device(graph, 0.005, seed)
    for speedup in (1.5, 2.5):
        budget = device.whole_ms / speedup
        before = device.runs
        timing = Timing(Machine(graph, steps), budget, device.measure)
        keeps, planned = choose(graph, costs, scores, timing, allocation, Limits(4, 8, 0.9))
        measured = planned.chosen.measured_ms
        assert measured is not None
        assert measured <= budget
        if allocation == "global":  # equal shares of few layers are too coarse for it
            assert measured >= 0.95 * budget
        assert 1 <= device.runs - before <= ROUNDS
        within = [c for c in planned.choices if c.measured_ms is not None and c.measured_ms <= budget]
        assert planned.chosen.importance_kept == max(c.importance_kept for c in within)
        lost = sum(float(np.delete(scores[name], keep).sum()) for name, keep in keeps.items())
        assert planned.chosen.importance_kept == pytest.approx(1 - lost / sum(s.sum() for s in scores.values()))


def test_first_prediction_misses_and_the_correction_brings_it_in(deep: Traced) -> None:
    graph, costs = deep
    device = Device(graph, 0.0, 1)
    timing = Timing(Machine(graph, steps), device.whole_ms / 2, device.measure)
    _, planned = choose(graph, costs, random_scores(graph, 1), timing, "global", Limits(4, 8, 0.9))
    first = [c for c in planned.choices if c.round == 1]
    assert {c.method for c in first} == {"milp", "greedy"}
    assert all(c.measured_ms is not None and c.measured_ms > planned.budget_ms for c in first)
    assert planned.chosen.round > 1
    assert f"widths for {planned.budget_ms:.2f} ms: by {planned.chosen.method}" in planned.sentence()
    assert f"measured {planned.chosen.measured_ms:.2f}" in planned.sentence()


def test_without_a_device_the_prediction_holds_the_budget_and_programs_win(deep: Traced) -> None:
    graph, costs = deep
    machine = Machine(graph, smooth)
    budget = machine.ms(costs.widths) / 2
    keeps, planned = choose(graph, costs, random_scores(graph, 0), Timing(machine, budget), "global", Limits())
    assert machine.ms(widths_of(graph, keeps)) == planned.chosen.predicted_ms <= budget
    assert planned.chosen.measured_ms is None
    kept = {c.method: c.importance_kept for c in planned.choices}
    assert kept["milp"] >= kept["greedy"] - 1e-12


def test_uniform_takes_the_widest_equal_share_that_holds(deep: Traced) -> None:
    graph, costs = deep
    machine = Machine(graph, smooth)
    budget = machine.ms(costs.widths) / 2
    keeps, planned = choose(graph, costs, random_scores(graph, 0), Timing(machine, budget), "uniform", Limits())
    assert [c.method for c in planned.choices] == ["uniform"]
    shares = [len(keeps[g.name]) / g.size for g in graph.groups if not g.locked]
    assert max(shares) - min(shares) < 8 / 64
    assert 0.85 * budget < machine.ms(widths_of(graph, keeps)) <= budget


@pytest.mark.parametrize("allocation", ["global", "uniform"])
@pytest.mark.parametrize("on_device", [False, True])
def test_budget_out_of_reach_is_refused_with_the_fastest_there_is(
    deep: Traced, allocation: str, on_device: bool
) -> None:
    graph, costs = deep
    machine = Machine(graph, steps)
    scores, limits = random_scores(graph, 0), Limits(8, 8, 0.5)
    fastest = machine.ms(np.array([float(g.size if g.locked else g.size / 2) for g in graph.groups]))
    for budget in (0.5 * fastest, 0.95 * fastest):
        timing = Timing(machine, budget, machine.measure if on_device else None)
        with pytest.raises(PlanError) as caught:
            choose(graph, costs, scores, timing, allocation, limits)
        assert f"{fastest:.3f} ms" in str(caught.value)
        assert "max_group_ratio" in str(caught.value)


def test_budget_that_only_the_prediction_thinks_out_of_reach_is_met(deep: Traced) -> None:
    graph, costs = deep
    model, device = Machine(graph, steps), Machine(graph, steps, ms=8.5)
    fastest = model.ms(np.array([float(g.size if g.locked else g.size / 2) for g in graph.groups]))
    timing = Timing(model, 0.95 * fastest, device.measure)
    _, planned = choose(graph, costs, random_scores(graph, 0), timing, "global", Limits(8, 8, 0.5))
    assert planned.chosen.measured_ms is not None
    assert 0.9 * planned.budget_ms <= planned.chosen.measured_ms <= planned.budget_ms


def test_budget_under_an_empty_engine_is_refused(deep: Traced) -> None:
    graph, costs = deep
    machine = Machine(graph, floor_ms=0.7)
    with pytest.raises(PlanError, match="faster than an empty engine") as caught:
        choose(graph, costs, random_scores(graph, 0), Timing(machine, 0.7), "global", Limits())
    assert "over 0.700 ms" in str(caught.value)


def test_device_that_no_plan_holds_on_is_refused_with_what_was_measured(deep: Traced) -> None:
    graph, costs = deep
    machine = Machine(graph, steps)
    timing = Timing(machine, machine.ms(costs.widths) / 2, lambda rows: [99.0 for _ in rows])
    with pytest.raises(PlanError, match=r"99\.000 ms, the fastest of"):
        choose(graph, costs, random_scores(graph, 0), timing, "global", Limits())


@settings(max_examples=60, deadline=None)
@given(
    which=st.integers(0, 6),
    way=st.floats(0.0, 1.0),
    allocation=st.sampled_from(["global", "uniform"]),
    multiple=st.sampled_from([1, 2, 4]),
    ratio=st.floats(0.3, 0.9),
    seed=st.integers(0, 99),
    noise=st.sampled_from([None, 0.0, 0.02]),
)
def test_limits_and_constraints_hold_whatever_is_asked(
    odd: list[Traced],
    which: int,
    way: float,
    allocation: str,
    multiple: int,
    ratio: float,
    seed: int,
    noise: float | None,
) -> None:
    graph, costs = odd[which]
    scores, limits = random_scores(graph, seed), Limits(multiple, 4, ratio)
    machine = Machine(graph, steps, error=0.5, seed=seed)
    space = Space(graph, ladders_of(graph, scores, limits), machine)
    alike = [space.ms(np.array(rungs)) for rungs in uniform_rungs(space.ladders)]
    fastest = min(alike) if allocation == "uniform" else space.ms(space.fastest)
    budget = fastest + way * (space.ms(space.whole) - fastest)
    device = None if noise is None else Machine(graph, steps, error=0.5, seed=seed, noise=noise)
    try:
        timing = Timing(machine, budget, device and device.measure)
        keeps, planned = choose(graph, costs, scores, timing, allocation, limits)
    except PlanError:
        if not noise:
            raise
        reject()  # every measurement of the fastest may lie above a budget so low
    graph.layer_keeps(keeps)  # refuses locked groups that were cut and clusters out of proportion
    assert set(keeps) == {g.name for g in graph.groups}
    for cluster in graph.clusters:
        cut = [(graph.groups[g], len(keeps[graph.groups[g].name])) for g in cluster]
        for group, kept in cut:
            assert kept >= min(4, group.size)
            assert 1 - kept / group.size <= ratio + 1e-9
        if any(kept < group.size for group, kept in cut):
            assert max(kept for _, kept in cut) % multiple == 0
    took = planned.chosen.measured_ms or machine.ms(widths_of(graph, keeps))
    assert took <= budget


def test_rounds_in_time_compose_into_one_plan_that_says_how_it_was_chosen(tiny: Path, tmp_path: Path) -> None:
    def cut(model: Path, speedup: float, name: str, **more: Path) -> PrunePlan:
        def clock(graph: ChannelGraph, module: nn.Module) -> Timing:
            assert {g.name for g in graph.groups}
            machine = Machine(graph)
            whole = np.array([float(g.size) for g in graph.groups])
            return Timing(machine, machine.ms(whole) / speedup)

        request = Request(model=model, image_size=(64, 64), importance="l2", clock=clock, allocation="uniform", **more)
        prune_checkpoint(request, files=ModelFiles(tmp_path / f"{name}.pt", tmp_path / f"{name}.json"))
        return read_json(tmp_path / f"{name}.json", PrunePlan, PlanError)

    first = cut(tiny, 1.3, "one")
    second = cut(tmp_path / "one.pt", 1.3, "two", before=tmp_path / "one.json", parent=tiny)
    for plan in (first, second):
        assert isinstance(plan.time, PlannedTime)
        assert plan.time.chosen.predicted_ms <= plan.time.budget_ms == pytest.approx(plan.time.whole_ms / 1.3)
    assert second.macs_ratio < first.macs_ratio < 1
    assert second.graph_sha256 == first.graph_sha256


def test_plan_for_macs_says_nothing_of_time(tiny: Path, tmp_path: Path) -> None:
    request = Request(model=tiny, image_size=(64, 64), importance="l2", macs_ratio=0.6)
    prune_checkpoint(request, files=ModelFiles(tmp_path / "pruned.pt", tmp_path / "plan.json"))
    assert '"time"' not in (tmp_path / "plan.json").read_text()
    assert read_json(tmp_path / "plan.json", PrunePlan, PlanError).time is None


def test_real_detector_is_solved_for_time(shared: Path) -> None:
    detector = load(shared / "weights" / "yolov8n-bccd.pt")
    graph = channel_graph(detector.model, (320, 320))
    costs = CostModel(graph, detector.model)
    machine = Machine(graph, steps)
    budget = machine.ms(costs.widths) / 2
    scores = importance.magnitude(graph, detector.model, 2)
    keeps, planned = choose(graph, costs, scores, Timing(machine, budget), "global", Limits())
    graph.layer_keeps(keeps)
    assert 0.99 * budget <= planned.chosen.predicted_ms <= budget
    assert machine.calls < 60_000  # a call of a latency table's model takes some 0.1 ms
    alike = choose(graph, costs, scores, Timing(machine, budget), "uniform", Limits())[1]
    assert planned.chosen.importance_kept > alike.chosen.importance_kept
