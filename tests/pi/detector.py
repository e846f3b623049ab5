"""Detectors that are quantized for the Pi by the project itself, after training only: this is about numerics.

Blood cells and their YOLOv8n where ../shared is; and everywhere a YOLOv8n that learns here, in a minute, to tell small
rectangles, of which even an emulated Pi 4 answers many.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch

from edgeprune.export.engine import build_engine
from edgeprune.export.forms import form
from edgeprune.export.lint import ARM
from edgeprune.export.onnx import export_onnx
from edgeprune.export.qdq import export_qdq
from edgeprune.job import find_target
from edgeprune.quant.calibrate import Image, calibrate
from edgeprune.records.dataset import DataSet, read_dataset
from edgeprune.runtime.preprocess import Floats, letterbox, read_image
from edgeprune.yolo.blocks import float_layers
from edgeprune.yolo.checkpoint import pack
from edgeprune.yolo.data import make_view
from edgeprune.yolo.load import load_detector, untrained
from edgeprune.yolo.trainer import train
from tests.scenes import NAMES, SIZE, draw

CALIBRATION_IMAGES = 32
#: Rectangles: images and epochs with which a detector finds most of them.
TRAIN, VAL, EPOCHS = 64, 96, 16
TARGET = find_target("raspberrypi5")


@dataclass(frozen=True)
class Detector:
    """One detector in the files that runtimes load.

    Attributes:
        name: cells or rectangles.
        pi: The quantized graph in ONNX Runtime's form for aarch64.
        watched: The same, with more outputs: all its integers, and what goes into the boxes' softmax.
        here: The same graph as this machine's ONNX Runtime has integer kernels for it.
        data: Its val split is what is scored.
    """

    name: str
    pi: Path
    watched: Path
    here: Path
    data: DataSet
    size: int

    @property
    def shape(self) -> tuple[int, int, int, int]:
        return 1, 3, self.size, self.size

    def pixels(self, count: int) -> Floats:
        paths = self.data.splits["val"][:count]
        return np.concatenate([letterbox(read_image(path), self.size, self.size)[0] for path in paths])

    def first(self, count: int) -> Detector:
        """With fewer images to score."""
        return replace(
            self, data=replace(self.data, splits={**self.data.splits, "val": self.data.splits["val"][:count]})
        )


@contextmanager
def one_core() -> Iterator[None]:
    """Work on one core: with a neighbour on the other one, threads that wait for each other take ten times as long."""
    all_cores = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(all_cores)})
    torch.set_num_threads(1)
    try:
        yield
    finally:
        os.sched_setaffinity(0, all_cores)
        torch.set_num_threads(len(all_cores))


@one_core()
def cells(folder: Path, shared: Path) -> Detector:
    """Blood cells, in the size that the target asks for."""
    data = read_dataset(shared / "data" / "bccd" / "data.yaml")
    return _quantized("cells", folder, data, shared / "weights" / "yolov8n-bccd.pt", TARGET.input_shape[2])


@one_core()
def rectangles(folder: Path) -> Detector:
    """A YOLOv8n trained here."""
    data = read_dataset(draw(folder / "data", "detect", TRAIN, VAL))
    start, best = folder / "start.pt", folder / "best.pt"
    start.write_bytes(pack(untrained("yolov8n.yaml", dict(enumerate(NAMES)), seed=0), {}, half=False))
    arguments: dict[str, Any] = {
        "data": str(make_view(data, folder / "view")), "epochs": EPOCHS, "imgsz": SIZE, "batch": 8, "nbs": 8,
        "optimizer": "AdamW", "lr0": 0.002, "lrf": 0.02, "cos_lr": True, "warmup_epochs": 1.0, "warmup_bias_lr": 0.0,
        "close_mosaic": EPOCHS, "cache": "ram", "val": False,
    }  # fmt: skip
    model = train(start, folder / "training", seed=0, arguments=arguments, log=folder / "train.log")
    best.write_bytes(pack(model, {}, half=True))
    return _quantized("rectangles", folder, data, best, SIZE)


def _quantized(name: str, folder: Path, data: DataSet, checkpoint: Path, size: int) -> Detector:
    """Calibrated and exported as the target asks for."""
    model = load_detector(checkpoint).model
    chosen = data.splits["train"][:CALIBRATION_IMAGES]
    images = [Image(path.name, letterbox(read_image(path), size, size)[0]) for path in chosen]
    record = calibrate(model, images, TARGET.quantization, float_layers(model), "percentile", "0" * 64)
    plain, graph, pi, watched = (folder / f"{kind}.onnx" for kind in ("float", "quantized", "pi", "watched"))
    export_onnx(checkpoint, plain, size, size, {})
    export_qdq(checkpoint, record, graph, size, size, {}, like=plain)
    formed = form(onnx.load(graph), ARM)
    onnx.save(formed, pi)
    onnx.save(_watched(formed), watched)
    here = build_engine("onnxruntime", graph, folder, quantized=True)
    return Detector(name, pi, watched, here, data, size)


def _watched(model: onnx.ModelProto) -> onnx.ModelProto:
    copy = onnx.ModelProto.FromString(model.SerializeToString())
    graph = copy.graph
    inside = {node.output[0]: onnx.TensorProto.INT8 for node in graph.node if node.op_type == "QuantizeLinear"}
    inside |= {node.input[0]: onnx.TensorProto.FLOAT for node in graph.node if node.op_type == "Softmax"}
    graph.output.extend(onnx.helper.make_tensor_value_info(name, kind, None) for name, kind in inside.items())
    return copy
