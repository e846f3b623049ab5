"""Which small engines a model's latency table is made of.

Rules:
- Convolution layers that are alike but for their widths (kernel, stride, picture, what follows, number formats) share
  one grid: inputs x outputs, as far as the widest of them goes.
- A grid's widths divide by the channel multiple and grow by a quarter at least; between them a table is read linearly.
  Widths between two multiples are measured too, along the widest of each side: what an odd width costs is seen.
- A joint is measured in the whole model and in models that are cut evenly, and read by how many elements go in and out.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import product
from math import prod

import onnx

from edgeprune.errors import ModelError
from edgeprune.export.layers import Layer, Layers
from edgeprune.export.view import attribute
from edgeprune.graph.channels import ChannelGraph

#: Widths of a grid are at least this factor apart.
STEP = 1.25
#: Widths between two multiples are measured up to this many multiples.
ODD_UP_TO = 4
_ACTIVATIONS = {"Relu": "ReLU", "Clip": "ReLU6", "HardSwish": "Hardswish", "HardSigmoid": "Hardswish"}


@dataclass(frozen=True)
class Kind:
    """Convolution layers that share a grid, or one joint.

    Attributes:
        what: In words.
        names: Modules of the model; the first node of a joint.
        layer: The widest, which the others are made of.
        rows, columns: Of convolutions, see LayerTimes.
        beside: Inputs and outputs of small engines that aren't on the grid.
        reads, feeds, fixed: Of a joint, see LayerTimes.
    """

    what: str
    names: tuple[str, ...]
    layer: Layer
    rows: tuple[int, ...] = ()
    columns: tuple[int, ...] = ()
    beside: tuple[tuple[int, int], ...] = ()
    reads: dict[str, int] = field(default_factory=dict)
    feeds: dict[str, int] = field(default_factory=dict)
    fixed: int = 0

    @property
    def points(self) -> tuple[tuple[int, int], ...]:
        """Inputs and outputs of every small engine of a convolution."""
        on_grid = product(self.rows, self.columns) if self.rows else ((width, width) for width in self.columns)
        return (*on_grid, *self.beside)


def kinds(layers: Layers, graph: ChannelGraph, multiple: int) -> list[Kind]:
    """Everything that a model's table needs.

    Args:
        layers: Of the whole model's graph.
        graph: Its channel graph.
        multiple: The channel multiple.

    Raises:
        ModelError: A convolution of the file that no module of the model is.
    """
    alike: dict[str, list[Layer]] = {}
    for layer in layers.convolutions:
        alike.setdefault(_what(layers, layer), []).append(layer)
    return [
        *(_convolutions(layers, graph, what, same, multiple) for what, same in alike.items()),
        *(_joint(layers, graph, joint) for joint in layers.joints),
    ]


def elements(layers: Layers, joint: Layer) -> tuple[int, int]:
    """How many go into a joint and come out, at the widths of `layers`."""
    going_in, coming_out = (sum(prod(layers.shapes[t]) for t in side) for side in (joint.inputs, joint.outputs))
    return going_in, coming_out


def empty_engine(input_shape: Sequence[int]) -> onnx.ModelProto:
    """A graph that reads an image and makes three numbers of it."""
    helper = onnx.helper
    node = helper.make_node("GlobalAveragePool", ["images"], ["means"])
    value = lambda name, shape: helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, shape)  # noqa: E731
    graph = helper.make_graph(
        [node], "empty", [value("images", list(input_shape))], [value("means", [*input_shape[:2], 1, 1])]
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)


def module_of(convolution: str, graph: ChannelGraph) -> str:
    """The layer of the channel graph that a convolution of the exported graph is. Where the export has merged the
    branches of a block into one, it is the first of them.

    Raises:
        ModelError: There is none.
    """
    if convolution in graph.layers:
        return convolution
    block = convolution.rsplit(".", 1)[0] + "."
    for name, layer in graph.layers.items():
        if name.startswith(block) and layer.kind in {"conv", "conv_transpose"}:
            return name
    raise ModelError("A convolution of the exported graph is none of the model's.", where=convolution)


def _channels(layers: Layers, layer: Layer) -> tuple[int, int]:
    node = layer.convolution
    assert node is not None
    return layers.shapes[node.input[0]][1], layers.shapes[node.output[0]][1]


def _convolutions(layers: Layers, graph: ChannelGraph, what: str, same: Sequence[Layer], multiple: int) -> Kind:
    sizes = [_channels(layers, layer) for layer in same]
    inputs, outputs = ({pair[side] for pair in sizes} for side in (0, 1))
    widest = same[max(range(len(same)), key=lambda index: prod(sizes[index]))]
    names = tuple(module_of(layer.name, graph) for layer in same)
    columns = _axis(outputs, multiple)
    if layers.depthwise(same[0]):
        return Kind(what, names, widest, (), columns, tuple((odd, odd) for odd in _odd(outputs, multiple)))
    rows = _axis(inputs, multiple)
    beside = [*((odd, columns[-1]) for odd in _odd(inputs, multiple))]
    beside += [(rows[-1], odd) for odd in _odd(outputs, multiple)]
    return Kind(what, names, widest, rows, columns, tuple(beside))


def _joint(layers: Layers, graph: ChannelGraph, joint: Layer) -> Kind:
    makes = {tensor: layer for layer in layers.convolutions for tensor in layer.outputs}
    readers = {tensor: layer for layer in layers.convolutions for tensor in layer.inputs}
    reads: dict[str, int] = {}
    feeds: dict[str, int] = {}
    channels = 0
    for tensors, of, into in ((joint.inputs, makes, reads), (joint.outputs, readers, feeds)):
        for tensor in tensors:
            if tensor in of:
                shape = layers.shapes[tensor]
                _add(into, module_of(of[tensor].name, graph), prod(shape) // shape[1])
                channels += prod(shape)
    fixed = sum(elements(layers, joint)) - channels
    return Kind(_joint_words(joint), (joint.name,), joint, reads=reads, feeds=feeds, fixed=fixed)


def _axis(sizes: set[int], multiple: int) -> tuple[int, ...]:
    """Widths of one side of a grid, ascending; a side that no multiple fits below (image, classes) is what it is."""
    widest = max(sizes)
    if widest < 2 * multiple:
        return tuple(sorted(sizes | ({multiple} if widest > multiple else set())))
    found = [multiple]
    for width in range(multiple, widest + 1, multiple):
        if width >= STEP * found[-1]:
            found.append(width)
    return tuple(found) if found[-1] == widest else (*(w for w in found if STEP * w <= widest), widest)


def _odd(sizes: set[int], multiple: int) -> list[int]:
    half = multiple // 2
    if half < 2 or max(sizes) < 2 * multiple:
        return []
    return list(range(half, min(ODD_UP_TO * multiple, max(sizes)), multiple))


def _add(into: dict[str, int], name: str, count: int) -> None:
    into[name] = into.get(name, 0) + count


def _what(layers: Layers, layer: Layer) -> str:
    node = layer.convolution
    assert node is not None
    kernel, strides = attribute(node, "kernel_shape"), attribute(node, "strides", [1, 1])
    operators = [n.op_type for n in layer.nodes]
    words = ["depthwise" if layers.depthwise(layer) else "conv", "x".join(map(str, kernel))]
    words += [f"stride {strides[0]}"] if strides[0] > 1 else []
    words += ["transposed"] if node.op_type == "ConvTranspose" else []
    if {"Sigmoid", "Mul"} <= set(operators):
        words.append("SiLU")
    words += dict.fromkeys(_ACTIVATIONS[o] for o in operators if o in _ACTIVATIONS)
    words += [o for o in dict.fromkeys(operators) if o in {"LeakyRelu", "Elu", "Tanh", "Mish", "Softplus"}]
    if layers.quantized(layer):
        words.append("INT8" if operators[-1] == "QuantizeLinear" else "INT8 to float")
    height, width = layers.shapes[node.input[0]][2:]
    return f"{' '.join(words)}, {height}x{width}"


def _joint_words(joint: Layer) -> str:
    counted: dict[str, int] = {}
    for node in joint.nodes:
        if node.op_type not in {"QuantizeLinear", "DequantizeLinear"}:
            _add(counted, node.op_type, 1)
    most = sorted(counted, key=lambda name: -counted[name])[:3]
    return f"{', '.join(most) or 'quantization'} at {joint.name}"
