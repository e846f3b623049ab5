"""Benchmark: one engine under one load on one device, with everything that could explain or spoil its figures.

Rules:
- Every sample is kept, in the order it ran. Percentiles stand beside the samples they were taken from.
- A run that was throttled or disturbed is void: its figures stay, the reasons stand beside them, nobody may quote it.
- What a device doesn't report is None or empty, never zero.
- The device reads a request and writes an answer: two files, so that the way between host and device is anyone's.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Literal

from pydantic import Field, model_validator

from edgeprune.records.address import LOCAL
from edgeprune.records.base import InputShape, Record
from edgeprune.records.calibration import Sha256
from edgeprune.records.form import Form
from edgeprune.records.measurement import Accuracy, Cache, Latency, Milliseconds
from edgeprune.records.settings import Settings
from edgeprune.records.target import Precision, Runtime

Scenario = Literal["single-stream", "multi-stream", "offline"]
Part = Literal["capture", "preprocess", "inference", "postprocess"]
Seconds = Annotated[float, Field(ge=0)]


class Load(Record):
    """How the engine is loaded with queries."""

    scenario: Scenario = "single-stream"
    min_duration_s: float = Field(default=600.0, gt=0)
    """The run isn't over before."""
    min_queries: int = Field(default=64, ge=1)
    """… nor before so many queries (offline: images)."""
    quick: bool = False
    """Whether to stop there even if early stopping can't say anything yet; else the run goes on until it can."""
    seed: int = Field(default=0, ge=0)
    """Of the images' order."""
    sustained: bool = False
    """Whether heat is what is looked for: then it doesn't void the run."""
    energy_s: Seconds = 0.0
    """Length of the separate pass that power is read in, where the board has a sensor; 0 = none."""


class BenchRequest(Record):
    """What the device half is asked for. Paths are absolute or relative to this file's folder."""

    format: Literal[1] = 1
    kind: Literal["load"] = "load"
    engine: str
    """The file that the runtime loads."""
    runtime: Runtime
    precision: Precision
    settings: Settings = Settings()
    """How the engine is run."""
    form: Form = Form()
    """What goes in and what comes out of it."""
    input_shape: InputShape
    images: tuple[str, ...] = ()
    """Image files; their place in this list, from 1, is the image id of the predictions. Empty only with a camera."""
    camera: str | None = None
    """Instead of images: '0' for /dev/video0, a device's path, or 'lavfi:GRAPH' (camera.py). single-stream only."""
    load: Load = Load()
    sensors_root: str = "/"
    """Where the device's /sys and /proc lie: elsewhere only for a recorded tree."""

    def moved(self, to: Callable[[str], str]) -> BenchRequest:
        """The same with its files elsewhere (records/request.py)."""
        return self.model_copy(update={"engine": to(self.engine), "images": tuple(map(to, self.images))})

    @model_validator(mode="after")
    def _one_source(self) -> BenchRequest:
        if bool(self.images) == (self.camera is not None):
            raise ValueError("images or a camera, one of them")
        if self.camera is not None and self.load.scenario != "single-stream":
            raise ValueError(f"a camera gives one frame after another: single-stream, not {self.load.scenario}")
        return self


class EarlyStopping(Record):
    """A percentile's upper bound at 99 % confidence, from the queries that there were."""

    percentile: float = Field(gt=0, lt=1)
    queries: int = Field(ge=0)
    needed: int = Field(ge=1)
    """Queries under which nothing can be said."""
    discarded: int | None
    """Slowest queries that lie over the estimate; None where there were too few queries."""
    estimate_ms: Milliseconds | None


class Window(Record):
    """A stretch of the run, to see latency over time."""

    start_s: Seconds
    queries: int = Field(ge=1)
    p50_ms: Milliseconds
    p90_ms: Milliseconds


class ScenarioResult(Record):
    """One timed run. A sample is one image; a query has one (single-stream), eight (multi-stream) or all (offline)."""

    scenario: Scenario
    samples_per_query: int = Field(ge=1)
    """offline: 1, since its one query is kept sample by sample."""
    duration_s: Seconds
    started_s: tuple[Seconds, ...]
    """When each query began, from the run's start."""
    query_ms: tuple[Milliseconds, ...]
    """Each query from issue to its last detection."""
    image: tuple[int, ...]
    """Index of each sample's image in the request; 0 for a camera's frames, which aren't kept."""
    capture_ms: tuple[Milliseconds, ...] | None = None
    """Each sample with a camera: waiting for the frame, decoding it, RGB. None where images lay in memory."""
    preprocess_ms: tuple[Milliseconds, ...]
    """Each sample: pixels in memory to the engine's input."""
    inference_ms: tuple[Milliseconds, ...]
    postprocess_ms: tuple[Milliseconds, ...]
    """Each sample: the engine's output to boxes in the image's pixels."""
    latency_ms: Latency
    """Of queries."""
    parts_ms: dict[Part, Latency]
    """Of samples."""
    early_stopping: tuple[EarlyStopping, ...]
    """single-stream: p90, its figure, and p99; multi-stream: p99; offline: none, its figure is throughput."""
    throughput_per_s: float = Field(gt=0)
    """Images a second, pre- and postprocessing included."""
    over_time: tuple[Window, ...]


class Reading(Record):
    """The device's sensors at one moment."""

    at_s: Seconds
    """From the run's start."""
    temperature_c: dict[str, float] = Field(default_factory=dict)
    """By thermal zone."""
    frequency_mhz: dict[str, float] = Field(default_factory=dict)
    """What each group of cores runs at."""
    frequency_limit_mhz: dict[str, float] = Field(default_factory=dict)
    """What the system lets it run at: lowered when it is too hot."""
    throttled: int | None = Field(default=None, ge=0)
    """Raspberry Pi's bits."""
    throttle_events: dict[str, int] = Field(default_factory=dict)
    """Counters of throttling that the kernel keeps."""


class CpuUse(Record):
    """Seconds of processor time on the cores that the benchmark may use, over the run."""

    own_s: Seconds
    busy_s: Seconds
    """Of everyone; steal of a virtual machine counts."""
    available_s: Seconds


class Energy(Record):
    """Of a separate pass: reading power costs time."""

    source: str
    """Sensor and rails."""
    joules: float = Field(ge=0)
    images: int = Field(ge=1)
    duration_s: float = Field(gt=0)
    power_mw: tuple[tuple[Seconds, float], ...]
    """(second of the pass, milliwatts)."""

    @property
    def joules_per_image(self) -> float:
        """The whole board's or rail's energy over the pass, idle share included."""
        return self.joules / self.images


class CameraMode(Record):
    """What a camera delivered."""

    source: str
    """As the request named it."""
    width: int = Field(ge=1)
    height: int = Field(ge=1)
    """Pixels."""
    format: str
    """How frames come from it: mjpeg, rawvideo …"""
    frames_per_s: float | None
    """What it says of its rate: no run is quicker. None where it doesn't."""


class Caching(Record):
    """An input repeated against inputs that were never seen: inference alone, in paired blocks."""

    repeated_ms: tuple[tuple[Milliseconds, ...], ...]
    new_ms: tuple[tuple[Milliseconds, ...], ...]
    """Every call, one tuple a block, pairs in the order they ran."""
    ratio: float = Field(ge=0)
    """Median over pairs of repeated : new. Well under 1: answers are remembered."""
    low: float = Field(ge=0)
    high: float = Field(ge=0)
    """Ends of the bootstrap confidence interval of the ratio."""
    confidence: float = Field(gt=0.5, lt=1)


class Prediction(Record):
    """One detection in COCO's result format."""

    image_id: int = Field(ge=1)
    category_id: int = Field(ge=1)
    bbox: tuple[float, float, float, float]
    """x, y, width, height in pixels of the image."""
    score: float = Field(ge=0, le=1)


class DeviceRun(Record):
    """What the device measured."""

    runtime: str
    """Library and version."""
    engine_sha256: Sha256
    """Of the file that the runtime loaded, as the device had it."""
    threads: int = Field(ge=1)
    cold_start_ms: Milliseconds
    """From a fresh process to the engine's first answer, imports left out; `cache` says whether it had to compile."""
    cache: Cache = "none"
    """OpenVINO's cache of compiled models at that start."""
    uncached_start_ms: Milliseconds | None = None
    """The same start in another fresh process without the cache; None where the settings have none."""
    warm_up_s: Seconds
    held_images: int = Field(ge=0)
    """Images that the timed run drew from: held as pixels in memory. 0 with a camera."""
    camera: CameraMode | None = None
    result: ScenarioResult
    peak_rss_bytes: int | None
    """Of the process, up to the end of the timed run, held images included."""
    readings: tuple[Reading, ...] = Field(min_length=2)
    """First before, last after the timed run."""
    cpu: CpuUse | None
    energy: Energy | None
    caching: Caching | None = None
    """None with a camera, whose frames are all new."""
    void: tuple[str, ...]
    """Why the run doesn't count; empty where it does."""
    notes: tuple[str, ...]
    """What couldn't be known here, and why."""
    environment: dict[str, str]


class DeviceAnswer(Record):
    """The file that the device half writes."""

    format: Literal[1] = 1
    run: DeviceRun
    predictions: tuple[Prediction, ...]
    """Of every image once: of the timed run, and after it of the images that it didn't draw. None with a camera."""


class Benchmark(Record):
    """benchmark.json."""

    target: str
    device: str = LOCAL
    """Where it was measured: `local`, or ssh://…"""
    bundle_sha256: Sha256
    """Of the bundle's folder, manifest included."""
    data: str | None
    """The data.yaml that images and boxes come from; None with a camera."""
    request: BenchRequest
    run: DeviceRun
    accuracy: Accuracy | None
    """Of the run's own predictions; None with a camera, whose frames have no boxes."""
    bundle_map50_95: float = Field(ge=0, le=1)
    """What the bundle's manifest says of its accuracy."""
    notes: tuple[str, ...] = ()
    """Where the bundle wasn't made for what it ran on."""

    @property
    def void(self) -> tuple[str, ...]:
        """Why nobody may quote these figures; empty where they count."""
        return self.run.void
