"""A graph taken apart: each layer makes what the graph makes there, and can be made at any width."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from edgeprune.export.forms import form
from edgeprune.export.layers import Layer, Layers
from edgeprune.export.lint import OPENVINO, X86
from edgeprune.export.qdq import float_graph, quantized_graph
from edgeprune.job import find_target
from edgeprune.quant.calibrate import Image, calibrate
from edgeprune.runtime.session import open_unoptimised
from edgeprune.yolo import blocks
from edgeprune.yolo.load import load_detector

EDGE = 64


@pytest.fixture(scope="module")
def graphs(tiny: Path) -> Callable[[str], onnx.ModelProto]:
    model = load_detector(tiny).model
    noise = Image("noise", np.random.default_rng(0).random((1, 3, EDGE, EDGE), np.float32))

    def made(kind: str) -> onnx.ModelProto:
        if kind == "float":
            return float_graph(model, EDGE, EDGE)
        target = find_target({X86: "onnxruntime-x86-int8", OPENVINO: "openvino-x86-int8"}[kind])
        record = calibrate(model, [noise], target.quantization, blocks.float_layers(model), "minmax", "0" * 64)
        return form(quantized_graph(model, record, EDGE, EDGE), kind)

    return made


@pytest.mark.parametrize("kind", ["float", X86, OPENVINO])
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


@pytest.mark.parametrize("kind", ["float", X86, OPENVINO])
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


@pytest.mark.parametrize("kind", ["float", X86, OPENVINO])
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
