"""FP16 on a real detector: the tolerance holds, and accuracy stays."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from edgeprune.export.engine import build_engine, engine_file
from edgeprune.export.onnx import export_onnx
from edgeprune.export.parity import check_parity
from edgeprune.records.dataset import read_dataset
from edgeprune.records.request import Engine
from edgeprune.runtime.openvino import lacks
from edgeprune.runtime.predict import predict
from edgeprune.runtime.preprocess import letterbox, read_image
from edgeprune.runtime.session import open_session
from edgeprune.train.evaluate import score
from edgeprune.yolo.load import load_detector

#: mAP50-95 points that FP16 may cost; 0.0005 was measured at most.
POINTS = 0.003


@pytest.mark.parametrize("runtime", ["onnxruntime", "openvino"])
def test_a_real_detector_in_fp16_is_within_tolerance_and_as_good(shared: Path, tmp_path: Path, runtime: str) -> None:
    """ONNX Runtime on x86-64 computes the FP16 file in FP32, operator by operator: its rounding is tested here, not its
    ARM kernels."""
    if runtime == "openvino" and lacks("fp16", "CPU"):
        pytest.skip("OpenVINO has no FP16 on this CPU")
    weights, dataset = shared / "weights" / "yolov8n-bccd.pt", read_dataset(shared / "data" / "bccd" / "data.yaml")
    export_onnx(weights, tmp_path / "m.onnx", 320, 320, {})
    scores = {}
    for precision in ("fp32", "fp16"):
        folder = tmp_path / precision
        folder.mkdir()
        half = precision == "fp16" and runtime == "onnxruntime"
        file = engine_file(build_engine(runtime, tmp_path / "m.onnx", folder, half=half))
        if precision == "fp16":
            images = np.concatenate([letterbox(read_image(p), 320, 320)[0] for p in dataset.splits["val"][:8]])
            engine = Engine.model_validate(
                {"name": "half", "runtime": runtime, "precision": "fp16", "file": str(file)}
            )  # fmt: skip
            assert check_parity(engine, load_detector(weights).model, tmp_path / "m.onnx", images).holds
        found = predict(open_session(runtime, file, precision), dataset.splits["val"], (1, 3, 320, 320))
        scores[precision] = score(precision, dataset, found).map50_95
    assert scores["fp32"] - scores["fp16"] <= POINTS
