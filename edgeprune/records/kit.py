"""Kit: kit.json, what a board must know to build, check and race its own engines.

It is read by `edgeprune/kit/build_engine.py` with nothing but the standard library: a key that changes here changes
there, and `format` with it.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, JsonValue, model_validator

from edgeprune.records.base import Record
from edgeprune.records.bundle import BundleFile, TensorSpec

#: TensorRT's version, as '8.5' or '11'.
Version = Annotated[str, Field(pattern=r"^[0-9]+(\.[0-9]+)*$")]
KitPrecision = Literal["int8", "fp16"]


class KitGraph(Record):
    """One ONNX file and the versions of TensorRT that it is for."""

    file: str
    """Among the kit's files."""
    precision: KitPrecision
    """int8: the quantized graph, FP16 where it isn't quantized. fp16: the float one."""
    typed: bool
    """Whether its types are FP16 already; otherwise the builder is told by flags."""
    sparse: bool = False
    """Whether weights have the pattern of sparse kernels, 2:4, and the builder is told to look for them."""
    since: Version
    """First version of TensorRT, included."""
    before: Version
    """First version that it isn't for."""


class Expected(Record):
    """What one precision must compute from the golden input, and how far off it may be."""

    precision: KitPrecision
    file: str
    """Outputs of all images, one after the other: float32, little-endian."""
    boxes_rms_px: float = Field(gt=0)
    """Root mean square difference of the box coordinates that count, at most; pixels of the input."""
    scores_rms: float = Field(gt=0, le=0.5)
    """The same of the scores that count, which lie in 0..1."""
    reason: str
    """Where the two figures come from."""


class Golden(Record):
    """Inputs, and what the reference makes of them: the graph, operator by operator, on the host."""

    images: int = Field(ge=1)
    input: str
    """Letterboxed images in 0..1, one after the other: float32, little-endian."""
    count_above: float = Field(ge=0, lt=1)
    """Scores over this count, in the reference or in the engine, and boxes with such a score; all, if there is none."""
    expected: tuple[Expected, ...] = Field(min_length=1)


class Kit(Record):
    """kit.json. Paths are relative to it, with forward slashes."""

    format: Literal[1] = 1
    edgeprune: str
    """Version that wrote it."""
    files: tuple[BundleFile, ...] = Field(min_length=1)
    """All files of the kit but kit.json, sorted by path."""
    graphs: tuple[KitGraph, ...] = Field(min_length=1)
    int8_convolutions: tuple[str, ...]
    """ONNX nodes that must compute in INT8 in the int8 graphs, in execution order; none where there are no such."""
    input: TensorSpec
    output: TensorSpec
    """Shape (1, 4 + classes, anchors): boxes as centre x, centre y, width, height in pixels, then scores."""
    names: dict[int, str]
    """Class names."""
    metadata: dict[str, JsonValue]
    """The header of an Ultralytics .engine file."""
    golden: Golden

    @model_validator(mode="after")
    def _whole(self) -> Kit:
        there = {file.path for file in self.files}
        asked = [graph.file for graph in self.graphs]
        asked += [self.golden.input, *(expected.file for expected in self.golden.expected)]
        if missing := sorted(set(asked) - there):
            raise ValueError(f"every file that is used stands under files; missing: {', '.join(missing)}")
        if {graph.precision for graph in self.graphs} - {expected.precision for expected in self.golden.expected}:
            raise ValueError("every precision has golden outputs")
        if bool(self.int8_convolutions) != any(graph.precision == "int8" for graph in self.graphs):
            raise ValueError("int8_convolutions are those of the int8 graphs: both or neither")
        return self
