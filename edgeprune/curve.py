"""Several builds of one parent for one target beside each other: each a whole build, then all in one final race.

Rules:
- A build of the curve is a build like any other, in a folder of its own under the same `out`: it has its report and,
  where it is accepted, its bundle. What it has in common with the others is done once and taken over (workshop.py).
- Latencies of different runs aren't set against each other: one last run has the parent's engines and every build's
  best, interleaved, with the settings that won in their own builds.
- A goal that can't be had, or a build that a check refuses, is a point with its reason, and the others go on. What
  would fail for all of them (a file, the device) ends it all, with an error, before anything heavy where it can.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from edgeprune.errors import EdgepruneError, ExportError, ParityError, PlanError, RecipeError
from edgeprune.job import Job, plan_job
from edgeprune.pipeline import build
from edgeprune.records import (
    BenchRun,
    Comparison,
    Measurement,
    Recipe,
    Report,
    Row,
    TargetProfile,
    read_json,
    write_json,
)
from edgeprune.records.request import Engine
from edgeprune.records.sweep import Point, Raced
from edgeprune.report.build_page import name_of
from edgeprune.stages import offer, page
from edgeprune.stages.common import engines, lacking, probe_images, tuned
from edgeprune.workshop import Listener, Workshop

#: What is one build's own trouble, rather than that of all.
OWN_TROUBLE = (PlanError, RecipeError, ExportError, ParityError)


@dataclass(frozen=True)
class Order:
    """What all builds of a curve are asked with; as `pipeline.build` has it."""

    model: Path | str
    data: Path | str
    target: str | TargetProfile
    recipe: Recipe
    out: Path | str = "build"
    calibration: str | None = None
    device: str | None = None
    listener: Listener | None = None

    @property
    def name(self) -> str:
        """The target's, which its folder has too."""
        return Path(self.target).stem if isinstance(self.target, str) else "custom"

    def job(self, folder: str | None, changes: Mapping[str, object]) -> Job:
        """One of its builds, checked; raises as `plan_job` does. `changes`: what differs from its recipe."""
        recipe = self.recipe.model_copy(update=dict(changes))
        return plan_job(
            self.model, self.data, self.target, recipe, self.out, self.listener, self.calibration, self.device, folder
        )

    def build(
        self, folder: str | None, changes: Mapping[str, object], until: str = "report", again: bool = False
    ) -> Report | None:
        """Build it; raises as `pipeline.build` does."""
        return build(
            model=self.model, data=self.data, target=self.target, recipe=self.recipe.model_copy(update=dict(changes)),
            out=self.out, until=until, again=again, calibration=self.calibration, device=self.device, folder=folder,
            listener=self.listener,
        )  # fmt: skip


@dataclass(frozen=True)
class Made:
    """One point's build, or why there is none.

    Attributes:
        name: In short: '2x'.
        changes: What differs from the order's recipe.
    """

    name: str
    value: float
    folder: str
    changes: Mapping[str, object]
    report: Report | None
    why: str
    refined: bool = False

    @property
    def accepted(self) -> bool:
        return self.report is not None and self.report.verdict.accepted


def make(
    order: Order, name: str, value: float, folder: str, changes: Mapping[str, object], refined: bool = False
) -> Made:
    """Build a point; raises what would fail for all points."""
    try:
        report = order.build(folder, changes)
    except OWN_TROUBLE as error:
        return Made(name, value, folder, changes, None, " ".join(str(error).split()), refined)
    assert report is not None
    verdict = report.verdict
    said = "accepted" if verdict.accepted else "rejected"
    return Made(name, value, folder, changes, report, f"{said}: {'; '.join(verdict.reasons[:2])}", refined)


def renew_offers(order: Order, made: Sequence[Made]) -> None:
    """What rejected builds offer, once all of them are there: those that came after it too."""
    for each in made:
        if each.report is not None and not each.accepted:
            job = order.job(each.folder, each.changes)
            with job.shop.open():
                offer(job)
                page(job)


def entrants(order: Order, made: Sequence[Made]) -> list[Engine]:
    """Engines of the final race: the parent's, as the first build ran them, and each build's best, renamed."""
    found: list[Engine] = []
    for each in made:
        if each.report is None:
            continue
        job = order.job(each.folder, each.changes)
        raced = tuned(job, engines(job, lacking(job)))
        if not found:
            found += [e.model_copy(update={"input_shape": job.own_shape}) for e in raced if e.name.startswith("parent")]
        best = next(e for e in raced if e.name == each.report.verdict.comparison.build)
        shape = job.profile.input_shape
        found.append(best.model_copy(update={"name": f"{each.name} {best.name}", "input_shape": shape}))
    return found


def final_race(order: Order, shop: Workshop, name: str, raced: Sequence[Engine]) -> BenchRun:
    """NAME-bench.json: all in one run, interleaved.

    Args:
        shop: Open.
        name: Of the curve: sweep or sizes.
    """
    job, made = order.job(None, {"imgsz": ()}), f"{name}-bench.json"

    def act(work: Path) -> None:
        from edgeprune.bench.ask import race
        from edgeprune.bench.measure import ROUNDS

        run = race(
            job.bench, raced, probe_images(job), job.own_shape, seed=job.recipe.seed, rounds=ROUNDS,
            on_round=lambda done, total: shop.listener.progress(f"{name} race", done, total),
        )  # fmt: skip
        write_json(work / made, run)

    shop.stage(
        f"{name} race", act,
        reads={
            "data": job.sha256["data"], "seed": job.recipe.seed, "device": job.profile.device,
            "there": job.bench.versions(job.profile.runtime),
            "engines": [engine.model_dump(mode="json", exclude={"file"}) for engine in raced],
            **{engine.name: engine.artifact for engine in raced},
        },
        makes=(made,),
    )  # fmt: skip
    return read_json(shop / made, BenchRun, EdgepruneError)


def figures(made: Sequence[Made], raced: Sequence[Engine]) -> dict[str, Row]:
    """Engine of the final race -> its row, with mAP and sizes, in its own report; the parent's is in every one."""
    reports = {m.name: m.report for m in made if m.report}
    first = next(iter(reports.values()))
    return {
        engine.name: next(
            row for row in reports.get(engine.name.split()[0], first).rows if engine.name.endswith(name_of(row))
        )
        for engine in raced
    }


def standings(run: BenchRun, rows: Mapping[str, Row]) -> tuple[list[Raced], list[Raced]]:
    """The parent's engines and the builds' of a final race; the parent's best at the target's own input, 'parent …', is
    what all are set against.

    Args:
        run: The race.
        rows: Engine of the race -> its mAP and sizes.
    """
    from edgeprune.bench.measure import compare
    from edgeprune.report.figures import p50_interval

    best = min((m for m in run.measurements if m.engine.startswith("parent ")), key=lambda m: m.latency_ms.p50)

    def raced(m: Measurement) -> Raced:
        against: Comparison | None = None if m is best else compare(m, best)
        return Raced(
            engine=m.engine, artifact_sha256=m.artifact_sha256, p50_interval_ms=p50_interval(m), against=against,
            row=rows[m.engine].model_copy(
                update={"latency_ms": m.latency_ms, "settings": m.settings, "runtime": m.runtime}
            ),
        )  # fmt: skip

    found = [raced(m) for m in run.measurements]
    parents = [r for r in found if r.row.variant == "parent"]
    return parents, [r for r in found if r not in parents]


def points(made: Sequence[Made], builds: Sequence[Raced]) -> tuple[Point, ...]:
    """What was asked, with its figures where there are any."""
    by_name = {raced.engine.split()[0]: raced for raced in builds}
    return tuple(
        Point(
            name=m.name, value=m.value, folder=m.folder, raced=by_name.get(m.name), accepted=m.accepted, why=m.why,
            refined=m.refined,
        )
        for m in made
    )  # fmt: skip


#: Told which build is next.
Told = Callable[[str], None]
