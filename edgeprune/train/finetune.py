"""Fine-tuning a pruned detector with its parent's help.

Choices, measured on the blood-cell YOLOv8n cut to 45 % of its MACs (README, 'What was measured'):
- AdamW with a cosine schedule, and an optimizer step every batch: Ultralytics gathers 64 images a step,
  which leaves a few hundred images with three steps an epoch and an EMA that never forgets the cut.
- `logits` distillation is ours (distill.py); `ultralytics` is the stock trainer's feature distillation.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from edgeprune.records import Recipe
from edgeprune.records.files import write_bytes
from edgeprune.train.distill import WrapWithParent
from edgeprune.yolo.checkpoint import pack
from edgeprune.yolo.load import load_detector
from edgeprune.yolo.trainer import train


def finetune(
    checkpoint: Path,
    *,
    parent: Path,
    view: Path,
    recipe: Recipe,
    epochs: int,
    image_size: int,
    work: Path,
    destination: Path,
    log: Path,
    on_epoch: Callable[[int, int, float], None] | None = None,
) -> None:
    """Train a pruned checkpoint and write the best epoch as a stock checkpoint.

    Args:
        checkpoint: The pruned model.
        parent: The checkpoint to learn from.
        view: data.yaml of a view (yolo/data.py).
        image_size: Edge of the square training image in pixels.
        work: Folder of the run; a later call goes on from what an interrupted one left here.
        destination: The .pt to write.
        log: Where Ultralytics' output goes.
        on_epoch: Called with (epochs done, epochs in all, fitness on val).

    Raises:
        CheckpointError: A file that isn't a detector.
    """
    started = load_detector(checkpoint)
    arguments: dict[str, Any] = {
        "data": str(view),
        "epochs": epochs,
        "imgsz": image_size,
        "batch": recipe.batch,
        "nbs": recipe.batch,
        "optimizer": "AdamW",
        "lr0": recipe.learning_rate,
        "lrf": 0.01,
        "cos_lr": True,
        "patience": 0,  # as many epochs as were asked for
        "warmup_epochs": 1.0,
        "warmup_bias_lr": 0.0,
        "close_mosaic": max(1, epochs // 4),
        "device": recipe.torch_device or None,
        "workers": recipe.workers,
        "cache": False if recipe.cache == "none" else recipe.cache,
    }
    if recipe.distillation == "ultralytics":
        arguments["distill_model"] = str(parent)
    wrap = WrapWithParent(parent, recipe.distillation_weight) if recipe.distillation == "logits" else None
    model = train(checkpoint, work, seed=recipe.seed, arguments=arguments, log=log, wrap_loss=wrap, on_epoch=on_epoch)
    write_bytes(destination, pack(model, started.checkpoint, half=True))  # the trainer keeps FP16, so nothing is lost
