"""The stages that make files of models: ONNX, the quantized graph, and what a target's runtime loads."""

from __future__ import annotations

from pathlib import Path

from edgeprune.job import Job
from edgeprune.records import files
from edgeprune.records.model import ModelFiles
from edgeprune.records.target import own_file
from edgeprune.stages.board import kits, parent_artifact, place
from edgeprune.stages.common import folder_of, form_name, forms_folder, versions
from edgeprune.version import __version__


def export(job: Job, model: ModelFiles, again: bool = False) -> None:
    """The ONNX file of parent and build, and from it what the target's runtime loads; the quantized graph as well.
    Where the device itself builds, kits are the end of it."""
    export_float(job, "parent", job.shop / "parent.pt", again)
    export_float(job, "pruned", model.checkpoint, again)
    if job.int8:
        export_quantized(job, model, again)
    if job.on_board:
        kits(job, again=again)


def export_float(job: Job, variant: str, checkpoint: Path, again: bool = False) -> None:
    """VARIANT.onnx, and its float engines."""
    lineage, size = _lineage(job, variant, checkpoint), job.shape_of(variant)[2:]

    def to_onnx(work: Path) -> None:
        from edgeprune.export.onnx import export_onnx

        export_onnx(checkpoint, work / f"{variant}.onnx", *size, lineage)

    job.shop.stage(
        f"export {variant} to onnx", to_onnx,
        reads={"lineage": lineage, "size": size, **versions("ultralytics", "torch", "onnx", "onnxslim")},
        makes=(f"{variant}.onnx",), force=again,
    )  # fmt: skip
    if job.on_board:
        return
    to_engine(job, variant, f"{variant}.onnx", again)
    for precision in job.profile.precisions:
        if own_file(job.profile.runtime, precision):
            to_engine(job, folder_of(job, variant, precision), f"{variant}.onnx", again, half=True)


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
