"""Plans as files: carried out again to the bit, and refused by name before anything is written."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from typer.testing import CliRunner

from edgeprune.cli import app
from edgeprune.errors import PlanError
from edgeprune.prune.make import prune_checkpoint, replay
from edgeprune.prune.request import Request, device_of
from edgeprune.records import PrunePlan, read_json
from edgeprune.records.model import ModelFiles
from edgeprune.yolo.checkpoint import pack
from edgeprune.yolo.load import load

CONFIG = "yolov8n.yaml"


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("plan")
    request = Request(model=Path(CONFIG), image_size=(64, 64), importance="random", channel_ratio=0.6)
    prune_checkpoint(request, files=ModelFiles(folder / "pruned.pt", folder / "plan.json"))
    return folder


def test_plan_carried_out_again_gives_the_same_bytes(made: Path, tmp_path: Path) -> None:
    done = CliRunner().invoke(
        app, ["apply", CONFIG, "--plan", str(made / "plan.json"), "--out", str(tmp_path / "again.pt")]
    )
    assert done.exit_code == 0, done.output
    assert (tmp_path / "again.pt").read_bytes() == (made / "pruned.pt").read_bytes()


def _group(change: Callable[[dict[str, Any]], object]) -> Callable[[dict[str, Any]], object]:
    return lambda plan: change(plan["groups"]["model.1.conv"])


@pytest.mark.parametrize(
    ("edit", "says"),
    [
        (_group(lambda g: g["keep"].append(g["size"])), "below the group's size"),
        (_group(lambda g: g["keep"].reverse()), "ascending"),
        (_group(lambda g: g["keep"].insert(0, g["keep"][0])), "ascending, distinct"),
        (_group(lambda g: g["keep"].clear()), "keep"),
        (_group(lambda g: g["keep"].pop()), "don't follow from its groups"),
        (lambda plan: plan["groups"].pop("model.1.conv"), "don't follow from its groups"),
        (lambda plan: plan["groups"].update({"model.99.conv": {"size": 8, "keep": [0]}}), "model.99.conv"),
        (lambda plan: plan["layers"]["model.1.conv"]["out"].pop(), "don't follow from its groups"),
        (lambda plan: plan.update(graph_sha256="0" * 64), "made for another model"),
        (lambda plan: plan.update(ratio=0.5), "ratio"),
    ],
)
def test_edited_plan_is_refused(
    made: Path, tmp_path: Path, edit: Callable[[dict[str, Any]], object], says: str
) -> None:
    plan = json.loads((made / "plan.json").read_text())
    edit(plan)
    (tmp_path / "plan.json").write_text(json.dumps(plan))
    with pytest.raises(PlanError) as caught:
        replay(Path(CONFIG), tmp_path / "plan.json", tmp_path / "out.pt")
    assert says in str(caught.value)
    assert not (tmp_path / "out.pt").exists()


def test_widths_that_were_chosen_stand_and_silent_channels_go_first(made: Path, tmp_path: Path) -> None:
    """Whatever the score: here it is the largest for the channels whose BatchNorm is zero."""
    detector = load(Path(CONFIG))
    conv = detector.model.model[1]
    with torch.no_grad():
        conv.conv.weight[:3] *= 100
        for parameter in conv.bn.parameters():
            parameter[:3] = 0
    (tmp_path / "model.pt").write_bytes(pack(detector.model, {}, half=False))
    request = Request(
        model=tmp_path / "model.pt", image_size=(64, 64), importance="l1", widths=made / "plan.json", seed=3
    )
    _, plan = prune_checkpoint(request, files=ModelFiles(tmp_path / "pruned.pt", tmp_path / "plan.json"))
    before = read_json(made / "plan.json", PrunePlan, PlanError)
    assert {n: len(g.keep) for n, g in plan.groups.items()} == {n: len(g.keep) for n, g in before.groups.items()}
    assert 0 < len(plan.groups["model.1.conv"].keep) < plan.groups["model.1.conv"].size
    assert not {0, 1, 2} & set(plan.groups["model.1.conv"].keep)
    other = Request(model=Path("yolov8s.yaml"), image_size=(64, 64), importance="l1", widths=made / "plan.json")
    with pytest.raises(PlanError, match="made for another model"):
        prune_checkpoint(other, files=ModelFiles(tmp_path / "other.pt", tmp_path / "other.json"))


def test_plan_of_another_model_is_refused(made: Path, tmp_path: Path) -> None:
    with pytest.raises(PlanError, match="made for another model"):
        replay(Path("yolov8s.yaml"), made / "plan.json", tmp_path / "out.pt")


@pytest.mark.parametrize(
    ("asked", "device"), [("0", "cuda:0"), ("1,2", "cuda:1"), ("cpu", "cpu"), ("cuda:3", "cuda:3")]
)
def test_a_gpus_number_is_read_as_ultralytics_reads_it(asked: str, device: str) -> None:
    assert str(device_of(asked)) == device
