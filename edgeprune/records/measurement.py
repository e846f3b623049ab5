"""What was measured: latency, accuracy, parity. A figure never travels without what it was measured on."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from edgeprune.records.base import Record
from edgeprune.records.calibration import Sha256
from edgeprune.records.form import Form
from edgeprune.records.settings import Settings

Milliseconds = Annotated[float, Field(ge=0)]
#: Whether a start compiled the model without a cache, into an empty one, or found it compiled.
Cache = Literal["none", "empty", "warm"]


class Latency(Record):
    """Percentiles of one sample, milliseconds."""

    p50: Milliseconds
    p90: Milliseconds
    p99: Milliseconds
    mad: Milliseconds
    """Median absolute deviation from p50."""
    samples: int = Field(ge=1)


class Parts(Record):
    """What a sample's time went into: the median of each part. Medians need not add up to the whole's."""

    preprocess_ms: Milliseconds
    """An image's pixels into what the engine takes."""
    inference_ms: Milliseconds
    """The engine, with as much of the decode as its form leaves to it."""
    postprocess_ms: Milliseconds
    """Its outputs into boxes in the image's pixels, suppression included."""


class Measurement(Record):
    """One engine's run. Every sample is kept; nothing is ever dropped.

    A detector's sample begins with an image's pixels in memory and ends with boxes in that image's pixels. An engine
    that is none is timed from its input to its outputs.
    """

    engine: str
    """Which engine: 'parent fp32', 'pruned fp32'."""
    artifact_sha256: Sha256
    """Hash of the file or folder that was loaded."""
    runtime: str
    """Name and version of the library."""
    precision: str
    """Arithmetic that the runtime was asked for."""
    threads: int = Field(ge=1)
    settings: Settings = Settings()
    """How the runtime was told to run it."""
    form: Form = Form()
    """What went in and what came out."""
    blocks_ms: tuple[tuple[Milliseconds, ...], ...]
    """Latency of every sample, one tuple a block, blocks in the order they ran."""
    loads: tuple[int, ...] = ()
    """Blocks of each time that the engine was loaded, in order; none: all of one."""
    latency_ms: Latency
    parts: Parts | None = None
    """None for an engine that isn't a detector, and in runs from before a race was timed from image to boxes."""
    cold_start_ms: Milliseconds
    """From an empty process to the engine's first answer, imports left out."""
    cache: Cache = "none"
    """OpenVINO's cache of compiled models at that start."""


class Tail(Record):
    """The slow end of a build against its parent's, over the rounds of one run."""

    percentile: float = Field(gt=0, lt=1)
    """0.99, or 0.9 where there were too few samples for that."""
    samples: int = Field(ge=1)
    """Of the engine that has fewer."""
    build_ms: Milliseconds
    parent_ms: Milliseconds
    """The percentile of all samples."""
    low: float = Field(ge=0)
    high: float = Field(ge=0)
    """Ends of the bootstrap interval of build_ms : parent_ms."""
    build_behind_ms: Milliseconds
    parent_behind_ms: Milliseconds
    """Geometric mean of the samples behind the percentile: of the slowest hundredth, or tenth."""
    behind_low: float = Field(ge=0)
    behind_high: float = Field(ge=0)
    """Ends of the bootstrap interval of build_behind_ms : parent_behind_ms."""
    confidence: float = Field(gt=0.5, lt=1)
    """That neither interval misleads."""

    @property
    def slower(self) -> bool:
        """Whether the whole of either interval lies over 1."""
        return self.low > 1 or self.behind_low > 1


class Comparison(Record):
    """Build against parent over paired blocks of one run."""

    build: str
    parent: str
    ratio: float = Field(gt=0)
    """Median over pairs of build's block median : parent's. Under 1 is faster."""
    low: float = Field(gt=0)
    high: float = Field(gt=0)
    """Ends of the bootstrap confidence interval of the ratio."""
    confidence: float = Field(gt=0.5, lt=1)
    pairs: int = Field(ge=2)
    tail: Tail | None = None
    """None where there were too few samples to say anything about it."""

    @property
    def faster(self) -> bool:
        """Whether the whole interval lies under 1."""
        return self.high < 1


class Accuracy(Record):
    """mAP of one engine on the val split, on its own runtime, scored by pycocotools."""

    engine: str
    map50_95: float = Field(ge=0, le=1)
    map50: float = Field(ge=0, le=1)
    images: int = Field(ge=1)


class TensorParity(Record):
    """One output, torch against the runtime, over all probe images."""

    tensor: str
    max_abs: float = Field(ge=0)
    """Largest absolute difference."""
    scale: float = Field(ge=0)
    """Largest absolute value in torch, to set the difference against."""
    tolerance: float = Field(gt=0)
    """Allowed max_abs / scale."""

    @property
    def holds(self) -> bool:
        return self.max_abs <= self.tolerance * max(self.scale, 1e-12)


class Parity(Record):
    """Torch against one runtime, output tensor by output tensor."""

    engine: str
    images: int = Field(ge=1)
    tensors: tuple[TensorParity, ...]
    first_drift: str | None
    """The first tensor inside the graph, in execution order, that is beyond tolerance; None if none is."""

    @property
    def holds(self) -> bool:
        return all(tensor.holds for tensor in self.tensors)
