"""Measuring: processes of their own, every sample kept, comparisons that don't invent differences."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from edgeprune.bench.measure import Images, compare, measure, summarise
from edgeprune.errors import DeviceError
from edgeprune.records import Measurement, Settings
from edgeprune.records.form import Form
from edgeprune.records.request import Engine
from edgeprune.runtime.decode import Thresholds
from edgeprune.runtime.preprocess import resizer
from tests.bench import colours
from tests.scenes import SIZE


def net(file: Path, layers: int, width: int = 16) -> Path:
    """An ONNX file of `layers` 3x3 convolutions over 32 x 32 pixels."""
    generator = np.random.default_rng(0)
    weights, nodes = [], []
    for i in range(layers):
        shape = (width, 3 if i == 0 else width, 3, 3)
        weights.append(onnx.numpy_helper.from_array(generator.normal(0, 0.1, shape).astype(np.float32), f"w{i}"))
        nodes.append(helper.make_node("Conv", ["x" if i == 0 else f"t{i}", f"w{i}"], [f"t{i + 1}"], pads=[1] * 4))
    graph = helper.make_graph(
        nodes, "net", [helper.make_tensor_value_info("x", TensorProto.FLOAT, (1, 3, 32, 32))],
        [helper.make_tensor_value_info(f"t{layers}", TensorProto.FLOAT, (1, width, 32, 32))], weights,
    )  # fmt: skip
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9), file)
    return file


def engine(name: str, file: Path) -> Engine:
    return Engine(name=name, runtime="onnxruntime", precision="fp32", file=str(file), settings=Settings(threads=1))


IMAGES_64 = np.random.default_rng(0).random((2, 3, SIZE, SIZE), dtype=np.float32)
IMAGES = np.random.default_rng(0).random((2, 3, 32, 32), dtype=np.float32)


def test_a_ten_times_larger_net_is_measured_slower(tmp_path: Path) -> None:
    small, large = net(tmp_path / "s.onnx", 2), net(tmp_path / "l.onnx", 20)
    run = measure([engine("large", large), engine("small", small)], IMAGES, rounds=4)
    assert [m.engine for m in run.measurements] == ["large", "small"]
    result = compare(run.measurements[1], run.measurements[0])
    assert result.faster
    assert result.ratio < 0.7
    assert sorted(run.order) == [0] * 4 + [1] * 4
    for m in run.measurements:
        assert m.latency_ms.samples == sum(len(block) for block in m.blocks_ms)
        assert len(m.blocks_ms) == 4
        assert m.runtime.startswith("onnxruntime ")
        assert m.cold_start_ms > 0


def test_engines_are_loaded_several_times_and_what_loads_differ_by_is_in_the_interval(tmp_path: Path) -> None:
    one = net(tmp_path / "s.onnx", 2)
    done: list[int] = []
    run = measure([engine("a", one), engine("b", one)], IMAGES, rounds=16, on_round=lambda now, total: done.append(now))
    assert done == list(range(1, 17))
    assert [m.loads for m in run.measurements] == [(4, 3, 3, 3, 3)] * 2
    assert [len(m.blocks_ms) for m in run.measurements] == [16, 16]
    assert measure([engine("a", one)], IMAGES, rounds=4).measurements[0].loads == (4,)


def test_alike_engines_of_unlike_loads_are_no_different() -> None:
    """100 races, by seed: every load of either has a speed of its own, 1 % up or down, and rounds scatter by less."""
    generator = np.random.default_rng(0)
    wrong = {"with loads": 0, "without": 0}
    for _ in range(100):
        lasting = np.repeat(generator.normal(0, 0.01, (2, 5)), 8, axis=1)
        blocks = np.exp(lasting + generator.normal(0, 0.005, (2, 40)))
        for name, loads in (("with loads", (8,) * 5), ("without", ())):
            a, b = (fake(who, own).model_copy(update={"loads": loads}) for who, own in zip("ab", blocks, strict=True))
            result = compare(b, a)
            wrong[name] += result.low > 1 or result.high < 1
    assert wrong["with loads"] <= 4
    assert wrong["without"] > 20, "the test would find nothing otherwise"


def test_a_detector_is_timed_from_an_image_to_its_boxes(tmp_path: Path) -> None:
    small, large = (detector_engine(tmp_path / f"{name}.onnx", name) for name in ("a", "b"))
    pictures = [np.random.default_rng(n).integers(0, 256, (size, 640, 3), dtype=np.uint8) for n, size in
                enumerate((480, 64, 333))]  # fmt: skip
    images = Images(tuple(pictures), SIZE, SIZE, Thresholds(score=0.25))
    run = measure([small, large], images, rounds=2)
    for measurement in run.measurements:
        parts = measurement.parts
        assert parts is not None
        assert min(parts.preprocess_ms, parts.inference_ms, parts.postprocess_ms) > 0
        whole = parts.preprocess_ms + parts.inference_ms + parts.postprocess_ms
        assert whole == pytest.approx(measurement.latency_ms.p50, rel=0.5)
        assert max(parts.preprocess_ms, parts.inference_ms) < measurement.latency_ms.p50
    assert run.environment["resize"] == resizer()
    assert measure([small], IMAGES_64, rounds=2).measurements[0].parts is None  # not as a detector


def test_a_detector_of_another_form_than_asked_for_isn_t_raced(tmp_path: Path) -> None:
    wrong = detector_engine(tmp_path / "a.onnx", "a").model_copy(update={"form": Form(input="pixels")})
    images = Images((np.zeros((64, 64, 3), np.uint8),), SIZE, SIZE, Thresholds())
    with pytest.raises(DeviceError, match="another form"):
        measure([wrong], images, rounds=2)


def detector_engine(file: Path, name: str) -> Engine:
    return engine(name, colours.detector(file))


def test_no_process_is_left_behind(tmp_path: Path) -> None:
    file = net(tmp_path / "n.onnx", 1)
    measure([engine("a", file)], IMAGES, rounds=2)
    mine = ["pgrep", "-P", str(os.getpid()), "-fc", "edgeprune.bench.worker"]  # others may measure on this machine
    assert subprocess.run(mine, capture_output=True, text=True).stdout.strip() == "0"


def test_engine_that_cant_be_loaded_is_an_error_in_words(tmp_path: Path) -> None:
    (tmp_path / "x.onnx").write_bytes(b"nonsense")
    with pytest.raises(DeviceError, match="onnxruntime can't load the engine"):
        measure([engine("x", tmp_path / "x.onnx")], IMAGES, rounds=2)
    with pytest.raises(DeviceError, match="doesn't exist"):
        measure([engine("x", tmp_path / "none.onnx")], IMAGES, rounds=2)


def test_engine_that_can_t_be_loaded_anew_is_an_error_in_words(tmp_path: Path) -> None:
    file = net(tmp_path / "n.onnx", 1)
    with pytest.raises(DeviceError, match="doesn't exist"):
        measure([engine("x", file)], IMAGES, rounds=9, on_round=lambda now, total: file.unlink(missing_ok=True))


def fake(name: str, medians: np.ndarray) -> Measurement:
    blocks = tuple((float(m), float(m), float(m)) for m in medians)
    return Measurement(
        engine=name, artifact_sha256="0" * 64, runtime="r", precision="fp32", threads=1, blocks_ms=blocks,
        latency_ms=summarise([ms for block in blocks for ms in block]), cold_start_ms=1.0,
    )  # fmt: skip


def test_an_engine_against_itself_is_seldom_called_faster() -> None:
    """A/A: noise and drift that both share must not make a difference more often than the interval allows."""
    generator = np.random.default_rng(0)
    called = 0
    for trial in range(100):
        drift = np.cumsum(generator.normal(0, 0.05, 40)) + 5
        a, b = (fake(n, np.abs(drift * generator.lognormal(0, 0.05, 40))) for n in "ab")
        called += compare(a, b, seed=trial).faster
    assert called <= 4  # half a per cent is expected


def test_a_difference_beyond_the_noise_is_found_with_its_size() -> None:
    generator = np.random.default_rng(1)
    parent = fake("p", 5 * generator.lognormal(0, 0.05, 40))
    build = fake("b", 4 * generator.lognormal(0, 0.05, 40))
    result = compare(build, parent)
    assert result.faster
    assert result.low < 0.8 < result.high


def test_percentiles_are_of_all_samples() -> None:
    latency = summarise(list(range(1, 102)))
    assert (latency.p50, latency.p90, latency.p99, latency.samples) == (51, 91, 100, 101)
    assert latency.mad == 25
