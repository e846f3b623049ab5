"""The one quantized graph: a checkpoint and its scales as ONNX with QuantizeLinear and DequantizeLinear.

Rules:
- Activations: int8, per tensor, a Q/DQ pair where the tensor is made, for all that read it.
- Weights: FP32 -> QuantizeLinear -> DequantizeLinear, per output channel (axis 0), zero point 0; bias FP32. FP32
  weights stay in this file, so that a layer can go back to float (`as_float`) and every form be made from it.
- A checkpoint that is quantized already is refused where it is opened (yolo/load.py), a graph that isn't this one
  where forms are made.

The forms that runtimes load are in forms.py; TensorRT's in tensorrt.py.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import onnxslim
from onnx import helper, numpy_helper
from torch import nn

from edgeprune.errors import ExportError
from edgeprune.export.onnx import describe, metadata
from edgeprune.quant.fake import SCALES, attach
from edgeprune.quant.fold import fold
from edgeprune.records.files import write_bytes
from edgeprune.records.quantization import Quantization
from edgeprune.yolo.export import fused, trace_onnx
from edgeprune.yolo.load import load_detector


def export_qdq(
    checkpoint: Path, record: Quantization, destination: Path, height: int, width: int, lineage: Mapping[str, str],
    like: Path,
) -> None:  # fmt: skip
    """Write the quantized graph.

    Args:
        checkpoint: A stock checkpoint; its BatchNorm is folded here.
        record: What is quantized in it, and how.
        destination: The .onnx to write.
        height, width: Of the static input in pixels.
        lineage: Hashes and versions for the metadata.
        like: The float ONNX of the same checkpoint, whose metadata (class names, stride) is taken over.

    Raises:
        ExportError: The model can't be exported.
    """
    graph = quantized_graph(load_detector(checkpoint).model, record, height, width)
    describe(graph, metadata(like), lineage)
    onnx.checker.check_model(graph)
    write_bytes(destination, graph.SerializeToString(deterministic=True))


def quantized_graph(model: nn.Module, record: Quantization, height: int, width: int) -> onnx.ModelProto:
    """The quantized graph of a detector, without metadata.

    Args:
        model: With BatchNorm, as `record` belongs to it; not changed.
        record: What is quantized in it, and how.
        height, width: Of the static input in pixels.

    Raises:
        ExportError: The model can't be exported.
        ModelError: The record belongs to another model.
    """
    plain = fused(model)
    record = fold(model, plain, record)
    traced = onnx.load_from_string(trace_onnx(attach(plain, record, exporting=True), height, width))
    _name_pairs(traced, getattr(plain, SCALES).exported)
    return quantize_weights(onnxslim.slim(traced), record)


def float_graph(model: nn.Module, height: int, width: int) -> onnx.ModelProto:
    """The float graph of a detector, without metadata. Arguments and errors as `quantized_graph`."""
    return onnxslim.slim(onnx.load_from_string(trace_onnx(fused(model), height, width)))


def _name_pairs(model: onnx.ModelProto, points: Sequence[str]) -> None:
    """Name every Q/DQ pair after its tensor: '<tensor>/Q', '<tensor>/DQ', '<tensor>/dequantized'. Mutates.

    Args:
        model: As traced: its pairs stand in the order in which the pass made them.
        points: The tensors in that order.
    """
    graph = Graph(model)
    renamed: dict[str, str] = {}
    for point, (q, dq) in zip(points, graph.pairs(), strict=True):
        q.name, dq.name = f"{point}/Q", f"{point}/DQ"
        renamed |= {q.output[0]: f"{point}/quantized", dq.output[0]: f"{point}/dequantized"}
    for node in graph.nodes:
        for names in (node.input, node.output):
            for index, name in enumerate(names):
                names[index] = renamed.get(name, name)
    graph.write()


def quantize_weights(model: onnx.ModelProto, record: Quantization) -> onnx.ModelProto:
    """Put Q/DQ between the weights and their convolutions. Mutates and returns the model.

    Args:
        model: With activations quantized; its weights are initializers named '<convolution>.weight'.

    Raises:
        ExportError: A convolution of the record isn't in the graph.
    """
    graph = Graph(model)
    nodes, missing = [], set(record.weights)
    for node in graph.nodes:
        name = node.input[1].removesuffix(".weight") if node.op_type == "Conv" else ""
        if name in record.weights:
            missing.discard(name)
            scale = np.array(record.weights[name], np.float32)
            graph.put(f"{name}.weight_scale", scale)
            graph.put(f"{name}.weight_zero_point", np.zeros(len(scale), np.int8))
            pair = [f"{name}.weight_scale", f"{name}.weight_zero_point"]
            q, dq = f"{name}.weight_quantized", f"{name}.weight_dequantized"
            nodes += [
                helper.make_node("QuantizeLinear", [f"{name}.weight", *pair], [q], name=f"{name}.weight/Q", axis=0),
                helper.make_node("DequantizeLinear", [q, *pair], [dq], name=f"{name}.weight/DQ", axis=0),
            ]
            node.input[1] = dq
        nodes.append(node)
    if missing:
        raise ExportError("A quantized convolution isn't in the exported graph.", where=min(missing))
    graph.nodes = nodes
    graph.write()
    return model


def as_float(model: onnx.ModelProto, convolutions: Collection[str]) -> onnx.ModelProto:
    """A copy in which these convolutions compute in float again: FP32 weights, and no tensor quantized that no
    quantized convolution reads or makes any more."""
    copy = onnx.ModelProto.FromString(model.SerializeToString())
    graph = Graph(copy)
    for node in graph.nodes:
        if node.op_type == "Conv" and node.input[1].removesuffix(".weight_dequantized") in convolutions:
            node.input[1] = node.input[1].removesuffix("_dequantized")
    wanted = _Wanted(graph)
    bypass = {
        dq.output[0]: q.input[0]
        for q, dq in graph.pairs()
        if not wanted.read(dq.output[0]) and not wanted.made(q.input[0])
    }
    for node in graph.nodes:
        for index, name in enumerate(node.input):
            node.input[index] = bypass.get(name, name)
    graph.write()
    return copy


class Graph:
    """A model's graph while it is rewritten.

    Attributes:
        nodes: In execution order.
    """

    def __init__(self, model: onnx.ModelProto) -> None:
        self._model = model
        self.nodes = list(model.graph.node)
        self._initializers = {i.name: i for i in model.graph.initializer}

    def made_by(self) -> dict[str, onnx.NodeProto]:
        """Tensor -> the node that makes it."""
        return {output: node for node in self.nodes for output in node.output}

    def values(self, name: str) -> npt.NDArray[Any]:
        """An initializer's values."""
        return numpy_helper.to_array(self._initializers[name])

    def number(self, pair: tuple[str, str] | None) -> tuple[float, int] | None:
        """Scale and zero point, of their initializers."""
        return (float(self.values(pair[0])), int(self.values(pair[1]))) if pair else None

    def put(self, name: str, values: npt.NDArray[Any]) -> None:
        """Add or replace an initializer."""
        self._initializers[name] = numpy_helper.from_array(values, name)

    def remove(self, node: str) -> None:
        """Take a node out by its name."""
        self.nodes = [n for n in self.nodes if n.name != node]

    def pairs(self) -> Iterator[tuple[onnx.NodeProto, onnx.NodeProto]]:
        """The Q and DQ of every quantized activation, in execution order."""
        made_by = self.made_by()
        for node in self.nodes:
            maker = made_by.get(node.input[0]) if node.op_type == "DequantizeLinear" else None
            if maker is not None and maker.input[0] not in self._initializers:
                yield maker, node

    def quantized_convolutions(self) -> list[str]:
        """Names of the convolutions whose weights are quantized, in execution order."""
        return [
            node.input[1].removesuffix(".weight_dequantized")
            for node in self.nodes
            if node.op_type == "Conv" and node.input[1].endswith(".weight_dequantized")
        ]

    def is_whole(self) -> bool:
        """Whether it is the one quantized graph, not a form of it: FP32 weights stand before their Q/DQ."""
        names = self.quantized_convolutions()
        return bool(names) and all(f"{name}.weight" in self._initializers for name in names)

    def write(self) -> None:
        """Put nodes and initializers back, without what nothing reads."""
        outputs = {o.name for o in self._model.graph.output}
        read: set[str] = set(outputs)
        kept = []
        for node in reversed(self.nodes):
            if read & set(node.output):
                kept.append(node)
                read.update(node.input)
        del self._model.graph.value_info[:]  # what it says of types may no longer hold
        del self._model.graph.node[:]
        self._model.graph.node.extend(reversed(kept))
        del self._model.graph.initializer[:]
        self._model.graph.initializer.extend(i for name, i in self._initializers.items() if name in read)


class _Wanted:
    """Whether a quantized convolution still wants a tensor to be quantized."""

    _MOVES = frozenset({"Concat", "Split", "MaxPool", "Resize", "Slice", "Reshape", "Transpose", "Pad"})

    def __init__(self, graph: Graph) -> None:
        self._makers = graph.made_by()
        self._readers: dict[str, list[onnx.NodeProto]] = {}
        for node in graph.nodes:
            for name in node.input:
                self._readers.setdefault(name, []).append(node)

    def read(self, tensor: str) -> bool:
        """By a quantized convolution, directly or through what only moves values."""
        return any(
            self._quantized(node) or (node.op_type in self._MOVES and any(self.read(o) for o in node.output))
            for node in self._readers.get(tensor, ())
        )

    def made(self, tensor: str) -> bool:
        """By a quantized convolution, or by a gate on its result."""
        maker = self._makers.get(tensor)
        if maker is not None and maker.op_type in {"Sigmoid", "DequantizeLinear", "QuantizeLinear"}:
            return self.made(maker.input[0])
        return maker is not None and self._quantized(maker)

    @staticmethod
    def _quantized(node: onnx.NodeProto) -> bool:
        return node.op_type == "Conv" and node.input[1].endswith(".weight_dequantized")
