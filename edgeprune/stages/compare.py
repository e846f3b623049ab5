"""The stages that race a build beside everybody else's exports, and show what came out.

Rules:
- All are raced in one interleaved run, by the bench path of a build, and scored by the same code.
- Ours is what the build says of itself: its engines with the settings and forms that won, its own mAP.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from edgeprune.errors import EdgepruneError
from edgeprune.job import Job
from edgeprune.records import Accuracy, BenchRun, VerifyRun, files, read_json, write_json
from edgeprune.records.request import Engine
from edgeprune.records.rivals import Compared, ComparedRow, LeftOut, Scores
from edgeprune.stages.common import engines, lacking, loaded_bytes, probe_images, tuned, versions
from edgeprune.stages.rivals import PACKAGES, Contest, Exported, exporter, ways_of
from edgeprune.version import __version__


def race(contest: Contest, exported: Sequence[Exported], again: bool) -> None:
    """race.json: the build, its parent and everybody else's, interleaved."""
    job = contest.job
    raced = [*ours(job), *(engine for _, engine in theirs(contest, exported))]

    def act(work: Path) -> None:
        from edgeprune.bench.ask import race as race_of

        run = race_of(
            job.bench, raced, probe_images(job), job.profile.input_shape, seed=job.recipe.seed, rounds=contest.rounds,
            on_round=lambda done, total: contest.shop.listener.progress("race", done, total),
        )  # fmt: skip
        write_json(work / "race.json", run)

    contest.shop.stage(
        "race", act,
        reads={
            "profile": job.profile.model_dump(mode="json", include={"runtime", "plugin", "input_shape", "device"}),
            "there": job.bench.versions(job.profile.runtime), "data": job.sha256["data"], "seed": job.recipe.seed,
            "rounds": contest.rounds,
            "engines": [
                [files.sha256_file(engine.artifact), engine.model_dump(mode="json", exclude={"file"})]
                for engine in raced
            ],
        },
        makes=("race.json",), force=again,
    )  # fmt: skip


def ours(job: Job) -> list[Engine]:
    """The engines of the build and of the parent as edgeprune exports it, with the settings and forms that won."""
    return tuned(job, engines(job, lacking(job)))


def theirs(contest: Contest, exported: Sequence[Exported]) -> list[tuple[Exported, Engine]]:
    """Everybody else's, as they come and at their best."""
    from edgeprune.rivals.ways import engine

    return [
        (e, engine(e.rival, contest.job.own_profile, way, e.file))
        for e in exported
        for way in ways_of(contest, e.rival).ways
    ]  # fmt: skip


def judge(contest: Contest, exported: Sequence[Exported], left_out: Sequence[LeftOut]) -> Compared:
    """compare.json."""
    job = contest.job

    def act(work: Path) -> None:
        write_json(work / "compare.json", _compared(contest, exported, left_out))

    verified = {name: job.shop / name for name in ("verify.json", "report.json")}
    scores = {e.rival.slug: contest.shop / f"scores/{e.rival.slug}.json" for e in exported}
    contest.shop.stage(
        "compare", act,
        reads={
            "race": contest.shop / "race.json", **verified, **scores, "inputs": contest.sha256,
            "left out": [entry.model_dump(mode="json") for entry in left_out], "epochs": contest.epochs,
            "whence": contest.whence, **versions(*PACKAGES),
        },
        makes=("compare.json",),
    )  # fmt: skip
    return read_json(contest.shop / "compare.json", Compared, EdgepruneError)


def page(contest: Contest) -> None:
    """compare.html."""

    def act(work: Path) -> None:
        from edgeprune.report.rivals import page as page_of

        files.write_bytes(
            work / "compare.html", page_of(read_json(contest.shop / "compare.json", Compared, EdgepruneError))
        )

    contest.shop.stage(
        "page", act, reads={"compare": contest.shop / "compare.json", "edgeprune": __version__},
        makes=("compare.html",),
    )  # fmt: skip


def _compared(contest: Contest, exported: Sequence[Exported], left_out: Sequence[LeftOut]) -> Compared:
    from edgeprune.bench.measure import compare as compare_of
    from edgeprune.report.figures import p50_interval
    from edgeprune.rivals.ways import arithmetic

    job, verdict = contest.job, contest.report.verdict
    run = read_json(contest.shop / "race.json", BenchRun, EdgepruneError)
    measured = {m.engine: m for m in run.measurements}
    build = measured[verdict.comparison.build]

    def row(engine: Engine, accuracy: Accuracy, **words: str) -> ComparedRow:
        m = measured[engine.name]
        return ComparedRow.model_validate(
            {
                "name": engine.name, "form": engine.form, "settings": m.settings, "map50_95": accuracy.map50_95,
                "map50": accuracy.map50, "latency_ms": m.latency_ms, "p50_interval_ms": p50_interval(m),
                "against": None if m is build else compare_of(build, m), "bytes": loaded_bytes(engine.artifact),
                "artifact_sha256": m.artifact_sha256, **words,
            }
        )  # fmt: skip

    verified = {a.engine: a for a in read_json(job.shop / "verify.json", VerifyRun, EdgepruneError).accuracy}
    rows = [
        row(
            engine, verified[engine.name], side="parent" if engine.name.startswith("parent") else "build",
            exporter=f"edgeprune {__version__}", how=f"edgeprune build {job.target}", precision=engine.precision,
            arithmetic=engine.precision,
        )
        for engine in ours(job)
    ]  # fmt: skip
    for entrant, engine in theirs(contest, exported):
        rival = entrant.rival
        scores = read_json(contest.shop / f"scores/{rival.slug}.json", Scores, EdgepruneError).accuracy
        rows.append(
            row(
                engine, next(a for a in scores if a.engine == engine.precision), side="rival",
                exporter=exporter(rival.maker), how=rival.how, precision=rival.precision,
                arithmetic=arithmetic(rival, engine.precision),
            )
        )  # fmt: skip
    ways = {e.rival.name: ways_of(contest, e.rival) for e in exported}
    return Compared(
        target=job.target, profile=job.profile, runtime=build.runtime, build=build.engine, accepted=verdict.accepted,
        max_map_drop=job.recipe.goal.max_map_drop, rows=tuple(rows), left_out=tuple(left_out),
        notes=_notes(contest, exported), settings_raced={name: found.raced for name, found in ways.items()},
        rounds=contest.rounds, val_images=len(job.data.splits["val"]),
        environment={
            **run.environment, **versions(*PACKAGES), **job.bench.versions(job.profile.runtime),
            "edgeprune": __version__,
        },
        inputs=contest.sha256,
    )  # fmt: skip


def _notes(contest: Contest, exported: Sequence[Exported]) -> tuple[str, ...]:
    from edgeprune.bench.measure import ROUNDS

    rival = [e.rival for e in exported]
    found = []
    if contest.rounds < ROUNDS:
        found.append(f"{contest.rounds} rounds instead of {ROUNDS}: to see that all works, not to quote")
    if any(r.calibrated for r in rival):
        found.append(f"rivals' ranges in INT8 are from {contest.whence}")
    if any(r.trained for r in rival):
        found.append(f"Ultralytics' quantization-aware training had {contest.epochs} epochs, as the build had in all")
    return tuple(found)
