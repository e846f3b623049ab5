"""A pruned checkpoint of every family and task, in a process in which edgeprune can't be imported: load, val,
predict, export to ONNX, fuse. And through our trainer: train, stop, resume, save, load."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from edgeprune.prune.make import prune_checkpoint
from edgeprune.prune.request import Request
from edgeprune.records.model import ModelFiles
from edgeprune.yolo.checkpoint import pack
from edgeprune.yolo.load import load, untrained
from edgeprune.yolo.trainer import train
from tests import scenes
from tests.mute import give_life
from tests.stock import WITHOUT_EDGEPRUNE

STOCK = (
    f"{WITHOUT_EDGEPRUNE}import json, sys"
    + """
import torch
from ultralytics import YOLO
model, data, image, runs = sys.argv[1:]
yolo = YOLO(model)
found = yolo.predict(image, imgsz=64, conf=0.0001, verbose=False)
metrics = YOLO(model).val(data=data, imgsz=64, plots=False, verbose=False, workers=0, batch=4, project=runs)
onnx = YOLO(model).export(format='onnx', imgsz=64)
again = YOLO(onnx, task=yolo.task).predict(image, imgsz=64, conf=0.0001, verbose=False)
x = torch.rand(1, 3, 64, 64, generator=torch.Generator().manual_seed(0))
def first(output):
    while isinstance(output, (tuple, list)):
        output = output[0]
    return output
before = first(YOLO(model).model.eval()(x))
fused = YOLO(model)
fused.fuse()
drift = float((first(fused.model.eval()(x)) - before).abs().max() / before.abs().max())
assert 'edgeprune' not in sys.modules
size = lambda r: len(r[0].boxes) if r[0].boxes is not None else len(r[0].obb) if r[0].obb is not None else -1
print(json.dumps({'names': yolo.names, 'task': yolo.task, 'found': size(found), 'again': size(again), 'drift': drift,
    'fitness': float(metrics.fitness), 'stride': yolo.model.stride.tolist(), 'train_args': yolo.ckpt['train_args']}))
"""
)

#: One of every task, with the blocks of several families.
QUICK = ["yolov8n", "yolo12n", "yolo26n-seg", "yolo26n-pose", "yolo26n-obb", "yolo26n-cls", "yolo26n-sem",
         "yolo26n-depth", "yolov8n-rtdetr"]  # fmt: skip
REST = ["yolov9t", "yolo26n",
        "yolov3-tiny", "yolov5n", "yolov6n", "yolov8n-ghost", "yolov8n-p2", "yolov9c", "yolov9e", "yolov10n",
        "yolov10x", "yolo11n", "yolo11n-seg", "yolov8n-pose", "yolov8n-obb", "yolov8n-cls", "yolo12x", "yolo26x",
        "rtdetr-l", "rtdetr-resnet50", "yolov8n-cls-resnet50"]  # fmt: skip
MODELS = QUICK + [pytest.param(name, marks=pytest.mark.slow) for name in REST]


def pruned(name: str, folder: Path) -> tuple[Path, str]:
    """A pruned checkpoint for the synthetic classes, and its task."""
    task = load(Path(f"{name}.yaml")).model.task
    names = {0: "depth"} if task == "depth" else dict(enumerate(scenes.NAMES))
    parent = folder / "parent.pt"
    model = give_life(untrained(f"{name}.yaml", names, 0))
    parent.write_bytes(pack(model, {"train_args": {"imgsz": 64, "data": "some.yaml"}}, half=False))
    request = Request(
        model=parent, image_size=(64, 64), importance="random", channel_ratio=0.7, channel_multiple=4, min_width=4
    )
    prune_checkpoint(request, files=ModelFiles(folder / "pruned.pt", folder / "plan.json"))
    return folder / "pruned.pt", task


@pytest.mark.parametrize("name", MODELS)
def test_pruned_checkpoint_runs_in_a_stock_install(tmp_path: Path, name: str) -> None:
    checkpoint, task = pruned(name, tmp_path)
    data = scenes.draw(tmp_path / "data", task)
    image = next((tmp_path / "data").rglob("val/**/*.png"))
    command = [sys.executable, "-c", STOCK, str(checkpoint), str(data), str(image), str(tmp_path / "runs")]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, timeout=600)
    assert done.returncode == 0, done.stderr[-3000:]
    said = json.loads(done.stdout.strip().splitlines()[-1])
    assert said["task"] == task
    assert list(said["names"].values()) == (["depth"] if task == "depth" else list(scenes.NAMES))
    assert said["train_args"]["imgsz"] == 64
    assert said["drift"] < 1e-3  # float32, BatchNorm folded
    assert said["found"] != 0 != said["again"]


@pytest.mark.parametrize("name", MODELS)
def test_training_is_stopped_resumed_saved_and_loaded(tmp_path: Path, name: str) -> None:
    checkpoint, task = pruned(name, tmp_path)
    data = scenes.draw(tmp_path / "data", task)
    arguments = {"data": str(data), "epochs": 2, "imgsz": 64, "batch": 4, "device": "cpu", "workers": 0}
    epochs: list[int] = []

    def stop(done: int, total: int, fitness: float) -> None:
        epochs.append(done)
        if len(epochs) == 2:
            raise KeyboardInterrupt

    def go_on(done: int, total: int, fitness: float) -> None:
        epochs.append(done)

    arguments["epochs"] = 3
    with pytest.raises(KeyboardInterrupt):
        train(checkpoint, tmp_path / "work", seed=0, arguments=arguments, log=tmp_path / "log", on_epoch=stop)
    model = train(checkpoint, tmp_path / "work", seed=0, arguments=arguments, log=tmp_path / "log", on_epoch=go_on)
    assert epochs == [1, 2, 2, 3] or epochs == [1, 2, 3]
    saved = tmp_path / "tuned.pt"
    saved.write_bytes(pack(model, {}, half=True))
    before, after = load(checkpoint).model, load(saved).model
    assert {n: p.shape for n, p in before.named_parameters()} == {n: p.shape for n, p in after.named_parameters()}
    assert any(not torch.equal(a, b) for a, b in zip(before.parameters(), after.parameters(), strict=True))
    assert after.names == before.names
