"""INT8 of a detector that was trained: what quantization alone costs, one graph for all, layers that go back."""

from __future__ import annotations

import platform
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest

from edgeprune.bench.local import LocalBench
from edgeprune.export.engine import build_engine, engine_file
from edgeprune.export.gate import gate
from edgeprune.export.mix import mix
from edgeprune.export.onnx import export_onnx
from edgeprune.export.qdq import Graph, export_qdq
from edgeprune.export.tensorrt import tensorrt_form
from edgeprune.job import find_target
from edgeprune.quant.calibrate import Image, calibrate
from edgeprune.records import Quantization, Scheme
from edgeprune.records.dataset import DataSet, read_dataset
from edgeprune.runtime.predict import predict
from edgeprune.runtime.preprocess import letterbox, read_image
from edgeprune.runtime.session import open_session
from edgeprune.train.evaluate import score
from edgeprune.yolo.blocks import float_layers
from edgeprune.yolo.load import load_detector

SHAPE = (1, 3, 320, 320)


@pytest.fixture(scope="module")
def cells(shared: Path) -> DataSet:
    data = read_dataset(shared / "data" / "bccd" / "data.yaml")
    return replace(data, splits={**data.splits, "val": data.splits["val"][:40]})


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory, shared: Path, cells: DataSet) -> tuple[Path, Quantization]:
    """float.onnx and quantized.onnx of the blood-cell detector, portable scheme."""
    folder, checkpoint = tmp_path_factory.mktemp("int8"), shared / "weights" / "yolov8n-bccd.pt"
    model = load_detector(checkpoint).model
    images = [Image(p.name, letterbox(read_image(p), *SHAPE[2:])[0]) for p in cells.splits["train"][:32]]
    record = calibrate(model, images, Scheme(), float_layers(model), "percentile", "0" * 64)
    export_onnx(checkpoint, folder / "float.onnx", *SHAPE[2:], {})
    export_qdq(checkpoint, record, folder / "quantized.onnx", *SHAPE[2:], {}, like=folder / "float.onnx")
    return folder, record


def accuracy(graph: Path, runtime: str, data: DataSet, folder: Path, *, quantized: bool) -> float:
    folder.mkdir()
    engine = engine_file(build_engine(runtime, graph, folder, quantized=quantized))
    session = open_session(runtime, engine, "int8" if quantized else "fp32")
    return score("", data, predict(session, data.splits["val"], SHAPE)).map50_95


def test_one_graph_scores_the_same_on_both_runtimes_and_close_to_float(
    built: tuple[Path, Quantization], shared: Path, tmp_path: Path
) -> None:
    folder, _ = built
    data = read_dataset(shared / "data" / "bccd" / "data.yaml")  # the whole split: of 40 images one box may make 0.007
    whole = accuracy(folder / "float.onnx", "onnxruntime", data, tmp_path / "float", quantized=False)
    found = {
        runtime: accuracy(folder / "quantized.onnx", runtime, data, tmp_path / runtime, quantized=True)
        for runtime in ("onnxruntime", "openvino")
    }
    assert abs(found["onnxruntime"] - found["openvino"]) < 0.006
    assert min(found.values()) > whole - 0.02


def test_tensorrt_s_builder_makes_every_convolution_int8(built: tuple[Path, Quantization]) -> None:
    pytest.importorskip("tensorrt_rtx_bindings")
    folder, record = built
    report = gate(tensorrt_form(onnx.load(folder / "quantized.onnx")), "blood cells")
    assert report.int8 == len(record.weights) == 57


def test_the_layer_that_hurts_goes_back_to_float_and_is_named(
    built: tuple[Path, Quantization], cells: DataSet, tmp_path: Path
) -> None:
    folder, record = built
    sick = onnx.load(folder / "quantized.onnx")
    graph = Graph(sick)
    layer = "model.15.cv1.conv"
    graph.put(
        f"{layer}.weight_scale", graph.values(f"{layer}.weight_scale") * np.float32(150)
    )  # one level is left, if any
    graph.write()
    onnx.save(sick, tmp_path / "sick.onnx")
    profile = find_target("openvino-x86-int8")
    (tmp_path / "parent").mkdir()
    found = mix(
        tmp_path / "sick.onnx", folder / "float.onnx",
        parent=build_engine("openvino", folder / "float.onnx", tmp_path / "parent"), profile=profile, data=cells,
        bench=LocalBench(), architecture=platform.machine(),
        calibration=cells.splits["train"][:8], max_map_drop=0.015,
        destination=tmp_path / "mixed.onnx", record=tmp_path / "mixed.json",
    )  # fmt: skip
    assert found.whole < found.wanted
    assert found.reached >= found.wanted
    assert found.float_layers[0] == layer
    assert len(found.float_layers) < 8
    assert max(found.noise, key=lambda name: found.noise[name]) == layer
    assert layer in found.sentence()
    kept = set(Graph(onnx.load(tmp_path / "mixed.onnx")).quantized_convolutions())
    assert kept == set(record.weights) - set(found.float_layers)


def test_what_isn_t_quantization_s_fault_changes_nothing(
    built: tuple[Path, Quantization], cells: DataSet, tmp_path: Path
) -> None:
    folder, _ = built
    (tmp_path / "parent").mkdir()
    found = mix(
        folder / "quantized.onnx", folder / "float.onnx",
        parent=build_engine("onnxruntime", folder / "float.onnx", tmp_path / "parent"),
        profile=find_target("onnxruntime-x86-int8"), bench=LocalBench(), architecture=platform.machine(),
        data=cells, calibration=cells.splits["train"][:2], max_map_drop=-0.3,
        destination=tmp_path / "mixed.onnx", record=tmp_path / "mixed.json",
    )  # fmt: skip
    assert found.float_layers == ()
    assert "it isn't the quantization" in found.sentence()
    assert (tmp_path / "mixed.onnx").read_bytes() == onnx.load(folder / "quantized.onnx").SerializeToString(
        deterministic=True
    )
