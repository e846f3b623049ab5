"""Report: every variant that was measured, and the verdict."""

from __future__ import annotations

from pydantic import Field

from edgeprune.records.base import Record
from edgeprune.records.figures import Candidate, LatencyPicture, LayerWidth, Origin, Sample
from edgeprune.records.form import Form
from edgeprune.records.golden import GoldenDifference
from edgeprune.records.measurement import Accuracy, Comparison, Latency, Measurement, Parity, Parts
from edgeprune.records.recipe import Goal
from edgeprune.records.settings import Settings
from edgeprune.records.tune import TuneCandidate


class Row(Record):
    """One variant on one runtime in one precision."""

    variant: str
    """parent or pruned."""
    runtime: str
    precision: str
    settings: Settings = Settings()
    """How the runtime was told to run it."""
    form: Form = Form()
    """What went in and what came out."""
    map50_95: float
    map50: float
    latency_ms: Latency
    """Of an image to its boxes where there are `parts`, else of the engine alone."""
    parts: Parts | None = None
    """None in reports from before a race was timed from image to boxes."""
    macs: int
    """Multiply-accumulates of one image."""
    parameters: int
    bytes: int
    """Size of the file or files that the runtime loads."""
    image_size: int | None = None
    """Edge of its square input in pixels; None in reports from before it was written down."""


class Offer(Record):
    """The best plan that does hold, for a build that doesn't: another build of the same parent for the same target."""

    folder: str
    """Name of its folder, beside the rejected build's."""
    goal: Goal
    row: Row
    """Its figures, from its own report, as all that stand here."""
    comparison: Comparison
    """Against the parent's best, in its own run."""
    map_drop: float
    why: str
    """What makes it the best, and that it holds here too."""


class Verdict(Record):
    """Whether the build counts."""

    accepted: bool
    reasons: tuple[str, ...]
    """Each condition with its figures, met or not."""
    comparison: Comparison
    """The pair that decided: the best build against the best parent."""
    map_drop: float
    """mAP50-95 of that parent minus that of that build."""
    offer: Offer | None = None
    """Of a rejected build: the fastest other one that holds. None where none does, or none is known."""
    try_next: str | None = None
    """Of a rejected build: what to ask for instead."""


class Report(Record):
    """report.json; report.html shows the same. What a report from before it was written down lacks is empty or None."""

    target: str
    rows: tuple[Row, ...]
    verdict: Verdict
    comparisons: tuple[Comparison, ...] = ()
    """Every build against the parent in the same precision."""
    left_out: tuple[str, ...] = ()
    """What was asked for and couldn't be run, with the reason."""
    notes: tuple[str, ...] = ()
    """What else was decided or found on the way: layers that went back to float, the price of another activation."""
    environment: dict[str, str] = Field(default_factory=dict)
    """Machine and versions."""
    inputs: dict[str, str] = Field(default_factory=dict)
    """SHA-256 of model, data set, target and recipe."""
    candidates: tuple[Candidate, ...] = ()
    """Every engine that was raced, in the order of `rows`."""
    tuned: tuple[TuneCandidate, ...] = ()
    """Forms and settings that were raced before, engine by engine, the chosen ones first."""
    latencies: LatencyPicture | None = None
    widths: tuple[LayerWidth, ...] = ()
    """Of the layers with channels, in the model's order."""
    parity: tuple[Parity, ...] = ()
    samples: tuple[Sample, ...] = ()
    sample_score: float = 0.0
    """Detections of `samples` are those with at least this score."""
    origin: Origin | None = None


class BenchRun(Record):
    """bench.json: one run of all engines of a target."""

    measurements: tuple[Measurement, ...]
    left_out: tuple[str, ...] = ()
    environment: dict[str, str]
    order: tuple[int, ...]
    """Index of the engine of every block, in the order they ran."""


class VerifyRun(Record):
    """verify.json: parity and accuracy of all engines of a target."""

    parity: tuple[Parity, ...]
    accuracy: tuple[Accuracy, ...]
    golden: dict[str, GoldenDifference] = Field(default_factory=dict)
    """Engine -> how far off its kit's golden outputs it was, on the board that built it. `parity` is then that of the
    graph that the engine was built from, on the host: no one can look inside the engine."""
