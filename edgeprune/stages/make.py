"""The stages that make a model: what each reads, what it makes, and which rooms do it.

A model travels through them as its files (checkpoint, scales, optimizer's moments); each stage returns what the
next one starts from. Heavy rooms are imported inside the work itself, so that a build with nothing to do never
loads torch.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from edgeprune.job import Job
from edgeprune.records import files
from edgeprune.records.model import ModelFiles
from edgeprune.records.target import own_file
from edgeprune.schedule import Phase
from edgeprune.stages.board import kits, parent_artifact, place
from edgeprune.stages.common import folder_of, form_name, forms_folder, versions
from edgeprune.stages.latency import clock as latency_clock
from edgeprune.version import __version__


def admit(job: Job) -> ModelFiles:
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
            "model": job.sha256["model"], "names": sorted(job.data.names.items()), **versions("ultralytics", "torch"),
        },
        makes=("parent.pt",),
    )  # fmt: skip
    return ModelFiles(job.shop / "parent.pt")


def swap(job: Job, phase: Phase, model: ModelFiles) -> ModelFiles:
    """swapped.pt: the model with another activation function."""
    if not phase.swap:
        return model

    def act(work: Path) -> None:
        from edgeprune.yolo.blocks import swap_activation
        from edgeprune.yolo.checkpoint import pack
        from edgeprune.yolo.load import load_detector

        detector = load_detector(model.checkpoint)
        swap_activation(detector.model, job.recipe.activation)
        files.write_bytes(work / "swapped.pt", pack(detector.model, detector.checkpoint, half=detector.half))

    job.shop.stage(
        "swap activation", act,
        reads={**model.named(), "activation": job.recipe.activation, **versions("ultralytics", "torch")},
        makes=("swapped.pt",),
    )  # fmt: skip
    return replace(model, checkpoint=job.shop / "swapped.pt")


def price(job: Job, phase: Phase, model: ModelFiles) -> None:
    """activation.json: what the whole model scores with the other activation function, on the target's runtime."""
    if not phase.swap:
        return
    at = place(job)

    def act(work: Path) -> None:
        from edgeprune.bench.ask import detections
        from edgeprune.export.engine import build_engine, engine_file
        from edgeprune.export.onnx import export_onnx
        from edgeprune.records import write_json
        from edgeprune.records.request import Engine
        from edgeprune.train.evaluate import score

        export_onnx(model.checkpoint, work / "whole.onnx", *job.image_size, {})
        made = build_engine(at.profile.runtime, work / "whole.onnx", work, at.architecture)
        engine = Engine.of(at.profile, "whole", at.profile.floating, engine_file(made))
        results = detections(at.bench, engine, job.data.splits["val"], job.profile.input_shape)
        write_json(work / "activation.json", score(job.recipe.activation, job.data, results))

    job.shop.stage(
        "price of the activation", act,
        reads={
            "checkpoint": model.checkpoint, "activation": job.recipe.activation, "data": job.sha256["data"],
            "size": job.image_size, **at.reads, **versions("pycocotools"),
        },
        makes=("activation.json",),
    )  # fmt: skip


def calibrate(job: Job, phase: Phase, model: ModelFiles) -> ModelFiles:
    """calibrated.json: what is quantized, with ranges from the calibration set."""
    if not phase.calibrate:
        return model
    made = f"{phase.folder('calibrate')}calibrated.json"

    def act(work: Path) -> None:
        from edgeprune.quant.calibrate import Image, calibrate
        from edgeprune.records import write_json
        from edgeprune.runtime.preprocess import letterbox, read_image
        from edgeprune.yolo import blocks
        from edgeprune.yolo.load import load_detector

        detector = load_detector(model.checkpoint)
        images = [Image(path.name, letterbox(read_image(path), *job.image_size)[0]) for path in job.calibration]
        record = calibrate(
            detector.model, images, job.profile.quantization, blocks.float_layers(detector.model), job.recipe.observer,
            job.sha256["calibration"],
            on_image=lambda done, total: job.shop.listener.progress("calibrate", done, total),
        )  # fmt: skip
        write_json(work / made, record)

    job.shop.stage(
        f"calibrate {phase.number}", act,
        reads={
            "checkpoint": model.checkpoint, "calibration": job.sha256["calibration"], "observer": job.recipe.observer,
            "scheme": job.profile.quantization.model_dump(), "size": job.image_size, **versions("ultralytics", "torch"),
        },
        makes=(made,),
    )  # fmt: skip
    return replace(model, quantization=job.shop / made)


def prune(job: Job, phase: Phase, model: ModelFiles, again: bool = False) -> ModelFiles:
    """plan.json and pruned.pt of a phase; the plan is always from the parent. What travels along is cut too."""
    if phase.share is None:
        return model
    here, goal = phase.folder("cut"), job.recipe.goal
    clock, ratio = None, None if goal.in_time else goal.macs_after(phase.share)
    aim: dict[str, object] = {"macs_ratio": ratio}
    if goal.in_time:
        clock, aim = latency_clock(job, phase.share, model)
    made = replace(
        model,
        checkpoint=Path(f"{here}pruned.pt"),
        plan=Path(f"{here}plan.json"),
        quantization=model.quantization and Path(f"{here}pruned-scales.json"),
        moments=model.moments and Path(f"{here}pruned-moments.pt"),
    )

    def act(work: Path) -> None:
        from edgeprune.prune.make import Request, prune_checkpoint
        from edgeprune.yolo.data import make_view

        recipe = job.recipe
        prune_checkpoint(
            Request(
                model=model.checkpoint,
                parent=job.shop / "parent.pt",
                before=model.plan,
                quantization=model.quantization,
                moments=model.moments,
                image_size=job.image_size,
                macs_ratio=ratio,
                clock=clock,
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
            files=made.under(work),
            on_batch=lambda done, total: job.shop.listener.progress(f"prune {phase.number}", done, total, "gradients"),
        )

    keys = {"importance", "scope", "max_group_ratio", "min_width", "importance_batches", "seed"}
    taylor = {"batch": job.recipe.batch, "data": job.sha256["data"]} if job.recipe.importance == "taylor" else {}
    job.shop.stage(
        f"prune {phase.number}", act,
        reads={
            **model.named(), "parent": job.shop / "parent.pt", "recipe": job.recipe.model_dump(include=keys),
            **aim, "shape": job.profile.input_shape, "multiple": job.profile.channel_multiple, **taylor,
            **versions("ultralytics", "torch"),
        },
        makes=tuple(str(path) for path in made.named().values()), force=again,
    )  # fmt: skip
    return made.under(job.shop.folder)


def finetune(job: Job, phase: Phase, model: ModelFiles, again: bool = False) -> ModelFiles:
    """finetuned.pt of a phase: the model, trained with its parent's help; its scales, if it is quantized."""
    if not phase.epochs:
        return model
    here, name = phase.folder("train"), f"finetune {phase.number}"
    followed = phase.first_epoch + phase.epochs < phase.all_epochs
    rate = job.recipe.learning_rate * (job.recipe.qat_rate if phase.quantized else 1.0)
    made = ModelFiles(
        checkpoint=Path(f"{here}finetuned.pt"),
        quantization=model.quantization and Path(f"{here}quantization.json"),
        moments=Path(f"{here}moments.pt") if followed else None,
    )

    def act(work: Path) -> None:
        from edgeprune.train.finetune import finetune
        from edgeprune.yolo.data import make_view
        from edgeprune.yolo.stretch import Stretch

        finetune(
            model,
            parent=job.shop / "parent.pt",
            view=make_view(job.data, job.view),
            recipe=job.recipe,
            stretch=Stretch(
                first=phase.first_epoch,
                count=phase.epochs,
                total=phase.all_epochs,
                moments_in=model.moments,
                # with the run: a build that is killed after the last epoch has nothing to train, and still needs them
                moments_out=work / "training" / "moments.pt" if followed else None,
                freeze_share=job.recipe.norm_freeze_share if phase.quantized else 0.0,
            ),
            learning_rate=rate,
            follow=phase.follow,
            image_size=job.image_size[0],
            work=work / "training",
            destination=made.under(work),
            log=job.shop / "logs" / f"{name.replace(' ', '-')}.log",
            on_epoch=lambda done, total, fitness: job.shop.listener.progress(
                name, done, total, f"fitness {fitness:.3f}"
            ),
        )

    keys = {
        "batch", "distillation", "distillation_weight", "workers", "cache", "seed", "torch_device",
    } | ({"norm_freeze_share"} if phase.quantized else set())  # fmt: skip
    job.shop.stage(
        name, act,
        reads={
            **replace(model, plan=None).named(), "parent": job.shop / "parent.pt",
            "data": job.sha256["data"], "size": job.image_size,
            "recipe": {**job.recipe.model_dump(include=keys), "learning_rate": rate},
            "epochs": (phase.first_epoch, phase.epochs, phase.all_epochs), "follow": phase.follow,
            **versions("ultralytics", "torch"),
        },
        makes=tuple(str(path) for path in made.named().values()), force=again,
    )  # fmt: skip
    return replace(made.under(job.shop.folder), plan=model.plan)


def export(job: Job, model: ModelFiles, again: bool = False) -> None:
    """The ONNX file of parent and build, and from it what the target's runtime loads; the quantized graph as well.
    Where the device itself builds, kits are the end of it."""
    for variant, checkpoint in (("parent", job.shop / "parent.pt"), ("pruned", model.checkpoint)):
        lineage = _lineage(job, variant, checkpoint)

        def to_onnx(
            work: Path, variant: str = variant, checkpoint: Path = checkpoint, lineage: dict[str, str] = lineage
        ) -> None:
            from edgeprune.export.onnx import export_onnx

            export_onnx(checkpoint, work / f"{variant}.onnx", *job.shape_of(variant)[2:], lineage)

        job.shop.stage(
            f"export {variant} to onnx", to_onnx,
            reads={
                "lineage": lineage, "size": job.shape_of(variant)[2:],
                **versions("ultralytics", "torch", "onnx", "onnxslim"),
            },
            makes=(f"{variant}.onnx",), force=again,
        )  # fmt: skip
        if job.on_board:
            continue
        to_engine(job, variant, f"{variant}.onnx", again)
        for precision in job.profile.precisions:
            if own_file(job.profile.runtime, precision):
                to_engine(job, folder_of(job, variant, precision), f"{variant}.onnx", again, half=True)
    if job.int8:
        export_quantized(job, model, again)
    if job.on_board:
        kits(job, again)


def export_quantized(job: Job, model: ModelFiles, again: bool = False) -> None:
    """quantized.onnx, the one quantized graph; mixed.onnx, the same with as many layers in float as the agreed
    accuracy asks for; and what the target's runtime loads of that."""
    scales, at = model.quantization, place(job)
    assert scales is not None
    lineage = _lineage(job, "quantized", model.checkpoint)

    def to_qdq(work: Path) -> None:
        from edgeprune.errors import ExportError
        from edgeprune.export.qdq import export_qdq
        from edgeprune.records import Quantization, read_json

        export_qdq(
            model.checkpoint, read_json(scales, Quantization, ExportError), work / "quantized.onnx", *job.image_size,
            lineage, like=job.shop / "pruned.onnx",
        )  # fmt: skip

    def mix(work: Path) -> None:
        from edgeprune.export.mix import mix

        mix(
            job.shop / "quantized.onnx", job.shop / "pruned.onnx",
            parent=parent_artifact(job), parent_shape=job.own_shape, profile=at.profile, bench=at.bench,
            architecture=at.architecture, stand_in=at.stand_in, data=job.data, calibration=job.calibration,
            max_map_drop=job.recipe.goal.max_map_drop,
            destination=work / "mixed.onnx", record=work / "mixed.json",
            on_step=lambda done, total, note: job.shop.listener.progress("mix", done, total, note),
        )  # fmt: skip

    parent = job.shop / ("parent.onnx" if job.on_board else "engines/parent")
    packages = versions("ultralytics", "torch", "onnx", "onnxslim")
    job.shop.stage(
        "export quantized to onnx", to_qdq,
        reads={
            "lineage": lineage, "scales": scales, "like": job.shop / "pruned.onnx", "size": job.image_size, **packages,
        },
        makes=("quantized.onnx",), force=again,
    )  # fmt: skip
    job.shop.stage(
        "mix", mix,
        reads={
            "quantized": job.shop / "quantized.onnx", "parent": parent, "data": job.sha256["data"],
            "calibration": job.sha256["calibration"], "drop": job.recipe.goal.max_map_drop, **at.reads,
            **({"sizes": (job.own_shape[2:], job.image_size)} if job.resized else {}),
            **versions("onnx", "pycocotools"),
        },
        makes=("mixed.onnx", "mixed.json"), force=again,
    )  # fmt: skip
    if not job.on_board:
        to_engine(job, "quantized", "mixed.onnx", again)


def to_engine(job: Job, name: str, onnx_file: str, again: bool, half: bool = False) -> None:
    """engines/NAME: what the target's runtime loads; engines/NAME@forms: the same in other forms, if they are raced."""

    def act(work: Path) -> None:
        from edgeprune.export.engine import build_engine, refuse_misread

        if name == "quantized":
            refuse_misread(job.shop / onnx_file, job.profile.runtime, job.architecture)
        folder = work / "engines" / name
        folder.mkdir(parents=True)
        build_engine(
            job.profile.runtime, job.shop / onnx_file, folder, job.architecture, quantized=name == "quantized",
            half=half,
        )  # fmt: skip

    def other_forms(work: Path) -> None:
        from edgeprune.export.cuts import forms_of
        from edgeprune.export.engine import build_engine

        (work / forms_folder(name)).mkdir(parents=True)
        for form in forms_of(job.shop / onnx_file, job.profile.runtime):
            if not form.stock:
                folder = work / forms_folder(name) / form_name(form)
                folder.mkdir()
                build_engine(
                    job.profile.runtime, job.shop / onnx_file, folder, job.architecture, quantized=name == "quantized",
                    half=half, form=form,
                )  # fmt: skip

    reads = {
        "onnx": job.shop / onnx_file, "architecture": job.architecture, "half": half, **versions(job.profile.runtime),
    }  # fmt: skip
    job.shop.stage(f"export {name} to {job.profile.runtime}", act, reads=reads, makes=(f"engines/{name}",), force=again)
    if job.profile.races_forms:
        job.shop.stage(
            f"export other forms of {name}", other_forms,
            reads={**reads, "edgeprune": __version__}, makes=(forms_folder(name),), force=again,
        )  # fmt: skip


def _lineage(job: Job, variant: str, checkpoint: Path) -> dict[str, str]:
    return {
        "version": __version__, "variant": variant, "model_sha256": job.sha256["model"],
        "checkpoint_sha256": files.sha256_file(checkpoint),
    }  # fmt: skip
