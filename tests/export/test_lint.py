"""Every rule finds the node that breaks it, and nothing in a graph that is as it should be."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import helper

from edgeprune.errors import ExportError
from edgeprune.export.lint import RULES, errors, lint
from edgeprune.export.tensorrt import tensorrt_form, typed_fp16
from edgeprune.export.view import read_model
from tests.export.graphs import Net, detector
from tests.test_cli import edgeprune, refused


def found(model: onnx.ModelProto, version: str = "10.3", runtime: str = "tensorrt") -> set[tuple[str, str]]:
    return {(finding.rule, finding.node) for finding in lint(model, runtime, version)}


def only(rule: str, model: onnx.ModelProto, version: str = "10.3", runtime: str = "tensorrt") -> list[str]:
    """Nodes that one rule names."""
    return [finding.node for finding in lint(model, runtime, version) if finding.rule == rule]


@pytest.mark.parametrize("version", ["8.5", "8.6.2", "10.3", "10.13"])
def test_tensorrt_form_has_no_finding(version: str) -> None:
    assert lint(tensorrt_form(detector()), "tensorrt", version) == ()


def test_typed_form_has_no_finding_on_11() -> None:
    assert lint(typed_fp16(detector()), "tensorrt", "11.4") == ()


def test_untyped_form_is_slow_on_11() -> None:
    """57 FP32 results between INT8 convolutions: allowed, and what --fp16 did away with before."""
    assert only("strongly-typed", tensorrt_form(detector()), "11") == ["stem", "inner", "depthwise", "fuse", "tower"]


def test_typed_form_is_refused_before_10() -> None:
    assert "stem" in only("stored-int8-weights", typed_fp16(detector()), "8.6")
    assert "images/Q" in only("float16-scale", typed_fp16(detector()), "8.6")


def test_operators_newer_than_the_parser_are_named() -> None:
    assert only("opset", detector(18), "8.5") == ["split", "up"]
    assert only("opset", detector(18), "10.0") == []


def _with(change: Callable[[Net], str], **given: object) -> onnx.ModelProto:
    net = Net(**given)  # type: ignore[arg-type]
    return net.model(change(net))


def _first(net: Net, **quantization: object) -> str:
    """images -> Q/DQ -> conv 'c' -> float head."""
    x = net.conv(net.qdq("images", "images", **quantization), "c", 16, 8)  # type: ignore[arg-type]
    return _head(net, x)


def _head(net: Net, tensor: str, read: int = 16) -> str:
    return net.conv(tensor, "last", 4, read, kernel=1, axis=None)


def test_zero_point_other_than_0() -> None:
    assert only("zero-point", _with(lambda net: _first(net, zero=np.int8(3)))) == ["images/Q"]
    assert only("zero-point", _with(lambda net: _first(net, zero=np.int8(3))), "", "openvino") == []


@pytest.mark.parametrize(("zero", "says"), [(0, "wrong numbers above 127"), (128, "refused")])
def test_unsigned_activation(zero: int, says: str) -> None:
    (finding,) = lint(_with(lambda net: _first(net, zero=np.uint8(zero))), "tensorrt", "10.3")
    assert (finding.rule, finding.node, finding.severity) == ("unsigned-activation", "images/Q", "error")
    assert says in finding.sentence


@pytest.mark.parametrize("scale", [0.0, -0.1, np.inf])
def test_scale_that_is_none(scale: float) -> None:
    for runtime in ("tensorrt", "onnxruntime-x86-64", "onnxruntime-aarch64", "openvino"):
        assert only("scale", _with(lambda net: _first(net, scale=scale)), "10.3", runtime) == ["images/Q"]


def test_int16_activation() -> None:
    assert only("integer-type", _with(lambda net: _first(net, zero=np.int16(0)), opset=21)) == ["images/Q"]


def test_uint8_weights() -> None:
    def net_of(net: Net) -> str:
        weights = net.qdq(net.constant("w", np.ones((4, 8, 1, 1), np.float32)), "w", zero=np.uint8(0))
        return _head(net, net.node("Conv", [net.qdq("images", "images"), weights], "c"), 4)

    assert only("integer-type", _with(net_of)) == ["w/Q"]


def test_int32_bias() -> None:
    def net_of(net: Net) -> str:
        bias = [net.constant("b", np.zeros(4, np.int32)), net.constant("bs", np.float32(0.1))]
        bias = net.node("DequantizeLinear", bias, "bias/DQ")
        return _head(net, net.node("Conv", [net.qdq("images", "images"), net.weights("c", (4, 8, 1, 1)), bias], "c"), 4)

    assert only("int32-bias", _with(net_of)) == ["bias/DQ"]


def test_zero_point_of_another_shape_or_none() -> None:
    def net_of(net: Net) -> str:
        pair = [net.constant("s", np.full(4, 0.1, np.float32)), net.constant("z", np.zeros(1, np.int8))]
        q = net.node("QuantizeLinear", [net.constant("w", np.ones((4, 8, 1, 1), np.float32)), *pair], "w/Q", axis=0)
        w = net.node("DequantizeLinear", [q, pair[0]], "w/DQ", axis=0)
        return _head(net, net.node("Conv", [net.qdq("images", "images"), w], "c"), 4)

    net = Net()
    made = net_of(net)
    graph = helper.make_graph(
        net.nodes, "g", [net.input], [helper.make_empty_tensor_value_info(made)], net.initializers
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)])
    assert only("zero-point-shape", model) == ["w/Q"]
    assert only("zero-point-input", model, "8.5") == ["w/DQ"]
    assert only("zero-point-input", model, "8.6") == []


def test_activation_per_channel() -> None:
    model = _with(lambda net: _first(net, scale=np.linspace(0.01, 0.02, 8), zero=np.zeros(8, np.int8), axis=1))
    assert ("activation-per-channel", "images/Q") in found(model)


def test_scale_as_a_vector_of_one() -> None:
    model = _with(lambda net: _first(net, scale=[0.02], zero=np.zeros(1, np.int8)))
    assert only("scale-as-vector", model) == ["images/Q"]
    assert only("scale-as-vector", tensorrt_form(model)) == []


def test_weight_axis_counts_output_channels() -> None:
    def transposed(net: Net, axis: int) -> str:
        weights = net.weights("t", (8, 16, 2, 2), axis)
        return _head(net, net.node("ConvTranspose", [net.qdq("images", "images"), weights], "t", strides=[2, 2]))

    def gemm(net: Net, axis: int, trans: int) -> str:
        flat = net.node("Flatten", [net.qdq("images", "images")], "flat")
        return net.node("Gemm", [flat, net.weights("g", (4, 2048) if trans else (2048, 4), axis)], "g", transB=trans)

    right = [
        _with(lambda net: _head(net, net.conv(net.qdq("images", "images"), "c", 16, 8, axis=0))),
        _with(lambda net: transposed(net, 1)), _with(lambda net: gemm(net, 0, 1)), _with(lambda net: gemm(net, 1, 0)),
    ]  # fmt: skip
    wrong = {
        "c": _with(lambda net: _head(net, net.conv(net.qdq("images", "images"), "c", 16, 8, axis=1))),
        "t": _with(lambda net: transposed(net, 0)), "g": _with(lambda net: gemm(net, 1, 1)),
    }  # fmt: skip
    assert [only("weight-axis", model) for model in right] == [[], [], [], []]
    assert {name: only("weight-axis", model) for name, model in wrong.items()} == {n: [n] for n in wrong}


def test_operators_that_are_integers_themselves() -> None:
    def net_of(net: Net) -> str:
        made = ["q", "s", "z"]
        net.nodes.append(helper.make_node("DynamicQuantizeLinear", ["images"], made, name="dynamic"))
        return net.node("DequantizeLinear", made, "DQ")

    assert only("integer-operator", _with(net_of)) == ["dynamic"]


def test_dynamic_batch() -> None:
    assert only("dynamic-shape", _with(_first, batch="N")) == ["images"]


def test_what_only_8_5_lacks() -> None:
    def net_of(net: Net) -> str:
        x = net.node(
            "Flatten", [net.node("Mod", [_first(net), net.constant("m", np.float32(2))], "mod", fmod=1)], "flat"
        )
        k = net.node("Add", [net.constant("k", np.array([3])), net.constant("more", np.array([1]))], "k")
        net.nodes.append(helper.make_node("TopK", [x, k], ["top", "indices"], name="topk"))
        return "top"

    model = _with(net_of, opset=17)
    assert (only("mod", model, "8.5"), only("topk-k", model, "8.5.2")) == (["mod"], ["topk"])
    assert (only("mod", model, "8.6"), only("topk-k", model, "8.6")) == ([], [])


def test_convolution_with_one_quantized_input() -> None:
    activation = _with(lambda net: net.conv(net.qdq("images", "images"), "c", 4, 8, axis=None))
    weights = _with(lambda net: net.conv("images", "c", 4, 8))
    for model in (activation, weights):
        assert only("half-quantized", model) == ["c"]


def test_attention_in_float_is_no_finding() -> None:
    def net_of(net: Net) -> str:
        x = net.block(net.qdq("images", "images"), "a", 16, 8)
        return _head(net, net.node("MatMul", [x, net.node("Softmax", [x], "attention")], "matmul"))

    assert only("half-quantized", _with(net_of)) == []


def test_quantization_goes_through_what_moves_values_but_not_through_resize() -> None:
    assert only("half-quantized", detector()) == ["fuse"]
    assert only("half-quantized", tensorrt_form(detector())) == []


def test_quantized_before_the_activation_function() -> None:
    def net_of(net: Net) -> str:
        x = net.qdq(net.conv(net.qdq("images", "images"), "c", 16, 8), "c/result")
        return _head(net, net.silu(x, "act"))

    assert only("split-activation", _with(net_of)) == ["c/result/Q"]
    assert only("split-activation", _with(net_of), "", "onnxruntime-x86-64") == []


@pytest.mark.parametrize("both", [True, False])
def test_residual_add(both: bool) -> None:
    def net_of(net: Net) -> str:
        x = net.block(net.qdq("images", "images"), "a", 16, 8)
        y = net.silu(net.conv(x, "b", 16), "b/act")
        return _head(net, net.node("Add", [x, net.qdq(y, "b/act") if both else y], "add"))

    assert only("residual", _with(net_of)) == (["add"] if both else [])


@pytest.mark.parametrize("scale", [0.02, 0.05])
def test_concat_of_two_scales(scale: float) -> None:
    def net_of(net: Net) -> str:
        x = net.qdq("images", "images")
        y = net.node("Concat", [net.block(x, "a", 8, 8), net.block(x, "b", 8, 8, scale)], "concat", axis=1)
        return _head(net, net.conv(y, "c", 16))

    same = scale == 0.02
    assert only("shared-scale", _with(net_of)) == ([] if same else ["concat"])
    assert only("half-quantized", _with(net_of)) == ([] if same else ["c"])


def test_quantized_head() -> None:
    def net_of(net: Net) -> str:
        x = net.conv(net.block(net.qdq("images", "images"), "a", 16, 8), "last", 4, kernel=1)
        return net.qdq(net.node("Concat", [x, net.node("Sigmoid", [x], "scores")], "both", axis=1), "both")

    assert found(_with(net_of)) == {("quantized-decode", "both/Q"), ("quantized-last-convolution", "last")}


def test_onnx_runtime_wants_unsigned_on_x86_and_signed_on_arm() -> None:
    def net_of(net: Net, zero: object) -> str:
        return _head(net, net.qdq(net.conv(net.qdq("images", "images", zero=zero), "c", 16, 8), "c/result", zero=zero))

    signed, unsigned = (_with(lambda net, z=z: net_of(net, z)) for z in (np.int8(0), np.uint8(128)))  # type: ignore[misc]
    half = ("half-quantized", "last")
    both = ["images/Q", "c/result/Q"]
    assert found(signed, "", "onnxruntime-x86-64") == {half, *(("signed-activation", n) for n in both)}
    assert found(unsigned, "", "onnxruntime-x86-64") == {half}
    assert found(signed, "", "onnxruntime-aarch64") == {half}
    assert found(unsigned, "", "onnxruntime-aarch64") == {half, *(("unsigned-activation-on-arm", n) for n in both)}
    assert found(unsigned, "", "openvino") == found(signed, "", "openvino") == {half}


def test_openvino_wants_unsigned_values_in_a_concat() -> None:
    """That int8 is computed wrong there is shown in test_quantized.py."""

    def net_of(net: Net, zero: object) -> str:
        x = net.qdq("images", "images", zero=zero)
        branches = [net.qdq(net.conv(x, name, 8, 8), name, zero=zero) for name in "ab"]
        return _head(net, net.node("Concat", branches, "concat", axis=1))

    for zero, nodes in ((np.int8(0), ["concat"]), (np.uint8(128), [])):
        assert only("signed-concat", _with(lambda net, z=zero: net_of(net, z)), "", "openvino") == nodes  # type: ignore[misc]


def test_onnx_runtime_wants_the_result_quantized() -> None:
    assert only("float-result", _with(_first), "", "onnxruntime-x86-64") == ["c"]


@pytest.mark.parametrize(
    ("runtime", "version", "says"),
    [("tflite", "", "Unknown runtime"), ("tensorrt", "", "differ by version"), ("tensorrt", "new", "no version"),
     ("tensorrt", "7.2", "too old")],
)  # fmt: skip
def test_what_lint_doesnt_know_is_refused(runtime: str, version: str, says: str) -> None:
    with pytest.raises(ExportError, match=says):
        lint(detector(), runtime, version)


def test_every_rule_is_tested() -> None:
    text = Path(__file__).read_text(encoding="utf-8")
    assert [rule for rule in RULES if f'"{rule}"' not in text] == []


def test_unnamed_nodes_are_named_by_what_they_make() -> None:
    model = _with(lambda net: _first(net, zero=np.int8(3)))
    for node in model.graph.node:
        node.name = ""
    assert errors(lint(model, "tensorrt", "10.3"))[0].node == "QuantizeLinear -> images/Q_out"


def test_file_that_isnt_onnx(tmp_path: Path) -> None:
    for content in (b"", b"nonsense"):
        (tmp_path / "x.onnx").write_bytes(content)
        with pytest.raises(ExportError, match="ONNX"):
            read_model(tmp_path / "x.onnx")


def test_command_line(tmp_path: Path) -> None:
    onnx.save(detector(), tmp_path / "master.onnx")
    onnx.save(tensorrt_form(detector()), tmp_path / "form.onnx")
    done = edgeprune("lint", tmp_path / "master.onnx", "--runtime", "tensorrt", "--version", "8.5")
    assert (done.returncode, "opset" in done.stdout, "split" in done.stdout) == (1, True, True)
    done = edgeprune("lint", tmp_path / "form.onnx", "--runtime", "tensorrt", "--version", "8.5")
    assert (done.returncode, done.stdout.strip().endswith("0 errors, 0 other findings")) == (0, True)
    assert "differ by version" in refused("lint", tmp_path / "form.onnx", "--runtime", "tensorrt")
    assert "can't be read" in refused("lint", tmp_path / "none.onnx", "--runtime", "openvino")
