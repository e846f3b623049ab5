"""A detector that really detects, made by hand in milliseconds: a matched filter for the rectangles of tests/scenes.py.

For each class, a convolution averages its colour over a window of its size; the score is highest where the window lies
on the rectangle. The output is a YOLO's: (1, 4 + classes, anchors).
"""

from __future__ import annotations

import platform
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from edgeprune.records import Bundle, BundleFile, Latency, Lineage, Settings, TargetProfile, TensorSpec, write_json
from edgeprune.records.files import sha256_file
from edgeprune.records.report import Row
from tests.scenes import NAMES, SIZE

#: Width and height in pixels of each class's rectangle, as scenes.py draws them.
WINDOWS = ((24, 24), (12, 32), (32, 12))
STRIDE = 2
HASH = "0" * 64


def detector(file: Path) -> Path:
    """Write the ONNX file: input (1, 3, 64, 64), output (1, 7, anchors)."""
    weights, nodes, scores, boxes = [], [], [], []
    for label, (width, height) in enumerate(WINDOWS):
        kernel = np.zeros((1, 3, height, width), np.float32)
        kernel[0, label] = 1 / (width * height)
        rows, columns = (SIZE - height) // STRIDE + 1, (SIZE - width) // STRIDE + 1
        y, x = np.mgrid[:rows, :columns].reshape(2, -1) * STRIDE
        sizes = np.broadcast_to([[width], [height]], (2, len(x)))
        boxes.append(np.concatenate(([x + width / 2, y + height / 2], sizes)))
        column = np.zeros((1, 3, 1), np.float32)
        column[0, label] = 1
        weights += [numpy_helper.from_array(kernel, f"k{label}"), numpy_helper.from_array(column, f"c{label}")]
        nodes += [
            helper.make_node("Conv", ["images", f"k{label}"], [f"m{label}"], strides=[STRIDE, STRIDE]),
            helper.make_node("Reshape", [f"m{label}", "row"], [f"r{label}"]),
            helper.make_node("Mul", [f"r{label}", f"c{label}"], [f"s{label}"]),
        ]
        scores.append(f"s{label}")
    placed = np.concatenate(boxes, 1).astype(np.float32)[None]
    weights += [numpy_helper.from_array(placed, "boxes"), numpy_helper.from_array(np.array([1, 1, -1]), "row")]
    nodes += [
        helper.make_node("Concat", scores, ["scores"], axis=2),
        helper.make_node("Concat", ["boxes", "scores"], ["output0"], axis=1),
    ]
    graph = helper.make_graph(
        nodes, "colours", [helper.make_tensor_value_info("images", TensorProto.FLOAT, (1, 3, SIZE, SIZE))],
        [helper.make_tensor_value_info("output0", TensorProto.FLOAT, (1, 7, placed.shape[2]))], weights,
    )  # fmt: skip
    file.parent.mkdir(parents=True, exist_ok=True)
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9), file)
    return file


def bundle(
    folder: Path, *, architecture: str | None = None, runtime: str | None = None, settings: Settings | None = None
) -> Path:
    """A bundle of that detector for the target 'colours', as `stages.bundle` writes one."""
    import onnxruntime

    engine = detector(folder / "model.onnx")
    anchors = onnx.load(engine).graph.output[0].type.tensor_type.shape.dim[2].dim_value
    row = Row(
        variant="pruned", runtime=runtime or f"onnxruntime {onnxruntime.__version__}", precision="fp32", map50_95=0.9,
        map50=1.0, latency_ms=Latency(p50=1, p90=1, p99=1, mad=0, samples=1), macs=1, parameters=1, bytes=1,
    )  # fmt: skip
    manifest = Bundle(
        target="colours", architecture=architecture or platform.machine(), precision="fp32", engine="model.onnx",
        settings=settings,
        profile=TargetProfile(description="d", runtime="onnxruntime", input_shape=(1, 3, SIZE, SIZE), threads=1),
        files=(BundleFile(path="model.onnx", sha256=sha256_file(engine), bytes=engine.stat().st_size),),
        input=TensorSpec(name="images", shape=(1, 3, SIZE, SIZE), dtype="float32"),
        outputs=(TensorSpec(name="output0", shape=(1, 7, anchors), dtype="float32"),),
        names=dict(enumerate(NAMES)), measured=row, parent=row,
        lineage=Lineage(
            edgeprune="0", model_sha256=HASH, data_sha256=HASH, recipe_sha256=HASH, plan_sha256=HASH, onnx_sha256=HASH
        ),
    )  # fmt: skip
    write_json(folder / "manifest.json", manifest)
    return folder
