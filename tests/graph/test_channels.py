"""What the channel graph says of small nets whose answer is known by hand."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from edgeprune.errors import ModelError, PlanError, UnsupportedOpError
from edgeprune.graph.build import build
from edgeprune.graph.channels import ChannelGraph
from edgeprune.graph.trace import trace
from edgeprune.prune.traced import channel_graph
from edgeprune.yolo.load import untrained
from tests import nets


def graph_of(kind: type[nets.Net]) -> ChannelGraph:
    torch.manual_seed(0)
    return build(trace(kind().eval(), (1, 3, 8, 8)))


def sizes(graph: ChannelGraph) -> dict[str, int]:
    return {group.name: group.size for group in graph.groups}


def test_residual_joins_both_branches_into_one_group() -> None:
    graph = graph_of(nets.Residual)
    assert sizes(graph) == {"a.0": 16, "out": 4}
    owners = dict(zip(sizes(graph), (group.sides for group in graph.groups), strict=True))
    assert {("a.0", "out"), ("b.0", "out"), ("b.0", "in"), ("out", "in")} <= set(owners["a.0"])


def test_concat_offsets_follow_branch_order() -> None:
    graph = graph_of(nets.Concat)
    keeps = graph.layer_keeps({"b.0": (0, 2), "a.0": (1,), "c.0": (3,)})
    assert keeps["out"]["in"] == [0, 2, 16 + 1, 24 + 3, 48 + 1]  # b, a, c, a again


def test_halves_of_a_chunk_are_two_groups_of_one_cluster() -> None:
    graph = graph_of(nets.Chunk)
    assert sizes(graph)["a.0[0:16]"] == sizes(graph)["a.0[16:32]"] == 16
    halves = {i for i, group in enumerate(graph.groups) if group.name.startswith("a.0")}
    assert any(set(cluster) == halves for cluster in graph.clusters)
    with pytest.raises(PlanError, match="don't shrink in proportion"):
        graph.layer_keeps({"a.0[0:16]": tuple(range(8))})


def test_depthwise_goes_with_its_input() -> None:
    assert sizes(graph_of(nets.Depthwise)) == {"a.0": 16, "out": 4}


def test_depth_multiplier_takes_all_outputs_of_an_input() -> None:
    graph = graph_of(nets.DepthMultiplier)
    assert graph.layer_keeps({"a.0": (0, 5)})["d.0"]["out"] == [0, 1, 2, 15, 16, 17]


def test_grouped_convolution_ties_its_groups_on_both_sides() -> None:
    graph = graph_of(nets.Grouped)
    sides = {graph.groups[g].name.split("[")[0] for cluster in graph.clusters if len(cluster) == 4 for g in cluster}
    assert sides == {"a.0", "g.0"}


def test_attention_keeps_q_and_k_free_of_v() -> None:
    graph = graph_of(nets.Heads)
    cluster_of = {graph.groups[g].name: i for i, cluster in enumerate(graph.clusters) for g in cluster}
    assert cluster_of["qkv[0:8]"] == cluster_of["qkv[32:40]"]  # q (and with it k) of both heads
    assert cluster_of["qkv[16:32]"] == cluster_of["qkv[48:64]"]  # v of both heads
    assert cluster_of["qkv[0:8]"] != cluster_of["qkv[16:32]"]


def test_flattened_channels_are_read_at_every_position() -> None:
    keeps = graph_of(nets.Flat).layer_keeps({"a.0": (0, 3)})
    assert keeps["hidden"]["in"] == [0, 1, 2, 3, 12, 13, 14, 15]


def test_outputs_are_locked_with_a_reason() -> None:
    graph = graph_of(nets.Residual)
    locked = {group.name: group.locked for group in graph.groups if group.locked}
    assert locked == {"out": "it reaches the model's output"}


def test_softmax_over_channels_locks_them() -> None:
    class Bins(nets.Net):
        def __init__(self) -> None:
            super().__init__(a=nn.Conv2d(3, 16, 1), out=nn.Conv2d(16, 1, 1))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.out(self.a(x).softmax(1))

    graph = graph_of(Bins)
    assert "softmax" in (graph.groups[0].locked or "")
    with pytest.raises(PlanError, match="locked"):
        graph.layer_keeps({"a": (0, 1)})


def test_operator_without_a_rule_is_named_with_node_module_and_line() -> None:
    with pytest.raises(UnsupportedOpError) as caught:
        graph_of(nets.Unknown)
    text = str(caught.value)
    for part in ("aten.cumsum.default", "node cumsum", "tests/nets.py", "torch.cumsum(self.a(x), 1)", "graph/rules.py"):
        assert part in text


def test_model_with_data_dependent_control_flow_is_refused() -> None:
    class Fickle(nets.Net):
        def __init__(self) -> None:
            super().__init__(a=nn.Conv2d(3, 8, 1), b=nn.Conv2d(3, 8, 1))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.a(x) if x.sum() > 0 else self.b(x)

    with pytest.raises(ModelError, match=r"can't be traced by torch\.export"):
        graph_of(Fickle)


@pytest.mark.parametrize("keep", [(), (0, 0), (3, 1), (0, 16), (-1, 2)])
def test_malformed_keep_is_refused(keep: tuple[int, ...]) -> None:
    with pytest.raises(PlanError, match="not a list of its indices"):
        graph_of(nets.Residual).layer_keeps({"a.0": keep})


def test_unknown_group_is_refused() -> None:
    with pytest.raises(PlanError, match="No channel group is named 'nope'"):
        graph_of(nets.Residual).layer_keeps({"nope": (0,)})


def test_identity_is_the_models_not_the_weights() -> None:
    names = {0: "a", 1: "b"}
    one, two, three = (
        channel_graph(untrained(f"{kind}.yaml", names, seed), (64, 64)).sha256
        for kind, seed in (("yolov8n", 0), ("yolov8n", 1), ("yolov8s", 0))
    )
    assert one == two != three


@pytest.mark.parametrize("name", ["yolov8n", "yolo11n"])
def test_few_macs_lie_in_wholly_locked_convolutions(name: str) -> None:
    from edgeprune.graph.cost import CostModel

    model = untrained(f"{name}.yaml", {i: str(i) for i in range(80)}, 0)
    graph = channel_graph(model, (320, 320))
    costs = CostModel(graph, model)
    by_layer = costs.macs_by_layer(costs.widths)
    locked = [
        layer
        for layer, channels in graph.layers.items()
        if channels.kind == "conv" and all(c is None or graph.groups[c[0]].locked for c in channels.out)
    ]
    assert sum(by_layer[layer] for layer in locked) <= 0.1 * costs.macs(costs.widths)
