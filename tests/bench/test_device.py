"""The device half as the command that it is: fresh process, real engine, real images, recorded sensors."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from edgeprune.bench.ask import load
from edgeprune.bench.device import hold
from edgeprune.bench.early_stopping import estimate
from edgeprune.bench.local import LocalBench
from edgeprune.errors import DeviceError
from edgeprune.records import BenchRequest, DeviceAnswer, read_json, write_json
from edgeprune.records.dataset import read_dataset
from edgeprune.runtime.predict import predict
from edgeprune.runtime.session import open_session
from tests.bench import faults
from tests.bench.colours import detector
from tests.bench.trees import JETSON_ORIN_NANO, RASPBERRY_PI_4_HOT, RASPBERRY_PI_5, plant
from tests.scenes import SIZE, draw

QUICK = {"min_duration_s": 0.3, "min_queries": 8, "quick": True}


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    folder = tmp_path_factory.mktemp("device")
    images = read_dataset(draw(folder / "data", "detect")).splits["val"]
    return {
        "engine": str(detector(folder / "model.onnx")), "runtime": "onnxruntime", "precision": "fp32", "threads": 1,
        "input_shape": (1, 3, SIZE, SIZE), "images": tuple(str(image) for image in images),
    }  # fmt: skip


def command(folder: Path, *lines: str, env: dict[str, str] | None = None) -> subprocess.CompletedProcess[str]:
    """`python -m edgeprune.bench request.json answer.json` in a folder; `lines` are run first, in its parent."""
    arguments = [sys.executable, "-m", "edgeprune.bench", str(folder / "request.json"), str(folder / "answer.json")]
    if lines:
        code = "\n".join(("import subprocess, sys", *lines, "sys.exit(subprocess.run(sys.argv[1:]).returncode)"))
        arguments = [sys.executable, "-c", code, *arguments]
    return subprocess.run(arguments, capture_output=True, text=True, timeout=120, env=env)


def asked(
    folder: Path, inputs: dict[str, Any], *lines: str, env: dict[str, str] | None = None, **changes: Any
) -> DeviceAnswer:
    write_json(folder / "request.json", BenchRequest.model_validate({**inputs, "load": QUICK, **changes}))
    done = command(folder, *lines, env=env)
    assert done.returncode == 0, done.stderr
    return read_json(folder / "answer.json", DeviceAnswer, DeviceError)


def test_answers_of_the_timed_run_are_the_engines(tmp_path: Path, inputs: dict[str, Any]) -> None:
    answer = asked(tmp_path, inputs, sensors_root=str(plant(tmp_path / "pi", RASPBERRY_PI_5)))
    session = open_session("onnxruntime", Path(inputs["engine"]), "fp32", 1)
    expected = predict(session, [Path(image) for image in inputs["images"]], inputs["input_shape"])
    assert len(expected) > 100
    assert json.loads(answer.model_dump_json())["predictions"] == json.loads(json.dumps(expected))

    run, result = answer.run, answer.run.result
    assert run.runtime == session.runtime
    assert run.held_images == 4
    assert result.duration_s >= 0.3
    parts = np.array([result.preprocess_ms, result.inference_ms, result.postprocess_ms])
    assert (parts > 0).all()
    assert (parts.sum(0) <= np.array(result.query_ms)).all()
    assert run.cold_start_ms > 0
    assert [reading.temperature_c for reading in run.readings] == [{"cpu-thermal": 57.35}] * len(run.readings)
    assert run.readings[-1].at_s == result.duration_s
    assert not any("throttled" in why for why in run.void)
    assert run.caching is not None
    assert run.caching.ratio > 0.5  # nothing is remembered; how near to 1 it is, is the machine's affair
    assert run.environment["clocks pinned"] == "unknown"  # the tree has no lower limits


def test_one_slow_inference_in_a_hundred_shows_in_p99_and_in_early_stoppings_bound(
    tmp_path: Path, inputs: dict[str, Any]
) -> None:
    """A slow inference is ten real ones. Of 700 queries exactly 7 are slow: p99 is the quickest of them."""
    env = faults.environment(tail="model.onnx")
    load = {"min_duration_s": 0.1, "min_queries": 700, "quick": True}
    run = asked(tmp_path, inputs, env=env, load=load, sensors_root=str(tmp_path)).run
    result = run.result
    inference = result.parts_ms["inference"]
    assert inference.samples == 700
    assert inference.p99 > 3 * inference.p50
    by_inference = estimate(result.inference_ms, 0.99).estimate_ms
    assert by_inference is not None
    assert by_inference >= inference.p99
    tail = next(found for found in result.early_stopping if found.percentile == 0.99)
    assert tail.estimate_ms is not None
    assert tail.estimate_ms > by_inference  # a query's bound holds its inference's
    assert result.latency_ms.p99 > inference.p99


def test_engine_that_remembers_its_answers_voids_the_run(tmp_path: Path, inputs: dict[str, Any]) -> None:
    env = faults.environment(cache="model.onnx")
    run = asked(tmp_path, inputs, env=env, sensors_root=str(tmp_path)).run
    assert run.caching is not None
    assert run.caching.ratio < 0.5
    (why,) = [reason for reason in run.void if reason.startswith("caching:")]
    assert "answers are remembered" in why


def test_throttle_bit_voids_the_run(tmp_path: Path, inputs: dict[str, Any]) -> None:
    run = asked(tmp_path, inputs, sensors_root=str(plant(tmp_path / "pi", RASPBERRY_PI_4_HOT))).run
    assert {"throttled: frequency capped (bit 1)", "throttled: throttled (bit 2)"} <= set(run.void)
    assert run.result.latency_ms.samples >= 8


def test_energy_is_of_a_pass_of_its_own_and_multi_stream_keeps_eight_samples_a_query(
    tmp_path: Path, inputs: dict[str, Any]
) -> None:
    root = plant(tmp_path / "jetson", JETSON_ORIN_NANO)
    load = {**QUICK, "scenario": "multi-stream", "energy_s": 0.5}
    run = asked(tmp_path, inputs, sensors_root=str(root), load=load).run
    assert len(run.result.inference_ms) == 8 * len(run.result.query_ms) >= 64
    assert run.energy is not None
    assert run.energy.source == "INA3221 VDD_IN"
    assert run.energy.joules == pytest.approx(5.040 * 1.152 * run.energy.duration_s)
    assert run.energy.images != len(run.result.image)
    assert run.environment["nvpmodel"] == "pmode:0001"


def test_peak_memory_is_the_commands_own_not_its_parents(tmp_path: Path, inputs: dict[str, Any]) -> None:
    """getrusage's maximum is handed down through exec: 600 MB in the parent would be the child's."""
    (tmp_path / "model.onnx").write_bytes(Path(inputs["engine"]).read_bytes())
    (tmp_path / "0.png").write_bytes(Path(inputs["images"][0]).read_bytes())
    carried = {"engine": "model.onnx", "images": ("0.png",), "load": {**QUICK, "energy_s": 0.1}}
    answer = asked(tmp_path, inputs, "ballast = bytearray(600 << 20)", sensors_root=str(tmp_path), **carried)
    assert answer.run.peak_rss_bytes is not None
    assert 20 << 20 < answer.run.peak_rss_bytes < 500 << 20
    assert {prediction.image_id for prediction in answer.predictions} == {1}  # paths are relative to the request
    assert any(note.startswith("energy: no power sensor") for note in answer.run.notes)


@pytest.mark.parametrize(
    ("changes", "what"),
    [
        ({"images": ("/none.png",)}, "can't be read"),
        ({"runtime": "openvino", "precision": "bf16", "engine": "/none.xml"}, r"doesn't exist|precision can't be had"),
    ],
)
def test_what_cant_be_done_is_said_and_exits_2(
    tmp_path: Path, inputs: dict[str, Any], changes: dict[str, Any], what: str
) -> None:
    write_json(tmp_path / "request.json", BenchRequest.model_validate({**inputs, "load": QUICK, **changes}))
    done = command(tmp_path)
    assert done.returncode == 2
    assert re.search(what, done.stderr)
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "answer.json").exists()


def test_host_that_gives_up_leaves_no_process_measuring(inputs: dict[str, Any]) -> None:
    def children() -> set[str]:
        return set(Path(f"/proc/self/task/{os.getpid()}/children").read_text().split())

    def give_up(what: str, done: float, total: float) -> None:
        assert children() != before
        raise KeyboardInterrupt

    before = children()
    with pytest.raises(KeyboardInterrupt):
        load(LocalBench(), BenchRequest.model_validate({**inputs, "load": {"min_duration_s": 60}}), give_up)
    assert children() == before


def test_hosts_call_repeats_the_devices_words(inputs: dict[str, Any]) -> None:
    with pytest.raises(DeviceError, match=r"The engine's file doesn't exist(.|\n)*/none\.onnx"):
        load(LocalBench(), BenchRequest.model_validate({**inputs, "load": QUICK, "engine": "/none.onnx"}))


def test_malformed_request_is_refused_by_key(tmp_path: Path) -> None:
    (tmp_path / "request.json").write_text('{"engin": "x"}')
    done = command(tmp_path)
    assert done.returncode == 2
    assert "'engine'" in done.stderr


def test_held_images_stop_at_what_fits_but_are_never_none(tmp_path: Path) -> None:
    paths = [tmp_path / f"{number}.png" for number in range(3)]
    for path in paths:
        Image.new("RGB", (10, 10)).save(path)
    assert [len(hold(paths, room)) for room in (0, 300, 599, 600, 10_000)] == [1, 1, 1, 2, 3]
