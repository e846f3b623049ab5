"""How long a whole engine of any widths takes, from a latency table. Pure.

Rules:
- The layers' times are summed up: convolutions from their grids, linear between the nearest widths of either side;
  joints along their line. Beyond a grid's ends its ends count;
  a layer that was taken out, which has no channels, takes no time.
- A sum isn't an engine: layers lose what enters and leaves them alone (layouts, calls), and gain or lose what crosses
  them (fusion, memory, threads). So the sums of convolutions and of joints get a factor each, and a constant, from
  whole engines that were measured: least squares of the relative errors, drawn to the factor 1 and the constant 0 by
  what equals `PRIOR` engines.
- One call costs some tens of microseconds: a solver makes thousands.

Source of tables by layer: Cai et al. 2019, 'ProxylessNAS', section 3.3; of the correction by whole engines: measured
here (README, 'Latency tables').
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence

import numpy as np

from edgeprune.graph.channels import ChannelGraph
from edgeprune.graph.cost import Widths, counts
from edgeprune.latency.layers import module_of
from edgeprune.records.latency import Correction, LatencyTable, LayerTimes, PredictionError, WholeEngine

#: How many engines the assumption counts that the sum is right.
PRIOR = 0.01
UNCORRECTED = Correction(constant_ms=0.0, convolutions=1.0, joints=1.0)


class LatencyModel:
    """Times of one channel graph's engines.

    Attributes:
        spread: Relative difference below which two times count as alike.
        floor_ms: Time of an empty engine.
    """

    def __init__(self, layers: Sequence[LayerTimes], graph: ChannelGraph, correction: Correction = UNCORRECTED) -> None:
        self._correction = correction
        self.spread = 0.0
        self.floor_ms = 0.0
        self._grids = [_Grid(times) for times in layers if times.kind == "convolution"]
        self._joints = [_Line(times) for times in layers if times.kind == "joint"]
        names = list(
            dict.fromkeys(
                [n for grid in self._grids for n in grid.names]
                + [n for line in self._joints for n in (*line.reads, *line.feeds)]
            )
        )
        self._index = {name: i for i, name in enumerate(names)}
        found = [graph.layers[module_of(name, graph)] for name in names]
        self._in, self._in_fixed = counts([layer.in_ for layer in found], len(graph.groups))
        self._out, self._out_fixed = counts([layer.out for layer in found], len(graph.groups))

    @classmethod
    def of(cls, table: LatencyTable, graph: ChannelGraph) -> LatencyModel:
        """The model of a table, for the graph at hand: that of the table's model, or of one cut from it."""
        made = cls(table.layers, graph, table.correction)
        made.spread, made.floor_ms = table.error.median, table.empty_ms
        return made

    def sums(self, widths: Widths) -> tuple[float, float]:
        """Milliseconds of all convolutions and of all joints, as they are alone."""
        inputs = np.rint(self._in @ widths + self._in_fixed).astype(int).tolist()
        outputs = np.rint(self._out @ widths + self._out_fixed).astype(int).tolist()
        at = self._index
        convolutions = sum(
            grid.ms(inputs[at[n]], outputs[at[n]]) for grid in self._grids for n in grid.names if outputs[at[n]]
        )
        elements = (
            sum(each * outputs[at[name]] for name, each in line.reads.items())
            + sum(each * inputs[at[name]] for name, each in line.feeds.items())
            for line in self._joints
        )
        joints = sum(line.ms(n) for line, n in zip(self._joints, elements, strict=True) if n)
        return convolutions, joints

    def ms(self, widths: Widths) -> float:
        """Milliseconds of a whole engine, never less than an empty one's."""
        return max(corrected(self._correction, self.sums(widths)), self.floor_ms)


class PacedModel:
    """Times of image in to boxes out, by a model of inference alone.

    Attributes:
        spread, floor_ms: As LatencyModel's.
    """

    def __init__(self, inference: LatencyModel, around_ms: float, factor: float) -> None:
        self._inference, self._around, self._factor = inference, around_ms, factor
        self.spread = inference.spread
        self.floor_ms = self._paced(inference.floor_ms)

    def ms(self, widths: Widths) -> float:
        """Milliseconds of a detector of these widths."""
        return self._paced(self._inference.ms(widths))

    def _paced(self, ms: float) -> float:
        return self._around + self._factor * ms


def corrected(correction: Correction, sums: tuple[float, float]) -> float:
    """Milliseconds of a whole engine from what its layers take alone."""
    return correction.constant_ms + correction.convolutions * sums[0] + correction.joints * sums[1]


def fit(sums: Sequence[tuple[float, float]], measured_ms: Sequence[float]) -> Correction:
    """The correction that fits whole engines best.

    Args:
        sums: Of each engine, as `LatencyModel.sums` has them.
        measured_ms: Of the same.
    """
    measured = np.asarray(measured_ms)
    rows = np.column_stack([np.ones(len(measured)), np.asarray(sums)]) / measured[:, None]
    prior = np.array([0.0, 1.0, 1.0])
    weight = np.diag(np.sqrt(PRIOR) * np.linalg.norm(rows, axis=0) / np.sqrt(len(rows)))
    solution = np.linalg.lstsq(np.vstack([rows, weight]), np.concatenate([np.ones(len(rows)), weight @ prior]))[0]
    constant, convolutions, joints = solution.tolist()
    return Correction(constant_ms=constant, convolutions=convolutions, joints=joints)


def error_of(engines: Sequence[WholeEngine]) -> PredictionError:
    """How wrong the predictions of engines are that were held out."""
    errors = [engine.error for engine in engines if engine.held_out]
    median, p90 = np.quantile(errors, [0.5, 0.9]).tolist()
    return PredictionError(median=median, p90=p90, worst=max(errors), plans=len(errors))


class _Grid:
    """Times over inputs and outputs."""

    def __init__(self, times: LayerTimes) -> None:
        self.names = times.names
        self._ms = {(p.inputs, p.outputs): p.ms for p in times.points}
        self._rows, self._columns = times.rows, times.columns

    def ms(self, inputs: int, outputs: int) -> float:
        known = self._ms.get((inputs, outputs))
        if known is None:
            known = self._ms[inputs, outputs] = self._read(inputs, outputs)
        return known

    def _read(self, inputs: int, outputs: int) -> float:
        columns = _between(self._columns, outputs)
        if not self._rows:  # depthwise: as many as come in
            return sum(share * self._ms[o, o] for o, share in columns)
        rows = _between(self._rows, inputs)
        return sum(a * b * self._ms[i, o] for i, a in rows for o, b in columns)


class _Line:
    """Times over elements."""

    def __init__(self, times: LayerTimes) -> None:
        points = sorted((p.inputs + p.outputs, p.ms) for p in times.points)
        self._elements = [elements for elements, _ in points]
        self._ms = [ms for _, ms in points]
        self.reads, self.feeds, self._fixed = times.reads, times.feeds, times.fixed

    def ms(self, elements: float) -> float:
        return float(np.interp(elements + self._fixed, self._elements, self._ms))


def _between(axis: Sequence[int], width: int) -> list[tuple[int, float]]:
    """The points of an axis that a width lies between, with their shares; an end for what lies beyond it."""
    after = bisect_left(axis, width)
    if after == len(axis) or (after == 0 and axis[0] > width):
        return [(axis[min(after, len(axis) - 1)], 1.0)]
    if axis[after] == width:
        return [(width, 1.0)]
    share = (width - axis[after - 1]) / (axis[after] - axis[after - 1])
    return [(axis[after - 1], 1 - share), (axis[after], share)]
