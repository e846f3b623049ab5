"""What runtimes refuse, misread or run in float: one function a rule. Which rule holds for whom is in lint.py.

A rule yields (node, sentence); the sentence says what was expected and what is there.

Sources: NVIDIA, 'Working with Quantized Types: Explicit Quantization' (Q/DQ placement); onnx-tensorrt,
`QuantDequantLinearHelper` in onnxOpImporters.cpp of 8.5 to 10; ONNX Runtime, pull requests 9772 and 9902. All
that concerns the parser and INT8 kernels was tried: TensorRT-RTX 1.7.1 (builds, layer information), ONNX Runtime
1.31 (optimized graph on x86-64 and on an emulated Cortex-A76), OpenVINO 2026.4 (precision of the compiled layers).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
import onnx

from edgeprune.export.view import MOVES, WEIGHTED, View, attribute

#: What a rule yields: the node (or the name of a graph input) and the sentence.
Hit = tuple[onnx.NodeProto | str, str]
Check = Callable[[View], Iterator[Hit]]

ACTIVATIONS = frozenset(
    {"Sigmoid", "Mul", "Relu", "LeakyRelu", "Clip", "HardSwish", "HardSigmoid", "Tanh", "Elu", "Gelu", "Softplus"}
)
#: The axis of a weight tensor that counts output channels. Gemm's depends on transB, see `weight_axis`.
CHANNEL_AXIS = {"Conv": 0, "ConvTranspose": 1}
#: Newest operators that onnx-tensorrt 8.5 and 8.6 document (docs/operators.md).
OLD_OPSET = 17


# Numbers


def scale(view: View) -> Iterator[Hit]:
    for node in view.quantizers():
        scales = view.scale(node)
        wrong = scales[~(np.isfinite(scales) & (scales > 0))] if scales.size else scales
        if wrong.size:
            yield node, f"expected scales over 0, got {wrong.flat[0]:g}"


def zero_point(view: View) -> Iterator[Hit]:
    for node in view.quantizers():
        values = view.zero_point(node)
        if values is not None and values.dtype == np.int8 and values.any():
            yield node, f"expected zero point 0 (symmetric), got {values[values != 0].flat[0]}; TensorRT refuses it"


def zero_point_shape(view: View) -> Iterator[Hit]:
    for node in view.quantizers():
        values = view.zero_point(node)
        if values is not None and values.size != view.scale(node).size:
            yield node, f"expected a zero point of the scale's shape {view.scale(node).shape}, got {values.shape}"


def zero_point_input(view: View) -> Iterator[Hit]:
    for node in view.nodes:
        if node.op_type in ("QuantizeLinear", "DequantizeLinear") and (len(node.input) < 3 or not node.input[2]):
            yield node, "expected a zero point as third input, got two inputs"


def unsigned_activation(view: View) -> Iterator[Hit]:
    for node in view.quantizers():
        if view.integers(node) == "uint8" and not view.of_weights(node):
            values = view.zero_point(node)
            refused = values is not None and values.any()
            what = f"with zero point {values.flat[0]}: refused" if refused and values is not None else (
                "with zero point 0: read as INT8, wrong numbers above 127"
            )  # fmt: skip
            yield node, f"expected int8 activations, got uint8 {what}"


def integer_type(view: View) -> Iterator[Hit]:
    for node in view.quantizers():
        found = view.integers(node)
        if found == "int8" or (found == "uint8" and not view.of_weights(node)):
            continue  # the latter is `unsigned_activation`
        if not (found == "int32" and view.of_weights(node)):  # that is `int32_bias`
            yield node, f"expected int8, got {found}"


def int32_bias(view: View) -> Iterator[Hit]:
    for node in view.quantizers():
        if node.op_type == "DequantizeLinear" and view.integers(node) == "int32":
            yield node, "expected a float bias, got INT32 through DequantizeLinear; refused"


def activation_per_channel(view: View) -> Iterator[Hit]:
    for node in view.quantizers():
        if not view.of_weights(node) and view.scale(node).size > 1:
            yield node, f"expected one scale for the tensor, got {view.scale(node).size}; what reads it runs in float"


def scale_as_vector(view: View) -> Iterator[Hit]:
    for node in view.quantizers():
        if not view.of_weights(node) and view.scale(node).shape == (1,):
            yield (
                node,
                "expected a scalar scale, got a vector of one: taken as per channel, what reads it runs in float",
            )


def weight_axis(view: View) -> Iterator[Hit]:
    for node in view.nodes:
        dq = view.dequantizer(node.input[1]) if node.op_type in (*CHANNEL_AXIS, "Gemm") else None
        if dq is None or view.scale(dq).size <= 1:
            continue
        expected = CHANNEL_AXIS.get(node.op_type, 0 if attribute(node, "transB", 0) else 1)
        got = attribute(dq, "axis", 1) % (2 if node.op_type == "Gemm" else 4)  # -4 is 0
        if got != expected:
            yield node, f"expected weight scales along axis {expected} ({node.op_type}), got axis {got}; runs in float"


# What the parser knows


def integer_operator(view: View) -> Iterator[Hit]:
    for node in view.nodes:
        if node.op_type.startswith("QLinear") or node.op_type in {
            "ConvInteger", "MatMulInteger", "DynamicQuantizeLinear",
        }:  # fmt: skip
            yield node, f"expected float operators between Q/DQ pairs, got {node.op_type}, which TensorRT doesn't have"


def dynamic_shape(view: View) -> Iterator[Hit]:
    for given in view.model.graph.input:
        sizes = [d.dim_value or d.dim_param or "?" for d in given.type.tensor_type.shape.dim]
        if not view.is_constant(given.name) and not all(isinstance(size, int) for size in sizes):
            yield given.name, f"expected a static shape (there is no optimization profile), got {sizes}"


def modulo(view: View) -> Iterator[Hit]:
    for node in view.nodes:
        if node.op_type == "Mod":
            yield node, "TensorRT 8.5 has no Mod; expected Sub, Div, Floor and Mul, or a head without it"


def topk_k(view: View) -> Iterator[Hit]:
    for node in view.nodes:
        if node.op_type == "TopK" and not view.is_constant(node.input[1]):
            yield node, f"expected TopK's K as an initializer, got the computed '{node.input[1]}'"


def new_operator(view: View) -> Iterator[Hit]:
    if view.opset <= OLD_OPSET:
        return
    for node in view.nodes:
        known = onnx.defs.has(node.op_type, view.opset, node.domain)
        since = onnx.defs.get_schema(node.op_type, view.opset, node.domain).since_version if known else 0
        if since > OLD_OPSET:
            yield node, f"expected operators of opset {OLD_OPSET} or lower, got {node.op_type} as of opset {since}"


def stored_int8_weights(view: View) -> Iterator[Hit]:
    for node in view.nodes:
        dq = view.dequantizer(node.input[1]) if node.op_type in WEIGHTED else None
        if dq is not None and view.is_constant(dq.input[0]):
            yield node, "expected FP32 weights -> QuantizeLinear -> DequantizeLinear, got int8 weights through DQ only"


def float16_scale(view: View) -> Iterator[Hit]:
    for node in view.quantizers():
        if view.scale(node).dtype == np.float16:
            yield node, "expected FP32 scales (this parser reads them as FP32 whatever they are), got FP16"


def strongly_typed(view: View) -> Iterator[Hit]:
    for node in view.nodes:
        if view.has_int8_weights(node):
            dq = view.dequantizer(node.input[1])
            if dq is not None and view.scale(dq).dtype == np.float32:
                yield node, "expected FP16 results (types are what the graph says; there is no --fp16), got FP32"


# Where Q/DQ stand


def half_quantized(view: View) -> Iterator[Hit]:
    for node in view.nodes:
        # a MatMul of two activations (attention) is meant to be float
        if node.op_type in WEIGHTED and (node.op_type != "MatMul" or view.has_int8_weights(node)):
            activation, weights = (view.is_int8(name) for name in node.input[:2])
            if activation != weights:
                got = "only the activation" if activation else "only the weights"
                yield node, f"expected activation and weights quantized, or neither; got {got}: runs in float"


def split_activation(view: View) -> Iterator[Hit]:
    for node in view.nodes:
        maker = view.made_by.get(node.input[0]) if node.op_type == "QuantizeLinear" else None
        if maker is None or maker.op_type not in WEIGHTED | {"Sigmoid", "HardSigmoid"}:
            continue
        for reader in _readers(view, node):
            if reader.op_type in ACTIVATIONS:
                place = f"between {maker.op_type} and {reader.op_type}"
                yield node, f"expected Q/DQ after the activation function, got it {place}"
                break


def residual(view: View) -> Iterator[Hit]:
    for node in view.nodes:
        if node.op_type == "Add" and all(
            (dq := view.dequantizer(name)) is not None and not view.of_weights(dq) for name in node.input
        ):
            yield node, "expected Q/DQ on the skip input only, got it on both: the sum isn't fused into the convolution"


def shared_scale(view: View) -> Iterator[Hit]:
    for node in view.nodes:
        if node.op_type not in MOVES:
            continue
        names = node.input if node.op_type == "Concat" else node.input[:1]
        pairs = [dq for name in names if (dq := view.dequantizer(name)) is not None]
        if not pairs:
            continue
        pairs += [r for output in node.output for r in view.readers.get(output, ()) if r.op_type == "QuantizeLinear"]
        scales = sorted({float(view.scale(pair).flat[0]) for pair in pairs if view.scale(pair).size == 1})
        if len(scales) > 1:
            found = ", ".join(f"{s:.6g}" for s in scales)
            yield (
                node,
                f"expected one scale before and after {node.op_type}, got {found}: quantized anew",
            )


def quantized_decode(view: View) -> Iterator[Hit]:
    decode = view.after(view.last_convolutions())
    for node in view.nodes:
        if node.op_type == "QuantizeLinear" and node.output[0] in decode and not view.of_weights(node):
            yield node, "expected boxes and scores in float, got them quantized: one scale over both rounds scores to 0"


def quantized_last_convolution(view: View) -> Iterator[Hit]:
    for node in view.last_convolutions():
        if view.has_int8_weights(node):
            yield node, "expected the head's last convolution in float, got it quantized"


# ONNX Runtime


def signed_activation(view: View) -> Iterator[Hit]:
    for node in view.quantizers():
        if view.integers(node) == "int8" and not view.of_weights(node):
            yield (
                node,
                "expected uint8 activations (zero point 128: the same numbers), got int8: no integer kernel",
            )


def signed_concat(view: View) -> Iterator[Hit]:
    for node in view.nodes:
        if node.op_type != "Concat":
            continue
        arriving = view.arriving(node.output[0])
        if arriving and all(view.integers(dq) == "int8" for dq in arriving):
            yield (
                node,
                "expected uint8 inputs (zero point 128: the same numbers), got int8: computed wrong (2026.4)",
            )


def unsigned_activation_on_arm(view: View) -> Iterator[Hit]:
    for node in view.quantizers():
        if view.integers(node) == "uint8" and not view.of_weights(node):
            yield node, "expected int8 activations (the symmetric kernel's), got uint8: a slower kernel"


def float_result(view: View) -> Iterator[Hit]:
    for node in view.nodes:
        if node.op_type in ("Conv", "Gemm") and view.has_int8_weights(node):
            readers = {r.op_type for r in view.readers.get(node.output[0], ())}
            following = {
                r.op_type
                for n in view.readers.get(node.output[0], ())
                if n.op_type in ("Relu", "Clip")
                for r in view.readers.get(n.output[0], ())
            }
            if readers != {"QuantizeLinear"} and following != {"QuantizeLinear"}:
                yield (
                    node,
                    "expected Q/DQ on the result too (it becomes QLinearConv then), got it float: runs in float",
                )


def _readers(view: View, quantizer: onnx.NodeProto) -> list[onnx.NodeProto]:
    """Who reads what a Q makes, behind its DQ."""
    return [
        reader
        for dq in view.readers.get(quantizer.output[0], ())
        for output in dq.output
        for reader in view.readers.get(output, ())
    ]
