"""Repeats taken out: the model equals one with nn.Identity in their place, and what is written is a stock one."""

from __future__ import annotations

import copy
import io
from pathlib import Path

import pytest
import torch
from torch import nn

from edgeprune.errors import PlanError
from edgeprune.prune.traced import channel_graph
from edgeprune.yolo import repeats
from edgeprune.yolo.checkpoint import pack
from edgeprune.yolo.load import load, predictions
from tests import zoo
from tests.mute import cut_and_mute, give_life, largest_error, random_keeps

SHAPE = (1, 3, 64, 64)

#: Family -> repeats that it has at least.
FAMILIES = {
    "yolov3": 20, "yolov5s": 10, "yolov8s": 8, "yolov8n-ghost": 8, "yolov9t": 8, "yolov10s": 8, "yolo11n": 9,
    "yolo11m": 20, "yolo12n": 8, "yolo26n": 8,
}  # fmt: skip
QUICK = ["yolov5s", "yolov8s", "yolo11m", "yolo12n"]


def specimen(name: str) -> nn.Module:
    return give_life(load(Path(f"{name}.yaml")).model).double()


def bypassed(model: nn.Module, names: list[str]) -> nn.Module:
    """The oracle: the same model with nn.Identity in the place of these repeats."""
    whole = copy.deepcopy(model)
    for name in sorted(names, key=len, reverse=True):
        owner, _, index = name.rpartition(".")
        whole.get_submodule(owner)[int(index)] = nn.Identity()
    return whole


def error(a: nn.Module, b: nn.Module) -> float:
    """Largest relative difference of all outputs, in both forms."""
    image = torch.rand(2, 3, 64, 64, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    worst = 0.0
    with torch.no_grad():
        for training in (False, True):
            worst = max(worst, largest_error(*(predictions(m.train(training)(image)) for m in (a, b))))
    return worst


@pytest.mark.parametrize("name", [n if n in QUICK else pytest.param(n, marks=pytest.mark.slow) for n in FAMILIES])
def test_model_without_repeats_equals_one_with_identities(name: str) -> None:
    model = specimen(name)
    names = repeats.repeats(model, SHAPE)
    assert len(names) >= FAMILIES[name]
    for chosen in (names[::2], names[1::3], names):
        outer = [n for n in chosen if not any(n.startswith(f"{o}.") for o in chosen)]
        short = repeats.without(model, chosen, SHAPE)
        assert error(short.eval(), bypassed(model, outer).eval()) < zoo.TOLERANCE
        assert sum(p.numel() for p in short.parameters()) < sum(p.numel() for p in model.parameters())
    assert repeats.repeats(model, SHAPE) == names  # the model itself is as it was


@pytest.mark.parametrize("name", ["yolov8s", "yolo11n"])
def test_what_is_left_is_cut_exactly_and_opens_again(name: str) -> None:
    model = specimen(name)
    short = repeats.without(model, repeats.repeats(model, SHAPE)[::2], SHAPE)
    graph = channel_graph(short.float(), (64, 64))
    cut, muted = cut_and_mute(short.double(), graph, random_keeps(graph, 0, 0.4))
    assert error(cut.eval(), muted.eval()) < zoo.TOLERANCE
    again = torch.load(io.BytesIO(pack(cut, {}, half=False)), weights_only=False)["model"]
    assert error(again.double().eval(), cut.float().double().eval()) < zoo.TOLERANCE


def test_repeat_of_another_shape_than_its_input_stays(tmp_path: Path) -> None:
    """In a cut detector a repeat without a shortcut may make fewer channels than it reads."""
    model = specimen("yolov8n").float()
    graph = channel_graph(model, (64, 64))
    made = next(g for g in graph.groups if g.name == "model.12.m.0.cv2.conv")
    cut, _ = cut_and_mute(model, graph, {made.name: tuple(range(made.size // 2))})
    assert "model.12.m.0" in repeats.repeats(model, SHAPE)
    names = repeats.repeats(cut, SHAPE)
    assert "model.12.m.0" not in names
    assert "model.15.m.0" in names
    with pytest.raises(PlanError, match="no such repeat"):
        repeats.without(cut, ["model.12.m.0"], SHAPE)
