"""What each runtime loads, made from the one quantized graph. The numbers stay the same; only their coding changes.

Rules:
- Weights become int8 initializers in front of their DequantizeLinear: a quarter of the size.
- ONNX Runtime merges an operator with the Q/DQ around it, so Concat, Split, MaxPool and Resize get a pair behind
  them as well, with the scale that their inputs have.
- On x86-64 int8 activations with zero point z become uint8 with zero point z + 128, which stands for the same
  numbers: ONNX Runtime has integer kernels for uint8 alone, and OpenVINO 2026.4 computes wrong numbers behind a
  Concat of int8 tensors (tests/export/test_forms.py). On aarch64 int8 stays.
- OpenVINO reads the graph as it is. Pairs behind what only moves values would keep it from merging SiLU there.

Measured: README, 'INT8'. Source: onnxruntime QDQ selectors (qdq_selector_action_transformer.cc).
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx
from onnx import helper

from edgeprune.export.qdq import Graph
from edgeprune.quant.affine import LIMIT

#: Operators that only move values, and that ONNX Runtime has on integers.
_MOVES = frozenset({"Concat", "Split", "MaxPool", "Resize"})


def form(model: onnx.ModelProto, runtime: str, machine: str) -> onnx.ModelProto:
    """The quantized graph as a runtime wants it.

    Args:
        model: From `export_qdq`; not changed.
        runtime: onnxruntime or openvino.
        machine: As `platform.machine()` says it: x86_64, aarch64.
    """
    copy = onnx.ModelProto.FromString(model.SerializeToString())
    steps: tuple[Callable[[onnx.ModelProto], None], ...] = (int8_weights,)
    if runtime == "onnxruntime":
        steps += (repeat_after_moves,)
    if machine in {"x86_64", "AMD64"}:
        steps += (as_uint8,)
    for step in steps:
        step(copy)
    onnx.checker.check_model(copy)
    return copy


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
