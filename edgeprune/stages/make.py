"""The stages that make a model: what each reads, what it makes, and which rooms do it.

A model travels through them as its files (checkpoint, scales, optimizer's moments); each stage returns what the
next one starts from. Heavy rooms are imported inside the work itself, so that a build with nothing to do never
loads torch.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from edgeprune.job import Job
from edgeprune.records import files
from edgeprune.records.methods import LEAVE_ZEROS, METHODS
from edgeprune.records.model import ModelFiles
from edgeprune.schedule import Phase
from edgeprune.stages.board import place
from edgeprune.stages.common import versions
from edgeprune.stages.pace import clock as pace_clock

if TYPE_CHECKING:
    from torch import nn

    from edgeprune.prune.problem import Problem


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
    """plan.json and pruned.pt of a phase; the plan is always from the parent. What travels along is cut too. Where only
    widths are chosen, the model goes on whole."""
    if phase.share is None:
        return model
    here, goal = phase.folder("cut"), job.recipe.goal
    widths = None if phase.chooses else _chosen(job, phase)
    carrier = _trained_in(job, phase.number - phase.point, model) if phase.point else model
    asks = METHODS["allocation"][job.recipe.allocation].needs if widths is None else ()
    searches, adapts = "data" in asks, "training" in asks and job.recipe.search_steps > 0
    needs_data = searches or "data" in METHODS["importance"][job.recipe.importance].needs
    clock, ratio = None, None if goal.macs_ratio is None else goal.macs_after(phase.share)
    sparsity = None if goal.sparsity is None else goal.sparsity_after(phase.share)
    aim: dict[str, object] = {"macs_ratio": ratio} if sparsity is None else {"sparsity": sparsity}
    if widths is not None:
        aim = {"widths": widths}
    elif goal.in_time:
        clock, aim = pace_clock(job, phase.share, model)
    made = replace(
        model,
        checkpoint=Path(f"{here}pruned.pt"),
        plan=Path(f"{here}plan.json"),
        quantization=model.quantization and Path(f"{here}pruned-scales.json"),
        moments=model.moments and Path(f"{here}pruned-moments.pt"),
    )

    def act(work: Path) -> None:
        from edgeprune.prune.make import prune_checkpoint
        from edgeprune.prune.request import Request
        from edgeprune.train.adapt import adapt
        from edgeprune.train.judge import map_lost
        from edgeprune.yolo.data import make_view

        recipe = job.recipe
        view = make_view(job.data, job.view) if needs_data else None
        prune_checkpoint(
            Request(
                model=model.checkpoint,
                parent=job.shop / "parent.pt",
                before=model.plan,
                quantization=model.quantization,
                moments=model.moments,
                carrier=carrier,
                widths=widths,
                image_size=job.image_size,
                macs_ratio=ratio,
                clock=clock,
                sparsity=sparsity,
                granularity=recipe.granularity,
                importance=recipe.importance,
                allocation=recipe.allocation,
                channel_multiple=job.profile.channel_multiple,
                min_width=recipe.min_width,
                max_group_ratio=recipe.max_group_ratio,
                view=view,
                batch=recipe.batch,
                batches=recipe.importance_batches,
                trials=recipe.search_trials,
                trial_batches=recipe.search_batches,
                judge=map_lost if recipe.search_judge == "map" else None,
                adapt=partial(adapt, learning_rate=recipe.learning_rate) if adapts else None,
                adapt_steps=recipe.search_steps,
                train_supernet=_sandwich(job, f"prune {phase.number}", work) if recipe.supernet_epochs else None,
                work=work,
                torch_device=recipe.torch_device,
                seed=recipe.seed,
            ),
            files=made.under(work),
            on_batch=lambda done, total: job.shop.listener.progress(f"prune {phase.number}", done, total, "gradients"),
            on_trial=lambda done, total: job.shop.listener.progress(f"prune {phase.number}", done, total, "candidates"),
        )

    rewound = {"carrier": carrier.checkpoint} if phase.point else {}
    keys = {"granularity", "importance", "allocation", "max_group_ratio", "min_width", "importance_batches", "seed"}
    keys |= {"search_batches", "search_judge"} if needs_data else set()
    keys |= {"search_trials", "supernet_epochs"} if searches else set()
    keys |= {"search_steps"} if adapts else set()
    keys |= {"learning_rate"} if job.recipe.supernet_epochs or adapts else set()
    drawn = {"batch": job.recipe.batch, "data": job.sha256["data"]} if needs_data else {}
    job.shop.stage(
        f"prune {phase.number}", act,
        reads={
            **model.named(), "parent": job.shop / "parent.pt", "recipe": job.recipe.model_dump(include=keys),
            **aim, **rewound, "shape": job.profile.input_shape, "multiple": job.profile.channel_multiple, **drawn,
            **versions("ultralytics", "torch"),
        },
        makes=tuple(str(path) for path in made.named().values()), force=again,
    )  # fmt: skip
    return model if phase.chooses else made.under(job.shop.folder)


def _chosen(job: Job, phase: Phase) -> Path | None:
    """The plan whose widths stand in a phase."""
    return job.shop / f"phases/{phase.widths}/plan.json" if phase.widths else None


def _trained_in(job: Job, number: int, model: ModelFiles) -> ModelFiles:
    """What an earlier phase trained, as far as `model` has it too."""
    made = ModelFiles(
        checkpoint=Path("finetuned.pt"),
        plan=None,
        quantization=model.quantization and Path("quantization.json"),
        moments=model.moments and Path("moments.pt"),
    )
    return replace(made.under(job.shop / f"phases/{number}"), plan=model.plan)


def _sandwich(job: Job, name: str, work: Path) -> Callable[[nn.Module, Problem], None]:
    """What trains a supernet."""

    def learn(net: nn.Module, problem: Problem) -> None:
        from edgeprune.prune.request import device_of
        from edgeprune.train.supernet import train_supernet
        from edgeprune.yolo.data import batches, make_view

        recipe, view = job.recipe, make_view(job.data, job.view)
        steps = -(-len(job.data.splits["train"]) // recipe.batch)
        device = device_of(recipe.torch_device)
        train_supernet(
            net,
            problem,
            draw=lambda epoch: batches(
                view, job.image_size[0], recipe.batch, steps, recipe.seed * 1_000_003 + epoch, device
            ),
            epochs=recipe.supernet_epochs,
            steps=steps,
            learning_rate=recipe.learning_rate,
            kept=work / "supernet.pt",
            on_epoch=lambda done, total: job.shop.listener.progress(name, done, total, "supernet"),
        )

    return learn


def finetune(job: Job, phase: Phase, model: ModelFiles, again: bool = False) -> ModelFiles:
    """finetuned.pt of a phase: the model, trained with its parent's help; its scales, if it is quantized."""
    if not phase.epochs:
        return model
    here, name = phase.folder("train"), f"finetune {phase.number}"
    followed, widths = phase.followed, _chosen(job, phase)
    rate = job.recipe.learning_rate * (job.recipe.qat_rate if phase.quantized else 1.0)
    made = ModelFiles(
        checkpoint=Path(f"{here}finetuned.pt"),
        quantization=model.quantization and Path(f"{here}quantization.json"),
        moments=Path(f"{here}moments.pt") if followed else None,
    )

    def on_epoch(done: int, total: int, fitness: float) -> None:
        job.shop.listener.progress(name, done, total, f"fitness {fitness:.3f}")
        job.shop.listener.trained(phase.left + phase.epochs - done, fitness)

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
            keeper=phase.keeper,
            widths=widths,
            image_size=job.image_size[0],
            work=work / "training",
            destination=made.under(work),
            log=job.shop / "logs" / f"{name.replace(' ', '-')}.log",
            on_epoch=on_epoch,
        )

    # what goes along; and whether the last epoch or the best is taken, where the epochs don't tell
    along: dict[str, object] = {"keeper": phase.keeper, "widths": widths} if phase.keeper else {}
    along |= {"followed": followed} if followed != (phase.first_epoch + phase.epochs < phase.all_epochs) else {}
    keys = ({"regularization_strength"} if phase.keeper else set()) | {
        "batch", "distillation", "distillation_weight", "workers", "cache", "seed", "torch_device",
    } | ({"norm_freeze_share"} if phase.quantized else set())  # fmt: skip
    keys |= {"granularity"} if job.recipe.granularity in LEAVE_ZEROS else set()
    job.shop.stage(
        name, act,
        reads={
            **replace(model, plan=None).named(), "parent": job.shop / "parent.pt",
            "data": job.sha256["data"], "size": job.image_size,
            "recipe": {**job.recipe.model_dump(include=keys), "learning_rate": rate},
            "epochs": (phase.first_epoch, phase.epochs, phase.all_epochs), "follow": phase.follow, **along,
            **versions("ultralytics", "torch"),
        },
        makes=tuple(str(path) for path in made.named().values()), force=again,
    )  # fmt: skip
    return replace(made.under(job.shop.folder), plan=model.plan)
