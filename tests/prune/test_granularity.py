"""Neurons: linear layers get narrower, and nothing else does."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

from edgeprune.errors import PlanError
from edgeprune.graph.build import build
from edgeprune.graph.trace import trace
from edgeprune.prune.granularity import Left, Task, neurons
from edgeprune.prune.importance import Scores
from edgeprune.prune.make import prune_checkpoint, replay
from edgeprune.prune.request import Request
from edgeprune.records.model import ModelFiles
from edgeprune.yolo.load import load
from tests import nets


def test_neurons_are_what_linear_layers_alone_read() -> None:
    model = nets.Flat()  # conv, pooled and flat -> linear (24) -> linear
    graph = build(trace(model, (1, 3, 8, 8)))
    asked: list[dict[str, str | None]] = []

    def widths(left: Left, scores: Scores) -> tuple[dict[str, tuple[int, ...]], None]:
        asked.append({group.name: group.locked for group in left.graph.groups})
        return {}, None

    neurons(Task(Left(model, graph, {}), scores=lambda graph: {}, each=dict, widths=widths))
    assert asked[0]["hidden"] is None
    assert asked[0]["a.0"] is None  # what the first linear layer reads
    assert asked[0]["out"] is not None


def test_channels_that_a_convolution_reads_are_none() -> None:
    model = nets.Residual()
    task = Task(
        Left(model, build(trace(model, (1, 3, 8, 8))), {}),
        scores=lambda graph: {},
        each=dict,
        widths=lambda *_: ({}, None),
    )
    with pytest.raises(PlanError, match="no neurons that can be cut"):
        neurons(task)


@pytest.mark.parametrize(("config", "ratio"), [("yolov8n-cls", 0.99), ("yolov8n-rtdetr", 0.95)])
def test_only_what_linear_layers_read_gets_narrower(tmp_path: Path, config: str, ratio: float) -> None:
    request = Request(
        model=Path(f"{config}.yaml"), image_size=(64, 64), granularity="neurons", importance="l2", macs_ratio=ratio
    )
    parent, plan = prune_checkpoint(request, files=ModelFiles(tmp_path / "pruned.pt", tmp_path / "plan.json"))
    assert 0.5 < plan.macs_ratio <= ratio
    before, after = parent.model, dict(load(tmp_path / "pruned.pt").model.named_modules())
    narrower = {
        name for name, module in before.named_modules()
        if isinstance(module, (nn.Linear, nn.Conv2d)) and after[name].weight.shape[1] < module.weight.shape[1]
    }  # fmt: skip
    assert narrower
    assert all(isinstance(after[name], nn.Linear) for name in narrower)
    with torch.no_grad():
        load(tmp_path / "pruned.pt").model(torch.rand(1, 3, 64, 64))
    replay(Path(f"{config}.yaml"), tmp_path / "plan.json", tmp_path / "again.pt")
    assert (tmp_path / "again.pt").read_bytes() == (tmp_path / "pruned.pt").read_bytes()


def test_detector_without_linear_layers_is_refused(tmp_path: Path) -> None:
    request = Request(
        model=Path("yolov8n.yaml"), image_size=(64, 64), granularity="neurons", importance="l2", macs_ratio=0.9
    )
    with pytest.raises(PlanError, match="no neurons that can be cut"):
        prune_checkpoint(request, files=ModelFiles(tmp_path / "pruned.pt", tmp_path / "plan.json"))
    assert not (tmp_path / "plan.json").exists()
