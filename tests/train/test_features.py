"""Feature distillation: the losses by hand, adapters where widths differ, and nothing of them in the checkpoint."""

from __future__ import annotations

import math
import pickle
from pathlib import Path

import pytest
import torch
from torch import nn

from edgeprune.prune.make import prune_checkpoint
from edgeprune.prune.request import Request
from edgeprune.records import Recipe
from edgeprune.records.dataset import read_dataset
from edgeprune.records.methods import METHODS
from edgeprune.records.model import ModelFiles
from edgeprune.train import features
from edgeprune.train.distill import Lesson
from edgeprune.train.features import ADAPTERS, Generator, channel_wise, generative
from edgeprune.train.finetune import finetune
from edgeprune.yolo.data import make_view
from edgeprune.yolo.load import load
from edgeprune.yolo.neck import neck_widths
from edgeprune.yolo.stretch import Stretch


def test_channel_wise_compares_where_each_channel_looks() -> None:
    ours, theirs = torch.zeros(1, 2, 1, 2), torch.zeros(1, 2, 1, 2)
    theirs[0, 0, 0, 0] = math.log(3.0)  # three quarters here, one there; the other channel looks everywhere alike
    expected = 0.75 * math.log(0.75 / 0.5) + 0.25 * math.log(0.25 / 0.5)
    torch.testing.assert_close(channel_wise(ours, theirs), torch.tensor(expected / 2))
    torch.testing.assert_close(channel_wise(ours + 5, theirs), torch.tensor(expected / 2))  # not how loud it is
    assert float(channel_wise(theirs, theirs)) == 0.0
    both = torch.cat((theirs, ours)), torch.cat((theirs, theirs))
    torch.testing.assert_close(channel_wise(*both), torch.tensor(expected / 4))  # of an image


def test_channel_wise_counts_the_temperature_twice(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(features, "CWD_TEMPERATURE", 2.0)
    theirs = torch.tensor([2 * math.log(3.0), 0.0]).view(1, 1, 1, 2)
    expected = 4 * (0.75 * math.log(1.5) + 0.25 * math.log(0.5))
    torch.testing.assert_close(channel_wise(torch.zeros(1, 1, 1, 2), theirs), torch.tensor(expected))


def test_generative_is_the_squared_distance() -> None:
    made = torch.tensor([1.0, 2.0, 0.0, 0.0]).view(2, 1, 1, 2)
    theirs = torch.tensor([0.0, 0.0, 0.0, 3.0]).view(2, 1, 1, 2)
    torch.testing.assert_close(generative(made, theirs), torch.tensor(2e-5 * ((1 + 4) + 9) / 2))


def test_generation_masks_places_in_all_channels_and_makes_them_up() -> None:
    torch.manual_seed(0)
    generator = Generator(4, 4)
    assert isinstance(generator.align, nn.Identity)
    for conv in (generator.generate[0], generator.generate[2]):
        nn.init.dirac_(conv.weight)
        nn.init.zeros_(conv.bias)
    made = generator(torch.ones(1, 4, 64, 64))  # convolutions that hand on what they are given
    assert set(made.unique().tolist()) == {0.0, 1.0}
    assert torch.equal(made[:, 0], made[:, 3])
    assert float(made.detach().mean()) == pytest.approx(0.35, abs=0.025)  # 4096 places: three sigma
    assert isinstance(Generator(3, 4).align, nn.Conv2d)


@pytest.fixture(scope="module")
def pruned(tmp_path_factory: pytest.TempPathFactory, tiny: Path) -> Path:
    file = tmp_path_factory.mktemp("pruned") / "pruned.pt"
    request = Request(model=tiny, image_size=(64, 64), importance="l2", macs_ratio=0.4, allocation="uniform")
    prune_checkpoint(request, files=ModelFiles(file, file.with_suffix(".json")))
    return file


@pytest.mark.parametrize("name", ["cwd", "mgd"])
def test_features_teach_a_narrower_model_and_leave_a_stock_one(
    tmp_path: Path, tiny: Path, scenes: Path, pruned: Path, name: str
) -> None:
    student, parent = load(pruned).model, load(tiny).model
    assert neck_widths(parent) == (64, 128, 256)
    assert all(a < b for a, b in zip(neck_widths(student), (64, 128, 256), strict=True))
    teaching = METHODS["distillation"][name].function(Lesson(student, tiny, 1.0))
    assert pickle.loads(pickle.dumps(teaching.wrap)).parent == tiny  # DDP's workers get one each
    finetune(
        ModelFiles(pruned), parent=tiny, view=make_view(read_dataset(scenes), tmp_path / "view"),
        recipe=Recipe(batch=8, torch_device="cpu", distillation=name),
        stretch=Stretch(0, 1, 2, moments_out=tmp_path / "work/moments.pt"), learning_rate=0.0014, follow=False,
        image_size=64, work=tmp_path / "work", log=tmp_path / "log",
        destination=ModelFiles(tmp_path / "tuned.pt", moments=tmp_path / "moments.pt"),
    )  # fmt: skip
    assert set(load(tmp_path / "tuned.pt").model.state_dict()) == set(student.state_dict())
    assert not any(key.startswith(ADAPTERS) for key in torch.load(tmp_path / "moments.pt", weights_only=True))
    trained = torch.load(tmp_path / "work/moments.pt", weights_only=True)
    adapted = {key: state for key, state in trained.items() if key.startswith(ADAPTERS)}
    assert adapted
    assert all(state["exp_avg"].any() for state in adapted.values())  # every one had a gradient, and a step
