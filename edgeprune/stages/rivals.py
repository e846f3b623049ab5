"""The stages that make everybody else's exports of a build's parent, settle how each is run, and score it.

Rules:
- Each rival has stages of its own in the comparison's folder: done once, and an interrupted comparison goes on. What
  costs hours (fine-tuning) is lent between targets, as a build's stages are.
- A rival that can't be made is a line with the reason.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

from edgeprune.errors import EdgepruneError, ExportError
from edgeprune.job import Job
from edgeprune.machine import installed
from edgeprune.records import Report, files, read_json, write_json
from edgeprune.records.rivals import LeftOut, Scores, Ways
from edgeprune.rivals.roll import TRAINS_WITH, Rival, lacks, rivals
from edgeprune.schedule import epochs_of
from edgeprune.stages.common import artifact, probe_images, versions
from edgeprune.workshop import Workshop

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
        return epochs_of(self.job.recipe, int8=self.job.int8)


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
    exported, left_out, here = [], [], installed(*(asked.split(">")[0] for asked in TRAINS_WITH))
    for rival in rivals(job.own_profile, contest.epochs):

        def leave(why: str, rival: Rival = rival) -> None:
            left_out.append(LeftOut(name=rival.name, exporter=exporter(rival.maker), why=why))

        if rival.key in contest.without:
            leave(f"--without {rival.key}")
        elif job.profile.runtime == "onnxruntime" and rival.precision in missing:
            leave(missing[rival.precision])
        elif why := lacks(rival, here):
            leave(why)
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
        settings, _ = candidates(job.own_profile, places)
        found = fastest(
            rival, ways(rival, job.own_profile, missing, settings, job.architecture), entrant.file,
            profile=job.own_profile, bench=job.bench, images=probe_images(job), seed=job.recipe.seed,
            most_rounds=contest.rounds,
            on_block=lambda done, total: contest.shop.listener.progress("settings", done, total, rival.name),
        )  # fmt: skip
        write_json(work / "ways" / f"{rival.slug}.json", found)

    contest.shop.stage(
        f"settings of {rival.slug}", act,
        reads={
            "engine": entrant.folder, "profile": job.own_profile.model_dump(mode="json", exclude={"description"}),
            "there": job.bench.versions(job.profile.runtime), "missing": missing, "data": job.sha256["data"],
            "seed": job.recipe.seed, "rounds": contest.rounds,
        },
        makes=(f"ways/{rival.slug}.json",),
    )  # fmt: skip


def score(contest: Contest, entrant: Exported) -> None:
    """scores/RIVAL.json: mAP on the device's runtime, in each arithmetic that it is raced in."""
    job, rival = contest.job, entrant.rival
    found = {way.precision: way for way in ways_of(contest, rival).ways}

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
                job.bench, engine(rival, job.own_profile, way, entrant.file), images, job.own_profile.input_shape, told
            )
            accuracies.append(score_of(precision, job.data, results))
        write_json(work / "scores" / f"{rival.slug}.json", Scores(accuracy=tuple(accuracies)))

    contest.shop.stage(
        f"score {rival.slug}", act,
        reads={
            "engine": entrant.folder, "precisions": sorted(found), "data": job.sha256["data"],
            "profile": job.own_profile.model_dump(mode="json", include={"runtime", "plugin", "input_shape", "device"}),
            "there": job.bench.versions(job.profile.runtime), **versions("pycocotools"),
        },
        makes=(f"scores/{rival.slug}.json",),
    )  # fmt: skip


def _export(contest: Contest, rival: Rival) -> None:
    job, shop = contest.job, contest.shop
    source = job.model
    if rival.trained:
        source = _train(contest, rival)
    elif rival.maker == "nncf":
        source = job.shop / "engines/parent"

    def act(work: Path) -> None:
        from edgeprune.export.engine import engine_file
        from edgeprune.rivals.make import Material, make
        from edgeprune.yolo.data import make_view

        images = replace(job.data, splits={"train": contest.images, "val": contest.images}, test=())
        view = make_view(images, shop.folder / ".stages" / "calibration")
        folder = work / "engines" / rival.slug
        folder.mkdir(parents=True)
        make(
            rival, Material(job.profile.runtime, job.own_shape[2:], contest.images, view),
            engine_file(artifact(source)) if source.is_dir() else source, folder, work, _log(contest, rival),
        )  # fmt: skip

    shop.stage(
        f"export {rival.slug}", act,
        reads={
            "source": source, "how": rival.how, "size": job.own_shape[2:], "runtime": job.profile.runtime,
            **({"calibration": contest.sha256["calibration images"]} if rival.calibrated else {}),
            **versions(*PACKAGES),
        },
        makes=(f"engines/{rival.slug}",),
    )  # fmt: skip


def _train(contest: Contest, rival: Rival) -> Path:
    """trained/RIVAL.pt: Ultralytics' own fine-tuning with fake-quantization."""
    job, shop = contest.job, contest.shop
    made = f"trained/{rival.slug}.pt"

    def act(work: Path) -> None:
        from edgeprune.rivals.make import train
        from edgeprune.yolo.data import make_view

        best = train(
            job.model, make_view(job.data, shop.folder / ".stages" / "data"), work, epochs=contest.epochs,
            image_size=job.own_shape[2], recipe=job.recipe, log=_log(contest, rival),
            on_epoch=lambda done, total, fitness: shop.listener.progress(
                "fine-tuning", done, total, f"{rival.name}, mAP50-95 {fitness:.3f}"
            ),
        )  # fmt: skip
        files.write_bytes(work / made, best.read_bytes())

    shop.stage(
        f"train {rival.slug}", act,
        reads={
            "model": job.sha256["model"], "data": job.sha256["data"], "epochs": contest.epochs,
            "recipe": job.recipe.model_dump(mode="json", include=_TRAINS), "size": job.own_shape[2:],
            **versions("ultralytics", "torch", "nvidia-modelopt"),
        },
        makes=(made,),
    )  # fmt: skip
    return shop / made


def _log(contest: Contest, rival: Rival) -> Path:
    return contest.shop.folder / "logs" / f"{rival.slug}.log"


def ways_of(contest: Contest, rival: Rival) -> Ways:
    """What `settle` found."""
    return read_json(contest.shop / f"ways/{rival.slug}.json", Ways, EdgepruneError)


def exporter(maker: str) -> str:
    """A tool with its version."""
    return f"{maker} {versions(maker)[maker]}"


def _in_a_line(error: EdgepruneError) -> str:
    told = [f"{name}: {error.details[name]}" for name in ("expected", "got", "next step") if error.details[name]]
    return "; ".join((error.what.rstrip("."), *told))
