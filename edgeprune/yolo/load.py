"""Opening what a user brings: a checkpoint, or a model YAML.

Rules:
- A checkpoint is opened by Ultralytics' own loader, on the CPU, in FP32. It executes what it unpickles:
  a checkpoint is code, as with every PyTorch checkpoint that holds a module.
- Only detectors are taken here; another task is refused by name.
- A YAML gives random weights from the given seed.
"""

from __future__ import annotations

import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn
from ultralytics.nn.tasks import DetectionModel, guess_model_task, load_checkpoint, yaml_model_load
from ultralytics.utils import DEFAULT_CFG_DICT

from edgeprune.errors import CheckpointError
from edgeprune.yolo.log import logged


@dataclass(frozen=True)
class Detector:
    """A detector as it came.

    Attributes:
        model: FP32, eval mode, on the CPU.
        checkpoint: The checkpoint's other entries (training arguments, version, metrics); empty for a YAML.
        half: Whether the file holds FP16 weights.
    """

    model: DetectionModel
    checkpoint: dict[str, Any]
    half: bool

    @property
    def names(self) -> dict[int, str]:
        names = self.model.names
        return dict(names) if isinstance(names, dict) else dict(enumerate(names))

    @property
    def stride(self) -> int:
        return int(self.model.stride.max())


def load(path: Path, seed: int = 0) -> Detector:
    """Open `path`, a .pt checkpoint or a model .yaml.

    Raises:
        CheckpointError: No such file, not an Ultralytics checkpoint, or not a detector.
    """
    if path.suffix in {".yaml", ".yml"}:
        return _from_yaml(path, seed)
    if not path.is_file():
        raise CheckpointError("The model file doesn't exist.", where=path, next_step="give MODEL=path/to/best.pt")
    if not zipfile.is_zipfile(path):
        raise CheckpointError(
            "The model file is not a PyTorch checkpoint.",
            where=path,
            expected="a .pt file as Ultralytics' training writes it",
            got=f"{path.stat().st_size} bytes that torch.save didn't write",
        )
    try:
        model, checkpoint = load_checkpoint(path)
    except Exception as error:  # whatever unpickling a stranger's file raises
        raise CheckpointError(
            "The model file can't be opened as an Ultralytics checkpoint.",
            where=path,
            got=f"{type(error).__name__}: {error}",
            next_step="open it with ultralytics.YOLO(path) to see the whole story",
        ) from error
    _require_detector(model, path)
    stored = checkpoint.get("ema") or checkpoint["model"]
    half = checkpoint.get("train_args") is not None and _stored_half(path, stored)
    return Detector(model, {k: v for k, v in checkpoint.items() if k not in {"model", "ema", "optimizer"}}, half)


def _from_yaml(path: Path, seed: int) -> Detector:
    try:
        config = yaml_model_load(path)
    except (FileNotFoundError, OSError) as error:
        raise CheckpointError(
            "The model YAML doesn't exist, here or among Ultralytics' own.", where=path, got=str(error)
        ) from error
    task = guess_model_task(config)
    if task != "detect":
        raise CheckpointError("The model is not a detector.", where=path, expected="task detect", got=f"task {task}")
    torch.manual_seed(seed)
    model = DetectionModel(config, verbose=False).eval()
    model.args = dict(DEFAULT_CFG_DICT)
    model.task = "detect"
    return Detector(model, {}, half=False)


def untrained(config: str, names: dict[int, str], seed: int) -> DetectionModel:
    """A detector with random weights by seed, from one of Ultralytics' YAMLs, for other classes."""
    torch.manual_seed(seed)
    with logged(None):
        model = DetectionModel(yaml_model_load(config), nc=len(names), verbose=False).eval()
    model.names, model.args, model.task = names, dict(DEFAULT_CFG_DICT), "detect"
    return model


def _require_detector(model: nn.Module, path: Path) -> None:
    task = getattr(model, "task", None) or guess_model_task(model)
    if task != "detect" or not isinstance(model, DetectionModel):
        raise CheckpointError(
            "The model is not a detector.",
            where=path,
            expected="a detection model (task detect)",
            got=f"task {task}, class {type(model).__name__}",
            next_step="bring a detector; other tasks can't be pruned yet",
        )


def _stored_half(path: Path, model: nn.Module) -> bool:
    """Whether the file is small enough that its weights must be FP16 (the loader converts them in place)."""
    return path.stat().st_size < 3 * sum(p.numel() for p in model.parameters())


def predictions(output: Any) -> Any:
    """A detector's output without the feature maps that its head hands back beside the predictions, for the
    loss. As outputs they would lock every channel of the neck."""
    if isinstance(output, dict):
        return {k: predictions(v) for k, v in output.items() if k != "feats"}
    if isinstance(output, (list, tuple)):
        return type(output)(predictions(v) for v in output)
    return output
