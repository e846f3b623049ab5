"""Two stretches of training: the schedule goes on, the moments go on, BatchNorm freezes."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch

from edgeprune.prune.make import cut_moments, prune_checkpoint
from edgeprune.prune.request import Request
from edgeprune.prune.traced import channel_graph
from edgeprune.records import PrunePlan, Recipe, read_json
from edgeprune.records.dataset import read_dataset
from edgeprune.records.model import ModelFiles
from edgeprune.train.finetune import finetune
from edgeprune.yolo.data import make_view
from edgeprune.yolo.load import load
from edgeprune.yolo.stretch import Stretch


@pytest.fixture(scope="module")
def first(tmp_path_factory: pytest.TempPathFactory, tiny: Path, scenes: Path) -> tuple[Path, Path]:
    """The folder of a first stretch, and the data set's view."""
    folder = tmp_path_factory.mktemp("stretch")
    view = make_view(read_dataset(scenes), folder / "view")
    train(folder, ModelFiles(tiny), view, tiny, Stretch(0, 1, 3, moments_out=folder / "moments.pt"), "first")
    return folder, view


def train(folder: Path, start: ModelFiles, view: Path, parent: Path, stretch: Stretch, name: str) -> None:
    finetune(
        start, parent=parent, view=view, recipe=Recipe(batch=8, torch_device="cpu"), stretch=stretch,
        learning_rate=0.001, follow=False, image_size=64, work=folder / name,
        destination=ModelFiles(folder / f"{name}.pt"), log=folder / f"{name}.log",
    )  # fmt: skip


def test_mosaic_ends_once() -> None:
    whole = Stretch(0, 8, 8)
    assert whole.close_mosaic == 2
    assert Stretch(0, 3, 8).close_mosaic == 0
    assert Stretch(3, 5, 8).close_mosaic == 2
    assert Stretch(7, 1, 8).close_mosaic == 1
    assert Stretch(0, 1, 1).close_mosaic == 1


def test_moments_belong_to_parameters_by_name(first: tuple[Path, Path], tiny: Path) -> None:
    moments = torch.load(first[0] / "moments.pt", weights_only=True)
    parameters = dict(load(tiny).model.named_parameters())
    assert set(moments) <= set(parameters)
    assert "model.0.conv.weight" in moments
    for name, state in moments.items():
        assert state["exp_avg"].shape == parameters[name].shape
        assert state["step"] > 0


def test_what_was_killed_after_its_last_epoch_still_has_its_moments(
    first: tuple[Path, Path], tiny: Path, tmp_path: Path
) -> None:
    """Nothing is left to train then, so nothing writes them anew."""
    folder, view = first
    finetune(
        ModelFiles(tiny), parent=tiny, view=view, recipe=Recipe(batch=8, torch_device="cpu"),
        stretch=Stretch(0, 1, 3, moments_out=folder / "moments.pt"), learning_rate=0.001, follow=False, image_size=64,
        work=folder / "first", destination=ModelFiles(tmp_path / "again.pt", moments=tmp_path / "moments.pt"),
        log=tmp_path / "log",
    )  # fmt: skip
    assert (tmp_path / "moments.pt").read_bytes() == (folder / "moments.pt").read_bytes()


def test_a_second_stretch_starts_where_the_first_one_stopped(first: tuple[Path, Path], tiny: Path) -> None:
    from edgeprune.yolo import trainer as room

    folder, view = first
    seen: dict[str, object] = {}

    class Looking(Stretch):
        def on_train_batch_start(self, trainer: object) -> None:
            super().on_train_batch_start(trainer)
            if "rate" not in seen:
                seen["rate"] = trainer.optimizer.param_groups[0]["lr"]
                weight = room.unwrap_model(trainer.model).model[0].conv.weight
                seen["step"] = trainer.optimizer.state[weight]["step"].item()
                seen["frozen"] = not trainer.model.model[0].bn.training

    stretch = Looking(1, 2, 3, moments_in=folder / "moments.pt", freeze_share=1.0)
    train(folder, ModelFiles(folder / "first.pt"), view, tiny, stretch, "second")
    cosine = 0.01 + (1 - 0.01) * (1 + math.cos(math.pi * 1 / 3)) / 2
    assert seen["rate"] == pytest.approx(0.001 * cosine, rel=1e-6)
    assert seen["step"] == torch.load(folder / "moments.pt", weights_only=True)["model.0.conv.weight"]["step"]
    assert seen["frozen"]
    before, after = load(folder / "first.pt").model, load(folder / "second.pt").model
    assert torch.equal(before.model[0].bn.running_mean, after.model[0].bn.running_mean)  # frozen throughout
    assert not torch.equal(before.model[0].conv.weight, after.model[0].conv.weight)


def test_moments_are_cut_with_their_parameters(first: tuple[Path, Path], tmp_path: Path) -> None:
    folder, _ = first
    start = ModelFiles(folder / "first.pt")
    request = Request(
        model=start.checkpoint, image_size=(64, 64), importance="l2", macs_ratio=0.5, moments=folder / "moments.pt"
    )
    made = ModelFiles(tmp_path / "cut.pt", tmp_path / "plan.json", moments=tmp_path / "moments.pt")
    prune_checkpoint(request, files=made)
    moments = torch.load(tmp_path / "moments.pt", weights_only=True)
    whole = torch.load(folder / "moments.pt", weights_only=True)
    plan = read_json(tmp_path / "plan.json", PrunePlan, ValueError)
    parameters = dict(load(tmp_path / "cut.pt").model.named_parameters())
    assert set(moments) == set(whole)  # DFL's weights never had any
    for name, state in moments.items():
        assert state["exp_avg"].shape == parameters[name].shape
    keep = plan.layers["model.1.conv"]
    cut = whole["model.1.conv.weight"]["exp_avg_sq"][list(keep.out)][:, list(keep.in_)]
    assert torch.equal(moments["model.1.conv.weight"]["exp_avg_sq"], cut)
    model = load(folder / "first.pt").model
    assert cut_moments(folder / "moments.pt", model, channel_graph(model, (64, 64)), plan)
