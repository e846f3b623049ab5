"""A look at an ONNX graph: who makes a tensor, who reads it, what is quantized, where the head begins. Changes nothing.

Words:
- A *quantizer* is a QuantizeLinear or DequantizeLinear node. It belongs to *weights* where what it quantizes is
  constant, otherwise to an *activation*.
- *Weighted* operators multiply an activation with weights: Conv, ConvTranspose, Gemm, MatMul.
- The *last convolutions* are those after which no other one follows; DFL, a Conv over a Softmax that has fixed
  weights and only sums up, doesn't count. What follows them is the *decode*: boxes and scores.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from google.protobuf.message import DecodeError
from onnx import numpy_helper

from edgeprune.errors import ExportError

CONVOLUTIONS = frozenset({"Conv", "ConvTranspose"})
WEIGHTED = CONVOLUTIONS | {"Gemm", "MatMul"}
#: Operators that INT8 goes through as it is. TensorRT moves Q/DQ through them, and not through Resize, however simple:
#: a convolution that reads DQ -> Resize ran in float (tried; likewise Concat of tensors with two scales).
MOVES = frozenset(
    {"Concat", "Split", "Slice", "MaxPool", "Reshape", "Transpose", "Squeeze", "Unsqueeze", "Flatten", "Identity"}
)


def read_model(file: Path) -> onnx.ModelProto:
    """Load an ONNX file.

    Raises:
        ExportError: The file can't be read, or isn't ONNX.
    """
    try:
        model = onnx.load(file)
        if not model.graph.node:
            raise ExportError("The file holds no ONNX graph.", where=file, expected="an .onnx with nodes in it")
        return model
    except (OSError, DecodeError) as error:
        raise ExportError(
            "The ONNX file can't be read.", where=file, expected="an .onnx file", got=str(error).splitlines()[0]
        ) from error


def label(node: onnx.NodeProto) -> str:
    """The node's name, or what it makes where it has none."""
    return node.name or f"{node.op_type} -> {node.output[0]}"


def attribute(node: onnx.NodeProto, name: str, default: Any = None) -> Any:
    """An attribute's value."""
    return next((onnx.helper.get_attribute_value(a) for a in node.attribute if a.name == name), default)


class View:
    """A model's main graph.

    Attributes:
        nodes: In execution order.
        made_by: Tensor -> the node that makes it.
        readers: Tensor -> the nodes that read it.
        opset: Version of ONNX's own operators.
    """

    def __init__(self, model: onnx.ModelProto) -> None:
        graph = model.graph
        self.model = model
        self.nodes = list(graph.node)
        self.opset = max((o.version for o in model.opset_import if o.domain in ("", "ai.onnx")), default=1)
        self.made_by = {output: node for node in self.nodes for output in node.output if output}
        self.readers: dict[str, list[onnx.NodeProto]] = {}
        for node in self.nodes:
            for name in node.input:
                self.readers.setdefault(name, []).append(node)
        self._constants = {i.name: i for i in graph.initializer}
        for node in self.nodes:
            if node.op_type == "Constant" and (value := attribute(node, "value")) is not None:
                self._constants[node.output[0]] = value

    def constant(self, name: str) -> npt.NDArray[Any] | None:
        """Values of an initializer or a Constant node; None for what is computed."""
        return numpy_helper.to_array(self._constants[name]) if name in self._constants else None

    def is_constant(self, name: str) -> bool:
        return name in self._constants

    # Quantizers

    def quantizers(self) -> Iterator[onnx.NodeProto]:
        """Every quantizer once: of a Q/DQ pair that share scale and zero point, the Q."""
        for node in self.nodes:
            if node.op_type == "QuantizeLinear":
                yield node
            elif node.op_type == "DequantizeLinear":
                q = self.quantizer_of(node)
                if q is None or list(q.input[1:]) != list(node.input[1:]):
                    yield node

    def quantizer_of(self, dq: onnx.NodeProto) -> onnx.NodeProto | None:
        """The Q that a DQ reads; None where it reads integers that were stored."""
        maker = self.made_by.get(dq.input[0])
        return maker if maker is not None and maker.op_type == "QuantizeLinear" else None

    def of_weights(self, quantizer: onnx.NodeProto) -> bool:
        """Whether this Q or DQ belongs to weights (or a bias)."""
        maker = self.quantizer_of(quantizer) if quantizer.op_type == "DequantizeLinear" else None
        return self.is_constant((maker or quantizer).input[0])

    def scale(self, quantizer: onnx.NodeProto) -> npt.NDArray[Any]:
        """Its scales; empty where they are computed."""
        values = self.constant(quantizer.input[1])
        return np.zeros(0, np.float32) if values is None else values

    def zero_point(self, quantizer: onnx.NodeProto) -> npt.NDArray[Any] | None:
        """Its zero points; None where there is no such input."""
        return self.constant(quantizer.input[2]) if len(quantizer.input) > 2 and quantizer.input[2] else None

    def integers(self, quantizer: onnx.NodeProto) -> str:
        """The type that it quantizes to or from, as numpy calls it: 'int8', 'uint8', 'int32', …"""
        zero_point = self.zero_point(quantizer)
        if zero_point is not None:
            return zero_point.dtype.name
        if quantizer.op_type == "DequantizeLinear":
            stored = self.constant(quantizer.input[0])
            maker = self.quantizer_of(quantizer)
            return stored.dtype.name if stored is not None else self.integers(maker) if maker else "unknown"
        wanted = attribute(quantizer, "output_dtype", 0)  # opset 21; without it and a zero point, ONNX says uint8
        return onnx.helper.tensor_dtype_to_np_dtype(wanted).name if wanted else "uint8"

    def dequantizer(self, tensor: str) -> onnx.NodeProto | None:
        """The DQ that makes a tensor; None where it isn't quantized."""
        maker = self.made_by.get(tensor)
        return maker if maker is not None and maker.op_type == "DequantizeLinear" else None

    def arriving(self, tensor: str) -> list[onnx.NodeProto]:
        """The DQs whose INT8 values reach a tensor, directly or through `MOVES`; empty where any come in float."""
        maker = self.made_by.get(tensor)
        if maker is None or maker.op_type == "DequantizeLinear":
            return [maker] if maker is not None else []
        if maker.op_type not in MOVES:
            return []
        each = [self.arriving(name) for name in (maker.input if maker.op_type == "Concat" else maker.input[:1])]
        return [dq for dqs in each for dq in dqs] if all(each) else []

    def is_int8(self, tensor: str) -> bool:
        """Whether one operator could read the tensor as INT8: it arrives so, with one scale."""
        return len({self.scale(dq).tobytes() for dq in self.arriving(tensor)}) == 1

    def has_int8_weights(self, node: onnx.NodeProto) -> bool:
        """Whether a weighted node's weights come through a DQ: it is meant to compute in integers."""
        dq = self.dequantizer(node.input[1]) if node.op_type in WEIGHTED else None
        return dq is not None and self.of_weights(dq)

    def weights(self, node: onnx.NodeProto) -> npt.NDArray[Any] | None:
        """A weighted node's weights as they are stored, integers where they are; None where they are computed."""
        dq = self.dequantizer(node.input[1])
        return self.constant(node.input[1] if dq is None else (self.quantizer_of(dq) or dq).input[0])

    # Ways through the graph

    def after(self, nodes: Iterable[onnx.NodeProto]) -> set[str]:
        """First outputs of all nodes that depend on these; without them."""
        return self._reached(nodes, lambda node: (r for output in node.output for r in self.readers.get(output, ())))

    def before(self, nodes: Iterable[onnx.NodeProto]) -> set[str]:
        """First outputs of all nodes that these depend on; without them, unless they depend on each other."""
        return self._reached(nodes, lambda node: (self.made_by[name] for name in node.input if name in self.made_by))

    def last_convolutions(self) -> list[onnx.NodeProto]:
        """The convolutions with no other one after them. They begin the head's last part."""
        candidates = [n for n in self.nodes if n.op_type in CONVOLUTIONS and not self._is_dfl(n)]
        followed = self.before(candidates)
        return [n for n in candidates if n.output[0] not in followed]

    def _is_dfl(self, node: onnx.NodeProto) -> bool:
        tensor = node.input[0]
        while (maker := self.made_by.get(tensor)) is not None:
            if maker.op_type == "Softmax":
                return True
            if maker.op_type not in MOVES | {"QuantizeLinear", "DequantizeLinear"}:
                return False
            tensor = maker.input[0]
        return False

    @staticmethod
    def _reached(nodes: Iterable[onnx.NodeProto], step: Any) -> set[str]:
        found: set[str] = set()
        waiting = list(nodes)
        while waiting:
            for node in step(waiting.pop()):
                if node.output[0] not in found:
                    found.add(node.output[0])
                    waiting.append(node)
        return found
