"""The story of a comparison, top to bottom: a build beside everybody else's exports of its parent, in one race.

Rules:
- The build must be there, whole, and of the same model, data set, target and recipe: it is read, never made.
- Everything that can be wrong in what was given is found before anything is exported.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from edgeprune.errors import BundleError, ProfileError, missing_package
from edgeprune.job import Job, find_target, plan_job
from edgeprune.machine import installed
from edgeprune.records import Recipe, Report, files, read_json
from edgeprune.records.rivals import Compared
from edgeprune.rivals.roll import require_known
from edgeprune.stages.compare import judge, page, race
from edgeprune.stages.rivals import Contest, export, runs, score, settle
from edgeprune.workshop import Listener, Workshop

#: Images that ranges are taken from where there is no calibration set: as many as NNCF and Ultralytics ask for.
CALIBRATION_IMAGES = 300
#: What a build's folder holds once it has been judged.
_JUDGED = ("report.json", "verify.json", "tune.json", "bench.json", "engines")


def compare(
    *,
    model: Path | str,
    data: Path | str,
    target: str,
    recipe: Path | str | Recipe | None = None,
    out: Path | str = "build",
    build: Path | str | None = None,
    calibration: str | None = None,
    device: str | None = None,
    without: Sequence[str] = (),
    rounds: int | None = None,
    again: bool = False,
    listener: Listener | None = None,
) -> Compared:
    """Race a finished build against everybody else's exports of its parent.

    Args:
        model, data, target: As for `build`.
        recipe: The build's; without one, the one that the build itself wrote down.
        out: Where builds are.
        build: The build's folder, instead of `out/TARGET`.
        calibration: Calibration set that rivals take their ranges from too; without one, training images.
        without: Rivals to leave out (rivals.roll.KEYS).
        rounds: Blocks of every engine in the race; none = as many as a verdict has.
        again: Race anew, even if it has been done.

    Returns:
        What compare.json says; it lies in `compare/TARGET/` beside the build's folder, with compare.html.

    Raises:
        EdgepruneError: Something that the user can mend.
    """
    contest = plan(
        model, data, target, recipe, Path(build) if build else Path(out) / Path(target).stem, calibration, device,
        tuple(without), rounds, listener,
    )  # fmt: skip
    with contest.job.shop.open(), contest.shop.open():
        missing = runs(contest.job)
        exported, left_out = export(contest, missing)
        for entrant in exported:
            settle(contest, entrant, missing)
            score(contest, entrant)
        race(contest, exported, again)
        found = judge(contest, exported, left_out)
        page(contest)
        return found


def plan(
    model: Path | str, data: Path | str, target: str, recipe: Path | str | Recipe | None, folder: Path,
    calibration: str | None, device: str | None, without: tuple[str, ...], rounds: int | None,
    listener: Listener | None,
) -> Contest:  # fmt: skip
    """Check what the user gave, without torch.

    Raises:
        ProfileError: Boards build engines themselves; not offered.
        BundleError: No build there, an unfinished one, or one of something else.
        RecipeError, DataError, DeviceError: As `plan_job`; `without` names nobody; NNCF isn't installed.
    """
    from edgeprune.bench.measure import ROUNDS

    require_known(without)
    profile = find_target(target)
    if profile.runtime == "tensorrt":
        raise ProfileError(
            "A comparison on boards with TensorRT isn't offered yet.", where=target, expected="onnxruntime or openvino",
            got="tensorrt, where every export would have to be built into an engine by the board itself",
            next_step="`yolo export format=engine` and `yolo val` on the board measure Ultralytics' own engines there",
        )  # fmt: skip
    if profile.runtime == "openvino" and not {"int8", "nncf", "nncf-mixed"} <= set(without) and not installed("nncf"):
        raise missing_package("nncf", "compare")
    report = _judged(folder, model, data, target)
    if recipe is None and report.origin is not None:
        recipe = report.origin.recipe
    job = plan_job(model, data, target, recipe, folder.parent, listener, calibration, device)
    job = replace(job, shop=Workshop(folder, listener))
    _require_same(job, report)
    images, whence = _calibration(job, calibration)
    of_images = hashlib.sha256("".join(files.sha256_file(image) for image in images).encode()).hexdigest()
    return Contest(
        job, report, Workshop(folder.parent / "compare" / folder.name, listener), images, whence, without,
        ROUNDS if rounds is None else rounds, {**job.sha256, "calibration images": of_images},
    )  # fmt: skip


def _calibration(job: Job, name: str | None) -> tuple[tuple[Path, ...], str]:
    """Images that rivals take their ranges from, and what they are in words."""
    from edgeprune.calibration.sets import read_calibration

    name = job.calibration_set or name
    if name is not None:
        images = job.calibration or tuple(read_calibration(name, job.data)[1])
        return images, f"the calibration set {Path(name).stem}, {len(images)} images, as ours are"
    train = job.data.splits["train"]
    step = max(1, -(-len(train) // CALIBRATION_IMAGES))
    return train[::step], f"{len(train[::step])} training images, evenly spread"


def _judged(folder: Path, model: Path | str, data: Path | str, target: str) -> Report:
    lacking = [name for name in _JUDGED if not (folder / name).exists()]
    if lacking:
        raise BundleError(
            "There is no finished build to compare." if len(lacking) == len(_JUDGED) else "The build isn't whole.",
            where=folder, expected="a build that has been judged", got=f"no {', no '.join(lacking)}",
            next_step=f"edgeprune build {target} --model {model} --data {data} makes it",
        )  # fmt: skip
    return read_json(folder / "report.json", Report, BundleError)


def _require_same(job: Job, report: Report) -> None:
    """Raise BundleError where a build is of something else than what was given."""
    other = [name for name, sha256 in job.sha256.items() if report.inputs.get(name) != sha256]
    if other:
        options = {"target": "TARGET and --device"}
        raise BundleError(
            f"The build is of another {' and another '.join(other)}.", where=job.shop / "report.json",
            expected=json.dumps({name: job.sha256[name][:12] for name in other}),
            got=json.dumps({name: (report.inputs.get(name) or "not written down")[:12] for name in other}),
            next_step=f"give the build's own {', '.join(options.get(name, '--' + name) for name in other)}, or build "
            "this one first",
        )  # fmt: skip
