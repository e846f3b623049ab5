"""The ONNX file and what is made from it: names, metadata, stock readers, parity."""

from __future__ import annotations

import ast
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from edgeprune.demo import NAMES
from edgeprune.errors import ExportError, ParityError
from edgeprune.export.engine import build_engine, engine_file
from edgeprune.export.onnx import export_onnx, metadata, tensor_specs
from edgeprune.export.parity import _boxes_that_count, check_parity
from edgeprune.records.request import Engine
from edgeprune.records.target import Runtime
from edgeprune.yolo.checkpoint import pack
from edgeprune.yolo.load import load, untrained
from tests.mute import give_life

RUNTIMES = ["onnxruntime", "openvino"]


@pytest.fixture(scope="module")
def alive(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A detector whose outputs depend on every layer; those of a fresh one hardly do."""
    file = tmp_path_factory.mktemp("alive") / "alive.pt"
    file.write_bytes(pack(give_life(untrained("yolov8n.yaml", dict(enumerate(NAMES)), seed=0)), {}, half=True))
    return file


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory, alive: Path) -> Path:
    file = tmp_path_factory.mktemp("onnx") / "model.onnx"
    export_onnx(alive, file, 64, 64, {"model_sha256": "abc"})
    return file


@pytest.fixture
def images() -> np.ndarray:
    return np.random.default_rng(0).random((2, 3, 64, 64), dtype=np.float32)


def test_tensors_are_named_and_static(exported: Path) -> None:
    given, made = tensor_specs(exported)
    assert (given.name, given.shape) == ("images", (1, 3, 64, 64))
    assert [(t.name, t.shape) for t in made] == [("output0", (1, 4 + len(NAMES), 84))]


def test_metadata_holds_names_and_lineage_and_no_clock(exported: Path) -> None:
    found = metadata(exported)
    assert ast.literal_eval(found["names"]) == dict(enumerate(NAMES))
    assert found["edgeprune.model_sha256"] == "abc"
    assert "date" not in found


def test_same_checkpoint_gives_same_bytes(exported: Path, alive: Path, tmp_path: Path) -> None:
    export_onnx(alive, tmp_path / "again.onnx", 64, 64, {"model_sha256": "abc"})
    assert (tmp_path / "again.onnx").read_bytes() == exported.read_bytes()


@pytest.mark.parametrize("runtime", RUNTIMES)
def test_engine_opens_in_stock_ultralytics(exported: Path, tmp_path: Path, runtime: str) -> None:
    from ultralytics import YOLO

    artifact = build_engine(runtime, exported, tmp_path)
    yolo = YOLO(artifact, task="detect")
    yolo.predict(np.zeros((64, 64, 3), np.uint8), imgsz=64, verbose=False)
    assert yolo.names == dict(enumerate(NAMES))


@pytest.mark.parametrize("runtime", RUNTIMES)
def test_runtime_computes_what_torch_computes(
    exported: Path, alive: Path, tmp_path: Path, images: np.ndarray, runtime: str
) -> None:
    artifact = build_engine(runtime, exported, tmp_path)
    parity = check_parity(engine(runtime, artifact), load(alive).model, exported, images)
    assert [t.tensor for t in parity.tensors] == ["output0 (boxes)", "output0 (scores)"]
    assert parity.holds
    assert parity.first_drift is None


@pytest.mark.parametrize("runtime", RUNTIMES)
@pytest.mark.parametrize("broken", ["model.4.m.1.cv2.conv", "model.22.cv3.1.0.conv"])
def test_first_tensor_that_drifts_is_named(
    exported: Path, alive: Path, tmp_path: Path, images: np.ndarray, runtime: str, broken: str
) -> None:
    """One weight tensor is changed in the file: parity fails, and names the convolution that it belongs to."""
    model = onnx.load(exported)
    # '/model.4/m.1/cv2/conv/Conv' is model.4.m.1.cv2.conv; lists repeat their own name ('/cv3.1/cv3.1.0/conv')
    node = next(n for n in model.graph.node if n.op_type == "Conv" and _path(n.name) == broken)
    weight = next(w for w in model.graph.initializer if w.name == node.input[1])
    weight.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(weight) * 10 + 5, weight.name))
    onnx.save(model, tmp_path / "broken.onnx")
    (tmp_path / "engine").mkdir()
    artifact = build_engine(runtime, tmp_path / "broken.onnx", tmp_path / "engine")
    with pytest.raises(ParityError, match=rf"first tensor that drifts: {broken}\n"):
        check_parity(engine(runtime, artifact), load(alive).model, tmp_path / "broken.onnx", images)


def test_boxes_count_in_bf16_where_a_detection_can_come_of_them() -> None:
    expected = np.zeros((1, 6, 3), np.float32)
    expected[0, 5] = 0.0, 0.0005, 0.4
    got = expected.copy()
    got[0, 4, 0] = 0.002  # the engine is surer than torch
    assert _boxes_that_count(expected, got)[0].tolist() == [[True, False, True]] * 4
    nobody = np.zeros((1, 6, 3), np.float32)
    assert _boxes_that_count(nobody, nobody).all()


def engine(runtime: Runtime, artifact: Path) -> Engine:
    return Engine(name="e", runtime=runtime, precision="fp32", file=str(engine_file(artifact)))


def _path(name: str) -> str:
    parts: list[str] = []
    for part in name.strip("/").split("/")[:-1]:
        if parts and part.startswith(parts[-1] + "."):
            parts.pop()
        parts.append(part)
    return ".".join(parts)


def test_file_that_openvino_cant_read_is_refused(tmp_path: Path) -> None:
    (tmp_path / "x.onnx").write_bytes(b"nonsense")
    with pytest.raises(ExportError, match="OpenVINO can't convert"):
        build_engine("openvino", tmp_path / "x.onnx", tmp_path)


def test_engine_file_is_what_the_runtime_loads(tmp_path: Path) -> None:
    folder = tmp_path / "model_openvino_model"
    folder.mkdir()
    assert engine_file(folder) == folder / "model.xml"
    assert engine_file(tmp_path / "model.onnx") == tmp_path / "model.onnx"
