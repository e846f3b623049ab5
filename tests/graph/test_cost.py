"""Costs against torch's own counter on models that were really cut."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from edgeprune.graph.cost import CostModel
from edgeprune.prune.traced import channel_graph
from edgeprune.yolo.load import untrained
from tests.mute import cut_and_mute, random_keeps


@pytest.mark.parametrize("name", ["yolov8n", "yolo11n"])
@pytest.mark.parametrize("size", [64, 96])
def test_macs_and_parameters_equal_an_independent_count(name: str, size: int) -> None:
    model = untrained(f"{name}.yaml", {0: "a", 1: "b", 2: "c"}, 0)
    graph = channel_graph(model, (size, size))
    costs = CostModel(graph, model)
    keeps = random_keeps(graph, 5, 0.4)
    cut, _ = cut_and_mute(model, graph, keeps)
    widths = np.array([float(len(keeps.get(g.name, range(g.size)))) for g in graph.groups])
    for counted, at in ((model, costs.widths), (cut, widths)):
        with FlopCounterMode(display=False) as counter, torch.no_grad():
            counted(torch.zeros(1, 3, size, size))
        assert costs.macs(at) == counter.get_total_flops() / 2
        assert costs.parameters(at) == sum(p.numel() for p in counted.parameters())
