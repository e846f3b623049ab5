"""OpenVINO's plugins and its cache: real ones where they are, sentences where they aren't."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import onnx
import openvino
import pytest

from edgeprune.bench.ask import about
from edgeprune.bench.local import LocalBench
from edgeprune.errors import DeviceError
from edgeprune.records import Settings
from edgeprune.runtime import openvino as rooms
from edgeprune.runtime.openvino import lacks, missing_for, require_plugin
from edgeprune.runtime.session import available, open_session
from tests.bench.test_measure import IMAGES, net

THERE = {name.split(".")[0] for name in openvino.Core().available_devices}
PLUGINS = ("CPU", "GPU", "NPU")
CACHED = Settings(threads=1, cache=True)


@pytest.mark.parametrize("plugin", PLUGINS)
def test_a_plugin_that_is_there_computes_what_onnxruntime_computes_and_another_is_refused(
    tmp_path: Path, plugin: str
) -> None:
    file, settings = net(tmp_path / "n.onnx", 3), Settings.model_validate({"plugin": plugin})
    precision = "fp32" if plugin == "CPU" else "fp16"
    if plugin not in THERE:
        with pytest.raises(DeviceError, match=rf"finds no {plugin}(.|\n)*missing: (.|\n)*install (ocl|intel)-"):
            open_session("openvino", file, precision, settings)
        with pytest.raises(DeviceError, match=f"finds no {plugin}"):  # as a build asks, before it trains
            about(LocalBench(), "openvino", (precision,), plugin)
        return
    expected = open_session("onnxruntime", file, "fp32").run(IMAGES[:1])[0]
    got = open_session("openvino", file, precision, settings).run(IMAGES[:1])[0]
    assert np.abs(got - expected).max() < {"fp32": 1e-4, "fp16": 1e-2}[precision] * np.abs(expected).max()


def test_what_a_driver_lacks_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    missing = missing_for("GPU", tmp_path)
    assert any("dev/dri/renderD*" in what and "no kernel driver" in what for what in missing)
    node = tmp_path / "dev/accel/accel0"
    node.parent.mkdir(parents=True)
    node.touch()
    monkeypatch.setattr(rooms.ctypes.util, "find_library", lambda name: None if name == "ze_intel_npu" else name)
    assert missing_for("NPU", tmp_path) == ["libze_intel_npu.so.1"]
    monkeypatch.setattr(rooms.os, "access", lambda path, mode: False)
    assert missing_for("NPU", tmp_path)[-1] == "the right to use /dev/accel/accel0"


def test_an_unknown_plugin_is_refused() -> None:
    with pytest.raises(DeviceError, match="finds no TPU"):
        require_plugin("TPU")


def test_a_precision_is_there_if_the_plugin_reports_it() -> None:
    reported = openvino.Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")
    for precision in ("fp32", "fp16", "bf16", "int8"):
        why = available("openvino", precision)
        assert (why is None) == (precision.upper() in reported)
        assert why == lacks(precision, "CPU")


@pytest.mark.skipif(lacks("fp16", "CPU") is not None, reason="this CPU has no FP16")
def test_fp16_is_computed_in_fp16(tmp_path: Path) -> None:
    file = net(tmp_path / "n.onnx", 3)
    full, half = (open_session("openvino", file, precision).run(IMAGES[:1])[0] for precision in ("fp32", "fp16"))
    assert 0 < np.abs(full - half).max() < 1e-2 * np.abs(full).max()


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "edgeprune" / "openvino"


def test_a_second_start_finds_the_compiled_model_and_says_so(tmp_path: Path, cache: Path) -> None:
    file = net(tmp_path / "n.onnx", 3)
    first = open_session("openvino", file, "fp32", CACHED)
    assert first.cache == "empty"
    assert list(cache.glob("*.blob"))
    assert cache.stat().st_mode & 0o077 == 0  # what is loaded from there is run
    second = open_session("openvino", file, "fp32", CACHED)
    assert second.cache == "warm"
    assert np.array_equal(first.run(IMAGES[:1])[0], second.run(IMAGES[:1])[0])
    assert open_session("openvino", file, "fp32", Settings(threads=1)).cache == "none"
    for blob in cache.iterdir():
        os.utime(blob, (0, 0))  # what was compiled long ago is compiled anew
    assert open_session("openvino", file, "fp32", CACHED).cache == "empty"


@pytest.mark.parametrize(
    ("prefix", "folder"),
    [
        ("/home/pi/.local/share/edgeprune/current", "/home/pi/.local/share/edgeprune/cache/openvino"),
        ("/home/me/project/.venv", "/cache/edgeprune/openvino"),
    ],
)
def test_compiled_models_lie_beside_a_device_side_or_in_the_users_cache(
    monkeypatch: pytest.MonkeyPatch, prefix: str, folder: str
) -> None:
    monkeypatch.setattr(rooms.sys, "prefix", prefix)
    monkeypatch.setenv("XDG_CACHE_HOME", "/cache")
    assert str(rooms.cache_folder()) == folder


def test_a_changed_model_under_the_same_name_is_not_taken_for_the_old_one(tmp_path: Path, cache: Path) -> None:
    file = net(tmp_path / "n.onnx", 3)
    old = open_session("openvino", file, "fp32", CACHED).run(IMAGES[:1])[0]
    when = file.stat().st_mtime_ns
    weight = onnx.numpy_helper.to_array(onnx.load(file).graph.initializer[0]).flat[0].tobytes()
    content = file.read_bytes()
    assert content.count(weight) == 1
    file.write_bytes(content.replace(weight, np.float32(7).tobytes()))
    os.utime(file, ns=(when, when))  # same name, size and time
    changed = open_session("openvino", file, "fp32", CACHED)
    assert changed.cache == "empty"
    assert np.abs(changed.run(IMAGES[:1])[0] - old).max() > 0.01
