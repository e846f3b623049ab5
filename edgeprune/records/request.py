"""What a device is asked and what it answers: one file in, one file out, whatever the way between.

Rules:
- Everything that runs a target's engine is one of these, so that a target on this machine and one behind a network go
  the same way.
- A request names files by paths; `moved` gives the same request with its files elsewhere, which is all that a
  transport has to know of it.
- Arrays travel as .npz files beside request and answer, never in JSON.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Literal

from pydantic import Field

from edgeprune.records.base import InputShape, Record
from edgeprune.records.benchmark import BenchRequest, DeviceAnswer, Prediction
from edgeprune.records.board import BoardEngine
from edgeprune.records.device_info import DeviceInfo
from edgeprune.records.form import Form
from edgeprune.records.kit import KitPrecision
from edgeprune.records.report import BenchRun
from edgeprune.records.settings import CoreNumber, Plugin, Settings
from edgeprune.records.target import Precision, Runtime, TargetProfile

#: Where a file lies now -> where it lies then.
Moved = Callable[[str], str]


def whole(file: Path) -> Path:
    """What a file belongs to: an OpenVINO .xml is nothing without the rest of its folder; others stand alone."""
    return file.parent if file.suffix == ".xml" else file


class Engine(Record):
    """An engine to run."""

    name: str
    """Unique in its request."""
    runtime: Runtime
    precision: Precision
    file: str
    """What the runtime loads."""
    settings: Settings = Settings()
    """How it is run."""
    form: Form = Form()
    """What goes in and what comes out."""
    input_shape: InputShape | None = None
    """Its own, where that isn't the request's: engines of several input sizes can be raced in one run."""

    @classmethod
    def of(cls, profile: TargetProfile, name: str, precision: Precision, file: Path) -> Engine:
        """An engine as a target runs it, before its settings were raced."""
        settings = profile.settings.of(precision)
        return cls(name=name, runtime=profile.runtime, precision=precision, file=str(file), settings=settings)

    def run_with(self, settings: Settings, name: str | None = None) -> Engine:
        """The same with other settings."""
        return self.model_copy(update={"settings": settings, "name": name or self.name})

    @property
    def artifact(self) -> Path:
        """File or folder whose hash identifies it."""
        return whole(Path(self.file))

    def moved(self, to: Moved) -> Engine:
        return self.model_copy(update={"file": to(self.file)})


class RaceRequest(Record):
    """Latency of several detectors in one run, interleaved: from an image's pixels to boxes in that image's pixels."""

    kind: Literal["race"] = "race"
    engines: tuple[Engine, ...] = Field(min_length=1)
    input_shape: InputShape
    images: tuple[str, ...] = Field(min_length=1)
    """Image files that each engine answers in turn."""
    score: float = Field(default=0.25, gt=0, lt=1)
    """Boxes under it aren't decoded. An application's threshold, the default of Ultralytics' predict: the validator's
    .001 keeps hundreds of boxes that nobody wants to see."""
    iou: float = Field(default=0.7, gt=0, lt=1)
    """Overlap over which the weaker box is suppressed."""
    seed: int = Field(default=0, ge=0)
    """Of the order of blocks."""
    rounds: int = Field(ge=2)
    """Blocks of every engine."""

    def moved(self, to: Moved) -> RaceRequest:
        return self.model_copy(
            update={"engines": tuple(e.moved(to) for e in self.engines), "images": tuple(map(to, self.images))}
        )


class RaceAnswer(Record):
    run: BenchRun


class PredictRequest(Record):
    """Detections of one engine on images."""

    kind: Literal["predict"] = "predict"
    engine: Engine
    input_shape: InputShape
    images: tuple[str, ...] = Field(min_length=1)
    """Image files; their place in this list, from 1, is the image id of the predictions."""

    def moved(self, to: Moved) -> PredictRequest:
        return self.model_copy(update={"engine": self.engine.moved(to), "images": tuple(map(to, self.images))})


class PredictAnswer(Record):
    predictions: tuple[Prediction, ...]


class ComputeRequest(Record):
    """Every output of a graph, for given inputs."""

    kind: Literal["compute"] = "compute"
    engine: Engine
    inputs: tuple[str, ...] = Field(min_length=1)
    """One .npz for each run: input name -> float32 array."""

    def moved(self, to: Moved) -> ComputeRequest:
        return self.model_copy(update={"engine": self.engine.moved(to), "inputs": tuple(map(to, self.inputs))})


class ComputeAnswer(Record):
    outputs: tuple[str, ...]
    """One .npz for each run, relative to the answer's folder: output name -> float32 array."""


class BuildRequest(Record):
    """An engine of a build kit, built by the device itself."""

    kind: Literal["build"] = "build"
    kit: str
    """The kit's folder."""
    precision: KitPrecision
    dla: int | None = Field(default=None, ge=0)
    """The DLA core that it is for; none = the GPU."""

    def moved(self, to: Moved) -> BuildRequest:
        return self.model_copy(update={"kit": to(self.kit)})


class BuildAnswer(Record):
    """Beside it: model.engine and engine.json, where it was built; layers-*.json in any case, if it came so far."""

    exit_code: int
    """build_engine.py's: 0 built or found, 1 refused by a gate, 2 wrong kit, machine or disk."""
    said: str
    """Its words: what was wrong; else what it printed."""
    engine: BoardEngine | None = None
    """None where it wasn't built."""


class TimeRequest(Record):
    """How long each of many small graphs takes, one after the other, each alone in memory."""

    kind: Literal["time"] = "time"
    runtime: Runtime
    precision: Precision
    settings: Settings
    graphs: tuple[str, ...] = Field(min_length=1)
    """.onnx files, or what else the runtime loads; for TensorRT .onnx files, which the device builds engines of."""
    dla: int | None = Field(default=None, ge=0)
    """DLA core that these are built for."""
    passes: int = Field(ge=0)
    """How often all of them are gone through, each time in another order; 0: nothing is timed, engines are built."""
    seconds: float = Field(gt=0)
    """Of each graph in each pass, at least."""
    seed: int = Field(default=0, ge=0)

    def moved(self, to: Moved) -> TimeRequest:
        return self.model_copy(update={"graphs": tuple(map(to, self.graphs))})


class TimeAnswer(Record):
    passes_ms: tuple[tuple[float, ...], ...]
    """Of each graph, the median of each pass, milliseconds."""
    environment: dict[str, str]


class AboutRequest(Record):
    """What the device is, and why it can't run which precision."""

    kind: Literal["about"] = "about"
    runtime: Runtime
    precisions: tuple[Precision, ...]
    plugin: Plugin = "CPU"
    cores: tuple[CoreNumber, ...] = ()
    """Cores that engines are to be held to: the device says whether it has them."""

    def moved(self, to: Moved) -> AboutRequest:
        return self


class AboutAnswer(Record):
    info: DeviceInfo
    lacking: dict[str, str]
    """Precision -> why it can't be had there."""
    places: tuple[CoreNumber, ...] = ()
    """Cores that an engine would be held to there, best first."""


Request = BenchRequest | RaceRequest | PredictRequest | ComputeRequest | BuildRequest | TimeRequest | AboutRequest
Answer = DeviceAnswer | RaceAnswer | PredictAnswer | ComputeAnswer | BuildAnswer | TimeAnswer | AboutAnswer
