"""Opening and writing checkpoints."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from edgeprune.errors import CheckpointError
from edgeprune.yolo.checkpoint import pack
from edgeprune.yolo.load import load, load_detector, untrained
from tests.zoo import OPEN_VOCABULARY


def test_same_model_gives_same_bytes() -> None:
    model = untrained("yolov8n.yaml", {0: "a"}, 0)
    assert pack(model, {}, half=True) == pack(model, {}, half=True)


def test_packing_changes_nothing() -> None:
    model = untrained("yolov8n.yaml", {0: "a"}, 0)
    before = model.model[0].conv.weight.clone()
    pack(model, {}, half=True)
    assert model.model[0].conv.weight.dtype == torch.float32
    assert torch.equal(model.model[0].conv.weight, before)


def test_precision_of_the_file_survives(tmp_path: Path) -> None:
    model = untrained("yolov8n.yaml", {0: "a"}, 0)
    for half in (True, False):
        file = tmp_path / f"{half}.pt"
        file.write_bytes(pack(model, {}, half=half))
        assert load(file).half is half


@pytest.mark.parametrize("content", [b"", b"not a checkpoint", b"PK\x03\x04 not really a zip"])
def test_file_that_is_no_checkpoint_is_refused(tmp_path: Path, content: bytes) -> None:
    file = tmp_path / "x.pt"
    file.write_bytes(content)
    with pytest.raises(CheckpointError, match=r"not a PyTorch checkpoint|can't be opened"):
        load(file)


def test_checkpoint_without_a_model_is_refused(tmp_path: Path) -> None:
    torch.save({"weights": torch.zeros(3)}, tmp_path / "x.pt")
    with pytest.raises(CheckpointError, match="can't be opened as an Ultralytics checkpoint"):
        load(tmp_path / "x.pt")


@pytest.mark.parametrize("config", ["yolov8n-seg", "yolov8n-rtdetr"])
def test_pipeline_takes_yolo_detectors_alone(tmp_path: Path, config: str) -> None:
    file = tmp_path / "other.pt"
    file.write_bytes(pack(untrained(f"{config}.yaml", {0: "a"}, 0), {}, half=True))
    assert load(file).model is not None
    with pytest.raises(CheckpointError, match="not a YOLO detector"):
        load_detector(file)


@pytest.mark.parametrize("name", OPEN_VOCABULARY)
def test_open_vocabulary_model_is_refused_in_one_sentence(name: str) -> None:
    with pytest.raises(CheckpointError, match="its classes are text embeddings"):
        load(Path(f"{name}.yaml"))


def test_file_that_is_no_model_yaml_is_refused(tmp_path: Path) -> None:
    for text in ("names: [a]\n", "- 1\n", "backbone: 3\nhead: 4\n"):
        (tmp_path / "x.yaml").write_text(text)
        with pytest.raises(CheckpointError, match="not a model YAML"):
            load(tmp_path / "x.yaml")


def test_missing_files_are_refused(tmp_path: Path) -> None:
    for name in ("none.pt", "none.yaml"):
        with pytest.raises(CheckpointError, match="doesn't exist"):
            load(tmp_path / name)
