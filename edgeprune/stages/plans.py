"""Times of plans whose weights are cut and not trained yet, image in to boxes out.

Rules:
- What counts is what the verdict will count: whole detectors in the form and with the settings that suit them, beside
  the parent in one run. Times are those of the day on which the budget was set, whatever the machine does since.
- What untrained weights find says nothing: what decoding takes is the parent's.
- A board builds its engines itself, a kit for each of them would take it minutes. There plans are timed by inference
  alone, as graphs that it builds; all that stands around it is the parent's: its time less its inference alone.
"""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from edgeprune.errors import DeviceError
from edgeprune.job import Job
from edgeprune.records import BenchRun, Choice, Measurement, files, read_json
from edgeprune.records.form import Form
from edgeprune.records.latency import LatencyTable, Pace
from edgeprune.records.request import Engine
from edgeprune.stages.common import engines, forms_of, lacking, race, run_as, tuned
from edgeprune.stages.tune import PARENTS, settings_of

if TYPE_CHECKING:
    from edgeprune.graph.cost import Widths
    from edgeprune.latency.subject import Subject

#: Rounds of a race with plans: blocks of 0.15 s; a verdict has 40.
ROUNDS = 12
REFERENCE = "parent"


class Plans(Protocol):
    """How a job's plans are timed."""

    def pace(self, subject: Subject, table: LatencyTable, level: float, work: Path, stage: str) -> Pace:
        """How plans of a precision are best run, and what stands around their inference.

        Args:
            subject: What is about to be cut, in the table's precision.
            level: How far the engine is cut that this is tried with.
            work: A folder for engines.
            stage: Whose progress it is.
        """
        ...

    def measure(self, subject: Subject, plans: Sequence[Widths], found: Pace) -> list[float]:
        """Milliseconds of each plan, as they were on the day of `found`."""
        ...


def plans_of(job: Job) -> Plans:
    """By the job's target."""
    return _OnBoard(job) if job.on_board else _Raced(job)


def parent_at_best(job: Job) -> Measurement:
    """The parent's fastest engine."""
    found = read_json(job.shop / "latency/parent.json", BenchRun, DeviceError)
    return min(found.measurements, key=lambda m: m.latency_ms.p50)


class _OnBoard:
    """Inference alone, of graphs that the board builds."""

    def __init__(self, job: Job) -> None:
        self._job = job

    def pace(self, subject: Subject, table: LatencyTable, level: float, work: Path, stage: str) -> Pace:
        """See `Plans.pace`."""
        from edgeprune.latency.model import LatencyModel
        from edgeprune.latency.plans import at_level

        widths = at_level(subject.graph, self._job.profile.channel_multiple, level)
        parent, whole = self._parent_ms(), parent_at_best(self._job).latency_ms.p50
        (plan,) = self._inferences(subject, [widths])
        return Pace(
            precision=table.precision, level=level, raced=(), around_ms=max(whole - parent, 0.0), inference_ms=plan,
            choice=Choice(settings=self._job.profile.settings.of(subject.precision), form=Form()),
            table_ms=LatencyModel.of(table, subject.graph).ms(widths), reference_ms=parent, parent_ms=whole,
        )  # fmt: skip

    def measure(self, subject: Subject, plans: Sequence[Widths], found: Pace) -> list[float]:
        """See `Plans.measure`."""
        drift = found.reference_ms / self._parent_ms()
        return [found.around_ms + ms * drift for ms in self._inferences(subject, plans)]

    def _parent_ms(self) -> float:
        """The parent in its fastest precision."""
        from edgeprune.latency.subject import Subject

        job, precision = self._job, parent_at_best(self._job).engine.split()[1]
        subject = Subject.of(job.shop / "parent.pt", job.own_profile, precision, job.bench, None)
        return self._inferences(subject, [subject.costs.widths])[0]

    def _inferences(self, subject: Subject, plans: Sequence[Widths]) -> list[float]:
        from edgeprune.latency.table import time_whole

        settings = self._job.profile.settings.of(subject.precision)
        with tempfile.TemporaryDirectory() as work:
            return [timed.ms for timed in time_whole(subject, self._job.bench, settings, Path(work), plans)]


class _Raced:
    """Whole detectors beside the parent."""

    def __init__(self, job: Job) -> None:
        self._job = job

    def pace(self, subject: Subject, table: LatencyTable, level: float, work: Path, stage: str) -> Pace:
        """See `Plans.pace`."""
        from edgeprune.bench.ask import about
        from edgeprune.bench.halving import halve
        from edgeprune.latency.model import LatencyModel
        from edgeprune.latency.plans import at_level

        job, profile, precision = self._job, self._job.profile, subject.precision
        widths = at_level(subject.graph, profile.channel_multiple, level)
        settings, _ = settings_of(job, about(job.bench, profile.runtime, profile.precisions, profile.plugin))
        made = self._engines(subject, work, widths, None)
        field = [(Choice(settings=s.of(precision), form=form), file) for form, file in made.items() for s in settings]

        def heat(indices: Sequence[int], rounds: int) -> BenchRun:
            return race(job, [self._engine(precision, f"{i}", *field[i]) for i in indices], stage, rounds)

        placed = halve(len(field), heat) if len(field) > 1 else []
        choice, fastest = field[placed[0].index if placed else 0]
        entered = [self._reference(choice), self._engine(precision, "plan", choice, fastest), self._best_parent()]
        parent, plan, best = race(job, entered, stage, ROUNDS).measurements
        assert parent.parts is not None
        assert plan.parts is not None
        return Pace(
            precision=table.precision, level=level, choice=choice,
            raced=tuple(f"{field[p.index][0].words()}: {p.latency_ms.p50:.3f} ms" for p in placed),
            around_ms=plan.parts.preprocess_ms + parent.parts.postprocess_ms, inference_ms=plan.parts.inference_ms,
            table_ms=LatencyModel.of(table, subject.graph).ms(widths), reference_ms=parent.latency_ms.p50,
            parent_ms=best.latency_ms.p50,
        )  # fmt: skip

    def measure(self, subject: Subject, plans: Sequence[Widths], found: Pace) -> list[float]:
        """See `Plans.measure`."""
        form = found.choice.form
        with tempfile.TemporaryDirectory() as folder:
            made = [
                self._engines(subject, Path(folder) / str(number), widths, form)[form]
                for number, widths in enumerate(plans)
            ]
            entered = [self._engine(found.precision, f"{n}", found.choice, file) for n, file in enumerate(made)]
            entered = [self._reference(found.choice), *entered]
            reference, *run = race(self._job, entered, "engines of plans", ROUNDS).measurements
        drift = found.reference_ms / reference.latency_ms.p50
        return [_image_to_boxes(one, reference) * drift for one in run]

    def _engines(self, subject: Subject, folder: Path, widths: Widths, form: Form | None) -> dict[Form, Path]:
        """Form -> the file that the runtime loads, as a build has it; in all forms that the target races, or in one."""
        from edgeprune.export.cuts import forms_of as forms_that
        from edgeprune.export.engine import build_engine, engine_file

        source, profile = folder / "source.onnx", self._job.profile
        files.remove(folder)  # what an interrupted run left
        files.write_bytes(source, subject.source(widths).SerializeToString(deterministic=True))
        wanted = (form,) if form else forms_that(source, profile.runtime) if profile.races_forms else (Form(),)
        made = {}
        for number, one in enumerate(wanted):
            own = folder / f"form-{number}"
            own.mkdir(parents=True)
            made[one] = engine_file(
                build_engine(
                    profile.runtime, source, own, self._job.architecture, quantized=subject.record is not None,
                    half=subject.half, form=one,
                )
            )  # fmt: skip
        return made

    def _engine(self, precision: str, name: str, choice: Choice, file: Path) -> Engine:
        own = next(p for p in self._job.profile.precisions if p == precision)
        engine = Engine.of(self._job.profile, name, own, file).run_with(choice.settings)
        return engine.model_copy(update={"form": choice.form})

    def _reference(self, choice: Choice) -> Engine:
        """The parent's fastest engine, in a form that plans are measured in."""
        best = self._best_parent()
        variant, precision = best.name.split()
        form = choice.form if choice.form in forms_of(self._job, variant, precision) else Form()
        own = run_as(self._job, best, Choice(settings=best.settings, form=form))
        return own.model_copy(update={"name": REFERENCE})

    def _best_parent(self) -> Engine:
        """The parent's fastest engine, in the form and with the settings that won."""
        fastest = parent_at_best(self._job).engine
        stock = [engine for engine in engines(self._job, lacking(self._job), ("parent",)) if engine.name == fastest]
        return tuned(self._job, stock, PARENTS)[0]


def _image_to_boxes(plan: Measurement, parent: Measurement) -> float:
    assert plan.parts is not None
    assert parent.parts is not None
    return plan.parts.preprocess_ms + plan.parts.inference_ms + parent.parts.postprocess_ms
