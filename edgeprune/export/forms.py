"""What each runtime loads, made from the one quantized graph. The numbers stay the same; only their coding changes.

Rules:
- Weights become int8 initializers in front of their DequantizeLinear: a quarter of the size. (TensorRT before 10 wants
  them as FP32 -> Q -> DQ: tensorrt.py.)
- ONNX Runtime merges an operator with the Q/DQ around it, so Concat, Split, MaxPool and Resize get a pair behind
  them as well, with the scale that their inputs have.
- int8 activations with zero point z become uint8 with zero point z + 128, which stands for the same numbers, for
  ONNX Runtime on x86-64, whose integer kernels take uint8 alone, and for OpenVINO, which computes wrong numbers behind
  a Concat of int8 tensors (2026.4 on x86-64 with VNNI and without AMX: 20 to 35 % off, tests/export/test_quantized.py).
  On aarch64 ONNX Runtime's kernels take int8.
- OpenVINO reads the graph as it is otherwise: pairs behind what only moves values would keep it from merging SiLU. Its
  IR spells out what ONNX leaves implicit, in some 20 layers a convolution: weights' zero points, which are 0, are left
  out there, and a bias is an addition of its own, which needs no computed shape (YOLOv8n then has 0.6 MB of
  XML instead of 1.0, and compiles to the same kernels, to the same outputs to the bit).

Source: onnxruntime's QDQ selectors (qdq_selector_action_transformer.cc).
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx
from onnx import helper

from edgeprune.errors import ExportError
from edgeprune.export.lint import ARM, OPENVINO, TENSORRT, X86, number_of
from edgeprune.export.qdq import Graph
from edgeprune.export.tensorrt import tensorrt_form, typed_fp16
from edgeprune.quant.affine import LIMIT

#: Operators that only move values, and that ONNX Runtime has on integers.
_MOVES = frozenset({"Concat", "Split", "MaxPool", "Resize"})
#: First version of TensorRT that takes its types from the graph alone.
_TYPED = (11,)


def form(model: onnx.ModelProto, runtime: str, version: str = "") -> onnx.ModelProto:
    """The quantized graph as a runtime wants it.

    Args:
        model: From `export_qdq`; not changed.
        runtime: One of `edgeprune.export.lint.RUNTIMES`.
        version: TensorRT's.

    Raises:
        ExportError: An unknown runtime or version; a graph that isn't the quantized one; what TensorRT can't express.
    """
    number = number_of(runtime, version)
    if not Graph(model).is_whole():
        raise ExportError(
            "The file isn't the one quantized graph.",
            expected="quantized.onnx or mixed.onnx of an int8 build: weights as FP32 -> Q -> DQ",
            got="no convolution with such weights",
            next_step="forms are made from the quantized graph alone, not from float files or other forms",
        )
    if runtime == TENSORRT:
        return _board_form(model, number)
    copy = onnx.ModelProto.FromString(model.SerializeToString())
    for step in _STEPS[runtime]:
        step(copy)
    onnx.checker.check_model(copy)
    return copy


def float_form(model: onnx.ModelProto, version: str) -> onnx.ModelProto:
    """A float graph as TensorRT builds an FP16 engine of it.

    Args:
        model: Without Q/DQ; not changed.
        version: TensorRT's.

    Raises:
        ExportError: An unknown version; what TensorRT can't express.
    """
    return _board_form(model, number_of(TENSORRT, version))


def _board_form(model: onnx.ModelProto, number: tuple[int, ...]) -> onnx.ModelProto:
    return typed_fp16(model) if number >= _TYPED else tensorrt_form(model)


def int8_weights(model: onnx.ModelProto) -> None:
    """Store quantized weights as integers. Mutates."""
    graph = Graph(model)
    for name in graph.quantized_convolutions():
        scale = graph.values(f"{name}.weight_scale")
        weight = graph.values(f"{name}.weight")
        shaped = scale.reshape(-1, *[1] * (weight.ndim - 1))
        integers = np.clip(np.rint(weight / shaped), -LIMIT, LIMIT).astype(np.int8)
        graph.remove(f"{name}.weight/Q")
        graph.put(f"{name}.weight_quantized", integers)
    graph.write()


def without_weight_zero_points(model: onnx.ModelProto) -> None:
    """Leave out the zero points of weights, which are 0. Mutates."""
    graph = Graph(model)
    weights = {f"{name}.weight_dequantized" for name in graph.quantized_convolutions()}
    for node in graph.nodes:
        if node.output[0] in weights:
            del node.input[2:]
    graph.write()


def bias_as_addition(model: onnx.ModelProto) -> None:
    """Add biases behind the convolutions, shaped (1, channels, 1, 1). Mutates."""
    graph = Graph(model)
    nodes = []
    for node in graph.nodes:
        nodes.append(node)
        if node.op_type != "Conv" or len(node.input) < 3:
            continue
        name, made, sums = node.input[2], f"{node.output[0]}/without_bias", node.output[0]
        graph.put(f"{name}/shaped", graph.values(name).reshape(1, -1, 1, 1))
        del node.input[2:]
        node.output[0] = made
        nodes.append(helper.make_node("Add", [made, f"{name}/shaped"], [sums], name=f"{node.name}/bias"))
    graph.nodes = nodes
    graph.write()


def repeat_after_moves(model: onnx.ModelProto) -> None:
    """Put a Q/DQ pair behind every operator that only moves quantized values. Mutates."""
    graph = Graph(model)
    scale_of = {dq.output[0]: (dq.input[1], dq.input[2]) for _, dq in graph.pairs()}
    nodes, behind = [], dict[str, str]()
    for node in graph.nodes:
        for index, name in enumerate(node.input):
            node.input[index] = behind.get(name, name)
        nodes.append(node)
        data = node.input if node.op_type == "Concat" else node.input[:1]
        scales = {graph.number(scale_of.get(name)) for name in data}
        if node.op_type not in _MOVES or len(scales) != 1 or None in scales:
            continue
        pair = scale_of[data[0]]
        for output in node.output:
            q, dq = f"{output}_quantized", f"{output}_dequantized"
            nodes += [
                helper.make_node("QuantizeLinear", [output, *pair], [q], name=f"{output}/Q"),
                helper.make_node("DequantizeLinear", [q, *pair], [dq], name=f"{output}/DQ"),
            ]
            behind[output], scale_of[dq] = dq, pair
    graph.nodes = nodes
    graph.write()


def as_uint8(model: onnx.ModelProto) -> None:
    """Code int8 activations as uint8. Mutates."""
    graph = Graph(model)
    for name in {dq.input[2] for _, dq in graph.pairs()}:
        graph.put(name, (graph.values(name).astype(np.int16) + 128).astype(np.uint8))
    graph.write()


_STEPS: dict[str, tuple[Callable[[onnx.ModelProto], None], ...]] = {
    X86: (int8_weights, repeat_after_moves, as_uint8),
    ARM: (int8_weights, repeat_after_moves),
    OPENVINO: (bias_as_addition, int8_weights, without_weight_zero_points, as_uint8),
}
