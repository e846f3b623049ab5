"""A detector as ONNX, by Ultralytics' own exporter."""

from __future__ import annotations

import copy
import io
import warnings
from pathlib import Path

import torch
from ultralytics import YOLO
from ultralytics.nn.modules.block import C2f

from edgeprune.errors import ExportError
from edgeprune.yolo.log import logged

#: ONNX operator set of every file, as Ultralytics' exporter chooses it for torch 2.4 and later.
OPSET = 18


def to_onnx(checkpoint: Path, folder: Path, height: int, width: int) -> Path:
    """Export a checkpoint with a static input.

    The exporter folds BatchNorm, decodes in the graph, and writes what `YOLO("model.onnx")` reads into the
    metadata.

    Args:
        checkpoint: A stock checkpoint.
        folder: Where to work; the checkpoint's copy and the ONNX file land there.
        height, width: Of the input in pixels.

    Returns:
        The .onnx file: input 'images' (1, 3, height, width) in 0..1, output 'output0'.

    Raises:
        ExportError: The exporter failed.
    """
    local = folder / "model.pt"
    local.write_bytes(checkpoint.read_bytes())  # the exporter writes beside its model
    with logged(None):
        try:
            written = YOLO(local).export(
                format="onnx", imgsz=(height, width), dynamic=False, simplify=True, device="cpu", opset=OPSET
            )
        except Exception as error:  # the exporter raises whatever its stages raise
            raise ExportError(
                "The model can't be exported to ONNX.", where=checkpoint, got=f"{type(error).__name__}: {error}"
            ) from error
    return Path(written)


def fused(model: torch.nn.Module) -> torch.nn.Module:
    """A copy with BatchNorm folded and the head in export form: what the ONNX file computes."""
    model = copy.deepcopy(model).eval().requires_grad_(False).fuse(verbose=False)
    head = model.model[-1]
    head.export, head.dynamic, head.format = True, False, "onnx"
    for module in model.modules():
        if isinstance(module, C2f):
            module.forward = module.forward_split  # as Ultralytics' exporter does: Split instead of many Slices
    return model


def trace_onnx(model: torch.nn.Module, height: int, width: int) -> bytes:
    """What `model` computes as ONNX, traced as Ultralytics' exporter traces: the same names, the same opset.

    Args:
        model: In export form (`fused`), with or without scales attached.
        height, width: Of the input in pixels.

    Raises:
        ExportError: torch's exporter failed.
    """
    buffer = io.BytesIO()
    with warnings.catch_warnings(), logged(None):
        warnings.simplefilter("ignore")
        try:
            torch.onnx.export(
                model, (torch.zeros(1, 3, height, width),), buffer, opset_version=OPSET, input_names=["images"],
                output_names=["output0"], dynamo=False,
            )  # fmt: skip
        except Exception as error:  # the exporter raises whatever its stages raise
            raise ExportError(
                "The quantized model can't be exported to ONNX.", got=f"{type(error).__name__}: {error}"
            ) from error
    return buffer.getvalue()
