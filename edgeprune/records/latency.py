"""LatencyTable: how long the layers of a model take at a grid of widths on one target, and how whole engines follow.

Rules:
- A time never travels alone: the table names device, power mode, versions, precision and settings, and is refused where
  they are others.
- Every pass over a layer is kept as its median; spread is said beside it.
- The table's error is measured on whole engines that its correction hasn't seen.
"""

from __future__ import annotations

from itertools import pairwise
from typing import Literal

from pydantic import Field

from edgeprune.records.base import InputShape, Record
from edgeprune.records.calibration import Sha256
from edgeprune.records.form import Form
from edgeprune.records.measurement import Milliseconds
from edgeprune.records.recipe import Activation
from edgeprune.records.settings import Settings
from edgeprune.records.target import Precision, Runtime
from edgeprune.records.tune import Choice


class Timed(Record):
    """One small engine on the device."""

    passes_ms: tuple[Milliseconds, ...] = Field(min_length=1)
    """Median of each pass; passes lie minutes apart, with all other engines between."""

    @property
    def agreeing(self) -> tuple[float, ...]:
        """The passes that agree best, more than half of them: a neighbour's work disturbs single passes.

        Source: the shorth, Andrews et al. 1972, 'Robust Estimates of Location'.
        """
        ordered = sorted(self.passes_ms)
        many = len(ordered) // 2 + 1
        runs = [tuple(ordered[first : first + many]) for first in range(len(ordered) - many + 1)]
        return min(runs, key=lambda run: run[-1] - run[0])

    @property
    def ms(self) -> float:
        """Mean of the passes that agree."""
        return sum(self.agreeing) / len(self.agreeing)

    @property
    def spread(self) -> float:
        """How far these lie apart : their mean."""
        return (self.agreeing[-1] - self.agreeing[0]) / max(self.ms, 1e-9)


class LayerPoint(Timed):
    """A layer at one width."""

    inputs: int = Field(ge=1)
    """Channels that a convolution reads; elements that a joint reads."""
    outputs: int = Field(ge=1)
    """Channels that a convolution makes; elements that a joint makes."""


class LayerTimes(Record):
    """One layer, or several that are alike but for their widths."""

    what: str
    """In words: 'conv 3x3 stride 2, SiLU, of 160x160'."""
    kind: Literal["convolution", "joint"]
    names: tuple[str, ...] = Field(min_length=1)
    """Modules of the model; for a joint, its first node."""
    reads: dict[str, int] = Field(default_factory=dict)
    """Of a joint: convolution whose result comes in -> elements that each of its channels has there, in all."""
    feeds: dict[str, int] = Field(default_factory=dict)
    """Of a joint: convolution that reads what goes out -> elements that each of its input channels has, in all."""
    fixed: int = 0
    """Of a joint: elements that no convolution's channels make or read."""
    rows: tuple[int, ...] = ()
    """Of a convolution: inputs of its grid, ascending; none for a depthwise one, which reads as many as it makes."""
    columns: tuple[int, ...] = ()
    """Of a convolution: outputs of its grid."""
    points: tuple[LayerPoint, ...] = Field(min_length=1)
    """Of a convolution: every one of rows x columns, and widths between multiples along the widest of each side."""


class WholeEngine(Timed):
    """A whole engine, predicted and measured."""

    layers_ms: tuple[float, float]
    """What the table says of its convolutions and of its joints, summed up."""
    predicted_ms: float
    held_out: bool
    """Whether the correction hasn't seen it."""
    channels: float = Field(gt=0, le=1)
    """Share of the model's channels that it has."""

    @property
    def error(self) -> float:
        """|predicted - measured| : measured."""
        return abs(self.predicted_ms / self.ms - 1)


class Correction(Record):
    """Whole engine = constant + convolutions x sum + joints x sum."""

    constant_ms: float
    convolutions: float
    joints: float


class PredictionError(Record):
    """Of the engines held out."""

    median: float = Field(ge=0)
    p90: float = Field(ge=0)
    worst: float = Field(ge=0)
    plans: int = Field(ge=1)


class LatencyTable(Record):
    """latency-table.json."""

    format: Literal[1] = 1
    target: str
    runtime: Runtime
    version: str
    """Of the runtime on the device."""
    precision: Precision
    settings: Settings
    """How each engine was run."""
    form: Form = Form()
    """What its engines have."""
    input_shape: InputShape
    device: str
    """Its address."""
    board: str | None
    """What it is; see DeviceInfo."""
    soc: str | None
    architecture: str
    power_mode: str | None
    clocks_pinned: dict[str, bool] = Field(default_factory=dict)
    environment: dict[str, str] = Field(default_factory=dict)
    """Machine and versions, as the device tells them with a measurement."""
    graph_sha256: Sha256
    """The model's channel graph."""
    empty_ms: Milliseconds
    """An engine that reads the input and does next to nothing."""
    spread: float = Field(ge=0)
    """Of the small engines, 90th percentile."""
    layers: tuple[LayerTimes, ...]
    engines: tuple[WholeEngine, ...]
    correction: Correction
    error: PredictionError
    notes: tuple[str, ...] = ()


class PrecisionTimes(Record):
    """Whole engines of one precision, evenly cut."""

    precision: Precision
    levels: tuple[float, ...]
    """How far each was cut: 0 whole, 1 as narrow as can be."""
    engines: tuple[Timed, ...]


class Precisions(Record):
    """latency/precisions.json: what inference takes in each precision of a target, evenly cut."""

    model: tuple[PrecisionTimes, ...]
    """The model that is to be cut: another one, where the activation function was swapped."""
    lacking: dict[str, str] = Field(default_factory=dict)
    """Precision that the device hasn't -> why."""

    def best(self, budget_ms: float) -> tuple[PrecisionTimes, float]:
        """The precision that has to be cut least for a budget of inference, and how far; where none gets there, the
        fastest, and over 1: the more, the further it stays behind."""
        found = min(self.model, key=lambda times: _needed(times, budget_ms))
        return found, _needed(found, budget_ms)

    def needed(self, precision: str, budget_ms: float) -> float:
        """How far it has to be cut in one precision; 1 where the device lacks it."""
        return next((_needed(times, budget_ms) for times in self.model if times.precision == precision), 1.0)


def _needed(times: PrecisionTimes, budget_ms: float) -> float:
    """The level of cutting at which a budget is met, linear between those measured; where it isn't, 1 and by how much
    the fastest is slower."""
    points = [(level, engine.ms) for level, engine in zip(times.levels, times.engines, strict=True)]
    if points[0][1] <= budget_ms:
        return points[0][0]
    for (level, ms), (after, less) in pairwise(points):
        if less <= budget_ms:
            return level + (ms - budget_ms) / (ms - less) * (after - level)
    return min(ms for _, ms in points) / max(budget_ms, 1e-9)


class ActivationTried(Record):
    """What an activation function lets a goal be reached with."""

    activation: Activation
    precision: Precision
    """In which it has to be cut least."""
    level: float
    """How far: 0 not at all, 1 as narrow as can be; over 1, the goal can't be had with it, by the evenly cut."""
    whole_ms: Milliseconds
    """Inference of the whole model with it, in that precision."""


class ActivationRace(Record):
    """latency/activation.json."""

    chosen: Activation
    tried: tuple[ActivationTried, ...] = Field(min_length=1)

    def sentence(self) -> str:
        """For the report."""
        told = "; ".join(
            f"{t.activation}: cut by {t.level:.0%} of what can be, in {t.precision}, whole {t.whole_ms:.2f} ms"
            for t in self.tried
        )
        return f"activation: {self.chosen} was chosen for the goal ({told})"


class Pace(Record):
    """latency/pace-PRECISION-LEVEL.json: how engines of a precision are best run, cut about as far as a goal asks, and
    what stands around their inference. By it, a table's milliseconds become those of image in to boxes out."""

    precision: Precision
    level: float
    """How far the engine was cut that this was tried with: 0 whole, 1 as narrow as can be."""
    choice: Choice
    """The form and the settings that won."""
    raced: tuple[str, ...]
    """Every candidate with its figures, the fastest first; none where there was nothing to choose from."""
    around_ms: Milliseconds
    """An image into what the engine takes, and its outputs into boxes, as the parent's are in that form."""
    inference_ms: Milliseconds
    """Of that engine."""
    table_ms: Milliseconds
    """The same by the table."""
    reference_ms: Milliseconds
    """The parent in that form and with these settings, in the same run, image in to boxes out: what later runs are set
    against."""
    parent_ms: Milliseconds
    """The parent at its best, in the same run: what a budget is counted from. Another hour's would be of a machine that
    may have been a third faster."""

    @property
    def factor(self) -> float:
        """Inference with the winning settings : as the table has it."""
        return self.inference_ms / self.table_ms
