"""TensorRT's forms: the same numbers said otherwise, or a refusal that names the node.

The reference is ONNX's own evaluator where it knows the opset (its QuantizeLinear begins at 19), else ONNX Runtime with
its optimisations off: no fused kernels.
"""

from __future__ import annotations

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, numpy_helper
from onnx.reference import ReferenceEvaluator

from edgeprune.errors import ExportError
from edgeprune.export.lint import lint
from edgeprune.export.tensorrt import tensorrt_form, typed_fp16
from edgeprune.export.view import View
from tests.export.graphs import Net, detector, image


def run(model: onnx.ModelProto, tensor: str | None = None) -> np.ndarray:
    if tensor:
        model = onnx.ModelProto.FromString(model.SerializeToString())
        model.graph.output.append(onnx.helper.make_empty_tensor_value_info(tensor))
    if View(model).opset >= 19:
        return np.asarray(ReferenceEvaluator(model).run(None, {"images": image()})[-1])
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return np.asarray(session.run(None, {"images": image()})[-1])


def with_stored_weights(model: onnx.ModelProto) -> onnx.ModelProto:
    """The graph with int8 weights, as ONNX Runtime's quantizer writes it."""
    view = View(model)
    kept = []
    for node in view.nodes:
        if node.op_type == "QuantizeLinear" and view.of_weights(node):
            (integers,) = ReferenceEvaluator(node).run(None, {name: view.constant(name) for name in node.input})
            model.graph.initializer.append(numpy_helper.from_array(np.asarray(integers), node.output[0]))
        else:
            kept.append(node)
    del model.graph.node[:]
    model.graph.node.extend(kept)
    return model


@pytest.mark.parametrize("opset", [18, 19, 21])
def test_tensorrt_form_computes_the_same_to_the_bit(opset: int) -> None:
    model = detector(opset)
    before = model.SerializeToString()
    form = tensorrt_form(model)
    expected = run(detector(18))  # one evaluator for both
    assert np.array_equal(run(form), expected)
    assert np.abs(expected).max() > 200
    assert model.SerializeToString() == before
    onnx.checker.check_model(form, full_check=True)


def test_stored_integers_become_float_weights_and_the_same_integers() -> None:
    stored = with_stored_weights(detector())
    form = tensorrt_form(stored)
    assert [f.rule for f in lint(stored, "tensorrt", "8.6") if f.rule == "stored-int8-weights"] != []
    assert lint(form, "tensorrt", "8.6") == ()
    assert np.array_equal(run(form), run(stored))
    assert np.array_equal(run(form), run(detector()))


@pytest.mark.parametrize("opset", [17, 18, 19, 21])
def test_opset_that_the_oldest_parser_knows(opset: int) -> None:
    form = tensorrt_form(detector(opset))
    assert View(form).opset == 17
    split = next(n for n in form.graph.node if n.op_type == "Split")
    assert opset == 17 or View(form).constant(split.input[1]).tolist() == [8, 8]


def test_opset_stays_where_an_operator_is_newer() -> None:
    net = Net(20)
    x = net.node("Gelu", [net.conv(net.qdq("images", "images"), "c", 16, 8)], "gelu")
    form = tensorrt_form(net.model(net.conv(x, "last", 4, kernel=1, axis=None)))
    assert View(form).opset == 20
    assert [f.node for f in lint(form, "tensorrt", "8.6")] == [n.name for n in form.graph.node if n.op_type in (
        "QuantizeLinear", "DequantizeLinear", "Gelu")]  # fmt: skip


@pytest.mark.parametrize(
    ("wrong", "node", "rule"),
    [
        ({"zero": np.int8(-4)}, "images/Q", "zero-point"),
        ({"zero": np.uint8(128)}, "images/Q", "unsigned-activation"),
        ({"scale": 0.0}, "images/Q", "scale"),
    ],
)
def test_what_tensorrt_cant_express_is_refused(wrong: dict[str, object], node: str, rule: str) -> None:
    for form in (tensorrt_form, typed_fp16):
        with pytest.raises(ExportError, match=rf"rule '{rule}'") as caught:
            form(detector(**wrong))  # type: ignore[arg-type]
        assert caught.value.details["where"] == node


def test_typed_form_is_no_master() -> None:
    with pytest.raises(ExportError, match="rule 'float16-scale'"):
        tensorrt_form(typed_fp16(detector()))


def types(model: onnx.ModelProto) -> dict[str, int]:
    graph = onnx.shape_inference.infer_shapes(model, strict_mode=True).graph
    return {v.name: v.type.tensor_type.elem_type for v in (*graph.input, *graph.value_info, *graph.output)}


def test_typed_form_is_fp16_up_to_the_heads_last_convolutions() -> None:
    model = typed_fp16(detector())
    found = types(model)
    for tensor in ("stem_out", "fuse_out", "up_out", "tower/act_out", "boxes_out", "scores_out", "images/DQ_out"):
        assert found[tensor] == TensorProto.FLOAT16, tensor
    for tensor in ("images", "scaled_out", "sigmoid_out", "output0_out"):
        assert found[tensor] == TensorProto.FLOAT, tensor
    assert View(model).opset == 19
    casts = [(n.input[0], n.output[0]) for n in model.graph.node if n.op_type == "Cast"]
    assert [c[0] for c in casts] == ["images", "boxes_out", "scores_out"]


def test_typed_form_has_the_masters_integers_for_weights() -> None:
    model, typed = detector(), View(typed_fp16(detector()))
    view = View(model)
    quantizers = [n for n in view.nodes if n.op_type == "QuantizeLinear" and view.of_weights(n)]
    assert len(quantizers) == 5
    for q in quantizers:
        (expected,) = ReferenceEvaluator(q).run(None, {name: view.constant(name) for name in q.input})
        dq = next(n for n in typed.nodes if n.name == q.name.replace("/Q", "/DQ"))
        assert np.array_equal(typed.constant(dq.input[0]), expected)
        assert typed.scale(dq).dtype == np.float16


def test_typed_form_computes_what_fp16_can_hold() -> None:
    """A conv's result is FP16 (2^-11 of it), its scale too, so a value near the middle between two integers goes to the
    other: one step of 0.02 here, through five layers. Measured: scores (0 to 1) 0.026 at most, 0.003 on average; boxes
    (-233 to 224) 3.7 at most, 0.8 on average. Twice that is the tolerance."""
    expected, got = run(detector(19)), run(typed_fp16(detector(19)))
    assert np.abs(got[:, 4:] - expected[:, 4:]).max() < 0.05
    assert np.abs(got[:, 4:] - expected[:, 4:]).mean() < 0.006
    assert np.abs(got[:, :4] - expected[:, :4]).max() < 7.4
    assert np.abs(got[:, :4] - expected[:, :4]).mean() < 1.6


def test_typed_form_keeps_boxes_exact_behind_the_head() -> None:
    """Boxes are the head's FP16 result times the stride: in FP16 that product would be rounded again."""
    typed = typed_fp16(detector())
    assert np.array_equal(run(typed)[:, :4], run(typed, "boxes_out").astype(np.float32) * 32)


def test_weight_scale_too_small_for_fp16() -> None:
    """The weights of that channel are off by half a step of 2^-14 at most."""
    model = detector()
    scale = next(i for i in model.graph.initializer if i.name == "stem.weight/scale")
    weights = next(i for i in model.graph.initializer if i.name == "stem.weight")
    values, scales = numpy_helper.to_array(weights).copy(), numpy_helper.to_array(scale).copy()
    values[3] *= 1e-5
    scales[3] *= 1e-5
    weights.CopyFrom(numpy_helper.from_array(values, weights.name))
    scale.CopyFrom(numpy_helper.from_array(scales, scale.name))
    typed = View(typed_fp16(model))
    dq = next(n for n in typed.nodes if n.name == "stem.weight/DQ")
    got = typed.constant(dq.input[0]).astype(np.float32) * typed.scale(dq).astype(np.float32)[:, None, None, None]
    assert typed.scale(dq)[3] == np.float16(2**-14)
    assert np.abs(got[3] - values[3]).max() <= 2**-15


@pytest.mark.parametrize(("scale", "where"), [(1e-6, "images/Q"), (1e5, "images/Q")])
def test_activation_scale_that_fp16_cant_hold(scale: float, where: str) -> None:
    with pytest.raises(ExportError, match="doesn't fit into FP16") as caught:
        typed_fp16(detector(scale=scale))
    assert str(caught.value.details["where"]).startswith(where)


def test_constant_nodes_and_casts_follow() -> None:
    net = Net()
    net.nodes.append(
        onnx.helper.make_node("Constant", [], ["half"], name="half", value=numpy_helper.from_array(np.float32(0.5)))
    )
    x = net.node("Mul", [net.conv(net.qdq("images", "images"), "c", 16, 8), "half"], "halved")
    x = net.node("Cast", [net.node("Cast", [x], "up", to=TensorProto.DOUBLE)], "down", to=TensorProto.FLOAT)
    x = net.conv(x, "last", 4, kernel=1, axis=None)
    typed = typed_fp16(net.model(net.node("Mul", [x, "half"], "scaled")))
    found = types(typed)
    assert (found["halved_out"], found["down_out"], found["scaled_out"]) == (10, 10, 1)


def test_result_of_a_last_convolution_can_be_an_output() -> None:
    net = Net()
    typed = typed_fp16(net.model(net.conv(net.qdq("images", "images"), "last", 4, 8, kernel=1, axis=None)))
    assert types(typed)["last_out"] == TensorProto.FLOAT


def test_same_model_gives_the_same_bytes() -> None:
    for form in (tensorrt_form, typed_fp16):
        assert form(detector()).SerializeToString() == form(detector()).SerializeToString()
