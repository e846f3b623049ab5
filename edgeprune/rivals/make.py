"""A rival's file, made by its own tool.

Rules:
- Nothing calls home meanwhile: OpenVINO's converter and NNCF send figures of their use unless they take the machine for
  a build server's, and so they are told that.
- What tools say goes into a log: none of it is between the lines of a comparison.
- What a tool can't do is an ExportError (or a missing package's error) in words; who asked goes on without that rival.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from edgeprune.records import Recipe
from edgeprune.rivals.roll import Rival


@dataclass(frozen=True)
class Material:
    """What rivals are made from.

    Attributes:
        checkpoint: The parent, as its user has it.
        runtime: onnxruntime or openvino.
        size: Height and width of the input in pixels.
        images: That ranges are taken from.
        calibration: data.yaml of a view whose val images are those.
        view: data.yaml of a view of the data set.
        recipe: Of the build: batch, seed and torch device of the fine-tuning are its.
        epochs: Of fine-tuning that the build had.
    """

    checkpoint: Path
    runtime: str
    size: tuple[int, int]
    images: Sequence[Path]
    calibration: Path
    view: Path
    recipe: Recipe
    epochs: int


def make(
    rival: Rival, material: Material, folder: Path, work: Path, *, floating: Path | None, log: Path,
    on_epoch: Callable[[int, int, float], None],
) -> None:  # fmt: skip
    """Write what the runtime loads into `folder`, alone.

    Args:
        folder: An empty one.
        work: Folder that is kept between an interruption and the next call.
        floating: The parent's FP32 .xml, which NNCF starts from; not needed for others.
        log: Where the tool's output goes.
        on_epoch: Called with (epochs done, epochs in all, fitness).

    Raises:
        ExportError: The tool can't.
        DeviceError: A package isn't installed.
    """
    with unheard(), noted(log):
        if rival.maker == "nncf":
            from edgeprune.rivals.ptq import quantize

            assert floating is not None
            quantize(floating, material.images, rival.preset, folder, log)
        elif rival.trained:
            _trained(material, folder, work, log, on_epoch)
        else:
            from edgeprune.yolo.rivals import export

            kind = "onnx" if material.runtime == "onnxruntime" else "openvino"
            calibration = material.calibration if rival.calibrated else None
            export(material.checkpoint, kind, rival.precision, material.size, folder, calibration=calibration, log=log)


def _trained(
    material: Material, folder: Path, work: Path, log: Path, on_epoch: Callable[[int, int, float], None]
) -> None:
    from edgeprune.yolo.rivals import export, finetune

    best = finetune(
        material.checkpoint, material.view, work, epochs=material.epochs, image_size=material.size[0],
        batch=material.recipe.batch, seed=material.recipe.seed, torch_device=material.recipe.torch_device, log=log,
        on_epoch=on_epoch,
    )  # fmt: skip
    if material.runtime == "onnxruntime":
        export(best, "onnx", None, material.size, folder, log=log)
        return
    from edgeprune.export.engine import build_engine

    file = export(best, "onnx", None, material.size, work / "onnx", log=log)
    build_engine(material.runtime, file, folder)


@contextmanager
def unheard() -> Iterator[None]:
    """OpenVINO's converter and NNCF report nothing to anyone."""
    before = os.environ.get("CI")
    os.environ["CI"] = "true"
    try:
        yield
    finally:
        if before is None:
            del os.environ["CI"]
        else:
            os.environ["CI"] = before


@contextmanager
def noted(log: Path) -> Iterator[None]:
    """What libraries tell Python's root logger (ONNX Runtime's quantizer does) goes to the end of a file."""
    log.parent.mkdir(parents=True, exist_ok=True)
    handler = logging.FileHandler(log, encoding="utf-8")
    logging.getLogger().addHandler(handler)
    try:
        yield
    finally:
        logging.getLogger().removeHandler(handler)
        handler.close()
