"""Fine-tuning a pruned detector with its parent's help, with fake-quantization where it is quantized.

Choices, measured on the blood-cell YOLOv8n cut to 45 % of its MACs (README, 'What was measured'):
- AdamW with a cosine schedule, and an optimizer step every batch: Ultralytics gathers 64 images a step,
  which leaves a few hundred images with three steps an epoch and an EMA that never forgets the cut.
- Distillation is ours (distill.py, features.py) but for `ultralytics`, the stock trainer's of features. All learn from
  the parent in FP32, quantized or not.
- A quantized model trains its scales with its weights (quant/fake.py), and at the end with frozen BatchNorm. Right
  after a cut its scales follow what they see.
"""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from edgeprune.errors import CheckpointError, PlanError
from edgeprune.prune.traced import channel_graph
from edgeprune.quant.fake import attach, attached, detach
from edgeprune.records import PrunePlan, Quantization, Recipe, read_json, write_json
from edgeprune.records.files import write_bytes
from edgeprune.records.methods import LEAVE_ZEROS, METHODS, function_at
from edgeprune.records.model import ModelFiles
from edgeprune.train.distill import Lesson, Teaching
from edgeprune.train.whole import Whole
from edgeprune.yolo.checkpoint import pack
from edgeprune.yolo.load import Detector, load_detector
from edgeprune.yolo.stretch import Stretch
from edgeprune.yolo.trainer import train
from edgeprune.yolo.zeros import KeepZeros


def finetune(
    start: ModelFiles,
    *,
    parent: Path,
    view: Path,
    recipe: Recipe,
    stretch: Stretch,
    learning_rate: float,
    follow: bool,
    keeper: str = "",
    widths: Path | None = None,
    image_size: int,
    work: Path,
    destination: ModelFiles,
    log: Path,
    on_epoch: Callable[[int, int, float], None] | None = None,
) -> None:
    """Train a checkpoint and write the best epoch as a stock checkpoint, with its scales beside it.

    Args:
        start: The model to train; quantized if it has scales.
        parent: The checkpoint to learn from.
        view: data.yaml of a view (yolo/data.py).
        stretch: Where these epochs lie among all of the build.
        learning_rate: Peak of the whole build's schedule.
        follow: Whether the scales of activations follow their ranges instead of being learned.
        keeper: What goes along with the training of a whole model (train/whole.py), 'module:function'.
        widths: A plan with the widths that this model will be cut to.
        image_size: Edge of the square training image in pixels.
        work: Folder of the run; a later call goes on from what an interrupted one left here.
        destination: What to write: a .pt, scales if `start` has some, and the moments that `stretch` left, where
            training goes on.
        log: Where Ultralytics' output goes.
        on_epoch: Called with (epochs done, epochs in all, fitness on val).

    Raises:
        CheckpointError: A file that isn't a detector.
        RecipeError: The keeper left nothing to cut by.
    """
    started = load_detector(start.checkpoint)
    checkpoint = start.checkpoint
    teaching = _teaching(recipe, started, parent)
    along = _along(keeper, started, widths, recipe.regularization_strength, image_size)
    along += (teaching.along,) if teaching.along else ()
    for begins in (one for one in along if hasattr(one, "begin")):
        begins.begin(started.model)
        checkpoint = work / "begun.pt"  # ours alone, as the next: they hold what is trained along as submodules
    if start.quantization is not None:
        record = read_json(start.quantization, Quantization, CheckpointError)
        checkpoint = work / "quantized.pt"
        attach(started.model, record, follow=follow)
    if checkpoint != start.checkpoint:
        write_bytes(checkpoint, pack(started.model, started.checkpoint, half=False))
    arguments: dict[str, Any] = {
        "data": str(view),
        "epochs": stretch.count,
        "imgsz": image_size,
        "batch": recipe.batch,
        "nbs": recipe.batch,
        "optimizer": "AdamW",
        "lr0": learning_rate,
        "amp": False,  # on a GPU it begins with a download, to try it out; and FP32 is what is exported
        "lrf": 0.01,
        "cos_lr": True,
        "patience": 0,  # as many epochs as were asked for
        "warmup_epochs": 0.0 if stretch.first else 1.0,
        "warmup_bias_lr": 0.0,
        "close_mosaic": stretch.close_mosaic,
        "device": recipe.torch_device or None,
        "workers": recipe.workers,
        "cache": False if recipe.cache == "none" else recipe.cache,
        **teaching.arguments,
    }
    zeros = (KeepZeros(),) if recipe.granularity in LEAVE_ZEROS and not keeper else ()  # a keeper decides for itself
    model = train(
        checkpoint, work, seed=recipe.seed, arguments=arguments, stretch=stretch, log=log, wrap_loss=teaching.wrap,
        keepers=(*along, *zeros), on_epoch=on_epoch,
    )  # fmt: skip
    if attached(model):
        assert destination.quantization is not None
        write_json(destination.quantization, detach(model))
    for ends in (one for one in along if hasattr(one, "end")):
        ends.end(model)
    if destination.moments is not None:
        assert stretch.moments_out is not None
        added = tuple(f"{one.adds}." for one in along if hasattr(one, "begin"))
        write_bytes(destination.moments, _moments_without(added, stretch.moments_out))
    # the trainer keeps FP16, so nothing is lost
    write_bytes(destination.checkpoint, pack(model, started.checkpoint, half=True))


def _teaching(recipe: Recipe, started: Detector, parent: Path) -> Teaching:
    method = METHODS["distillation"][recipe.distillation]
    if method.at is None:
        return Teaching()
    torch.manual_seed(recipe.seed)  # what is trained along begins the same
    taught: Teaching = method.function(Lesson(started.model, parent, recipe.distillation_weight, started.channels))
    return taught


def _along(
    keeper: str, started: Detector, widths: Path | None, strength: float | None, image_size: int
) -> tuple[Any, ...]:
    """What goes along with this training."""
    if not keeper:
        return ()
    graph = channel_graph(started.model, (image_size, image_size), started.channels)
    plan = read_json(widths, PrunePlan, PlanError) if widths else None
    return (function_at(keeper)(Whole.of(graph, started.model, plan, strength)),)


def _moments_without(added: tuple[str, ...], file: Path) -> bytes:
    """The moments, without those of what was trained along and is no more."""
    if not added:
        return file.read_bytes()
    buffer = io.BytesIO()
    found = torch.load(file, weights_only=True)
    torch.save({name: state for name, state in found.items() if not name.startswith(added)}, buffer)
    return buffer.getvalue()
