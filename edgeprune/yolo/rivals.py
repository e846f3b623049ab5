"""What Ultralytics' own exporter and its quantization-aware training make of a detector: the rivals' files.

Rules:
- Only documented arguments, as a user would give them; everything else stays at Ultralytics' default, so that a figure
  is what people get.
- Nothing is downloaded or installed; what is missing is said.
- An interrupted fine-tuning goes on after its last whole epoch by Ultralytics' own resume (which isn't exact).

Source: ultralytics 8.4.190: `Model.export`, `Exporter`, `BaseTrainer` with quantize=8.
"""

from __future__ import annotations

import contextlib
import io
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from ultralytics import YOLO
from ultralytics.nn.tasks import torch_safe_load

from edgeprune.errors import ExportError
from edgeprune.machine import cores
from edgeprune.yolo.log import logged

#: What Ultralytics writes for the epoch of a checkpoint that it won't go on from.
FINISHED = -1
#: Precision of the file -> Ultralytics' `quantize`.
_QUANTIZE = {"fp32": 32, "fp16": 16, "int8": 8}


def export(
    checkpoint: Path, kind: str, precision: str | None, size: tuple[int, int], folder: Path, *,
    calibration: Path | None = None, log: Path,
) -> Path:  # fmt: skip
    """Ultralytics' export, with a static input.

    Args:
        checkpoint: A stock checkpoint.
        kind: Ultralytics' format: onnx or openvino.
        precision: fp32, fp16 or int8; none = what the checkpoint says (quantization-aware trained ones).
        size: Height and width of the input in pixels.
        folder: To write into.
        calibration: data.yaml whose val images ranges are taken from.
        log: Where its output goes.

    Returns:
        'model.onnx', or the folder 'model_openvino_model'; nothing else is left in `folder`.

    Raises:
        ExportError: It can't.
    """
    folder.mkdir(parents=True, exist_ok=True)
    work = folder / "work"
    work.mkdir()
    copy = work / "model.pt"
    copy.write_bytes(checkpoint.read_bytes())  # it writes beside its model
    arguments: dict[str, Any] = {"format": kind, "imgsz": size, "device": "cpu"}
    if precision is not None:
        arguments["quantize"] = _QUANTIZE[precision]
    if calibration is not None:
        arguments |= {"data": str(calibration), "split": "val"}
    with logged(log):
        try:
            written = Path(YOLO(copy).export(**arguments))
        except Exception as error:  # the exporter raises whatever its stages raise
            raise ExportError(
                "Ultralytics' exporter failed.", where=f"format={kind}, {precision or 'as trained'}",
                got=_first_line(error), next_step=f"its own words are in {log}",
            ) from error  # fmt: skip
    made = folder / ("model.onnx" if kind == "onnx" else "model_openvino_model")
    written.rename(made)
    shutil.rmtree(work)
    return made


def finetune(
    checkpoint: Path, view: Path, work: Path, *, epochs: int, image_size: int, batch: int, seed: int, torch_device: str,
    log: Path, on_epoch: Callable[[int, int, float], None], quantize: int | None = 8,
) -> Path:  # fmt: skip
    """Ultralytics' quantization-aware fine-tuning; goes on from where an earlier call in `work` was stopped.

    Args:
        checkpoint: The trained detector.
        view: data.yaml of a view (yolo/data.py).
        work: Folder of the run.
        image_size: Edge of the square input in pixels.
        torch_device: As a recipe says it.
        on_epoch: Called with (epochs done, epochs in all, fitness).
        quantize: Ultralytics'; 8 = with fake-quantization, none = without.

    Returns:
        The checkpoint of the best epoch on val.

    Raises:
        ExportError: It failed; with quantize=8, also where what it needs isn't installed (rivals/roll.py: TRAINS_WITH).
    """
    run, last = work / "run", work / "run" / "weights" / "last.pt"
    best = last.with_name("best.pt")
    resumed = last.is_file()
    if resumed and torch_safe_load(last)[0]["epoch"] == FINISHED:
        return best
    arguments: dict[str, Any] = {
        "data": str(view), "epochs": epochs, "imgsz": image_size, "batch": batch, "seed": seed, "project": str(work),
        "name": "run", "exist_ok": True, "plots": False, "patience": 0, "device": torch_device or None,
    }  # fmt: skip
    if quantize is not None:
        arguments["quantize"] = quantize
    output, resting = sys.stdout, torch.get_num_threads()

    def told(trainer: Any) -> None:
        if trainer.epoch >= trainer.epochs:  # it tells of its last evaluation as of one epoch more
            return
        with contextlib.redirect_stdout(output):
            on_epoch(trainer.epoch + 1, trainer.epochs, float(trainer.fitness or 0.0))

    with logged(log):
        try:
            model = YOLO(last if resumed else checkpoint)
            model.add_callback("on_fit_epoch_end", told)
            model.add_callback("on_train_start", lambda trainer: torch.set_num_threads(cores()))
            model.train(**({"resume": True} if resumed else arguments))
        except Exception as error:  # the trainer raises whatever its libraries raise
            raise ExportError(
                "Ultralytics' training with quantize=8 failed.", where=run, got=_first_line(error),
                next_step=f"its own words are in {log}",
            ) from error  # fmt: skip
        finally:
            torch.set_num_threads(resting)
    return best


def _first_line(error: Exception) -> str:
    return f"{type(error).__name__}: {next(iter(io.StringIO(str(error))), '').strip()}"
