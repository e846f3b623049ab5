"""From layers' times to a whole engine's: reading grids and lines, the correction, and cut graphs."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from edgeprune.graph.channels import ChannelGraph
from edgeprune.graph.cost import CostModel
from edgeprune.latency.model import UNCORRECTED, LatencyModel, corrected, fit
from edgeprune.latency.plans import at_level, at_random, ladders
from edgeprune.prune.apply import apply, make_plan
from edgeprune.prune.traced import channel_graph
from edgeprune.records.latency import Correction, LayerPoint, LayerTimes, Precisions, PrecisionTimes, Timed
from edgeprune.yolo import blocks
from edgeprune.yolo.load import load_detector

GRID = (16, 32, 64, 128, 256)


@pytest.fixture(scope="module")
def detector(tiny: Path) -> tuple[torch.nn.Module, ChannelGraph]:
    model = load_detector(tiny).model
    return model, channel_graph(model, (64, 64))


def bilinear(inputs: float, outputs: float) -> float:
    return 0.01 + 3e-4 * inputs + 2e-4 * outputs + 1e-6 * inputs * outputs


def grid(names: tuple[str, ...]) -> LayerTimes:
    points = tuple(LayerPoint(inputs=i, outputs=o, passes_ms=(bilinear(i, o),)) for i in GRID for o in GRID)
    return LayerTimes(what="conv", kind="convolution", names=names, rows=GRID, columns=GRID, points=points)


def test_between_its_widths_a_grid_is_read_linearly(detector: tuple[torch.nn.Module, ChannelGraph]) -> None:
    _, graph = detector
    names = ("model.5.conv", "model.7.conv")
    model = LatencyModel([grid(names)], graph)
    costs = CostModel(graph, detector[0])
    for widths in (costs.widths, *at_random(graph, 8, 20, seed=3)):
        channels = {
            name: tuple(len(side) for side in (sides["in"], sides["out"]))
            for name, sides in graph.layer_keeps(
                {g.name: tuple(range(int(w))) for g, w in zip(graph.groups, widths, strict=True)}
            ).items()
        }
        clipped = [[min(max(c, GRID[0]), GRID[-1]) for c in channels[name]] for name in names]
        assert model.sums(widths)[0] == pytest.approx(sum(bilinear(i, o) for i, o in clipped), rel=1e-9)


def test_a_joint_is_read_by_what_goes_in_and_out(detector: tuple[torch.nn.Module, ChannelGraph]) -> None:
    _, graph = detector
    points = tuple(LayerPoint(inputs=n, outputs=1, passes_ms=(n / 1000,)) for n in (1, 10_000))
    joint = LayerTimes(
        what="concat", kind="joint", names=("x",), reads={"model.5.conv": 16}, feeds={"model.7.conv": 16}, fixed=100,
        points=points,
    )  # fmt: skip
    widths = np.array([g.size for g in graph.groups], dtype=np.float64)
    out, in_ = len(graph.layers["model.5.conv"].out), len(graph.layers["model.7.conv"].in_)
    assert LatencyModel([joint], graph).sums(widths)[1] == pytest.approx((16 * out + 16 * in_ + 100 - 1) / 1000)


def test_a_cut_graph_has_the_times_that_its_parent_had_for_these_widths(
    detector: tuple[torch.nn.Module, ChannelGraph],
) -> None:
    model, graph = detector
    costs = CostModel(graph, model)
    layers = [grid(tuple(n for n, layer in graph.layers.items() if layer.kind == "conv" and "dfl" not in n))]
    for widths in at_random(graph, 16, 3, seed=1):
        keeps = {g.name: tuple(range(int(w))) for g, w in zip(graph.groups, widths, strict=True)}
        plan = make_plan(graph, costs, keeps, importance="", allocation="", channel_multiple=1, seed=0)
        cut = apply(model, graph, plan, blocks.settle)
        own = channel_graph(cut, (64, 64))
        whole = np.array([g.size for g in own.groups], dtype=np.float64)
        assert LatencyModel(layers, own).sums(whole) == pytest.approx(LatencyModel(layers, graph).sums(widths))


def test_the_correction_is_found_again() -> None:
    generator = np.random.default_rng(0)
    sums = [(c, j) for c, j in generator.uniform((1, 0.2), (9, 3), (24, 2)).tolist()]
    true = Correction(constant_ms=-0.4, convolutions=0.9, joints=0.5)
    found = fit(sums, [corrected(true, pair) * (1 + generator.normal(0, 0.005)) for pair in sums])
    for pair in sums:
        assert corrected(found, pair) == pytest.approx(corrected(true, pair), rel=0.03)


def test_without_whole_engines_the_sum_counts() -> None:
    assert corrected(UNCORRECTED, (3.0, 1.0)) == 4.0


def test_random_plans_are_plans(detector: tuple[torch.nn.Module, ChannelGraph]) -> None:
    _, graph = detector
    plans = at_random(graph, 16, 30, seed=0)
    assert all(np.array_equal(a, b) for a, b in zip(plans, at_random(graph, 16, 30, seed=0), strict=True))
    shares = [plan.sum() / sum(g.size for g in graph.groups) for plan in plans]
    assert min(shares) < 0.5 < 0.8 < max(shares)
    for widths in (*plans, at_level(graph, 16, 1.0)):
        for cluster, ladder in zip(graph.clusters, ladders(graph, 16), strict=True):
            row = tuple(int(widths[g]) for g in cluster)
            assert row in ladder
            if graph.locked(cluster):
                assert row == ladder[0]


def test_passes_that_agree_count_and_a_disturbed_one_is_kept() -> None:
    timed = Timed(passes_ms=(1.00, 5.0, 1.02))
    assert timed.ms == pytest.approx(1.01)
    assert timed.spread == pytest.approx(0.02 / 1.01)
    assert 5.0 in timed.passes_ms
    assert Timed(passes_ms=(1.0, 2.0)).spread > 0.5


def test_the_precision_is_the_one_that_has_to_be_cut_least() -> None:
    def times(precision: str, *ms: float) -> PrecisionTimes:
        engines = tuple(Timed(passes_ms=(one,)) for one in ms)
        return PrecisionTimes(precision=precision, levels=(0.0, 0.5, 1.0), engines=engines)  # type: ignore[arg-type]

    found = Precisions(model=(times("bf16", 3.4, 2.0, 1.0), times("int8", 3.2, 2.4, 1.4)))

    def best(budget_ms: float) -> tuple[str, float]:
        precision, level = found.best(budget_ms)
        return precision.precision, level

    assert best(3.3) == ("int8", 0.0)  # whole in INT8, a little cut in BF16
    assert best(2.2) == ("bf16", pytest.approx(0.5 * 1.2 / 1.4))
    assert best(1.2) == ("bf16", pytest.approx(0.9))  # INT8 doesn't get there
    assert best(0.5) == ("bf16", 2.0)  # nobody does: the fastest, and how far it stays behind
