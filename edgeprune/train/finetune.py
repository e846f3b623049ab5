"""Fine-tuning a pruned detector with its parent's help, with fake-quantization where it is quantized.

Choices, measured on the blood-cell YOLOv8n cut to 45 % of its MACs (README, 'What was measured'):
- AdamW with a cosine schedule, and an optimizer step every batch: Ultralytics gathers 64 images a step,
  which leaves a few hundred images with three steps an epoch and an EMA that never forgets the cut.
- `logits` distillation is ours (distill.py); `ultralytics` is the stock trainer's feature distillation. Both learn
  from the parent in FP32, quantized or not.
- A quantized model trains its scales with its weights (quant/fake.py), and at the end with frozen BatchNorm. Right
  after a cut its scales follow what they see.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from edgeprune.errors import CheckpointError
from edgeprune.quant.fake import attach, attached, detach
from edgeprune.records import Quantization, Recipe, read_json, write_json
from edgeprune.records.files import write_bytes
from edgeprune.records.model import ModelFiles
from edgeprune.train.distill import WrapWithParent
from edgeprune.yolo.checkpoint import pack
from edgeprune.yolo.load import load_detector
from edgeprune.yolo.stretch import Stretch
from edgeprune.yolo.trainer import train


def finetune(
    start: ModelFiles,
    *,
    parent: Path,
    view: Path,
    recipe: Recipe,
    stretch: Stretch,
    learning_rate: float,
    follow: bool,
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
        image_size: Edge of the square training image in pixels.
        work: Folder of the run; a later call goes on from what an interrupted one left here.
        destination: What to write: a .pt, scales if `start` has some, and the moments that `stretch` left, where
            training goes on.
        log: Where Ultralytics' output goes.
        on_epoch: Called with (epochs done, epochs in all, fitness on val).

    Raises:
        CheckpointError: A file that isn't a detector.
    """
    started = load_detector(start.checkpoint)
    checkpoint = start.checkpoint
    if start.quantization is not None:
        record = read_json(start.quantization, Quantization, CheckpointError)
        checkpoint = work / "quantized.pt"  # ours alone: it holds the scales as a submodule
        write_bytes(checkpoint, pack(attach(started.model, record, follow=follow), started.checkpoint, half=False))
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
    }
    if recipe.distillation == "ultralytics":
        arguments["distill_model"] = str(parent)
    wrap = WrapWithParent(parent, recipe.distillation_weight) if recipe.distillation == "logits" else None
    model = train(
        checkpoint, work, seed=recipe.seed, arguments=arguments, stretch=stretch, log=log, wrap_loss=wrap,
        on_epoch=on_epoch,
    )  # fmt: skip
    if attached(model):
        assert destination.quantization is not None
        write_json(destination.quantization, detach(model))
    if destination.moments is not None:
        assert stretch.moments_out is not None
        write_bytes(destination.moments, stretch.moments_out.read_bytes())
    # the trainer keeps FP16, so nothing is lost
    write_bytes(destination.checkpoint, pack(model, started.checkpoint, half=True))
