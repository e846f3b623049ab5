"""What may be chosen: budget, channel multiple, floor, cap, proportion."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgeprune.errors import PlanError
from edgeprune.graph.channels import ChannelGraph
from edgeprune.graph.cost import CostModel
from edgeprune.prune.allocate import Budget, allocate
from edgeprune.prune.ladder import Keeps, Limits
from edgeprune.prune.traced import channel_graph
from edgeprune.yolo.load import untrained
from tests.prune.evidence import random_scores


@pytest.fixture(scope="module")
def detector() -> tuple[ChannelGraph, CostModel]:
    model = untrained("yolo11n.yaml", {0: "a"}, 0)
    graph = channel_graph(model, (64, 64))
    return graph, CostModel(graph, model)


def widths(graph: ChannelGraph, keeps: Keeps) -> np.ndarray:
    return np.array([float(len(keeps[g.name])) for g in graph.groups])


@settings(max_examples=25, deadline=None)
@given(
    ratio=st.floats(0.35, 0.95),
    allocation=st.sampled_from(["global", "uniform"]),
    multiple=st.sampled_from([1, 4, 8, 16]),
    seed=st.integers(0, 99),
)
def test_budget_and_limits_hold(
    detector: tuple[ChannelGraph, CostModel], ratio: float, allocation: str, multiple: int, seed: int
) -> None:
    graph, costs = detector
    limits = Limits(channel_multiple=multiple, min_width=8, max_group_ratio=0.75)
    keeps = allocate(graph, costs, random_scores(graph, seed), Budget(macs_ratio=ratio), allocation, limits)
    graph.layer_keeps(keeps)  # refuses locked groups that were cut and clusters out of proportion
    assert costs.macs(widths(graph, keeps)) <= ratio * costs.macs(costs.widths)
    for cluster in graph.clusters:
        cut = [(graph.groups[g], len(keeps[graph.groups[g].name])) for g in cluster]
        for group, kept in cut:
            assert kept >= min(8, group.size)
            assert 1 - kept / group.size <= 0.75 + 1e-9
        if any(kept < group.size for group, kept in cut):
            assert max(kept for _, kept in cut) % multiple == 0


def test_global_keeps_the_important_and_uniform_treats_all_alike(detector: tuple[ChannelGraph, CostModel]) -> None:
    graph, costs = detector
    scores = {g.name: np.full(g.size, 1e-6) for g in graph.groups}
    precious = "model.7.conv"
    scores[precious] = np.full_like(scores[precious], 1e6)
    limits = Limits(8, 8, 0.75)
    chosen = allocate(graph, costs, scores, Budget(macs_ratio=0.6), "global", limits)
    assert len(chosen[precious]) == 256
    alike = allocate(graph, costs, scores, Budget(macs_ratio=0.6), "uniform", limits)
    assert len(alike[precious]) < 256


def test_the_best_channels_of_a_group_stay(detector: tuple[ChannelGraph, CostModel]) -> None:
    graph, costs = detector
    scores = random_scores(graph, 3)
    keeps = allocate(graph, costs, scores, Budget(macs_ratio=0.5), "global", Limits())
    for name, keep in keeps.items():
        gone = np.setdiff1d(np.arange(len(scores[name])), keep)
        if len(gone):
            assert scores[name][list(keep)].min() >= scores[name][gone].max()


def test_channel_budget_counts_channels(detector: tuple[ChannelGraph, CostModel]) -> None:
    graph, costs = detector
    keeps = allocate(graph, costs, random_scores(graph, 0), Budget(channel_ratio=0.6), "global", Limits(1, 1, 0.9))
    assert widths(graph, keeps).sum() <= 0.6 * costs.widths.sum()


def test_budget_out_of_reach_is_refused_with_the_nearest(detector: tuple[ChannelGraph, CostModel]) -> None:
    graph, costs = detector
    with pytest.raises(PlanError) as caught:
        allocate(graph, costs, random_scores(graph, 0), Budget(macs_ratio=0.06), "global", Limits(8, 8, 0.5))
    assert "with every group at its floor" in str(caught.value)
