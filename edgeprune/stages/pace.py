"""For goals in time: the parent at its best, and a clock that tells how long plans will take, image in to boxes out.

Rules:
- What counts is what the verdict will count: whole detectors, each in the form and with the settings that suit it best,
  against the parent in its own. So the parent is exported and raced before anything is cut.
- A precision is chosen by whole engines evenly cut, the form and the settings by successive halving of one cut about as
  far as the goal asks. What the table says of inference becomes image in to boxes out by that engine.
- Plans that are measured stand beside the parent in one run; times are those of the day on which the budget was set,
  whatever the machine does since. Their weights are cut and not yet trained, so that the boxes which they find say
  nothing: what decoding takes is the parent's.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from edgeprune.errors import DeviceError
from edgeprune.job import Job
from edgeprune.records import BenchRun, Choice, Measurement, read_json, write_json
from edgeprune.records.form import Form
from edgeprune.records.latency import LatencyTable, Pace
from edgeprune.records.model import ModelFiles
from edgeprune.records.request import Engine
from edgeprune.records.settings import Settings
from edgeprune.stages.common import choices, engine_files, engines, forms_of, lacking, probe_images, run_as, tuned
from edgeprune.stages.export import export_float
from edgeprune.stages.latency import Target, latency_table, precisions, refuse_boards, scales_of
from edgeprune.stages.tune import PARENTS, settings_of, tune_parent

if TYPE_CHECKING:
    from torch import nn

    from edgeprune.graph.channels import ChannelGraph
    from edgeprune.graph.cost import Widths
    from edgeprune.latency.subject import Subject
    from edgeprune.prune.time import Clock

#: Rounds of a race with plans: blocks of 0.15 s; a verdict has 40.
ROUNDS = 12
#: Goals share what was found out with an engine cut about as far: levels are rounded to this many.
LEVELS = 4
REFERENCE = "parent"


def pace(job: Job) -> None:
    """parent.onnx, its engines, tune-parent.json; latency/parent.json: these engines at their best, in one run."""
    if not job.recipe.goal.in_time:
        return
    refuse_boards(job.profile)
    export_float(job, "parent", job.shop / "parent.pt")
    tune_parent(job)

    def act(work: Path) -> None:
        raced = tuned(job, engines(job, lacking(job), ("parent",)), PARENTS)
        write_json(work / "latency/parent.json", _race(job, raced, "pace of the parent"))

    job.shop.stage(
        "pace of the parent", act,
        reads={**engine_files(job, ("parent",)), "tuned": job.shop / PARENTS, "data": job.sha256["data"]},
        makes=("latency/parent.json",),
    )  # fmt: skip


def clock(job: Job, share: float, model: ModelFiles) -> tuple[Clock, dict[str, object]]:
    """What tells the time of a model on the job's target; and what that hangs on, for a key.

    Args:
        share: How far to the goal; engines are measured where it is 1.
        model: What is about to be cut.
    """
    from edgeprune.prune.time import Timing

    goal, target = job.recipe.goal, Target.of(job)
    parent = min(_parents(job).measurements, key=lambda m: m.latency_ms.p50)
    goal_ms, budget = (goal.budget_ms(parent.latency_ms.p50, s) for s in (1.0, share))
    assert parent.parts is not None
    around = parent.parts.preprocess_ms + parent.parts.postprocess_ms
    best, level = precisions(target, model).best(max(goal_ms - around, 0.0))
    table = latency_table(target, best.precision, model)
    found = _pace_of(job, target, model, table, best.precision, round(level * LEVELS) / LEVELS)

    def tell(graph: ChannelGraph, module: nn.Module) -> Timing:
        from edgeprune.latency.model import LatencyModel, PacedModel

        paced = PacedModel(LatencyModel.of(table, graph), found.around_ms, found.factor)
        return Timing(paced, budget, _measure(job, target, model, found, graph, module) if share == 1.0 else None)

    return tell, {
        "goal": goal.model_dump(exclude={"max_map_drop"}), "share": share, "pace": found.model_dump(mode="json"),
        "table": target.shop / f"latency/{best.precision}.json", "parent's pace": job.shop / "latency/parent.json",
    }  # fmt: skip


def _pace_of(job: Job, target: Target, model: ModelFiles, table: LatencyTable, precision: str, level: float) -> Pace:
    """latency/pace-PRECISION-LEVEL.json: in which form, and with which settings, plans of a precision are measured."""
    file = f"latency/pace-{precision}-{level:g}.json"
    stage = f"pace in {precision}, cut by {level:.0%} of what can be"

    def act(work: Path) -> None:
        from edgeprune.bench.ask import about
        from edgeprune.bench.halving import halve
        from edgeprune.latency.model import LatencyModel
        from edgeprune.latency.plans import at_level

        subject = target.subject(precision, model)
        widths = at_level(subject.graph, job.profile.channel_multiple, level)
        profile = job.profile
        settings, _ = settings_of(job, about(job.bench, profile.runtime, profile.precisions, profile.plugin))
        made = _Engines(job, subject, work / "forms").of(widths, None)
        field = [(Choice(settings=s, form=form), file) for form, file in made.items() for s in settings]

        def heat(indices: Sequence[int], rounds: int) -> BenchRun:
            entered = [_engine(job, precision, f"{i}", *field[i]) for i in indices]
            return _race(job, entered, stage, rounds)

        placed = halve(len(field), heat) if len(field) > 1 else []
        choice, fastest = field[placed[0].index if placed else 0]
        run = _race(job, [_reference(job, choice), _engine(job, precision, "plan", choice, fastest)], stage)
        parent, plan = run.measurements
        assert parent.parts is not None
        assert plan.parts is not None
        write_json(
            work / file,
            Pace(
                precision=table.precision, level=level, choice=choice,
                raced=tuple(f"{field[p.index][0].words()}: {p.latency_ms.p50:.3f} ms" for p in placed),
                around_ms=plan.parts.preprocess_ms + parent.parts.postprocess_ms, inference_ms=plan.parts.inference_ms,
                table_ms=LatencyModel.of(table, subject.graph).ms(widths), reference_ms=parent.latency_ms.p50,
            ),
        )  # fmt: skip

    job.shop.stage(
        stage, act,
        reads={
            **target.reads, "precision": precision, "level": level, "tuned": job.shop / PARENTS,
            "table": job.shop / f"latency/{precision}.json", "data": job.sha256["data"],
            "settings": job.profile.model_dump(mode="json"),
        },
        makes=(file,),
    )  # fmt: skip
    return read_json(job.shop / file, Pace, DeviceError)


def _measure(
    job: Job, target: Target, model: ModelFiles, found: Pace, graph: ChannelGraph, module: nn.Module
) -> Callable[[Sequence[Widths]], list[float]]:
    """Whole detectors on the device, image in to boxes out, in milliseconds of the day of `found`."""
    from edgeprune.latency.subject import Subject

    subject = Subject.at_hand(module, graph, job.profile, found.precision, job.architecture, scales_of(model))

    def measure(plans: Sequence[Widths]) -> list[float]:
        with tempfile.TemporaryDirectory() as folder:
            made = [
                _Engines(job, subject, Path(folder) / str(number)).of(widths, found.choice.form)[found.choice.form]
                for number, widths in enumerate(plans)
            ]
            entered = [_engine(job, found.precision, f"{n}", found.choice, file) for n, file in enumerate(made)]
            reference, *run = _race(job, [_reference(job, found.choice), *entered], "engines of plans").measurements
        drift = found.reference_ms / reference.latency_ms.p50
        return [_image_to_boxes(one, reference) * drift for one in run]

    return measure


def _image_to_boxes(plan: Measurement, parent: Measurement) -> float:
    assert plan.parts is not None
    assert parent.parts is not None
    return plan.parts.preprocess_ms + plan.parts.inference_ms + parent.parts.postprocess_ms


class _Engines:
    """A model's engines in a folder, as a build has them."""

    def __init__(self, job: Job, subject: Subject, folder: Path) -> None:
        self._job, self._subject, self._folder = job, subject, folder

    def of(self, widths: Widths, form: Form | None) -> dict[Form, Path]:
        """Form -> the file that the runtime loads; in every form that the target races, or in one."""
        from edgeprune.export.cuts import forms_of as forms_that
        from edgeprune.export.engine import build_engine, engine_file
        from edgeprune.records.files import write_bytes

        source, runtime = self._folder / "source.onnx", self._job.profile.runtime
        write_bytes(source, self._subject.source(widths).SerializeToString(deterministic=True))
        wanted = (form,) if form else forms_that(source, runtime) if self._job.profile.races_forms else (Form(),)
        made = {}
        for number, one in enumerate(wanted):
            folder = self._folder / f"form-{number}"
            folder.mkdir()
            quantized = self._subject.record is not None
            made[one] = engine_file(
                build_engine(
                    runtime, source, folder, self._job.architecture, quantized=quantized, half=self._subject.half,
                    form=one,
                )
            )  # fmt: skip
        return made


def _engine(job: Job, precision: str, name: str, choice: Choice, file: Path) -> Engine:
    own = next(p for p in job.profile.precisions if p == precision)
    engine = Engine.of(job.profile, name, own, file).run_with(choice.settings)
    return engine.model_copy(update={"form": choice.form})


def _reference(job: Job, choice: Choice) -> Engine:
    """The parent's fastest engine, in a form that plans are measured in."""
    best = min(_parents(job).measurements, key=lambda m: m.latency_ms.p50)
    engine = next(e for e in engines(job, lacking(job), ("parent",)) if e.name == best.engine)
    variant, precision = engine.name.split()
    own: Settings = choices(job, PARENTS)[engine.name].settings
    form = choice.form if choice.form in forms_of(job, variant, precision) else Form()
    return run_as(job, engine, Choice(settings=own, form=form)).model_copy(update={"name": REFERENCE})


def _parents(job: Job) -> BenchRun:
    return read_json(job.shop / "latency/parent.json", BenchRun, DeviceError)


def _race(job: Job, raced: Sequence[Engine], stage: str, rounds: int = ROUNDS) -> BenchRun:
    from edgeprune.bench.ask import race

    return race(
        job.bench, raced, probe_images(job), job.profile.input_shape, seed=job.recipe.seed, rounds=rounds,
        on_round=lambda done, total: job.shop.listener.progress(stage, done, total),
    )  # fmt: skip
