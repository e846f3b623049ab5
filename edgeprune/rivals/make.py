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
        runtime: onnxruntime or openvino.
        size: Height and width of the input in pixels.
        images: That ranges are taken from.
        calibration: data.yaml of a view whose val images are those.
    """

    runtime: str
    size: tuple[int, int]
    images: Sequence[Path]
    calibration: Path


def make(rival: Rival, material: Material, source: Path, folder: Path, work: Path, log: Path) -> None:
    """Write what the runtime loads into `folder`, alone.

    Args:
        source: What its tool starts from: the parent as its user has it; for a trained rival, what was trained; for
            NNCF, the parent's FP32 .xml.
        folder: An empty one.
        work: A folder for what lies between.
        log: Where the tool's output goes.

    Raises:
        ExportError: The tool can't.
        DeviceError: A package isn't installed.
    """
    with unheard(), noted(log):
        if rival.maker == "nncf":
            from edgeprune.rivals.ptq import quantize

            quantize(source, material.images, rival.preset, folder, log)
            return
        from edgeprune.yolo.rivals import export

        if rival.trained and material.runtime == "openvino":
            from edgeprune.export.engine import build_engine

            file = export(source, "onnx", None, material.size, work / "onnx", log=log)
            build_engine(material.runtime, file, folder)
            return
        export(
            source, "onnx" if material.runtime == "onnxruntime" else "openvino",
            None if rival.trained else rival.precision, material.size, folder,
            calibration=material.calibration if rival.calibrated else None, log=log,
        )  # fmt: skip


def train(
    checkpoint: Path, view: Path, work: Path, *, epochs: int, image_size: int, recipe: Recipe, log: Path,
    on_epoch: Callable[[int, int, float], None],
) -> Path:  # fmt: skip
    """Ultralytics' quantization-aware training of the parent: the checkpoint of its best epoch.

    Args:
        view: data.yaml of a view of the data set.
        work: Folder that is kept between an interruption and the next call, which goes on.
        image_size: Edge of the square input in pixels.
        recipe: The build's: batch, seed and torch device are its; everything else is Ultralytics' default.
        on_epoch: Called with (epochs done, epochs in all, fitness).

    Raises:
        ExportError: It failed.
    """
    from edgeprune.yolo.rivals import finetune

    with unheard(), noted(log):
        return finetune(
            checkpoint, view, work, epochs=epochs, image_size=image_size, batch=recipe.batch, seed=recipe.seed,
            torch_device=recipe.torch_device, log=log, on_epoch=on_epoch,
        )  # fmt: skip


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
