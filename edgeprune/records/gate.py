"""GateReport: what TensorRT's builder made of every convolution of a graph."""

from __future__ import annotations

from typing import Literal

from edgeprune.records.base import Record


class GatedConvolution(Record):
    """One Conv node and the layer that it became."""

    name: str
    """The ONNX node."""
    expected: Literal["int8", "float"]
    """int8 where its weights are quantized."""
    found: str
    """What TensorRT reports: int8 (activation and weights), else the type of its input: float, half, …; 'no layer'
    where no kernel of its own bears the node's name."""
    layer: str
    """TensorRT's name of the layer; empty where there is none."""

    @property
    def holds(self) -> bool:
        """Whether it became what it should be."""
        return self.expected == "float" or self.found == "int8"


class GateReport(Record):
    """One graph, parsed and built. Says nothing about a device: see edgeprune/export/gate.py."""

    builder: str
    """Builder and version."""
    convolutions: tuple[GatedConvolution, ...]
    """In execution order of the graph."""
    warnings: tuple[str, ...] = ()
    """The parser's and the builder's warnings."""

    @property
    def int8(self) -> int:
        """Convolutions that run in INT8."""
        return sum(c.found == "int8" for c in self.convolutions)
