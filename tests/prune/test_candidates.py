"""Losses of cuts: of the model that is really cut, on batches that are drawn once, remembered over an interruption."""

from __future__ import annotations

import copy
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from edgeprune.demo import NAMES
from edgeprune.errors import RecipeError
from edgeprune.graph.channels import ChannelGraph
from edgeprune.graph.cost import CostModel
from edgeprune.prune.candidates import HOPELESS, Candidates, recalibrate, remembered
from edgeprune.prune.make import prune_checkpoint
from edgeprune.prune.request import Request
from edgeprune.prune.traced import channel_graph
from edgeprune.quant.calibrate import Image, calibrate
from edgeprune.quant.fake import attach
from edgeprune.records import Quantization
from edgeprune.records.dataset import read_dataset
from edgeprune.records.model import ModelFiles
from edgeprune.records.quantization import Scheme
from edgeprune.yolo import blocks
from edgeprune.yolo.data import batches, make_view
from edgeprune.yolo.load import Detector, load
from edgeprune.yolo.loss import mean_loss
from tests.mute import give_life, mute, random_keeps

Traced = tuple[Detector, ChannelGraph, CostModel]


@pytest.fixture(scope="module")
def drawn(scenes: Path, tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    view = make_view(read_dataset(scenes), tmp_path_factory.mktemp("view"))
    return list(batches(view, 64, 4, 2, 0, torch.device("cpu")))


@pytest.fixture(scope="module")
def traced(tiny: Path) -> Traced:
    detector = load(tiny)
    give_life(detector.model)
    graph = channel_graph(detector.model, (64, 64))
    return detector, graph, CostModel(graph, detector.model)


def test_loss_is_that_of_the_muted_model(traced: Traced, drawn: list[dict[str, Any]]) -> None:
    detector, graph, costs = traced
    asked = []

    def draw() -> Iterator[dict[str, Any]]:
        asked.append(1)
        yield from drawn

    before = {name: p.clone() for name, p in detector.model.state_dict().items()}
    candidates = Candidates(detector.model, graph, costs, None, draw)
    for seed in (0, 1):
        keeps = random_keeps(graph, seed, 0.3)
        assert keeps
        muted = mute(detector.model, graph, keeps)
        assert candidates.loss(keeps) == pytest.approx(mean_loss(muted, drawn), rel=1e-4)
    assert candidates.loss({}) == pytest.approx(mean_loss(detector.model, drawn), rel=1e-5)
    assert len(asked) == 1
    assert all((before[name] == p).all() for name, p in detector.model.state_dict().items())


def test_quantized_model_is_judged_with_the_scales_of_the_cut_one(traced: Traced, drawn: list[dict[str, Any]]) -> None:
    detector, graph, costs = traced
    images = [Image(str(i), image[None].numpy()) for i, image in enumerate(drawn[0]["img"])]
    record: Quantization = calibrate(
        detector.model, images, Scheme(), blocks.float_layers(detector.model), "minmax", "0" * 64
    )
    candidates = Candidates(detector.model, graph, costs, record, lambda: drawn)
    assert candidates.loss({}) == pytest.approx(
        mean_loss(attach(copy.deepcopy(detector.model), record), drawn), rel=1e-4
    )
    keeps = random_keeps(graph, 0, 0.3)
    cut, float_ = candidates.loss(keeps), Candidates(detector.model, graph, costs, None, lambda: drawn).loss(keeps)
    assert cut == pytest.approx(float_, rel=0.2)
    assert cut != float_


def test_statistics_taken_anew_are_those_of_the_batches() -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4)).eval()
    images = [torch.rand(2, 3, 8, 8), torch.rand(2, 3, 8, 8)]
    recalibrate(model, images)
    with torch.no_grad():
        made = [model[0](batch) for batch in images]
    expected = torch.stack([m.mean((0, 2, 3)) for m in made]).mean(0)
    torch.testing.assert_close(model[1].running_mean, expected)
    spread = torch.stack([m.var((0, 2, 3)) for m in made]).mean(0)
    torch.testing.assert_close(model[1].running_var, spread)
    assert not model[1].training
    assert model[1].momentum == 0.1


def test_losses_that_were_taken_are_not_taken_again_and_a_broken_line_is_dropped(tmp_path: Path) -> None:
    asked = []

    def loss(keeps: Any) -> float:
        asked.append(dict(keeps))
        return float(len(keeps["a"]))

    file = tmp_path / "work" / "losses.jsonl"
    look = remembered(loss, file)
    assert [look({"a": (0, 1)}), look({"a": (0, 1)}), look({"a": (0,)})] == [2.0, 2.0, 1.0]
    assert len(asked) == 2
    with open(file, "a") as lines:
        lines.write(json.dumps({"keeps": "cut off by a ki"})[:-5])
    again = remembered(loss, file)
    assert [again({"a": (0, 1)}), again({"a": (0,)}), again({"a": (0, 1, 2)})] == [2.0, 1.0, 3.0]
    assert len(asked) == 3
    assert len(file.read_text().splitlines()) == 3


def test_loss_that_is_no_number_is_very_bad() -> None:
    assert remembered(lambda keeps: float("nan"), None)({}) == HOPELESS
    assert remembered(lambda keeps: float("inf"), None)({}) == HOPELESS


@pytest.mark.parametrize("methods", [("l2", "sensitivity"), ("sensitivity", "global")])
def test_measuring_without_images_is_refused(tiny: Path, tmp_path: Path, methods: tuple[str, str]) -> None:
    request = Request(
        model=tiny, image_size=(64, 64), importance=methods[0], allocation=methods[1], macs_ratio=0.6, work=tmp_path
    )
    with pytest.raises(RecipeError, match="needs training data") as caught:
        prune_checkpoint(request, files=ModelFiles(tmp_path / "pruned.pt", tmp_path / "plan.json"))
    assert "edgeprune methods" in str(caught.value)
    assert not (tmp_path / "plan.json").exists()


#: A detector of a few layers, so that each of them can be cut alone in a test.
SMALL = """
nc: 3
backbone:
  - [-1, 1, Conv, [16, 3, 2]]
  - [-1, 1, Conv, [32, 3, 2]]
  - [-1, 1, C2f, [32, True]]
  - [-1, 1, Conv, [64, 3, 2]]
head:
  - [[2, 3], 1, Detect, [nc]]
"""


def test_detector_is_cut_by_what_its_layers_were_measured_to_cost(scenes: Path, tmp_path: Path) -> None:
    view = make_view(read_dataset(scenes), tmp_path / "view")
    (tmp_path / "small.yaml").write_text(SMALL.replace("nc: 3", f"nc: {len(NAMES)}"))
    told: list[tuple[int, int]] = []
    request = Request(
        model=tmp_path / "small.yaml", image_size=(64, 64), importance="sensitivity", allocation="sensitivity",
        macs_ratio=0.6, view=view, batch=2, trial_batches=1, work=tmp_path,
    )  # fmt: skip
    plans = []
    for name in ("one", "two"):
        files = ModelFiles(tmp_path / f"{name}.pt", tmp_path / f"{name}.json")
        _, plan = prune_checkpoint(request, files=files, on_trial=lambda done, total: told.append((done, total)))
        plans.append(plan)
        known = len((tmp_path / "losses.jsonl").read_text().splitlines())
    assert plans[0] == plans[1]
    assert plans[0].macs_ratio <= 0.6
    assert told[-1][0] == told[-1][1]
    assert known > 20
    shares = [len(g.keep) / g.size for g in plans[0].groups.values()]
    assert np.std(shares) > 0.02
