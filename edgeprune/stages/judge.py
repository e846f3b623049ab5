"""The stages that judge a build: raced, reported and, where it is accepted, bundled."""

from __future__ import annotations

import json
from collections import defaultdict
from pathlib import Path

from edgeprune.calibration.sets import find_calibration
from edgeprune.errors import EdgepruneError
from edgeprune.job import Job
from edgeprune.records import (
    Accuracy,
    BenchRun,
    Bundle,
    BundleFile,
    Lineage,
    Mixed,
    PrunePlan,
    Report,
    Row,
    Tune,
    VerifyRun,
    files,
    read_json,
    write_json,
)
from edgeprune.records.golden import GoldenBox, GoldenImage
from edgeprune.records.latency import ActivationRace
from edgeprune.stages.board import board_records, built_note, pack_kit
from edgeprune.stages.common import (
    VARIANTS,
    artifact,
    asked,
    choices,
    engine_files,
    engines,
    forms_of,
    lacking,
    loaded_bytes,
    race,
    tuned,
    versions,
)
from edgeprune.stages.page import figures
from edgeprune.version import __version__

#: The report before other builds are looked at.
JUDGED = ".stages/judged.json"
#: What notes are taken from, where it is there.
NOTED = ("mixed.json", "activation.json", "latency/activation.json")

#: Images with golden detections in a bundle: a device downloads them.
GOLDEN_IMAGES = 4


def bench(job: Job, again: bool = False) -> None:
    """bench.json: all engines in one run, interleaved, each in the form and with the settings that won."""

    def act(work: Path) -> None:
        from edgeprune.bench.measure import ROUNDS

        missing = lacking(job)
        run = race(job, tuned(job, engines(job, missing)), "bench", ROUNDS)
        left_out = tuple(f"{precision}: {why}" for precision, why in missing.items())
        write_json(work / "bench.json", run.model_copy(update={"left_out": left_out}))

    job.shop.stage(
        "bench", act,
        reads={**engine_files(job), "tuned": job.shop / "tune.json", "data": job.sha256["data"]},
        makes=("bench.json",), force=again,
    )  # fmt: skip


def report(job: Job, again: bool = False) -> None:
    """What the build's own measurements say: rows, verdict and all that report.html draws; samples/ for its images."""

    def act(work: Path) -> None:
        from edgeprune.report.verdict import judge

        run = read_json(job.shop / "bench.json", BenchRun, EdgepruneError)
        checked = read_json(job.shop / "verify.json", VerifyRun, EdgepruneError)
        plan = read_json(job.shop / "plan.json", PrunePlan, EdgepruneError)
        notes, chosen = _notes(job), choices(job)
        of = {v: [m for m in run.measurements if m.engine.startswith(v)] for v in VARIANTS}
        verdict, comparisons = judge(of["parent"], of["pruned"], checked.accuracy, job.recipe.goal)
        accuracy = {a.engine: a for a in checked.accuracy}
        macs = {"parent": _parents_macs(job, plan), "pruned": round(plan.macs[1])}
        rows = tuple(
            Row(
                variant=variant, runtime=m.runtime, precision=m.precision, settings=m.settings, form=m.form,
                map50_95=accuracy[m.engine].map50_95, map50=accuracy[m.engine].map50, latency_ms=m.latency_ms,
                parts=m.parts,
                macs=macs[variant], parameters=plan.parameters[index],
                bytes=loaded_bytes(forms_of(job, variant, m.precision)[chosen[m.engine].form]),
                image_size=job.shape_of(variant)[2],
            )
            for index, variant in enumerate(VARIANTS)
            for m in of[variant]
        )  # fmt: skip
        environment = {
            **run.environment,
            **versions("torch", "ultralytics"),
            **job.bench.versions(job.profile.runtime),
            "edgeprune": __version__,
        }
        write_json(
            work / JUDGED,
            Report(
                target=job.target, rows=rows, verdict=verdict, comparisons=comparisons, left_out=run.left_out,
                notes=notes, environment=environment, inputs=job.sha256,
                tuned=read_json(job.shop / "tune.json", Tune, EdgepruneError).candidates,
                **figures(job, work, run, checked, plan, verdict),
            ),
        )  # fmt: skip

    job.shop.stage(
        "report", act,
        reads={
            "bench": job.shop / "bench.json", "verify": job.shop / "verify.json", "plan": job.shop / "plan.json",
            "goal": job.recipe.goal.model_dump(), "inputs": job.sha256, "predictions": job.shop / "predictions",
            "tune": job.shop / "tune.json", **board_records(job),
            **{name: job.shop / name for name in NOTED if (job.shop / name).exists()},
        },
        makes=(JUDGED, "samples"), force=again,
    )  # fmt: skip


def offer(job: Job) -> Report:
    """report.json: the same with what a rejected build offers instead, of the builds that lie beside it. These come and
    go, so it is a stage of its own, and a short one."""
    from edgeprune.report.offer import best_offer, siblings, try_next

    judged = read_json(job.shop / JUDGED, Report, EdgepruneError)
    offered = advice = None
    if not judged.verdict.accepted:
        others = siblings(job.shop.folder, judged)
        offered = best_offer(judged, job.recipe.goal, others)
        advice = try_next(judged, job.recipe.goal, others)

    def act(work: Path) -> None:
        verdict = judged.verdict.model_copy(update={"offer": offered, "try_next": advice})
        write_json(work / "report.json", judged.model_copy(update={"verdict": verdict}))

    job.shop.stage(
        "offer", act,
        reads={
            "judged": job.shop / JUDGED, "offer": offered.model_dump(mode="json") if offered else None, "next": advice,
        },
        makes=("report.json",),
    )  # fmt: skip
    return read_json(job.shop / "report.json", Report, EdgepruneError)


def bundle(job: Job, report: Report) -> None:
    """bundle/: the accepted engine with its manifest; its kit, where each device builds its own. A rejected build has
    none, and an older one goes."""
    folder = job.shop / "bundle"
    if not report.verdict.accepted:
        files.remove(folder)
        return

    def act(work: Path) -> None:
        import shutil

        from edgeprune.export.cuts import tensor_specs_of
        from edgeprune.export.engine import engine_file

        made = work / "bundle"
        shutil.rmtree(made, ignore_errors=True)
        build, parent = report.verdict.comparison.build, report.verdict.comparison.parent
        row = {f"{r.variant} {r.precision}": r for r in report.rows}
        graph = job.shop / ("mixed.onnx" if row[build].precision == "int8" else "pruned.onnx")
        precision = row[build].precision
        golden: tuple[GoldenImage, ...] = ()
        if job.on_board:
            made.mkdir(parents=True)
            engine, kit = pack_kit(job, precision, made)
        else:
            shutil.copytree(forms_of(job, "pruned", precision)[row[build].form], made)
            engine, kit = engine_file(artifact(made)).relative_to(made).as_posix(), None
            golden = _golden(job, build, made)
        specs = tensor_specs_of(graph, row[build].form)
        manifest = Bundle(
            target=job.target,
            profile=job.profile,
            architecture=report.environment["machine"],
            precision=precision,
            settings=row[build].settings,
            form=row[build].form,
            engine=engine,
            kit=kit,
            files=tuple(
                BundleFile(path=p.relative_to(made).as_posix(), sha256=files.sha256_file(p), bytes=p.stat().st_size)
                for p in sorted(made.rglob("*"))
                if p.is_file()
            ),
            input=specs[0],
            outputs=specs[1],
            names=job.data.names,
            golden=golden,
            lineage=Lineage(
                edgeprune=__version__, model_sha256=job.sha256["model"], data_sha256=job.sha256["data"],
                recipe_sha256=job.sha256["recipe"], plan_sha256=files.sha256_file(job.shop / "plan.json"),
                onnx_sha256=files.sha256_file(graph),
            ),
            measured=row[build],
            parent=row[parent],
        )  # fmt: skip
        write_json(made / "manifest.json", manifest)

    job.shop.stage(
        "bundle", act,
        reads={
            "report": job.shop / "report.json", **engine_files(job), "names": sorted(job.data.names.items()),
            "found": job.shop / "predictions", "data": job.sha256["data"],
        },
        makes=("bundle",),
    )  # fmt: skip


def _golden(job: Job, engine: str, bundle: Path) -> tuple[GoldenImage, ...]:
    """golden/: the first images of val on which the engine found something clearly, with what it found."""
    from edgeprune.runtime.golden import golden

    found: dict[int, list[GoldenBox]] = defaultdict(list)
    for result in json.loads((job.shop / f"predictions/{engine.replace(' ', '-')}.json").read_text()):
        x, y, w, h = result["bbox"]
        corners, score = (x, y, x + w, y + h), min(result["score"], 1.0)
        found[result["image_id"]].append(GoldenBox(label=result["category_id"] - 1, corners=corners, score=score))
    kept: list[GoldenImage] = []
    for number, path in enumerate(job.data.splits["val"], 1):
        if len(kept) == GOLDEN_IMAGES:
            break
        made = golden(f"golden/{len(kept)}{path.suffix}", found[number])
        if made.found:
            files.write_bytes(bundle / made.file, path.read_bytes())
            kept.append(made)
    return tuple(kept)


def _parents_macs(job: Job, plan: PrunePlan) -> int:
    """Multiply-accumulates of the parent at its own input; the plan counts both at the build's."""
    if not job.resized:
        return round(plan.macs[0])
    from edgeprune.graph.cost import CostModel
    from edgeprune.prune.traced import traced_graph
    from edgeprune.yolo.load import load_detector

    model = load_detector(job.shop / "parent.pt").model
    costs = CostModel(traced_graph(model, job.own_shape[2:])[1], model)
    return round(costs.macs(costs.widths))


def _notes(job: Job) -> tuple[str, ...]:
    notes = []
    if job.recipe.activation != "keep":
        priced = read_json(job.shop / "activation.json", Accuracy, EdgepruneError)
        notes.append(
            f"activation {priced.engine}: the whole model scores mAP50-95 {priced.map50_95:.4f} with it after "
            f"{job.recipe.activation_epochs} epochs, before anything is cut (fp32)"
        )
    if job.resized:
        notes.append(_resized_note(job))
    plan = read_json(job.shop / "plan.json", PrunePlan, EdgepruneError)
    if plan.time is not None:
        notes.append(plan.time.sentence())
    notes += plan.sentences()
    raced = job.shop / "latency/activation.json"
    if plan.time is not None and raced.is_file():
        notes.append(read_json(raced, ActivationRace, EdgepruneError).sentence())
    if job.on_board:
        notes += [built_note(job, *pair) for pair in asked(job)]
    if job.int8:
        notes.append(read_json(job.shop / "mixed.json", Mixed, EdgepruneError).sentence())
    notes += read_json(job.shop / "tune.json", Tune, EdgepruneError).sentences()
    return tuple(notes)


def _resized_note(job: Job) -> str:
    """What the recipe's `imgsz` means for the figures, and for ranges."""
    own, new = job.own_shape[2], job.profile.input_shape[2]
    said = f"input: the build sees {new} px, as the recipe asks; the parent {own} px, the target's own"
    if job.int8 and job.calibration_set is not None:
        chosen = find_calibration(job.calibration_set).input_shape[2]
        said += f"; the calibration set's images, chosen for {chosen} px, are letterboxed to {new}"
    return said
