"""Making a latency table: every layer as a small engine, whole engines along the way, all timed on the device.

Rules:
- Small engines and whole ones take turns in passes, each pass in another order; whole engines, to which all else is
  held, get twice as many, and an engine whose passes don't agree gets more of them. A machine on which they don't
  agree even then is refused: its table would be noise.
- What has been timed is kept in the work folder, pass by pass; an interrupted table goes on from there.
- The correction is fitted on some random plans, the error taken on others (`HELD_OUT`).
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import onnx

from edgeprune.bench.ask import Bench, times
from edgeprune.errors import DeviceError
from edgeprune.export.layers import Layers
from edgeprune.export.lint import TENSORRT
from edgeprune.graph.cost import Widths
from edgeprune.latency.layers import Kind, elements, empty_engine, kinds
from edgeprune.latency.model import UNCORRECTED, LatencyModel, corrected, error_of, fit
from edgeprune.latency.plans import at_level, at_random
from edgeprune.latency.subject import Subject
from edgeprune.records import Settings, files
from edgeprune.records.latency import Correction, LatencyTable, LayerPoint, LayerTimes, Timed, WholeEngine
from edgeprune.records.request import TimeAnswer, TimeRequest

#: How far joints are cut, and whole engines evenly.
LEVELS = (0.0, 0.25, 0.5, 0.75, 1.0)
#: Random plans that the correction is fitted on, and that its error is taken on.
FITTED, HELD_OUT = 24, 20
#: Passes over small engines, and over whole ones, which the correction and the error rest on; up to so many over what
#: doesn't agree with itself.
PASSES, WHOLE_PASSES, MOST_PASSES = 3, 6, 9
#: Seconds of a small engine in a pass, of a whole one.
SMALL_S, WHOLE_S = 0.03, 0.15
#: Passes of an engine agree within this share. More than a tenth of all engines beyond it: too noisy a machine.
NOISE = 0.10
NOISY_SHARE = 0.10
#: Graphs that travel to the device together.
BATCH = 64

#: What, done, of how many: inference passes over graphs, or graphs made.
OnStep = Callable[[str, int, int], None]


@dataclass(frozen=True)
class _Graph:
    """One engine to time.

    Attributes:
        name: Of its file.
        make: Its graph.
        whole: Whether it is a whole engine.
    """

    name: str
    make: Callable[[], onnx.ModelProto]
    whole: bool = False

    @property
    def passes(self) -> int:
        """Over it at least."""
        return WHOLE_PASSES if self.whole else PASSES


def make_table(
    subject: Subject, bench: Bench, settings: Settings, work: Path, *, target: str, multiple: int, seed: int = 0,
    on_step: OnStep = lambda what, done, total: None,
) -> LatencyTable:  # fmt: skip
    """Measure a model's latency table.

    Args:
        settings: How engines are run.
        work: A folder that keeps graphs and times until the table is done.
        target: The target's name, for the record.
        multiple: The channel multiple.
        seed: Of random plans and of orders.
        on_step: Told how far it has come.

    Raises:
        DeviceError: The device can't be asked, or is too noisy to be measured.
        ExportError, ModelError: The model can't be taken apart.
    """
    info = bench.info
    plans = [at_level(subject.graph, multiple, level) for level in LEVELS]
    plans += at_random(subject.graph, multiple, FITTED + HELD_OUT, seed)
    evenly = [Layers(subject.onnx(widths)) for widths in plans[: len(LEVELS)]]
    found = kinds(evenly[0], subject.graph, multiple)
    graphs = {graph.name: graph for graph in _graphs(subject, found, evenly, plans)}
    timer = _Timer(subject, bench, settings, work, seed, on_step)
    timed = timer.time(graphs)
    layers = tuple(_times(index, kind, evenly, timed) for index, kind in enumerate(found))
    engines, correction = _whole(subject, layers, plans, timed)
    version = bench.versions(subject.profile.runtime)[subject.profile.runtime]
    return LatencyTable(
        target=target, runtime=subject.profile.runtime, version=version, precision=subject.precision,
        settings=settings, form=subject.form, input_shape=subject.profile.input_shape, device=bench.address,
        board=info.board, soc=info.soc, architecture=info.architecture, power_mode=info.power_mode,
        clocks_pinned=info.clocks_pinned, environment=timer.environment, graph_sha256=subject.graph.sha256,
        empty_ms=timed["empty"].ms, spread=float(np.quantile([t.spread for t in timed.values()], 0.9)),
        layers=layers, engines=engines, correction=correction, error=error_of(engines), notes=timer.notes,
    )  # fmt: skip


def time_whole(
    subject: Subject, bench: Bench, settings: Settings, work: Path, plans: Sequence[Widths], seed: int = 0,
    on_step: OnStep = lambda what, done, total: None,
) -> list[Timed]:  # fmt: skip
    """Times of whole engines, measured together in passes.

    Args:
        work: A folder for this question alone.
        plans: Widths of every engine.

    Raises:
        DeviceError: As `make_table`.
    """
    made = [_Graph(_engine(number), partial(subject.onnx, widths), whole=True) for number, widths in enumerate(plans)]
    graphs = {graph.name: graph for graph in made}
    timed = _Timer(subject, bench, settings, work, seed, on_step).time(graphs)
    return [timed[name] for name in graphs]


class _Timer:
    """Asks the device, pass by pass, and keeps what it said.

    Attributes:
        environment: As the device told it last.
        notes: What is to be said of how it went.
    """

    def __init__(
        self, subject: Subject, bench: Bench, settings: Settings, work: Path, seed: int, on_step: OnStep
    ) -> None:
        self._subject, self._bench, self._settings = subject, bench, settings
        self._work, self._seed, self._on_step = work, seed, on_step
        self._kept = work / "times.json"
        self._passes: dict[str, list[float]] = {}
        self.environment: dict[str, str] = {}
        self.notes: tuple[str, ...] = ()
        if self._kept.is_file():
            state = json.loads(self._kept.read_text())
            self._passes, self.environment = state["passes"], state["environment"]

    def time(self, graphs: Mapping[str, _Graph]) -> dict[str, Timed]:
        """Of every graph, by name."""
        if self._subject.profile.runtime == TENSORRT and any(not self._passes.get(name) for name in graphs):
            self._build(graphs)
        for number in range(MOST_PASSES):
            if wanted := [name for name, graph in graphs.items() if self._wants(graph, number)]:
                of = next(most for most in (PASSES, WHOLE_PASSES, MOST_PASSES) if number < most)
                self._pass(graphs, wanted, number, of)
        timed = {name: Timed(passes_ms=tuple(self._passes[name])) for name in graphs}
        again = [name for name, graph in graphs.items() if len(self._passes[name]) > graph.passes]
        still = [name for name in graphs if self._noisy(name)]
        if len(still) > NOISY_SHARE * len(graphs):
            worst = max(still, key=lambda name: timed[name].spread)
            self._kept.unlink()
            raise DeviceError(
                "The machine is too noisy for a latency table.", where=self._bench.address,
                expected=f"passes over an engine that agree within {NOISE:.0%}",
                got=f"{len(still)} of {len(graphs)} engines beyond that after {MOST_PASSES} passes, the worst by "
                f"{timed[worst].spread:.0%}",
                next_step="stop what else runs on it, pin its clocks, and measure again",
            )  # fmt: skip
        if again:
            self.notes = (
                f"{len(again)} of {len(graphs)} engines were measured up to {MOST_PASSES} times, since their passes "
                f"didn't agree within {NOISE:.0%}" + (f"; {len(still)} still don't" if still else ""),
            )
        return timed

    def _build(self, graphs: Mapping[str, _Graph]) -> None:
        """Have the board build all engines: minutes, after which a pass takes seconds."""
        names = list(graphs)
        for first in range(0, len(names), BATCH):

            def on_graph(within: int, first: int = first) -> None:
                self._on_step("engines built", first + within, len(names))

            self._request(graphs, names[first : first + BATCH], 0, WHOLE_S, on_graph)

    def _wants(self, graph: _Graph, number: int) -> bool:
        """Whether the pass of that number, from 0, is to take it along."""
        had = len(self._passes.get(graph.name, ()))
        return had <= number and (number < graph.passes or self._noisy(graph.name))

    def _noisy(self, name: str) -> bool:
        return Timed(passes_ms=tuple(self._passes[name])).spread > NOISE

    def _pass(self, graphs: Mapping[str, _Graph], names: list[str], number: int, of: int) -> None:
        order = np.random.default_rng((self._seed, number)).permutation(len(names)).tolist()
        done = 0

        def on_graph(within: int) -> None:
            self._on_step(f"pass {number + 1} of {of}", number * len(names) + done + within, of * len(names))

        for whole in (False, True):  # a batch has one length of measurement
            shuffled = [names[i] for i in order if graphs[names[i]].whole is whole]
            for first in range(0, len(shuffled), BATCH):
                batch = shuffled[first : first + BATCH]
                self._ask(graphs, batch, WHOLE_S if whole else SMALL_S, on_graph)
                done += len(batch)

    def _ask(
        self, graphs: Mapping[str, _Graph], names: Sequence[str], seconds: float, on_graph: Callable[[int], None]
    ) -> None:
        answer = self._request(graphs, names, 1, seconds, on_graph)
        for name, found in zip(names, answer.passes_ms, strict=True):
            self._passes.setdefault(name, []).extend(found)
        self.environment = answer.environment
        state = {"passes": self._passes, "environment": self.environment}
        files.write_bytes(self._kept, json.dumps(state).encode())

    def _request(
        self, graphs: Mapping[str, _Graph], names: Sequence[str], passes: int, seconds: float,
        on_graph: Callable[[int], None],
    ) -> TimeAnswer:  # fmt: skip
        paths = []
        for name in names:
            on_graph(0)  # whole engines take seconds to make: somebody may want to see that all is well
            paths.append(str(self._file(graphs[name])))
        request = TimeRequest.model_validate(
            {
                "runtime": self._subject.profile.runtime, "precision": self._subject.precision,
                "settings": self._settings, "graphs": tuple(paths), "dla": self._subject.profile.dla,
                "passes": passes, "seconds": seconds, "seed": self._seed,
            }
        )  # fmt: skip
        return times(self._bench, request, lambda what, done, total: on_graph(int(done)))

    def _file(self, graph: _Graph) -> Path:
        file = self._work / "graphs" / f"{graph.name}.onnx"
        if not file.is_file():
            files.write_bytes(file, graph.make().SerializeToString(deterministic=True))
        return file


def _graphs(
    subject: Subject, found: Sequence[Kind], evenly: Sequence[Layers], plans: Sequence[Widths]
) -> Iterator[_Graph]:
    yield _Graph("empty", partial(empty_engine, subject.profile.input_shape))

    def layer(name: str, make: Callable[[], onnx.ModelProto]) -> _Graph:
        return _Graph(name, lambda: subject.alone(make()))

    for index, kind in enumerate(found):
        for inputs, outputs in kind.points:
            yield layer(_point(index, inputs, outputs), partial(evenly[0].at, kind.layer, inputs, outputs))
        if kind.layer.convolution is None:
            for level, layers in enumerate(evenly):
                yield layer(_level(index, level), partial(layers.cut, layers.joint(kind.names[0])))
    for number, widths in enumerate(plans):
        yield _Graph(_engine(number), partial(subject.onnx, widths), whole=True)


def _times(index: int, kind: Kind, evenly: Sequence[Layers], timed: Mapping[str, Timed]) -> LayerTimes:
    if kind.layer.convolution is not None:
        points = tuple(
            LayerPoint(inputs=i, outputs=o, passes_ms=timed[_point(index, i, o)].passes_ms) for i, o in kind.points
        )
        return LayerTimes(
            what=kind.what, kind="convolution", names=kind.names, rows=kind.rows, columns=kind.columns, points=points
        )
    sizes = [elements(layers, layers.joint(kind.names[0])) for layers in evenly]
    points = tuple(
        LayerPoint(inputs=i, outputs=o, passes_ms=timed[_level(index, level)].passes_ms)
        for level, (i, o) in enumerate(sizes)
    )
    return LayerTimes(
        what=kind.what, kind="joint", names=kind.names, reads=kind.reads, feeds=kind.feeds, fixed=kind.fixed,
        points=points,
    )  # fmt: skip


def _whole(
    subject: Subject, layers: Sequence[LayerTimes], plans: Sequence[Widths], timed: Mapping[str, Timed]
) -> tuple[tuple[WholeEngine, ...], Correction]:
    """The whole engines with their predictions, and the correction that these are made with."""
    model = LatencyModel(layers, subject.graph, UNCORRECTED)
    sums = [model.sums(widths) for widths in plans]
    measured = [timed[_engine(number)] for number in range(len(plans))]
    seen = len(plans) - HELD_OUT
    correction = fit(sums[:seen], [t.ms for t in measured[:seen]])
    channels = float(subject.costs.widths.sum())
    engines = tuple(
        WholeEngine(
            passes_ms=own.passes_ms,
            layers_ms=pair,
            predicted_ms=corrected(correction, pair),
            held_out=number >= seen,
            channels=float(widths.sum()) / channels,
        )
        for number, (widths, pair, own) in enumerate(zip(plans, sums, measured, strict=True))
    )
    return engines, correction


def _point(index: int, inputs: int, outputs: int) -> str:
    return f"layer-{index:02}-{inputs}x{outputs}"


def _level(index: int, level: int) -> str:
    return f"joint-{index:02}-{level}"


def _engine(number: int) -> str:
    return f"engine-{number:02}"
