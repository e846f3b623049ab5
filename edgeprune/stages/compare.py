"""The stages of a comparison: everybody else's exports made, settled how they are fastest, scored, raced beside a build
and shown.

Rules:
- Each rival has stages of its own in the comparison's folder: done once, and an interrupted comparison goes on. What
  costs hours (fine-tuning) is lent between targets, as a build's stages are.
- All are raced in one interleaved run, by the bench path of a build, and scored by the same code.
- A rival that can't be made is a line with the reason.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from edgeprune.errors import EdgepruneError, ExportError
from edgeprune.job import Job
from edgeprune.records import Accuracy, BenchRun, Report, VerifyRun, files, read_json, write_json
from edgeprune.records.request import Engine
from edgeprune.records.rivals import Compared, ComparedRow, LeftOut, Scores, Ways
from edgeprune.rivals.roll import Rival, rivals
from edgeprune.schedule import phases
from edgeprune.stages.common import artifact, engines, lacking, probe_images, versions
from edgeprune.stages.tune import ROUNDS as SETTINGS_ROUNDS
from edgeprune.stages.tune import tuned
from edgeprune.version import __version__
from edgeprune.workshop import Workshop

if TYPE_CHECKING:
    from edgeprune.rivals.make import Material

#: What makes a rival's file.
PACKAGES = ("ultralytics", "torch", "onnx", "onnxruntime", "onnxslim", "openvino", "nncf", "nvidia-modelopt")
#: Keys of a recipe that Ultralytics' fine-tuning takes over.
_TRAINS = {"batch", "seed", "torch_device"}


@dataclass(frozen=True)
class Contest:
    """One comparison.

    Attributes:
        job: The build, as it was asked for.
        report: What it came to.
        shop: The folder that the comparison is made in.
        images: That rivals' ranges are taken from.
        whence: These images in words.
        without: Rivals that are left out.
        rounds: Of the race.
        sha256: Hashes of what it is made from.
    """

    job: Job
    report: Report
    shop: Workshop
    images: tuple[Path, ...]
    whence: str
    without: tuple[str, ...]
    rounds: int
    sha256: dict[str, str]

    @property
    def epochs(self) -> int:
        """Of fine-tuning that the build had in all."""
        return phases(self.job.recipe, int8=self.job.int8)[-1].all_epochs


@dataclass(frozen=True)
class Exported:
    """A rival whose file there is."""

    rival: Rival
    folder: Path

    @property
    def file(self) -> str:
        """What the runtime loads."""
        from edgeprune.export.engine import engine_file

        return str(engine_file(artifact(self.folder)))


def runs(job: Job) -> dict[str, str]:
    """Precision -> why the device can't compute in it, of all that rivals may be computed in."""
    from edgeprune.bench.ask import about
    from edgeprune.records.target import PRECISIONS

    return about(job.bench, job.profile.runtime, PRECISIONS[job.profile.runtime], job.profile.plugin).lacking


def export(contest: Contest, missing: dict[str, str]) -> tuple[list[Exported], list[LeftOut]]:
    """engines/RIVAL: every rival's file; and those that can't be had, with the reason."""
    job = contest.job
    exported, left_out = [], []
    for rival in rivals(job.profile, contest.epochs):

        def leave(why: str, rival: Rival = rival) -> None:
            left_out.append(LeftOut(name=rival.name, exporter=_exporter(rival.maker), why=why))

        if rival.key in contest.without:
            leave(f"--without {rival.key}")
        elif job.profile.runtime == "onnxruntime" and rival.precision in missing:
            leave(missing[rival.precision])
        else:
            try:
                _export(contest, rival)
            except ExportError as error:
                leave(_in_a_line(error))
            else:
                exported.append(Exported(rival, contest.shop / f"engines/{rival.slug}"))
    return exported, left_out


def settle(contest: Contest, entrant: Exported, missing: dict[str, str]) -> None:
    """ways/RIVAL.json: how it is run."""
    job, rival = contest.job, entrant.rival

    def act(work: Path) -> None:
        from edgeprune.bench.ask import about
        from edgeprune.bench.candidates import candidates
        from edgeprune.rivals.fastest import fastest
        from edgeprune.rivals.ways import ways

        places = about(job.bench, job.profile.runtime, ("fp32",), job.profile.plugin).places
        settings, _ = candidates(job.profile, places)
        found = fastest(
            rival, ways(rival, job.profile, missing, settings, job.architecture), entrant.file, profile=job.profile,
            bench=job.bench, images=probe_images(job), seed=job.recipe.seed,
            rounds=min(SETTINGS_ROUNDS, contest.rounds),
            on_round=lambda done, total: contest.shop.listener.progress("settings", done, total, rival.name),
        )  # fmt: skip
        write_json(work / "ways" / f"{rival.slug}.json", found)

    contest.shop.stage(
        f"settings of {rival.slug}", act,
        reads={
            "engine": entrant.folder, "profile": job.profile.model_dump(mode="json", exclude={"description"}),
            "there": job.bench.versions(job.profile.runtime), "missing": missing, "data": job.sha256["data"],
            "seed": job.recipe.seed, "rounds": min(SETTINGS_ROUNDS, contest.rounds),
        },
        makes=(f"ways/{rival.slug}.json",),
    )  # fmt: skip


def score(contest: Contest, entrant: Exported) -> None:
    """scores/RIVAL.json: mAP on the device's runtime, in each arithmetic that it is raced in."""
    job, rival = contest.job, entrant.rival
    found = {way.precision: way for way in _ways(contest, rival).ways}

    def act(work: Path) -> None:
        from edgeprune.bench.ask import detections
        from edgeprune.rivals.ways import engine
        from edgeprune.train.evaluate import score as score_of

        images, accuracies = job.data.splits["val"], []
        for number, (precision, way) in enumerate(found.items()):

            def told(done: int, number: int = number) -> None:
                contest.shop.listener.progress(
                    "score", number * len(images) + done, len(found) * len(images), rival.name
                )

            results = detections(
                job.bench, engine(rival, job.profile, way, entrant.file), images, job.profile.input_shape, told
            )
            accuracies.append(score_of(precision, job.data, results))
        write_json(work / "scores" / f"{rival.slug}.json", Scores(accuracy=tuple(accuracies)))

    contest.shop.stage(
        f"score {rival.slug}", act,
        reads={
            "engine": entrant.folder, "precisions": sorted(found), "data": job.sha256["data"],
            "profile": job.profile.model_dump(mode="json", include={"runtime", "plugin", "input_shape", "device"}),
            "there": job.bench.versions(job.profile.runtime), **versions("pycocotools"),
        },
        makes=(f"scores/{rival.slug}.json",),
    )  # fmt: skip


def race(contest: Contest, exported: Sequence[Exported], again: bool) -> None:
    """race.json: the build, its parent and everybody else's, interleaved."""
    job = contest.job
    raced = [*ours(job), *theirs(contest, exported)]

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


def theirs(contest: Contest, exported: Sequence[Exported]) -> list[Engine]:
    """Everybody else's, as they come and at their best."""
    from edgeprune.rivals.ways import engine

    return [
        engine(e.rival, contest.job.profile, way, e.file)
        for e in exported
        for way in _ways(contest, e.rival).ways
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


def _export(contest: Contest, rival: Rival) -> None:
    job, shop = contest.job, contest.shop
    of_runtime = rival.trained is False or job.profile.runtime == "openvino"
    floating = job.shop / "engines/parent" if rival.maker == "nncf" else None

    def act(work: Path) -> None:
        from edgeprune.export.engine import engine_file
        from edgeprune.rivals.make import make

        folder = work / "engines" / rival.slug
        folder.mkdir(parents=True)
        make(
            rival, _material(contest), folder, work, floating=floating and engine_file(artifact(floating)),
            log=shop.folder / "logs" / f"{rival.slug}.log",
            on_epoch=lambda done, total, fitness: shop.listener.progress(
                "fine-tuning", done, total, f"{rival.name}, mAP50-95 {fitness:.3f}"
            ),
        )  # fmt: skip

    taken = {"calibration": contest.sha256["calibration images"]} if rival.calibrated else {}
    trained = {"data": job.sha256["data"], "recipe": job.recipe.model_dump(mode="json", include=_TRAINS)}
    shop.stage(
        f"export {rival.slug}", act,
        reads={
            "model": job.sha256["model"], "how": rival.how, "size": job.image_size, **taken,
            **(trained if rival.trained else {}), "runtime": job.profile.runtime if of_runtime else "",
            **({"floating": floating} if floating else {}), **versions(*PACKAGES),
        },
        makes=(f"engines/{rival.slug}",),
    )  # fmt: skip


def _material(contest: Contest) -> Material:
    from edgeprune.rivals.make import Material
    from edgeprune.yolo.data import make_view

    job, hidden = contest.job, contest.shop.folder / ".stages"
    calibration = replace(job.data, splits={"train": contest.images, "val": contest.images}, test=())
    return Material(
        checkpoint=job.model, runtime=job.profile.runtime, size=job.image_size, images=contest.images,
        calibration=make_view(calibration, hidden / "calibration"), view=make_view(job.data, hidden / "data"),
        recipe=job.recipe, epochs=contest.epochs,
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
                "against": None if m is build else compare_of(build, m), "bytes": _bytes(engine.artifact),
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
    for engine, entrant in zip(theirs(contest, exported), _each_way(contest, exported), strict=True):
        rival = entrant.rival
        scores = read_json(contest.shop / f"scores/{rival.slug}.json", Scores, EdgepruneError).accuracy
        accuracy = next(a for a in scores if a.engine == engine.precision)
        rows.append(
            row(
                engine,
                accuracy,
                side="rival",
                exporter=_exporter(rival.maker),
                how=rival.how,
                precision=rival.precision,
                arithmetic=arithmetic(rival, engine.precision),
            )
        )
    ways = {e.rival.name: _ways(contest, e.rival) for e in exported}
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


def _each_way(contest: Contest, exported: Sequence[Exported]) -> list[Exported]:
    return [e for e in exported for _ in _ways(contest, e.rival).ways]


def _ways(contest: Contest, rival: Rival) -> Ways:
    return read_json(contest.shop / f"ways/{rival.slug}.json", Ways, EdgepruneError)


def _exporter(maker: str) -> str:
    return f"{maker} {versions(maker)[maker]}"


def _bytes(artifact: Path) -> int:
    """Bytes that the runtime loads: the model's own files, not what describes them."""
    loaded = [artifact] if artifact.is_file() else [p for p in artifact.iterdir() if p.suffix in {".xml", ".bin"}]
    return sum(p.stat().st_size for p in loaded)


def _in_a_line(error: EdgepruneError) -> str:
    told = [f"{name}: {error.details[name]}" for name in ("expected", "got", "next step") if error.details[name]]
    return "; ".join((error.what.rstrip("."), *told))
