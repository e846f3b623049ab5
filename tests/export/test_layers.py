"""A graph taken apart: each layer makes what the graph makes there, and can be made at any width."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from edgeprune.export.forms import form
from edgeprune.export.gate import inspect
from edgeprune.export.layers import Layer, Layers, with_floats
from edgeprune.export.lint import OPENVINO, TENSORRT, X86
from edgeprune.export.qdq import float_graph, quantized_graph
from edgeprune.job import find_target
from edgeprune.quant.calibrate import Image, calibrate
from edgeprune.runtime.session import open_unoptimised
from edgeprune.yolo import blocks
from edgeprune.yolo.load import load_detector
from tests.export.test_build_engine import needs_builder
from tests.mute import give_life

EDGE = 64
BOARDS = ("tensorrt 10.3", "tensorrt 11")


@pytest.fixture(scope="module")
def graphs(tiny: Path) -> Callable[[str], onnx.ModelProto]:
    model = give_life(load_detector(tiny).model)
    noise = Image("noise", np.random.default_rng(0).random((1, 3, EDGE, EDGE), np.float32))

    def made(kind: str) -> onnx.ModelProto:
        if kind == "float":
            return float_graph(model, EDGE, EDGE)
        targets = {X86: "onnxruntime-x86-int8", OPENVINO: "openvino-x86-int8", TENSORRT: "jetson-orin-nano"}
        runtime, _, version = kind.partition(" ")
        target = find_target(targets[runtime])
        record = calibrate(model, [noise], target.quantization, blocks.float_layers(model), "minmax", "0" * 64)
        return form(quantized_graph(model, record, EDGE, EDGE), runtime, version)

    return made


@pytest.mark.parametrize("kind", ["float", X86, OPENVINO, BOARDS[0]])
def test_every_layer_makes_what_the_graph_makes_there(kind: str, graphs: Callable[[str], onnx.ModelProto]) -> None:
    model = graphs(kind)
    layers = Layers(model)
    image = np.random.default_rng(1).random((1, 3, EDGE, EDGE), np.float32)
    shown = onnx.ModelProto.FromString(model.SerializeToString())
    names = {name for layer in (*layers.convolutions, *layers.joints) for name in (*layer.inputs, *layer.outputs)}
    del shown.graph.output[:]
    shown.graph.output.extend(onnx.helper.make_empty_tensor_value_info(name) for name in sorted(names - {"images"}))
    known = {"images": image, **open_unoptimised(shown.SerializeToString())({"images": image})}
    for layer in (*layers.convolutions, *layers.joints):
        for name, value in _run(layers.cut(layer), layer, known).items():
            np.testing.assert_array_equal(value, known[name], err_msg=f"{layer.name}: {name}")


@pytest.mark.parametrize("kind", ["float", X86, OPENVINO, *BOARDS])
def test_every_node_is_in_one_layer_but_for_shared_integers(
    kind: str, graphs: Callable[[str], onnx.ModelProto]
) -> None:
    model = graphs(kind)
    layers = Layers(model)
    nodes = [node for layer in (*layers.convolutions, *layers.joints) for node in layer.nodes]
    held = {node.output[0] for node in nodes}
    once = [node.output[0] for node in nodes if node.op_type != "DequantizeLinear"]
    assert len(once) == len(set(once))
    constant = {i.name for i in model.graph.initializer}
    for node in model.graph.node:
        if node.output[0] not in held:
            assert set(node.input) <= constant, f"{node.name} computes and is in no layer"
            constant.update(node.output)


@pytest.mark.parametrize("kind", ["float", X86, OPENVINO, *BOARDS])
def test_a_layer_at_any_width(kind: str, graphs: Callable[[str], onnx.ModelProto]) -> None:
    layers = Layers(graphs(kind))
    for layer in layers.convolutions[:12]:
        made = layers.at(layer, 24, 40)
        onnx.checker.check_model(made, full_check=True)
        node = next(n for n in made.graph.node if n.op_type == "Conv")
        infer = open_unoptimised(made.SerializeToString())
        (value,) = made.graph.input
        shape = tuple(d.dim_value for d in value.type.tensor_type.shape.dim)
        assert shape[1] == 24
        zeros = np.zeros(shape, onnx.helper.tensor_dtype_to_np_dtype(value.type.tensor_type.elem_type))
        assert {out.shape[1] for out in infer({value.name: zeros}).values()} == {40}, node.name


def test_a_layer_at_its_own_width_is_the_layer(graphs: Callable[[str], onnx.ModelProto]) -> None:
    layers = Layers(graphs(X86))
    layer = layers.convolutions[5]
    node = layer.convolution
    assert node is not None
    widths = layers.shapes[node.input[0]][1], layers.shapes[node.output[0]][1]
    same, cut = layers.at(layer, *widths), layers.cut(layer)
    for a, b in zip(same.graph.initializer, cut.graph.initializer, strict=True):
        np.testing.assert_array_equal(numpy_helper.to_array(a), numpy_helper.to_array(b))


@pytest.mark.parametrize("kind", BOARDS)
def test_with_floats_around_it_a_layer_makes_what_it_made(kind: str, graphs: Callable[[str], onnx.ModelProto]) -> None:
    """Whatever it is fed: integers that stand for the same numbers, rounded alike. (ONNX Runtime computes FP16 in FP32,
    and rounds it where it likes: some of the typed form's numbers fall to the other side.)"""
    shifted = 0.02 if kind == BOARDS[1] else 0.0
    layers, generator = Layers(graphs(kind)), np.random.default_rng(2)
    for layer in (*layers.convolutions[:8], *layers.joints[:4]):
        cut = layers.cut(layer)
        alone = with_floats(cut)
        onnx.checker.check_model(alone, full_check=True)
        values = [*alone.graph.input, *alone.graph.output]
        assert {v.type.tensor_type.elem_type for v in values} == {onnx.TensorProto.FLOAT}
        given, floats = {}, {}
        for value, outside in zip(cut.graph.input, alone.graph.input, strict=True):
            shape = [d.dim_value for d in value.type.tensor_type.shape.dim]
            kind_of = onnx.helper.tensor_dtype_to_np_dtype(value.type.tensor_type.elem_type)
            if kind_of == np.int8:
                given[value.name] = generator.integers(-128, 128, shape, np.int8)
                reader = next(node for node in cut.graph.node if value.name in node.input)
                floats[outside.name] = given[value.name].astype(np.float32) * _scale(cut, reader)
            else:
                given[value.name] = generator.random(shape, np.float32).astype(kind_of)
                floats[outside.name] = given[value.name].astype(np.float32)
        made = open_unoptimised(cut.SerializeToString())(given)
        found = open_unoptimised(alone.SerializeToString())(floats)
        for value, outside in zip(cut.graph.output, alone.graph.output, strict=True):
            expected = made[value.name]
            if expected.dtype == np.int8:
                maker = next(node for node in cut.graph.node if value.name in node.output)
                expected = expected.astype(np.float32) * _scale(cut, maker)
            off = ~np.isclose(found[outside.name], expected, rtol=2e-3, atol=1e-6)
            assert off.mean() <= shifted, f"{layer.name}: {value.name}"


@needs_builder
def test_nvidias_builder_computes_a_quantized_layer_alone_in_int8(graphs: Callable[[str], onnx.ModelProto]) -> None:
    layers = Layers(graphs("tensorrt 11"))
    whole = [layer for layer in layers.convolutions if layers.quantized(layer)]
    for layer, inputs, outputs in ((whole[0], 32, 64), (whole[3], 64, 32), (whole[-1], 64, 96)):
        report = inspect(with_floats(layers.at(layer, inputs, outputs)))
        assert [(c.expected, c.found) for c in report.convolutions] == [("int8", "int8")], layer.name


def _scale(model: onnx.ModelProto, quantizer: onnx.NodeProto) -> np.ndarray:
    return next(
        numpy_helper.to_array(i).astype(np.float32) for i in model.graph.initializer if i.name == quantizer.input[1]
    )


def _run(model: onnx.ModelProto, layer: Layer, known: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """A layer's outputs; where it wants integers of what is known in float, they are what the float stands for."""
    given = {}
    constants = {i.name: numpy_helper.to_array(i) for i in model.graph.initializer}
    for value, name in zip(model.graph.input, layer.inputs, strict=True):
        tensor = known[name]
        if value.name != name:
            scale, zero = (constants[n] for n in model.graph.node[0].input[1:])
            tensor = (np.rint(tensor / scale) + zero).astype(zero.dtype)
        given[value.name] = tensor
    return open_unoptimised(model.SerializeToString())(given)
