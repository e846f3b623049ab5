"""Plans: checked against the parent from outside, refused where they don't belong, composed over rounds."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from torch import nn

from edgeprune.errors import PlanError
from edgeprune.graph.cost import CostModel
from edgeprune.prune.apply import apply, compose, make_plan
from edgeprune.prune.make import prune_checkpoint
from edgeprune.prune.request import Request
from edgeprune.prune.traced import channel_graph
from edgeprune.records import PrunePlan, read_json
from edgeprune.records.model import ModelFiles
from edgeprune.yolo import blocks
from edgeprune.yolo.load import load, predictions, untrained
from tests.mute import give_life, largest_error, random_keeps

NAMES = {0: "a", 1: "b"}


@pytest.mark.parametrize("config", ["yolov8n.yaml", "yolo11n.yaml"])
@pytest.mark.parametrize("allocation", ["global", "uniform"])
def test_plan_can_be_checked_against_the_parent_from_outside(tmp_path: Path, config: str, allocation: str) -> None:
    """With nothing but the three files: every weight of pruned.pt is the parent's at the plan's indices."""
    from edgeprune.cli import app

    arguments = ["prune", config, "--ratio", "0.4", "--importance", "random", "--imgsz", "64"]
    with pytest.raises(SystemExit) as ended:
        app([*arguments, "--allocation", allocation, "--seed", "3", "--out", str(tmp_path)])
    assert ended.value.code == 0
    plan = json.loads((tmp_path / "plan.json").read_text())
    parent, pruned = load(tmp_path / "parent.pt").model, load(tmp_path / "pruned.pt").model
    old, new = dict(parent.named_modules()), dict(pruned.named_modules())
    cut = 0
    for name, keep in plan["layers"].items():
        before, after = old[name], new[name]
        if isinstance(before, nn.Conv2d):
            expected = before.weight[keep["out"]]
            if before.groups == 1:
                expected = expected[:, keep["in"]]
            cut += after.weight.numel() < before.weight.numel()
        else:
            expected = before.weight[keep["out"]]
            assert torch.equal(after.running_var, before.running_var[keep["out"]])
        assert torch.equal(after.weight, expected)
    assert cut > 20
    sizes = sum(g["size"] for g in plan["groups"].values())
    assert sum(len(g["keep"]) for g in plan["groups"].values()) <= 0.6 * sizes


def test_plan_of_another_graph_is_refused_before_anything_changes() -> None:
    small, large = untrained("yolov8n.yaml", NAMES, 0), untrained("yolov8s.yaml", NAMES, 0)
    graphs = {m: channel_graph(m, (64, 64)) for m in (small, large)}
    keeps = random_keeps(graphs[small], 0, 0.3)
    plan = make_plan(
        graphs[small], CostModel(graphs[small], small), keeps, importance="random", allocation="global",
        channel_multiple=1, seed=0,
    )  # fmt: skip
    before = {n: p.clone() for n, p in large.named_parameters()}
    with pytest.raises(PlanError, match="made for another model"):
        apply(large, graphs[large], plan)
    assert all(torch.equal(before[n], p) for n, p in large.named_parameters())


def test_plan_whose_layers_were_edited_is_refused() -> None:
    model = untrained("yolov8n.yaml", NAMES, 0)
    graph = channel_graph(model, (64, 64))
    plan = make_plan(
        graph, CostModel(graph, model), random_keeps(graph, 0, 0.3), importance="random", allocation="global",
        channel_multiple=1, seed=0,
    )  # fmt: skip
    layers = dict(plan.layers)
    layers["model.1.conv"] = layers["model.1.conv"].model_copy(update={"out": (0,)})
    with pytest.raises(PlanError, match=r"don't follow from its groups[\s\S]*model\.1\.conv"):
        apply(model, graph, plan.model_copy(update={"layers": layers}), blocks.settle)


def test_plan_file_with_unsorted_indices_is_refused(tmp_path: Path) -> None:
    bad = {"size": 4, "keep": [2, 1]}
    file = tmp_path / "plan.json"
    content = {
        "graph_sha256": "0" * 64, "groups": {"g": bad}, "layers": {}, "macs": [2, 1], "parameters": [2, 1],
        "importance": "l2", "allocation": "global", "channel_multiple": 8, "seed": 0,
    }  # fmt: skip
    file.write_text(json.dumps(content))
    with pytest.raises(PlanError, match=r"'groups\.g' is not right"):
        read_json(file, PrunePlan, PlanError)


def test_two_rounds_compose_into_one_plan_from_the_parent(tmp_path: Path) -> None:
    def cut(model: Path, ratio: float, name: str, before: Path | None = None, parent: Path | None = None) -> Path:
        request = Request(
            model=model, parent=parent, before=before, image_size=(64, 64), importance="l2", macs_ratio=ratio,
        )  # fmt: skip
        prune_checkpoint(request, files=ModelFiles(tmp_path / f"{name}.pt", tmp_path / f"{name}.json"))
        return tmp_path / f"{name}.pt"

    from edgeprune.yolo.checkpoint import pack

    parent = tmp_path / "parent.pt"
    parent.write_bytes(pack(give_life(untrained("yolo11n.yaml", NAMES, 0)), {}, half=False))
    first = cut(parent, 0.7, "one")
    second = cut(first, 0.25, "two", before=tmp_path / "one.json", parent=parent)
    plan = read_json(tmp_path / "two.json", PrunePlan, PlanError)
    assert plan.macs_ratio <= 0.25
    # the cap of 0.8 holds from the parent, not anew in every round
    assert all(1 - len(g.keep) / g.size <= 0.8 for g in plan.groups.values())
    model = load(parent).model
    at_once = apply(model, channel_graph(model, (64, 64)), plan, blocks.settle)
    image = torch.rand(1, 3, 64, 64)
    with torch.no_grad():
        assert largest_error(predictions(load(second).model(image)), predictions(at_once(image))) == 0


def test_compose_of_nothing_changes_nothing() -> None:
    model = untrained("yolov8n.yaml", NAMES, 0)
    graph = channel_graph(model, (64, 64))
    costs = CostModel(graph, model)
    how: dict[str, str | int] = {"importance": "l2", "allocation": "global", "channel_multiple": 8, "seed": 0}
    plan = make_plan(graph, costs, random_keeps(graph, 1, 0.4), **how)
    middle = apply(model, graph, plan, blocks.settle)
    middle_graph = channel_graph(middle, (64, 64))
    whole = make_plan(middle_graph, CostModel(middle_graph, middle), {}, **how)
    assert compose(plan, whole, graph, costs).layers == plan.layers
