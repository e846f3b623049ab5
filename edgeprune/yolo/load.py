"""Opening what a user brings: a checkpoint, or a model YAML.

Rules:
- A checkpoint is opened by Ultralytics' own loader, on the CPU, in FP32. It executes what it unpickles:
  a checkpoint is code, as with every PyTorch checkpoint that holds a module.
- Every task of Ultralytics can be opened and cut; the pipeline, which trains and measures boxes, asks for a
  detector (`load_detector`).
- Open-vocabulary models are refused: their classes are text embeddings given at run time.
- Masks that `torch.nn.utils.prune` left are made permanent (weights with zeros, the parametrization removed) and handed
  on: what is cut and written is a stock model again.
- A YAML gives random weights from the given seed; what it would download (TorchVision's weights) stays out.
"""

from __future__ import annotations

import zipfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.nn.utils import prune
from ultralytics.nn.modules.conv import Conv
from ultralytics.nn.modules.head import RTDETRDecoder
from ultralytics.nn.tasks import (
    BaseModel,
    ClassificationModel,
    DepthModel,
    DetectionModel,
    OBBModel,
    PoseModel,
    RTDETRDetectionModel,
    SegmentationModel,
    SemanticSegmentationModel,
    WorldModel,
    YOLOEModel,
    guess_model_task,
    load_checkpoint,
    yaml_model_load,
)
from ultralytics.utils import DEFAULT_CFG_DICT

from edgeprune.errors import CheckpointError
from edgeprune.yolo.log import logged

#: Task -> the stock class that a YAML of it is built with.
_CLASSES: dict[str, type[BaseModel]] = {
    "classify": ClassificationModel,
    "depth": DepthModel,
    "detect": DetectionModel,
    "obb": OBBModel,
    "pose": PoseModel,
    "segment": SegmentationModel,
    "semantic": SemanticSegmentationModel,
}
_OPEN_VOCABULARY = (WorldModel, YOLOEModel)


@dataclass(frozen=True)
class Detector:
    """A detector (or a model of another task) as it came.

    Attributes:
        model: FP32, eval mode, on the CPU.
        checkpoint: The checkpoint's other entries (training arguments, version, metrics); empty for a YAML.
        half: Whether the file holds FP16 weights.
        masks: Parameter name -> what `torch.nn.utils.prune` left of it: 1 = stays, 0 = pruned.
    """

    model: BaseModel
    checkpoint: dict[str, Any]
    half: bool
    masks: dict[str, torch.Tensor] = field(default_factory=dict)

    @property
    def names(self) -> dict[int, str]:
        names = self.model.names
        return dict(names) if isinstance(names, dict) else dict(enumerate(names))

    @property
    def stride(self) -> int:
        return int(self.model.stride.max())

    @property
    def channels(self) -> int:
        """Channels of the image that it takes."""
        return int(self.model.yaml.get("channels", 3))


def load_detector(path: Path) -> Detector:
    """Open `path` and make sure that it is a detector.

    Raises:
        CheckpointError: As `load`; or a model of another task.
    """
    found = load(path)
    boxes = isinstance(found.model, DetectionModel) and not isinstance(found.model, RTDETRDetectionModel)
    if found.model.task != "detect" or not boxes:
        raise CheckpointError(
            "The model is not a YOLO detector, which is all that can be built and measured yet.",
            where=path,
            expected="a YOLO detection model (task detect)",
            got=f"task {found.model.task}, class {type(found.model).__name__}",
            next_step="cut it with 'edgeprune prune' and train it with Ultralytics",
        )
    return found


def load(path: Path, seed: int = 0) -> Detector:
    """Open `path`, a .pt checkpoint or a model .yaml, of any task.

    Raises:
        CheckpointError: No such file, not an Ultralytics checkpoint, or an open-vocabulary model.
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
    _refuse_open_vocabulary(isinstance(model, _OPEN_VOCABULARY), path)
    if checkpoint.get("modelopt"):
        raise CheckpointError(
            "The model was trained with quantization already.",
            where=f"{path}, entry 'modelopt'",
            expected="a float model: edgeprune places the one set of scales itself",
            next_step="bring the checkpoint that the quantized training started from",
        )
    masks = _make_permanent(model)
    stored = checkpoint.get("ema") or checkpoint["model"]
    half = checkpoint.get("train_args") is not None and _stored_half(path, stored)
    return Detector(model, {k: v for k, v in checkpoint.items() if k not in {"model", "ema", "optimizer"}}, half, masks)


def untrained(config: str, names: dict[int, str], seed: int) -> BaseModel:
    """A model with random weights by seed, from one of Ultralytics' YAMLs, for other classes."""
    model = _build(yaml_model_load(config), seed, len(names))
    model.names = names
    return model


def _from_yaml(path: Path, seed: int) -> Detector:
    try:
        config = yaml_model_load(path)
        head = config["head"][-1][-2]
    except (FileNotFoundError, OSError) as error:
        raise CheckpointError(
            "The model YAML doesn't exist, here or among Ultralytics' own.", where=path, got=str(error)
        ) from error
    except (KeyError, TypeError, IndexError, ValueError) as error:
        raise CheckpointError(
            "The file is not a model YAML.", where=path, expected="backbone and head", got=f"{type(error).__name__}"
        ) from error
    _refuse_open_vocabulary(str(head).startswith(("World", "YOLOE")), path)
    try:
        return Detector(_build(config, seed), {}, half=False)
    except Exception as error:  # whatever the modules that it names raise
        raise CheckpointError(
            "Ultralytics can't build the model YAML.", where=path, got=f"{type(error).__name__}: {error}"
        ) from error


def _build(config: dict[str, Any], seed: int, classes: int | None = None) -> BaseModel:
    for row in config["backbone"] + config["head"]:
        if row[2] == "TorchVision":
            row[3][2] = None  # [channels, model, weights, …]
    task = guess_model_task(config) or "detect"
    kind = RTDETRDetectionModel if config["head"][-1][-2] == RTDETRDecoder.__name__ else _CLASSES[task]
    torch.manual_seed(seed)
    usual = Conv.default_act
    try:
        with logged(None):
            model = kind(config, nc=classes, verbose=False).eval()
    finally:
        Conv.default_act = usual  # a YAML's `activation` would stay for every model that is built after it
    model.args, model.task = dict(DEFAULT_CFG_DICT), task
    return model


def _refuse_open_vocabulary(found: bool, path: Path) -> None:
    if found:
        raise CheckpointError(
            "An open-vocabulary model can't be pruned: its classes are text embeddings that come at run time, and "
            "their width isn't the model's to cut.",
            where=path,
            next_step="set its classes, export or retrain it as a plain detector, and bring that",
        )


def _make_permanent(model: nn.Module) -> dict[str, torch.Tensor]:
    """Take the parametrizations of `torch.nn.utils.prune` off. Mutates `model`; returns the masks by parameter name."""
    masks = {}
    for name, module in model.named_modules():
        for own in [n.removesuffix("_mask") for n, _ in module.named_buffers(recurse=False) if n.endswith("_mask")]:
            if f"{own}_orig" in module._parameters:
                masks[f"{name}.{own}"] = getattr(module, f"{own}_mask").clone()
                prune.remove(module, own)
    return masks


def _stored_half(path: Path, model: nn.Module) -> bool:
    """Whether the file is small enough that its weights must be FP16 (the loader converts them in place)."""
    return path.stat().st_size < 3 * sum(p.numel() for p in model.parameters())


def boxes_and_scores(model: nn.Module, images: torch.Tensor) -> torch.Tensor:
    """What a detector (`load_detector`) in eval mode finds, without gradients.

    Args:
        images: (n, 3, height, width) in 0..1.

    Returns:
        (n, 4 + classes, anchors): centre x, centre y, width, height in input pixels, then one score a class; or, of an
        end-to-end head, (n, detections, 6): x0, y0, x1, y1, score, class.
    """
    with torch.no_grad():
        made = model(images)
    found: torch.Tensor = made[0] if isinstance(made, (list, tuple)) else made
    return found


def predictions(output: Any) -> Any:
    """A model's output without the feature maps that its head hands back beside the predictions, for the
    loss. As outputs they would lock every channel of the neck."""
    if isinstance(output, dict):
        return {k: predictions(v) for k, v in output.items() if k != "feats"}
    if isinstance(output, (list, tuple)):
        return type(output)(predictions(v) for v in output)
    return output
