"""Sweep: several builds of one parent for one target beside each other, as one curve of mAP over latency.

Rules:
- Latencies are those of one run in which the parent's engines and every build's best took turns; a build's own race is
  in its own report. mAP is that of each build's own verify, on the runtime.
- A build that couldn't be made is a point with its reason and without figures.
- An engine is dominated if another one is no slower and no worse, and better in one of the two.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Literal

from pydantic import Field

from edgeprune.records.base import Record
from edgeprune.records.calibration import Sha256
from edgeprune.records.measurement import Comparison, Milliseconds
from edgeprune.records.report import Row

#: What points of a sweep differ in: one of a goal's kinds, or the input's edge in pixels.
Kind = Literal["speedup", "latency_ms", "fps", "macs_ratio", "sparsity", "imgsz"]


class Raced(Record):
    """One engine of the final race."""

    engine: str
    """Unique in the race: 'parent fp32', '2x pruned int8'."""
    row: Row
    """Its figures; latency is the final race's."""
    artifact_sha256: Sha256
    """Of the file or folder that was loaded."""
    p50_interval_ms: tuple[Milliseconds, Milliseconds]
    """Ends of the bootstrap interval of p50, over rounds."""
    against: Comparison | None = None
    """Against the parent's best engine in the same race; None for that one itself."""
    dominated_by: str | None = None
    """The fastest engine that is no slower and no worse; None for one on the Pareto front."""


class Point(Record):
    """One build of the curve."""

    name: str
    """'2x', '8ms', '320px': what was asked, in short."""
    value: Annotated[float, Field(gt=0)]
    """What was asked, in the sweep's kind."""
    folder: str
    """Name of the build's folder, beside the sweep's."""
    raced: Raced | None = None
    """The build's best engine; None where there is no build."""
    accepted: bool = False
    """By the build's own verdict, or for input sizes by the drop against the parent at its own size."""
    why: str
    """The verdict in a sentence; or why there is no build."""
    refined: bool = False
    """Whether it was tried between an accepted and a rejected goal, rather than asked for."""
    chosen: bool = False
    """Whether it is the one that was taken, where one is taken."""


class Sweep(Record):
    """sweep.json; sizes.json for a race of input sizes."""

    target: str
    kind: Kind
    max_map_drop: float
    """mAP50-95 that was agreed."""
    parent: str | None = None
    """The parent's best engine at the target's own input: what all are set against. None where nothing was raced."""
    parents: tuple[Raced, ...] = ()
    points: tuple[Point, ...]
    """From mild to hard."""
    environment: dict[str, str] = Field(default_factory=dict)
    """Machine and versions of the final race."""
    inputs: dict[str, str] = Field(default_factory=dict)
    """SHA-256 of model, data set and target."""

    @property
    def raced(self) -> tuple[Raced, ...]:
        """All engines of the final race."""
        return (*self.parents, *(point.raced for point in self.points if point.raced))


def beats(other: tuple[float, float], one: tuple[float, float]) -> bool:
    """Whether one (ms, mAP) dominates another: no slower and no worse, and not the same."""
    return other != one and other[0] <= one[0] and other[1] >= one[1]


def front(engines: Sequence[Raced]) -> tuple[Raced, ...]:
    """The same engines, each with who dominates it."""

    def at(one: Raced) -> tuple[float, float]:
        return one.row.latency_ms.p50, one.row.map50_95

    def over(one: Raced) -> str | None:
        better = [other for other in engines if beats(at(other), at(one))]
        return min(better, key=lambda other: other.row.latency_ms.p50).engine if better else None

    return tuple(one.model_copy(update={"dominated_by": over(one)}) for one in engines)
