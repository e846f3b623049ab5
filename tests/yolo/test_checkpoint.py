"""A pruned checkpoint in a stock install: a process in which edgeprune can't be imported."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from edgeprune.errors import CheckpointError
from edgeprune.prune.make import Request, prune_checkpoint
from edgeprune.yolo.checkpoint import pack
from edgeprune.yolo.load import load, untrained

STOCK = """
import importlib.abc, json, sys
class Block(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name.split('.')[0] == 'edgeprune':
            raise ImportError('edgeprune is not here')
sys.meta_path.insert(0, Block())
from ultralytics import YOLO
model, data, image = sys.argv[1:4]
yolo = YOLO(model)
found = yolo.predict(image, imgsz=64, conf=0.0001, verbose=False)
metrics = YOLO(model).val(data=data, imgsz=64, plots=False, verbose=False, workers=0, project=sys.argv[4])
onnx = YOLO(model).export(format='onnx', imgsz=64)
again = YOLO(onnx, task='detect').predict(image, imgsz=64, conf=0.0001, verbose=False)
fused = YOLO(model).fuse()
assert 'edgeprune' not in sys.modules
print(json.dumps({'names': yolo.names, 'stride': yolo.model.stride.tolist(), 'task': yolo.task,
    'boxes': len(found[0].boxes), 'again': len(again[0].boxes), 'map': metrics.box.map,
    'imgsz': yolo.ckpt['train_args']['imgsz']}))
"""


@pytest.mark.parametrize("config", ["yolov8n.yaml", "yolo11n.yaml"])
def test_pruned_checkpoint_runs_in_a_stock_install(tmp_path: Path, scenes: Path, config: str) -> None:
    from edgeprune.demo import NAMES
    from edgeprune.records.dataset import read_dataset
    from edgeprune.yolo.data import make_view

    parent = tmp_path / "parent.pt"
    arguments = {"train_args": {"imgsz": 64, "data": "some.yaml"}}
    parent.write_bytes(pack(untrained(config, dict(enumerate(NAMES)), 0), arguments, half=True))
    request = Request(model=parent, image_size=(64, 64), importance="random", macs_ratio=0.5)
    prune_checkpoint(request, plan_file=tmp_path / "plan.json", checkpoint_file=tmp_path / "pruned.pt")
    data = read_dataset(scenes)
    view = make_view(data, tmp_path / "view")
    command = [sys.executable, "-c", STOCK, str(tmp_path / "pruned.pt"), str(view), str(data.splits["val"][0])]
    done = subprocess.run([*command, str(tmp_path / "runs")], capture_output=True, text=True, cwd=tmp_path, timeout=300)
    assert done.returncode == 0, done.stderr[-3000:]
    said = json.loads(done.stdout.strip().splitlines()[-1])
    assert said["names"] == {str(i): name for i, name in enumerate(NAMES)}
    assert said["stride"] == [8, 16, 32]
    assert said["task"] == "detect"
    assert said["imgsz"] == 64
    assert said["boxes"] == said["again"] > 0


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


def test_segmentation_model_is_refused_by_task(tmp_path: Path) -> None:
    from ultralytics import YOLO

    YOLO("yolov8n-seg.yaml", verbose=False).save(tmp_path / "seg.pt")
    with pytest.raises(CheckpointError, match="task segment"):
        load(tmp_path / "seg.pt")
    with pytest.raises(CheckpointError, match="task segment"):
        load(Path("yolov8n-seg.yaml"))


def test_missing_files_are_refused(tmp_path: Path) -> None:
    for name in ("none.pt", "none.yaml"):
        with pytest.raises(CheckpointError, match="doesn't exist"):
            load(tmp_path / name)
