"""NNCF's post-training quantization of an OpenVINO model, as its documentation has it: two arguments, all else default.

Source: NNCF 3.4, `nncf.quantize`; 300 images are its default `subset_size`.
"""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from edgeprune.errors import ExportError, missing_package
from edgeprune.runtime.preprocess import letterbox, read_image


def quantize(
    model: Path, images: Sequence[Path], preset: Literal["performance", "mixed"], folder: Path, log: Path
) -> Path:  # fmt: skip
    """Quantize an IR.

    Args:
        model: The .xml of a float IR with one static input (1, 3, height, width).
        images: That ranges are taken from.
        preset: NNCF's: performance (symmetric activations), mixed (asymmetric ones).
        folder: To write into.
        log: Where its progress goes.

    Returns:
        The folder 'model_openvino_model'.

    Raises:
        DeviceError: NNCF isn't installed.
        ExportError: It can't quantize the model.
    """
    try:
        import nncf
        import openvino
    except ImportError as error:
        raise missing_package("nncf", "compare") from error
    read = openvino.Core().read_model(str(model))
    height, width = list(read.input(0).shape)[2:]
    artifact = folder / "model_openvino_model"
    artifact.mkdir(parents=True)
    presets = {"performance": nncf.QuantizationPreset.PERFORMANCE, "mixed": nncf.QuantizationPreset.MIXED}
    with open(log, "a", encoding="utf-8") as sink, contextlib.redirect_stdout(sink):
        try:
            made = nncf.quantize(
                read, nncf.Dataset(list(images), lambda path: letterbox(read_image(path), height, width)[0]),
                preset=presets[preset], subset_size=len(images),
            )  # fmt: skip
            openvino.save_model(made, str(artifact / "model.xml"), compress_to_fp16=False)
        except Exception as error:  # NNCF's own tree of errors stands under Exception, OpenVINO's under RuntimeError
            raise ExportError(
                "NNCF can't quantize the model.", where=model,
                got=f"{type(error).__name__}: {str(error).splitlines()[0]}",
            ) from error  # fmt: skip
    return artifact
