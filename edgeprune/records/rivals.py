"""Compared: a build beside everybody else's exports of its parent, measured in one interleaved run.

Rules:
- A rival is the parent (whole, as the user trained it) exported by somebody else's tool; the tool, its version and its
  arguments go with every figure.
- Each rival is raced twice: as it comes, and with the fastest of the settings that parent and build had to choose from.
- What can't be had has a line too, with the reason.
"""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from edgeprune.records.base import Record
from edgeprune.records.calibration import Sha256
from edgeprune.records.form import Form
from edgeprune.records.measurement import Accuracy, Comparison, Latency, Milliseconds
from edgeprune.records.settings import Settings
from edgeprune.records.target import Precision, TargetProfile

#: build: what edgeprune made; parent: the whole net, exported by edgeprune; rival: the whole net, by others.
Side = Literal["build", "parent", "rival"]


class ComparedRow(Record):
    """One engine of the race."""

    name: str
    """Unique: 'pruned int8', 'ultralytics int8', 'ultralytics int8 at its best'."""
    side: Side
    exporter: str
    """Whose tool made it, with its version: 'ultralytics 8.4.190'."""
    how: str
    """What was asked of it, as its user would write it."""
    precision: str
    """What it was exported in: fp32, fp16, int8; of ours, what it computes in."""
    arithmetic: str
    """What the runtime was told to compute in."""
    form: Form = Form()
    settings: Settings = Settings()
    """How the runtime was told to run it."""
    map50_95: float = Field(ge=0, le=1)
    map50: float = Field(ge=0, le=1)
    latency_ms: Latency
    p50_interval_ms: tuple[Milliseconds, Milliseconds]
    """Ends of the bootstrap interval of p50, over rounds."""
    against: Comparison | None = None
    """The build's engine that counts (`Compared.build`) against this one: a ratio under 1 means that ours is faster.
    None on its own row."""
    bytes: int = Field(ge=0)
    """Size of the file or files that the runtime loads."""
    artifact_sha256: Sha256
    """Of the file or folder that was loaded."""


class LeftOut(Record):
    """A rival that isn't in the race."""

    name: str
    exporter: str
    why: str


class Compared(Record):
    """compare.json; compare.html shows the same."""

    format: Literal[1] = 1
    target: str
    profile: TargetProfile
    runtime: str
    """Name and version of the library."""
    build: str
    """Row that `against` is about: the engine that the build's verdict is about."""
    accepted: bool
    """Whether that build was accepted."""
    max_map_drop: float
    """mAP50-95 that the build's recipe agreed to lose."""
    rows: tuple[ComparedRow, ...] = Field(min_length=2)
    left_out: tuple[LeftOut, ...] = ()
    notes: tuple[str, ...] = ()
    """What else the reader must know: where ranges were taken from, how many epochs a rival was trained."""
    settings_raced: dict[str, tuple[str, ...]] = Field(default_factory=dict)
    """Rival -> the race among its settings, the fastest first, in words."""
    rounds: int = Field(ge=2)
    """Blocks of every engine in the race."""
    val_images: int = Field(ge=1)
    environment: dict[str, str]
    """Machine and versions."""
    inputs: dict[str, str]
    """SHA-256 of model, data set, target, recipe, and calibration images."""

    def row(self, name: str) -> ComparedRow:
        return next(row for row in self.rows if row.name == name)

    @model_validator(mode="after")
    def _whole(self) -> Compared:
        sides = {row.name: row.side for row in self.rows}
        if len(sides) != len(self.rows):
            raise ValueError("rows have names of their own")
        if sides.get(self.build) != "build":
            raise ValueError("build is a row of the build")
        if "parent" not in sides.values():
            raise ValueError("there is a row of the parent, which losses are told from")
        return self

    @property
    def rivals(self) -> tuple[ComparedRow, ...]:
        return tuple(row for row in self.rows if row.side == "rival")

    @property
    def reference(self) -> float:
        """mAP50-95 that a loss is told from: the parent's in FP32, where the target has it."""
        parents = [row for row in self.rows if row.side == "parent"]
        return next((row for row in parents if row.arithmetic == "fp32"), parents[0]).map50_95

    def holds(self, row: ComparedRow) -> bool:
        """Whether a row loses no more than was agreed."""
        return self.reference - row.map50_95 <= self.max_map_drop + 1e-9


class Way(Record):
    """How a rival's file is run: the runtime's arithmetic and settings."""

    label: Literal["", "at its best"]
    """'' = as it comes."""
    precision: Precision
    """What the runtime is asked for."""
    settings: Settings


class Ways(Record):
    """ways/RIVAL.json: how a rival is raced, and what its other settings cost."""

    ways: tuple[Way, ...] = Field(min_length=1)
    raced: tuple[str, ...] = ()
    """The race among settings, the fastest first, in words."""


class Scores(Record):
    """scores/RIVAL.json: mAP in each arithmetic that it is raced in; `engine` is the arithmetic."""

    accuracy: tuple[Accuracy, ...] = Field(min_length=1)
