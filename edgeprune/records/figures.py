"""Figures of a build beside its rows and its verdict: what report.html draws, and report.json therefore holds.

Rules:
- Pictures are drawn from these records and from nothing else; only the pixels of sample images are in files of their
  own, under samples/.
- An engine is named as in bench.json ('pruned fp32') and travels with the hash of what was loaded.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from edgeprune.records.base import Record
from edgeprune.records.calibration import Sha256
from edgeprune.records.measurement import Milliseconds
from edgeprune.records.recipe import Recipe
from edgeprune.records.target import TargetProfile

Part = Literal["parent", "chosen", "lost"]
Count = Annotated[int, Field(ge=0)]


class Candidate(Record):
    """One engine of the race: what it was there, and why it was or wasn't taken."""

    engine: str
    artifact_sha256: Sha256
    """Of the file or folder that was loaded."""
    threads: int = Field(ge=1)
    cold_start_ms: Milliseconds
    p50_interval_ms: tuple[Milliseconds, Milliseconds]
    """Ends of the bootstrap interval of p50, over rounds, at the verdict's confidence."""
    part: Part
    """parent: what builds are set against; chosen: the build that the verdict is about; lost: every other one."""
    why: str


class LayerWidth(Record):
    """Output channels of one convolution or linear layer."""

    layer: str
    parent: int = Field(ge=1)
    build: int = Field(ge=1)


class Block(Record):
    """One engine's turn in the race."""

    engine: str
    p50_ms: Milliseconds
    p90_ms: Milliseconds


class LatencyPicture(Record):
    """Every sample of the race, counted; the samples themselves are in bench.json."""

    edges_ms: tuple[Milliseconds, ...] = Field(min_length=2)
    """Ascending edges of the bins, the same for all engines, equally far apart on a logarithmic axis."""
    counts: dict[str, tuple[Count, ...]]
    """Engine -> samples of each bin."""
    blocks: tuple[Block, ...]
    """In the order they ran."""


class Box(Record):
    """A labelled or detected object."""

    label: int = Field(ge=0)
    """Class index."""
    bbox: tuple[float, float, float, float]
    """x, y, width, height in pixels of the image."""
    score: float | None = Field(default=None, ge=0, le=1)
    """None for a label."""


class Sample(Record):
    """An image of val with what parent and build see in it."""

    image_id: int = Field(ge=1)
    """Place in val, from 1, as in predictions/."""
    file: str
    """Name of the image file."""
    size: tuple[int, int]
    """Width and height in pixels."""
    picture: str = Field(pattern=r"^samples/[0-9]+\.jpg$")
    """Small copy for the page, relative to the report."""
    why: str
    """The rule that chose it."""
    truth: tuple[Box, ...]
    """The data set's labels."""
    parent: tuple[Box, ...]
    build: tuple[Box, ...]
    """Detections of the two engines that the verdict is about, over the score that the report states."""


class Origin(Record):
    """All that it takes to do the build again."""

    command: str
    """Run where recipe.yaml and TARGET.yaml hold what stands below; paths are the build's own."""
    target: TargetProfile
    recipe: Recipe
    names: dict[int, str]
    """Class names."""
    val_images: int = Field(ge=1)
    """Images that mAP was scored on."""
