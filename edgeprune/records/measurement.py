"""What was measured: latency, accuracy, parity. A figure never travels without what it was measured on."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from edgeprune.records.base import Record
from edgeprune.records.calibration import Sha256

Milliseconds = Annotated[float, Field(ge=0)]


class Latency(Record):
    """Percentiles of one inference, milliseconds."""

    p50: Milliseconds
    p90: Milliseconds
    p99: Milliseconds
    mad: Milliseconds
    """Median absolute deviation from p50."""
    samples: int = Field(ge=1)


class Measurement(Record):
    """One engine's run. Every sample is kept; nothing is ever dropped."""

    engine: str
    """Which engine: 'parent fp32', 'pruned fp32'."""
    artifact_sha256: Sha256
    """Hash of the file or folder that was loaded."""
    runtime: str
    """Name and version of the library."""
    precision: str
    """Arithmetic that the runtime was asked for."""
    threads: int = Field(ge=1)
    blocks_ms: tuple[tuple[Milliseconds, ...], ...]
    """Latency of every inference, one tuple a block, blocks in the order they ran."""
    latency_ms: Latency
    cold_start_ms: Milliseconds
    """From an empty process to the engine's first answer, imports left out."""


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
