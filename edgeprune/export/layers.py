"""A graph taken apart into its layers, each a small graph of its own, at any width.

Words:
- A *convolution layer* is a convolution with what runs on its result alone: activation function, bias, Q/DQ. It begins
  where its input is ready (in an INT8 graph: as integers) and ends where the next one could begin.
- A *joint* is what is left between convolution layers, as far as it hangs together: the split and the concat of a
  block, pooling, resizing, attention. The last of them is the head's decode.

Rules:
- Layers are cut out of the graph that the runtime will load (forms.py), so that each has the operators, the Q/DQ and
  the order that it will have there.
- Every node that computes belongs to one layer, but for DQs that several read; constants and what only prepares weights
  go where they are read.
- A convolution layer can be made at any width (`at`): channels beyond what there is are repeated. A joint has the
  widths of the graph that it was cut from.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper, shape_inference

from edgeprune.export.view import CONVOLUTIONS, View, attribute

#: What may run on a convolution's result within its layer.
_FOLLOW = frozenset(
    {
        "QuantizeLinear", "DequantizeLinear", "Sigmoid", "Mul", "Relu", "Clip", "HardSwish", "HardSigmoid", "LeakyRelu",
        "Elu", "Tanh", "Mish", "Softplus",
    }
)  # fmt: skip
#: Outputs of a convolution that is no layer: how the expected value of a distribution is written.
_NARROW = 1


@dataclass(frozen=True)
class Layer:
    """Nodes of a graph that are timed together.

    Attributes:
        name: The convolution's module, or the first node of a joint.
        nodes: In execution order, with what prepares their weights.
        inputs, outputs: Tensors that come in from other layers and go out to them.
        convolution: The convolution node; None for a joint.
    """

    name: str
    nodes: tuple[onnx.NodeProto, ...]
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    convolution: onnx.NodeProto | None = None


class Layers:
    """A graph's layers.

    Attributes:
        convolutions, joints: In execution order.
        shapes: Tensor -> its static shape.
    """

    def __init__(self, model: onnx.ModelProto) -> None:
        self._model = shape_inference.infer_shapes(model, data_prop=True)
        self._view = View(self._model)
        graph = self._model.graph
        values = [*graph.input, *graph.output, *graph.value_info]
        self._types = {v.name: v.type.tensor_type.elem_type for v in values}
        self.shapes = {v.name: tuple(d.dim_value for d in v.type.tensor_type.shape.dim) for v in values}
        self._outputs = {o.name for o in graph.output}
        self._constant = {i.name for i in graph.initializer}
        for node in self._view.nodes:  # what computes on constants alone is one
            if all(name in self._constant for name in node.input if name):
                self._constant.update(node.output)
        self._initializers = {i.name: i for i in graph.initializer}
        taken: dict[str, onnx.NodeProto] = {}
        self._led: set[str] = set()  # what DQs make that convolution layers begin with, each with one of its own
        self.convolutions = tuple(self._convolution(node, taken) for node in self._view.nodes if self._is_layer(node))
        self.joints = tuple(self._joints(taken))

    def _computes(self, node: onnx.NodeProto) -> bool:
        return node.output[0] not in self._constant

    def _is_layer(self, node: onnx.NodeProto) -> bool:
        if node.op_type not in CONVOLUTIONS:
            return False
        weight = self._weight(node)
        return weight is not None and weight.shape[0] > _NARROW

    def _weight(self, node: onnx.NodeProto) -> np.ndarray | None:
        """A convolution's weight as it is stored, before its DQ."""
        name = node.input[1]
        while name not in self._initializers:
            maker = self._view.made_by.get(name)
            if maker is None:
                return None
            name = maker.input[0]
        return numpy_helper.to_array(self._initializers[name])

    def _convolution(self, node: onnx.NodeProto, taken: dict[str, onnx.NodeProto]) -> Layer:
        own = {id(node): node}
        before = self._view.made_by.get(node.input[0])
        if before is not None and before.op_type == "DequantizeLinear" and self._computes(before):
            own[id(before)] = before
            self._led.add(before.output[0])
        made = set(node.output)
        waiting = [node]
        while waiting:
            for after in self._view.readers.get(waiting.pop().output[0], ()):
                fed = [name for name in after.input if name and name not in self._constant]
                shape_kept = after.op_type in _FOLLOW or (after.op_type == "Add" and len(fed) == 1)
                if id(after) in own or not shape_kept or not set(fed) <= made or not self._keeps_on(after):
                    continue
                own[id(after)] = after
                made.update(after.output)
                waiting.append(after)
        nodes = [n for n in self._view.nodes if id(n) in own]
        return self._layer(_module(node), nodes, taken, node)

    def _keeps_on(self, node: onnx.NodeProto) -> bool:
        """A DQ behind the layer's last Q belongs to whoever reads it, unless the layer itself goes on with it."""
        if node.op_type != "DequantizeLinear":
            return True
        return any(
            after.op_type in _FOLLOW and after.op_type not in {"QuantizeLinear", "DequantizeLinear"}
            for after in self._view.readers.get(node.output[0], ())
        )

    def _joints(self, taken: Mapping[str, onnx.NodeProto]) -> Iterable[Layer]:
        left = [n for n in self._view.nodes if n.output[0] not in taken and self._computes(n)]
        group = {n.output[0]: index for index, n in enumerate(left)}

        def root(index: int) -> int:
            while parent[index] != index:
                index = parent[index]
            return index

        parent = list(range(len(left)))
        for index, node in enumerate(left):
            for name in node.input:
                maker = self._view.made_by.get(name)
                if maker is not None and maker.output[0] in group:
                    a, b = sorted((root(group[maker.output[0]]), root(index)))
                    parent[b] = a
        for first in sorted({root(index) for index in range(len(left))}):
            nodes = [node for index, node in enumerate(left) if root(index) == first]
            yield self._layer(nodes[0].name or nodes[0].output[0], nodes, {}, None)

    def _layer(
        self, name: str, nodes: Sequence[onnx.NodeProto], taken: dict[str, onnx.NodeProto],
        convolution: onnx.NodeProto | None,
    ) -> Layer:  # fmt: skip
        made = {output for node in nodes for output in node.output}
        inputs = dict.fromkeys(
            n for node in nodes for n in node.input if n and n not in made and n not in self._constant
        )
        own_led = made & self._led if convolution is not None else set()
        outputs = dict.fromkeys(
            o
            for node in nodes
            for o in node.output
            if o not in own_led and (o in self._outputs or self._leaves(o, made))
        )
        taken.update(
            (n.output[0], n) for n in nodes if n.output[0] not in own_led or not self._leaves(n.output[0], made)
        )
        return Layer(name, tuple(nodes), tuple(inputs), tuple(outputs), convolution)

    def _leaves(self, tensor: str, made: set[str]) -> bool:
        """Whether a tensor is read outside of what makes it; convolutions have their own DQs."""
        readers = self._view.readers.get(tensor, ())
        own = tensor in self._led
        return any(r.output[0] not in made and not (own and r.op_type in CONVOLUTIONS) for r in readers)

    def cut(self, layer: Layer) -> onnx.ModelProto:
        """A layer as a model, at the widths of this graph."""
        constants: dict[str, TensorProto] = {}
        waiting = [name for node in layer.nodes for name in node.input if name in self._constant]
        before: dict[str, onnx.NodeProto] = {}
        while waiting:
            name = waiting.pop()
            if name in self._initializers:
                constants[name] = self._initializers[name]
            elif name not in before:
                maker = self._view.made_by[name]
                before[name] = maker
                waiting.extend(maker.input)
        prepared = {id(n) for n in before.values()}
        first = self._integers(layer, constants)
        ordered = [*first, *(n for n in self._view.nodes if id(n) in prepared), *layer.nodes]
        renamed = {n.output[0]: n.input[0] for n in first}

        def value(name: str) -> onnx.ValueInfoProto:
            kind = self._types[name]
            if name in renamed:
                kind = constants[first[0].input[2]].data_type if len(first[0].input) > 2 else TensorProto.INT8
            return helper.make_tensor_value_info(renamed.get(name, name), kind, self.shapes[name])

        graph = helper.make_graph(
            ordered, layer.name, [value(n) for n in layer.inputs], [value(n) for n in layer.outputs],
            list(constants.values()),
        )  # fmt: skip
        return helper.make_model(graph, opset_imports=list(self._model.opset_import), ir_version=self._model.ir_version)

    def joint(self, name: str) -> Layer:
        """A joint by its name."""
        return next(joint for joint in self.joints if joint.name == name)

    def depthwise(self, layer: Layer) -> bool:
        """Whether a convolution layer convolves each input channel alone."""
        node = layer.convolution
        assert node is not None
        return attribute(node, "group", 1) == self.shapes[node.input[0]][1] > 1

    def quantized(self, layer: Layer) -> bool:
        """Whether a convolution layer computes in integers."""
        return layer.convolution is not None and self._view.has_int8_weights(layer.convolution)

    def _integers(self, layer: Layer, constants: dict[str, TensorProto]) -> list[onnx.NodeProto]:
        """The DQ that a convolution layer begins with where its INT8 input comes through a joint (which moves it as it
        is); nothing otherwise."""
        node = layer.convolution
        if node is None or not self._view.has_int8_weights(node) or node.input[0] not in layer.inputs:
            return []
        arriving = self._view.arriving(node.input[0])
        if not arriving:
            return []
        _, *affine = arriving[0].input
        constants.update({n: self._initializers[n] for n in affine})
        made = f"{node.input[0]}/integers"
        return [helper.make_node("DequantizeLinear", [made, *affine], [node.input[0]], name=f"{node.name}/DQ")]

    def at(self, layer: Layer, inputs: int, outputs: int) -> onnx.ModelProto:
        """A convolution layer as a model that reads and makes other numbers of channels."""
        model, node = self.cut(layer), layer.convolution
        assert node is not None
        weight = self._weight(node)
        assert weight is not None
        whole = self.shapes[node.output[0]][1]
        depthwise = self.depthwise(layer)
        graph = model.graph
        for tensor in graph.initializer:
            values = numpy_helper.to_array(tensor)
            if values.shape == weight.shape:
                values = _resized(values, 0, outputs)
                values = values if depthwise else _resized(values, 1, inputs)
            elif values.ndim == 1 and len(values) == whole:
                values = _resized(values, 0, outputs)
            elif values.ndim == 4 and values.shape[1] == whole:
                values = _resized(values, 1, outputs)
            else:
                continue
            tensor.CopyFrom(numpy_helper.from_array(np.ascontiguousarray(values), tensor.name))
        for side, channels in ((graph.input, inputs), (graph.output, outputs)):
            for value in side:
                value.type.tensor_type.shape.dim[1].dim_value = channels
        if depthwise:
            made = next(n for n in graph.node if n.output[0] == node.output[0])
            next(a for a in made.attribute if a.name == "group").i = inputs
        return model


def with_floats(model: onnx.ModelProto) -> onnx.ModelProto:
    """The same graph with float32 inputs and outputs, which is what engines of TensorRT have here: int8 ones go through
    a Q or a DQ with the scale that they have in the graph, FP16 ones through a Cast.

    Args:
        model: A layer that was cut out; not changed.
    """
    made = onnx.ModelProto.FromString(model.SerializeToString())
    graph, view = made.graph, View(made)
    scales = {i.name: i.data_type for i in graph.initializer}
    before: list[onnx.NodeProto] = []
    after: list[onnx.NodeProto] = []

    def cast(given: str, to: str, kind: int) -> onnx.NodeProto:
        return helper.make_node("Cast", [given], [to], name=f"{to}/Cast", to=kind)

    for value in graph.input:
        name, kind = value.name, value.type.tensor_type.elem_type
        if kind == TensorProto.INT8:
            affine = view.readers[name][0].input[1:]
            kind = scales[affine[0]]
            before.append(helper.make_node("QuantizeLinear", [f"{name}/real", *affine], [name], name=f"{name}/Q"))
            name = f"{name}/real"
        if kind == TensorProto.FLOAT16:
            before.insert(0, cast(f"{name}/alone", name, kind))
            name = f"{name}/alone"
        value.name, value.type.tensor_type.elem_type = name, TensorProto.FLOAT
    for value in graph.output:
        name, kind = value.name, value.type.tensor_type.elem_type
        if kind == TensorProto.INT8:
            affine = view.made_by[name].input[1:]
            kind = scales[affine[0]]
            after.append(helper.make_node("DequantizeLinear", [name, *affine], [f"{name}/real"], name=f"{name}/DQ"))
            name = f"{name}/real"
        if kind == TensorProto.FLOAT16:
            after.append(cast(name, f"{name}/alone", TensorProto.FLOAT))
            name = f"{name}/alone"
        value.name, value.type.tensor_type.elem_type = name, TensorProto.FLOAT
    nodes = [*before, *view.nodes, *after]
    copies = [onnx.NodeProto.FromString(node.SerializeToString()) for node in nodes]
    del graph.node[:]
    graph.node.extend(copies)
    return made


def _module(node: onnx.NodeProto) -> str:
    """The module that a convolution was: its weight bears the module's name, whatever its form put behind it."""
    return node.input[1].rpartition(".weight")[0] or node.input[1]


def _resized(values: np.ndarray, axis: int, size: int) -> np.ndarray:
    """The first `size` entries along an axis, from the beginning again where there are fewer."""
    return np.take(values, np.arange(size) % values.shape[axis], axis)
