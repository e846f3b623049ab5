"""cut = mute: a cut model equals the uncut one with the removed channels silenced, in float64."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import nn

from edgeprune.graph.channels import ChannelGraph, build
from edgeprune.graph.cost import CostModel
from edgeprune.graph.trace import trace
from edgeprune.prune.apply import apply, make_plan
from edgeprune.prune.make import channel_graph
from edgeprune.yolo import blocks
from edgeprune.yolo.load import load, predictions
from tests import nets
from tests.mute import give_life, largest_error, mute

#: Float64 sums in another order differ by 1e-16 a term; over some 10^4 terms and 100 layers 1e-12 is reached.
TOLERANCE = 1e-9


def random_keeps(graph: ChannelGraph, seed: int, ratio: float) -> dict[str, tuple[int, ...]]:
    """Random channels of every group that can be cut; clusters shrink in proportion, so halves stay halves."""
    generator = np.random.default_rng(seed)
    keeps: dict[str, tuple[int, ...]] = {}
    for cluster in graph.clusters:
        if graph.locked(cluster):
            continue
        parts = int(np.gcd.reduce([graph.groups[g].size for g in cluster]))
        stay = max(1, round(parts * (1 - ratio * generator.random() * 2))) if parts > 1 else 1
        for g in cluster:
            group = graph.groups[g]
            chosen = generator.choice(group.size, group.size * stay // parts, replace=False)
            keeps[group.name] = tuple(sorted(chosen.tolist()))
    return keeps


def cut_and_mute(
    model: nn.Module, graph: ChannelGraph, keeps: Mapping[str, tuple[int, ...]]
) -> tuple[nn.Module, nn.Module]:
    costs = CostModel(graph, model)
    plan = make_plan(graph, costs, dict(keeps), importance="random", scope="global", channel_multiple=1, seed=0)
    return apply(model, graph, plan, blocks.refresh), mute(model, graph, keeps)


@pytest.mark.parametrize("kind", nets.ALL, ids=lambda kind: kind.__name__)
@settings(max_examples=8, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(seed=st.integers(0, 10_000), ratio=st.floats(0.1, 0.7))
def test_small_net_cut_equals_muted(kind: type[nets.Net], seed: int, ratio: float) -> None:
    torch.manual_seed(0)
    model = give_life(kind()).eval()
    graph = _graph(kind, model)
    cut, muted = cut_and_mute(model.double(), graph, random_keeps(graph, seed, ratio))
    image = torch.rand(2, 3, 8, 8, dtype=torch.float64)
    assert largest_error(cut(image), muted(image)) < TOLERANCE


_GRAPHS: dict[type[nets.Net], ChannelGraph] = {}


def _graph(kind: type[nets.Net], model: nn.Module) -> ChannelGraph:
    if kind not in _GRAPHS:
        _GRAPHS[kind] = build(trace(model, (1, 3, 8, 8)))
    return _GRAPHS[kind]


SIZES = ["yolov8n", "yolov8s", "yolov8m", "yolo11n", "yolo11s", "yolo11m"]
LARGE = ["yolov8l", "yolov8x", "yolo11l", "yolo11x"]


@pytest.mark.parametrize("name", SIZES + [pytest.param(large, marks=pytest.mark.slow) for large in LARGE])
def test_detector_cut_equals_muted_in_every_output(name: str) -> None:
    from pathlib import Path

    model = give_life(load(Path(f"{name}.yaml")).model)
    graph = channel_graph(model, (64, 64))
    model = model.double()
    image = torch.rand(1, 3, 64, 64, dtype=torch.float64)
    for seed, ratio in ((0, 0.3), (1, 0.6)):
        keeps = random_keeps(graph, seed, ratio)
        assert sum(map(len, keeps.values())) < sum(g.size for g in graph.groups)
        cut, muted = cut_and_mute(model, graph, keeps)
        with torch.no_grad():
            assert largest_error(predictions(cut(image)), predictions(muted(image))) < TOLERANCE
    cut.train()
    outputs = cut(image.expand(2, -1, -1, -1))
    (outputs["boxes"].sum() + outputs["scores"].sum()).backward()
    for parameter in (p for n, p in cut.named_parameters() if "dfl" not in n):
        assert parameter.grad is not None
