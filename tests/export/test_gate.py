"""NVIDIA's own parser and builder, on a CPU: what is INT8, what silently isn't, what is refused."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import numpy as np
import onnx
import pytest

from edgeprune.errors import DeviceError, ExportError
from edgeprune.export import gate as gate_module
from edgeprune.export.gate import MODULES, gate, inspect
from edgeprune.export.lint import lint
from edgeprune.export.tensorrt import tensorrt_form, typed_fp16
from tests.export.graphs import Net, detector
from tests.test_cli import edgeprune, refused

BUILDER = all(importlib.util.find_spec(module) for module in MODULES)
needs_builder = pytest.mark.skipif(not BUILDER, reason="the extra tensorrt-rtx is not installed")
QUANTIZED = ["stem", "inner", "depthwise", "fuse", "tower"]


@needs_builder
@pytest.mark.parametrize(("form", "rest"), [(tensorrt_form, "float"), (typed_fp16, "half")])
def test_both_forms_are_int8_where_they_should_be(form, rest: str) -> None:
    report = gate(form(detector()))
    assert {c.name: c.found for c in report.convolutions} == dict.fromkeys(QUANTIZED, "int8") | {
        "boxes": rest, "scores": rest,
    }  # fmt: skip
    assert [c.name for c in report.convolutions if c.expected == "int8"] == QUANTIZED
    assert report.int8 == 5
    assert report.builder.startswith("TensorRT-RTX 1.")


@needs_builder
def test_convolution_behind_resize_is_float_without_the_form() -> None:
    """Why tensorrt_form quantizes again behind Resize; the same numbers, see test_tensorrt.py."""
    with pytest.raises(ExportError, match="1 of 7 convolutions should be INT8 and aren't") as caught:
        gate(detector())
    assert (caught.value.details["where"], caught.value.details["got"]) == ("fuse", "float")


def one(**quantization: object) -> onnx.ModelProto:
    net = Net()
    x = net.qdq("images", "images", **quantization)  # type: ignore[arg-type]
    return net.model(net.conv(net.conv(x, "c", 16, 8), "last", 4, kernel=1, axis=None))


def per_channel() -> onnx.ModelProto:
    return one(scale=np.linspace(0.01, 0.02, 8), zero=np.zeros(8, np.int8), axis=1)


def along_axis_1() -> onnx.ModelProto:
    net = Net()
    return net.model(net.conv(net.qdq("images", "images"), "c", 16, 8, axis=1))


def weights_only() -> onnx.ModelProto:
    net = Net()
    return net.model(net.conv("images", "c", 16, 8))


def two_scales() -> onnx.ModelProto:
    net = Net()
    x = net.qdq("images", "images")
    y = net.node("Concat", [net.block(x, "a", 8, 8, 0.02), net.block(x, "b", 8, 8, 0.05)], "concat", axis=1)
    return net.model(net.conv(y, "c", 16))


@needs_builder
@pytest.mark.parametrize(
    "model",
    [per_channel(), one(scale=[0.02], zero=np.zeros(1, np.int8)), along_axis_1(), weights_only(), two_scales()],
    ids=["activation per channel", "scale as a vector", "weights along axis 1", "weights only", "concat of two scales"],
)  # fmt: skip
def test_convolution_that_silently_runs_in_float_is_named(model: onnx.ModelProto) -> None:
    with pytest.raises(ExportError, match="should be INT8 and aren't") as caught:
        gate(model)
    assert caught.value.details["where"] == "c"
    assert [c.found for c in inspect(model).convolutions if c.name == "c"] == ["float"]
    why = {f.rule for f in lint(model, "tensorrt", "10.3")} - {"quantized-last-convolution"}
    assert why & {"activation-per-channel", "scale-as-vector", "weight-axis", "half-quantized"}, "lint says why"


def test_integers_without_integer_weights_arent_int8() -> None:
    """No graph is known that the builder does this to; it must not pass if there is one."""
    layer = {"inputs": ["Int8"], "constants": ["Int8", "Float"]}
    assert gate_module._type(layer) == "int8"
    assert gate_module._type(layer | {"constants": ["Float"]}) == "int8 with float weights"


@needs_builder
def test_form_makes_a_vector_of_one_scale_a_scalar() -> None:
    assert gate(tensorrt_form(one(scale=[0.02], zero=np.zeros(1, np.int8)))).int8 == 1


@needs_builder
def test_uint8_with_zero_point_0_is_not_accepted() -> None:
    """The parser takes it with a warning and reads INT8."""
    with pytest.raises(ExportError, match="wrong numbers above 127") as caught:
        gate(one(zero=np.uint8(0)))
    assert caught.value.details["where"] == "images/Q"


@needs_builder
@pytest.mark.parametrize(
    ("model", "says"),
    [(one(zero=np.int8(3)), "Non-zero zero point"), (one(scale=0.0), "must all be positive")],
    ids=["zero point", "scale 0"],
)
def test_what_the_parser_refuses(model: onnx.ModelProto, says: str) -> None:
    with pytest.raises(ExportError, match=f"can't parse the graph[^§]*{says}[^§]*edgeprune lint"):
        gate(model)


@needs_builder
def test_dynamic_batch_parses_and_doesnt_build() -> None:
    net = Net(batch="N")
    with pytest.raises(ExportError, match=r"can't build the graph[^§]*profile"):
        gate(net.model(net.conv(net.qdq("images", "images"), "c", 16, 8)))


@needs_builder
def test_nodes_without_names_are_told_apart() -> None:
    model = tensorrt_form(detector())
    for node in model.graph.node:
        node.name = "" if node.op_type != "Conv" else "same"
    report = gate(model)
    assert report.int8 == 5
    assert len({c.name for c in report.convolutions}) == 7


@needs_builder
def test_builder_that_dies_is_an_error_with_its_last_words(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gate_module.sys, "executable", "/bin/false")
    with pytest.raises(ExportError, match=r"builder died[^§]*exit code 1"):
        gate(one())


def test_missing_wheel_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gate_module, "MODULES", ("no_such_module",))
    with pytest.raises(DeviceError, match=r"edgeprune\[tensorrt-rtx\]"):
        gate(one())


@needs_builder
def test_command_line(tmp_path: Path) -> None:
    onnx.save(tensorrt_form(detector()), tmp_path / "form.onnx")
    onnx.save(detector(), tmp_path / "master.onnx")
    done = edgeprune("gate", tmp_path / "form.onnx")
    assert (done.returncode, "5 of 7 convolutions in INT8" in done.stdout) == (0, True)
    assert "where: fuse" in refused("gate", tmp_path / "master.onnx")
