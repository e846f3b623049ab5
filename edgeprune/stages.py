"""The stages of a build: what each reads, what it makes, and which rooms do it.

Heavy rooms are imported inside the work itself, so that a build with nothing to do never loads torch.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from edgeprune.errors import EdgepruneError
from edgeprune.job import Job
from edgeprune.records import (
    BenchRun,
    Bundle,
    BundleFile,
    Lineage,
    PrunePlan,
    Report,
    Row,
    VerifyRun,
    files,
    read_json,
    write_json,
)
from edgeprune.version import __version__

#: Images that parity is probed with and engines are timed on.
PROBE_IMAGES = 16
VARIANTS = ("parent", "pruned")


def admit(job: Job) -> None:
    """parent.pt: the user's checkpoint as a stock one, once it is known to be a detector for this data."""

    def act(work: Path) -> None:
        from edgeprune.records.dataset import require_classes
        from edgeprune.yolo.checkpoint import pack
        from edgeprune.yolo.load import load_detector

        detector = load_detector(job.model)
        require_classes(job.data, detector.names, job.model)
        files.write_bytes(work / "parent.pt", pack(detector.model, detector.checkpoint, half=detector.half))

    job.shop.stage(
        "admit", act,
        reads={
            "model": job.sha256["model"], "names": sorted(job.data.names.items()), **_versions("ultralytics", "torch"),
        },
        makes=("parent.pt",),
    )  # fmt: skip


def prune(job: Job, number: int, again: bool = False) -> None:
    """plan.json and pruned.pt of one round; the plan is always from the parent."""
    before = _round(number - 1) if number > 1 else None
    source = job.shop / (f"{before}finetuned.pt" if before is not None else "parent.pt")
    here = _round(number, job.recipe.rounds)

    def act(work: Path) -> None:
        from edgeprune.prune.make import Request, prune_checkpoint
        from edgeprune.yolo.data import make_view

        recipe = job.recipe
        prune_checkpoint(
            Request(
                model=source,
                parent=job.shop / "parent.pt",
                before=job.shop / f"{before}plan.json" if before is not None else None,
                image_size=job.image_size,
                macs_ratio=recipe.goal.macs_ratio ** (number / recipe.rounds),
                importance=recipe.importance,
                scope=recipe.scope,
                channel_multiple=job.profile.channel_multiple,
                min_width=recipe.min_width,
                max_group_ratio=recipe.max_group_ratio,
                view=make_view(job.data, job.view) if recipe.importance == "taylor" else None,
                batch=recipe.batch,
                batches=recipe.importance_batches,
                torch_device=recipe.torch_device,
                seed=recipe.seed,
            ),
            plan_file=work / here / "plan.json",
            checkpoint_file=work / here / "pruned.pt",
            on_batch=lambda done, total: job.shop.listener.progress(f"prune {number}", done, total, "gradients"),
        )

    recipe = job.recipe.model_dump(
        include={"goal", "importance", "scope", "max_group_ratio", "min_width", "importance_batches", "seed", "rounds"}
    )
    recipe["goal"] = job.recipe.goal.macs_ratio
    taylor = {"batch": job.recipe.batch, "data": job.sha256["data"]} if job.recipe.importance == "taylor" else {}
    job.shop.stage(
        f"prune {number}", act,
        reads={
            "parent": source, "recipe": recipe, "shape": job.profile.input_shape,
            "multiple": job.profile.channel_multiple, **taylor, **_versions("ultralytics", "torch"),
        },
        makes=(f"{here}plan.json", f"{here}pruned.pt"), force=again,
    )  # fmt: skip


def finetune(job: Job, number: int, again: bool = False) -> None:
    """finetuned.pt of one round: the pruned model, trained with its parent's help."""
    here = _round(number, job.recipe.rounds)
    name = f"finetune {number}"
    epochs = job.recipe.epochs if number == job.recipe.rounds else job.recipe.round_epochs

    def act(work: Path) -> None:
        from edgeprune.train.finetune import finetune
        from edgeprune.yolo.data import make_view

        finetune(
            job.shop / f"{here}pruned.pt",
            parent=job.shop / "parent.pt",
            view=make_view(job.data, job.view),
            recipe=job.recipe,
            epochs=epochs,
            image_size=job.image_size[0],
            work=work / "training",
            destination=work / here / "finetuned.pt",
            log=job.shop / "logs" / f"{name.replace(' ', '-')}.log",
            on_epoch=lambda done, total, fitness: job.shop.listener.progress(
                name, done, total, f"fitness {fitness:.3f}"
            ),
        )

    keys = {"batch", "learning_rate", "distillation", "distillation_weight", "workers", "cache", "seed", "torch_device"}
    job.shop.stage(
        name, act,
        reads={
            "pruned": job.shop / f"{here}pruned.pt", "parent": job.shop / "parent.pt", "data": job.sha256["data"],
            "recipe": job.recipe.model_dump(include=keys), "epochs": epochs, "size": job.image_size,
            **_versions("ultralytics", "torch"),
        },
        makes=(f"{here}finetuned.pt",), force=again,
    )  # fmt: skip


def export(job: Job, again: bool = False) -> None:
    """The ONNX file of parent and build, and from it what the target's runtime loads."""
    for variant, checkpoint in (("parent", "parent.pt"), ("pruned", "finetuned.pt")):
        lineage = {
            "version": __version__, "variant": variant, "model_sha256": job.sha256["model"],
            "checkpoint_sha256": files.sha256_file(job.shop / checkpoint),
        }  # fmt: skip

        def to_onnx(
            work: Path, variant: str = variant, checkpoint: str = checkpoint, lineage: dict[str, str] = lineage
        ) -> None:
            from edgeprune.export.onnx import export_onnx

            export_onnx(job.shop / checkpoint, work / f"{variant}.onnx", *job.image_size, lineage)

        def to_engine(work: Path, variant: str = variant) -> None:
            from edgeprune.export.engine import build_engine

            folder = work / "engines" / variant
            folder.mkdir(parents=True)
            build_engine(job.profile.runtime, job.shop / f"{variant}.onnx", folder)

        job.shop.stage(
            f"export {variant} to onnx", to_onnx,
            reads={"lineage": lineage, "size": job.image_size, **_versions("ultralytics", "torch", "onnx", "onnxslim")},
            makes=(f"{variant}.onnx",), force=again,
        )  # fmt: skip
        job.shop.stage(
            f"export {variant} to {job.profile.runtime}", to_engine,
            reads={"onnx": job.shop / f"{variant}.onnx", **_versions(job.profile.runtime)},
            makes=(f"engines/{variant}",), force=again,
        )  # fmt: skip


def verify(job: Job, again: bool = False) -> None:
    """verify.json: each engine against torch, and its mAP on the runtime itself; predictions/ in COCO's format."""

    def act(work: Path) -> None:
        from edgeprune.export.parity import check_parity
        from edgeprune.runtime.predict import predict
        from edgeprune.runtime.session import open_session
        from edgeprune.train.evaluate import score
        from edgeprune.yolo.load import load_detector

        images = job.data.splits["val"]
        parities, accuracies = [], []
        for engine in _engines(job):
            checkpoint = job.shop / ("parent.pt" if engine.name.startswith("parent") else "finetuned.pt")
            parities.append(
                check_parity(
                    engine.name, load_detector(checkpoint).model, job.shop / f"{engine.name.split()[0]}.onnx",
                    engine.runtime, engine.artifact, engine.precision, _probe_images(job)[:4],
                )
            )  # fmt: skip
            session = open_session(engine.runtime, engine.file, engine.precision, engine.threads)
            results = predict(
                session, images, job.profile.input_shape, on_image=_counter(job, engine.name, len(images))
            )
            accuracies.append(score(engine.name, job.data, results))
            found = work / "predictions" / f"{engine.name.replace(' ', '-')}.json"
            files.write_bytes(found, json.dumps(results).encode())
        write_json(work / "verify.json", VerifyRun(parity=tuple(parities), accuracy=tuple(accuracies)))

    job.shop.stage(
        "verify", act,
        reads={**_engine_files(job), "data": job.sha256["data"], **_versions(job.profile.runtime, "pycocotools")},
        makes=("verify.json", "predictions"), force=again,
    )  # fmt: skip


def bench(job: Job, again: bool = False) -> None:
    """bench.json: all engines in one run, interleaved."""

    def act(work: Path) -> None:
        from edgeprune.bench.measure import measure

        run = measure(
            _engines(job), _probe_images(job), seed=job.recipe.seed,
            on_round=lambda done, total: job.shop.listener.progress("bench", done, total),
        )  # fmt: skip
        write_json(work / "bench.json", run.model_copy(update={"left_out": _left_out(job)}))

    job.shop.stage(
        "bench", act,
        reads={**_engine_files(job), "data": job.sha256["data"], **_versions(job.profile.runtime)},
        makes=("bench.json",), force=again,
    )  # fmt: skip


def report(job: Job, again: bool = False) -> Report:
    """report.json: rows and verdict."""

    def act(work: Path) -> None:
        from edgeprune.report.verdict import judge

        run = read_json(job.shop / "bench.json", BenchRun, EdgepruneError)
        checked = read_json(job.shop / "verify.json", VerifyRun, EdgepruneError)
        plan = read_json(job.shop / "plan.json", PrunePlan, EdgepruneError)
        of = {v: [m for m in run.measurements if m.engine.startswith(v)] for v in VARIANTS}
        verdict, comparisons = judge(of["parent"], of["pruned"], checked.accuracy, job.recipe.goal)
        accuracy = {a.engine: a for a in checked.accuracy}
        rows = tuple(
            Row(
                variant=variant, runtime=m.runtime, precision=m.precision,
                map50_95=accuracy[m.engine].map50_95, map50=accuracy[m.engine].map50, latency_ms=m.latency_ms,
                macs=round(plan.macs[index]), parameters=plan.parameters[index],
                bytes=_size(job.shop / f"engines/{variant}"),
            )
            for index, variant in enumerate(VARIANTS)
            for m in of[variant]
        )  # fmt: skip
        environment = {
            **run.environment,
            **_versions("torch", "ultralytics", job.profile.runtime),
            "edgeprune": __version__,
        }
        write_json(
            work / "report.json",
            Report(
                target=job.target, rows=rows, verdict=verdict, comparisons=comparisons, left_out=run.left_out,
                environment=environment, inputs=job.sha256,
            ),
        )  # fmt: skip

    job.shop.stage(
        "report", act,
        reads={
            "bench": job.shop / "bench.json", "verify": job.shop / "verify.json", "plan": job.shop / "plan.json",
            "goal": job.recipe.goal.model_dump(), "inputs": job.sha256,
        },
        makes=("report.json",), force=again,
    )  # fmt: skip
    return read_json(job.shop / "report.json", Report, EdgepruneError)


def bundle(job: Job, report: Report) -> None:
    """bundle/: the accepted engine with its manifest. A rejected build has none, and an older one goes."""
    folder = job.shop / "bundle"
    if not report.verdict.accepted:
        files.remove(folder)
        return

    def act(work: Path) -> None:
        import shutil

        from edgeprune.export.engine import engine_file
        from edgeprune.export.onnx import tensor_specs

        made = work / "bundle"
        shutil.rmtree(made, ignore_errors=True)
        shutil.copytree(job.shop / "engines/pruned", made)
        specs = tensor_specs(job.shop / "pruned.onnx")
        build, parent = report.verdict.comparison.build, report.verdict.comparison.parent
        row = {f"{r.variant} {r.precision}": r for r in report.rows}
        manifest = Bundle(
            target=job.target,
            profile=job.profile,
            precision=row[build].precision,
            engine=engine_file(_artifact(made)).relative_to(made).as_posix(),
            files=tuple(
                BundleFile(path=p.relative_to(made).as_posix(), sha256=files.sha256_file(p), bytes=p.stat().st_size)
                for p in sorted(made.rglob("*"))
                if p.is_file()
            ),
            input=specs[0],
            outputs=specs[1],
            names=job.data.names,
            lineage=Lineage(
                edgeprune=__version__, model_sha256=job.sha256["model"], data_sha256=job.sha256["data"],
                recipe_sha256=job.sha256["recipe"], plan_sha256=files.sha256_file(job.shop / "plan.json"),
                onnx_sha256=files.sha256_file(job.shop / "pruned.onnx"),
            ),
            measured=row[build],
            parent=row[parent],
        )  # fmt: skip
        write_json(made / "manifest.json", manifest)

    job.shop.stage(
        "bundle", act,
        reads={"report": job.shop / "report.json", **_engine_files(job), "names": sorted(job.data.names.items())},
        makes=("bundle",),
    )  # fmt: skip


# --- what several stages need --------------------------------------------------------------------------


def _round(number: int, rounds: int = 0) -> str:
    """Folder of a round, with a slash; the last one's files lie in the target's folder itself."""
    return "" if number == rounds else f"rounds/{number}/"


def _counter(job: Job, note: str, total: int) -> Callable[[int], None]:
    return lambda done: job.shop.listener.progress("verify", done, total, note)


def _artifact(folder: Path) -> Path:
    return next(p for p in sorted(folder.iterdir()) if p.name.startswith("model"))


def _engines(job: Job) -> list[Any]:
    from edgeprune.bench.measure import Engine
    from edgeprune.export.engine import engine_file
    from edgeprune.runtime.session import available

    runtime = job.profile.runtime
    precisions = [p for p in job.profile.precisions if available(runtime, p) is None]
    artifacts = {variant: _artifact(job.shop / f"engines/{variant}") for variant in VARIANTS}
    return [
        Engine(f"{variant} {precision}", runtime, precision, engine_file(artifact), artifact, job.profile.threads)
        for variant, artifact in artifacts.items()
        for precision in precisions
    ]


def _left_out(job: Job) -> tuple[str, ...]:
    from edgeprune.runtime.session import available

    whys = {precision: available(job.profile.runtime, precision) for precision in job.profile.precisions}
    return tuple(f"{precision}: {why}" for precision, why in whys.items() if why)


def _engine_files(job: Job) -> dict[str, Any]:
    profile = job.profile.model_dump(include={"runtime", "precisions", "threads", "input_shape"})
    return {"profile": profile, **{v: job.shop / f"engines/{v}" for v in VARIANTS}}


def _probe_images(job: Job) -> Any:
    import numpy as np

    from edgeprune.runtime.preprocess import letterbox, read_image

    chosen = job.data.splits["val"][:PROBE_IMAGES]
    return np.concatenate([letterbox(read_image(path), *job.image_size)[0] for path in chosen])


def _size(folder: Path) -> int:
    """Bytes that the runtime loads: the model's own files, not what describes them."""
    return sum(p.stat().st_size for p in folder.rglob("*") if p.suffix in {".onnx", ".xml", ".bin"})


def _versions(*packages: str) -> dict[str, str]:
    found = {}
    for package in packages:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = "not installed"
    return found
