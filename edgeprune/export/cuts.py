"""The same detector cut at other places: pixels in instead of floats, the head's raw outputs instead of boxes.

Rules:
- Head 'runtime': the graph ends with its last convolutions, which are float in every graph (yolo/blocks.py), and
  says in its own metadata how boxes are made of them (records/head.py). Only a head whose decode outside was seen to
  equal the graph's own is cut off: on random pixels, every anchor. That leaves out, without naming any, heads that are
  exported end-to-end, RT-DETR, and whatever has more than boxes and scores (masks, keypoints, angles). YOLOv10 and 26,
  exported with their one-to-many head as edgeprune does, are in.
- Input 'pixels': (1, height, width, 3) uint8, RGB; the graph moves the axes, casts and divides by 255, as letterbox
  does. Where the first thing that happens to these floats is that they are quantized to uint8 with scale 1/255 and
  zero point 0, the pixels are those integers already, and only the axes are left to move. A quantized graph with
  asymmetric activations is like that by construction (quant/calibrate.py, fake.py), coded as uint8 (forms.py).
  OpenVINO finds that out by itself, and needs the quantizer for it: without one the first convolution and what carries
  its input are float, a tenth of a small net's time (2026.4).
- The head is cut before a graph is coded for its runtime, the input after it: coding wants the one quantized graph, and
  whether pixels are the integers shows only in the code.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper

from edgeprune.errors import ExportError
from edgeprune.export.onnx import tensor_specs
from edgeprune.export.qdq import Graph
from edgeprune.export.view import View
from edgeprune.records import TensorSpec
from edgeprune.records.form import Form
from edgeprune.records.head import KEY, Head, Level
from edgeprune.runtime.decode import every_anchor
from edgeprune.runtime.preprocess import Floats
from edgeprune.runtime.session import open_unoptimised

#: Differences of the two decodes: both compute in FP32, in another order. Shares of the largest coordinate, and of 1.
BOXES, SCORES = 1e-5, 1e-5
#: Of pixels as floats.
STEP = np.float32(1 / 255)


def forms_of(onnx_file: Path, runtime: str) -> tuple[Form, ...]:
    """The forms that a detector can have on a runtime, the stock one first.

    Args:
        onnx_file: Float or quantized, from `export_onnx` or `export_qdq`.
        runtime: onnxruntime, openvino or tensorrt; a board's engines are built from kits, in the stock form alone.
    """
    if runtime == "tensorrt":
        return (Form(),)
    heads = ("graph", "runtime") if head_of(onnx.load(onnx_file)) else ("graph",)
    asked = itertools.product(("floats", "pixels"), heads)
    return tuple(Form.model_validate({"input": given, "head": head}) for given, head in asked)


def head_of(model: onnx.ModelProto) -> Head | None:
    """How a model's raw outputs are decoded, tried on random pixels; None where they can't be."""
    outputs, given = model.graph.output, _shape(model.graph.input[0])
    shape = _shape(outputs[0])
    if len(outputs) != 1 or len(shape) != 3 or shape[1] < 5:
        return None
    raw = [node.output[0] for node in View(model).last_convolutions()]
    probe = onnx.ModelProto.FromString(model.SerializeToString())
    probe.graph.output.extend(helper.make_empty_tensor_value_info(name) for name in raw)
    pixels = np.random.default_rng(0).random(given, dtype=np.float32)
    made = open_unoptimised(probe.SerializeToString())({model.graph.input[0].name: pixels})
    expected = made[outputs[0].name]
    for boxes, scores in _pairings({name: made[name] for name in raw}, shape[1] - 4):
        head = _described([made[name] for name in boxes], given[2:], shape[1] - 4)
        if head is not None and _same(every_anchor([made[name] for name in (*boxes, *scores)], head), expected):
            return head.model_copy(
                update={
                    "levels": tuple(
                        level.model_copy(update={"boxes": box, "scores": score})
                        for level, box, score in zip(head.levels, boxes, scores, strict=True)
                    )
                }
            )
    return None


def without_decode(model: onnx.ModelProto) -> onnx.ModelProto:
    """A copy that ends with its last convolutions: outputs boxes_STRIDE of each level, then scores_STRIDE.

    Raises:
        ExportError: Its head can't be decoded outside.
    """
    found = head_of(model)
    if found is None:
        raise ExportError(
            "This head can't be decoded outside of the engine.", expected="a Detect head that isn't end-to-end",
            next_step="form: head 'graph'",
        )  # fmt: skip
    copy = onnx.ModelProto.FromString(model.SerializeToString())
    names = {level.boxes: f"boxes_{level.stride}" for level in found.levels}
    names |= {level.scores: f"scores_{level.stride}" for level in found.levels}
    head = found.model_copy(
        update={
            "levels": tuple(
                Level(stride=level.stride, boxes=names[level.boxes], scores=names[level.scores])
                for level in found.levels
            )
        }
    )
    rows, columns = _shape(model.graph.input[0])[2:]
    graph = Graph(copy)
    for node in graph.nodes:
        node.output[:] = [names.get(name, name) for name in node.output]
    del copy.graph.output[:]
    for names_of, channels in (("boxes", 4 * head.bins), ("scores", head.classes)):
        copy.graph.output.extend(
            helper.make_tensor_value_info(
                getattr(level, names_of), TensorProto.FLOAT,
                (1, channels, rows // level.stride, columns // level.stride),
            )
            for level in head.levels
        )  # fmt: skip
    graph.write()
    copy.metadata_props.add(key=".".join(KEY), value=head.model_dump_json())
    onnx.checker.check_model(copy)
    return copy


def with_pixels(model: onnx.ModelProto, runtime: str) -> onnx.ModelProto:
    """A copy that takes pixels: uint8 of shape (1, height, width, 3).

    Args:
        model: Coded for its runtime.
        runtime: onnxruntime or openvino.
    """
    copy = onnx.ModelProto.FromString(model.SerializeToString())
    (given,) = copy.graph.input
    batch, channels, height, width = _shape(given)
    graph, name = Graph(copy), given.name
    planar, floats = f"{name}/planar", f"{name}/floats"
    integers = {
        q.output[0]
        for q in graph.nodes
        if runtime != "openvino" and q.op_type == "QuantizeLinear" and _are_pixels(graph, q, name)
    }
    for node in graph.nodes:
        renamed = [planar if i in integers else floats if i == name else i for i in node.input]
        node.input[:] = renamed
    graph.put(f"{name}/levels", np.array(255, np.float32))
    graph.nodes = [
        helper.make_node("Transpose", [name], [planar], name=planar, perm=[0, 3, 1, 2]),
        helper.make_node("Cast", [planar], [f"{name}/cast"], name=f"{name}/cast", to=TensorProto.FLOAT),
        helper.make_node("Div", [f"{name}/cast", f"{name}/levels"], [floats], name=floats),
        *graph.nodes,
    ]
    graph.write()
    given.CopyFrom(helper.make_tensor_value_info(name, TensorProto.UINT8, (batch, height, width, channels)))
    onnx.checker.check_model(copy)
    return copy


def tensor_specs_of(onnx_file: Path, form: Form) -> tuple[TensorSpec, tuple[TensorSpec, ...]]:
    """The input and the outputs of an engine of that form, for a bundle.

    Raises:
        ExportError: The model can't have the form.
    """
    given, outputs = tensor_specs(onnx_file)
    if form.head == "runtime":
        values = without_decode(onnx.load(onnx_file)).graph.output
        outputs = tuple(TensorSpec(name=value.name, shape=_shape(value), dtype="float32") for value in values)
    if form.input == "pixels":
        batch, channels, height, width = given.shape
        given = TensorSpec(name=given.name, shape=(batch, height, width, channels), dtype="uint8")
    return given, outputs


def _are_pixels(graph: Graph, quantizer: onnx.NodeProto, given: str) -> bool:
    """Whether what a QuantizeLinear makes of pixels / 255 is the pixels."""
    scale, zero_point = (graph.values(name) for name in quantizer.input[1:3])
    return quantizer.input[0] == given and zero_point.dtype == np.uint8 and zero_point == 0 and scale == STEP


def _pairings(raw: dict[str, Floats], classes: int) -> Iterator[tuple[list[str], list[str]]]:
    """Ways to take the raw outputs for boxes and scores, by level; two of each size, coarser ones later."""
    levels: dict[tuple[int, ...], list[str]] = {}
    for name, values in raw.items():
        levels.setdefault(values.shape[2:], []).append(name)
    pairs = [levels[size] for size in sorted(levels, reverse=True)]
    if not pairs or any(len(pair) != 2 for pair in pairs):
        return
    for chosen in itertools.product(*(((a, b), (b, a)) for a, b in pairs)):
        boxes, scores = [pair[0] for pair in chosen], [pair[1] for pair in chosen]
        widths = {raw[name].shape[1] for name in boxes}
        if len(widths) == 1 and not widths.pop() % 4 and all(raw[name].shape[1] == classes for name in scores):
            yield boxes, scores


def _described(boxes: Sequence[Floats], size: Sequence[int], classes: int) -> Head | None:
    """A head with such boxes; None where a grid doesn't divide the input. Outputs have no names yet."""
    strides = [{edge / cells for edge, cells in zip(size, grid.shape[2:], strict=True)} for grid in boxes]
    if any(len(both) != 1 or not next(iter(both)).is_integer() for both in strides):
        return None
    levels = tuple(Level(stride=int(stride), boxes="", scores="") for (stride,) in strides)
    return Head(levels=levels, bins=boxes[0].shape[1] // 4, classes=classes)


def _same(ours: Floats, expected: Floats) -> bool:
    if ours.shape != expected.shape:
        return False
    difference = np.abs(ours - expected)
    return bool(difference[:, :4].max() <= BOXES * np.abs(expected[:, :4]).max() and difference[:, 4:].max() <= SCORES)


def _shape(value: onnx.ValueInfoProto) -> tuple[int, ...]:
    return tuple(d.dim_value for d in value.type.tensor_type.shape.dim)
