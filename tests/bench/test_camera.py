"""A camera instead of images. Where there is none, libavdevice's virtual one delivers frames through the same code."""

from __future__ import annotations

import errno
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pydantic import ValidationError

from edgeprune.bench.camera import device_of, open_camera, refusal
from edgeprune.errors import DeviceError, EdgepruneError
from edgeprune.records import Benchmark, BenchRequest, read_json
from tests.bench.colours import bundle, detector
from tests.bench.test_bundle import bench, refused
from tests.bench.test_device import asked
from tests.runtime.test_device_rooms import BLOCK, python
from tests.scenes import SIZE

av = pytest.importorskip("av", reason="left out: the extra 'camera' is not installed")

#: Like a camera: `realtime` lets a frame out when its time has come, not before.
PATTERN = "lavfi:testsrc=size=96x72:rate=50,realtime"
QUICK = {"min_duration_s": 0.5, "min_queries": 10, "quick": True, "energy_s": 0.2}


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    engine = detector(tmp_path_factory.mktemp("camera") / "model.onnx")
    return {
        "engine": str(engine), "runtime": "onnxruntime", "precision": "fp32", "threads": 1,
        "input_shape": (1, 3, SIZE, SIZE), "camera": PATTERN, "load": QUICK,
    }  # fmt: skip


def test_frames_are_rgb_pixels_and_each_is_new() -> None:
    with open_camera("lavfi:color=c=0xff8000:size=40x30:rate=25") as camera:
        frame = camera.frame()
        assert (frame.shape, frame.dtype) == ((30, 40, 3), np.uint8)
        assert np.abs(frame.reshape(-1, 3).astype(int) - (255, 128, 0)).max() <= 3  # by way of YUV
        assert (camera.mode.width, camera.mode.height, camera.mode.frames_per_s) == (40, 30, 25.0)
    with open_camera("lavfi:testsrc2=size=160x120:rate=5") as camera:
        assert (camera.frame() != camera.frame()).any()


def test_camera_that_stops_is_an_error_in_words() -> None:
    with open_camera("lavfi:testsrc=size=40x30:rate=25:duration=0.08") as camera:
        frames = [camera.frame(), camera.frame()]
        assert len(frames) == 2
        with pytest.raises(DeviceError, match="no more frames"):
            camera.frame()


def test_capture_is_timed_apart_and_its_rate_is_said(tmp_path: Path, inputs: dict[str, Any]) -> None:
    answer = asked(tmp_path, {**inputs, "sensors_root": str(tmp_path)}, load=QUICK)
    run, result = answer.run, answer.run.result
    assert answer.predictions == ()
    assert result.capture_ms is not None
    parts = np.array([result.capture_ms, result.preprocess_ms, result.inference_ms, result.postprocess_ms])
    assert (parts > 0).all()
    assert (parts.sum(0) <= np.array(result.query_ms)).all()
    assert set(result.parts_ms) == {"capture", "preprocess", "inference", "postprocess"}
    assert run.camera is not None
    assert (run.camera.width, run.camera.height, run.camera.frames_per_s) == (96, 72, 50.0)
    assert (run.held_images, run.caching) == (0, None)
    assert any(re.match(r"camera: (throughput is bounded by its|it gives) 50\.0 frames/s", note) for note in run.notes)
    assert any("accuracy: not scored" in note for note in run.notes)


def test_command_measures_a_bundle_on_a_camera_without_data(tmp_path: Path) -> None:
    made, out = bundle(tmp_path / "bundle"), tmp_path / "out"
    done = bench("colours", "--bundle", made, "--camera", PATTERN, "--duration", "0.8s", "--out", out)
    assert done.returncode in (0, 1), done.stderr  # 1: a busy machine's runs are void
    found = read_json(out / "colours" / "benchmark.json", Benchmark, EdgepruneError)
    assert (found.accuracy, found.data, found.request.images) == (None, None, ())
    assert "  capture" in done.stdout
    assert "96 x 72, wrapped_avframe, 50.0 frames/s" in done.stdout
    assert "a camera's frames have no boxes" in done.stdout
    assert "mAP" not in done.stdout
    assert not (out / "colours" / "benchmark-predictions.json").exists()


def test_camera_that_isnt_there_is_said(tmp_path: Path) -> None:
    made = bundle(tmp_path / "bundle")
    said = refused("colours", "--bundle", made, "--camera", "99", "--quick", "--out", tmp_path)
    assert "There is no such camera." in said
    assert "/dev/video99" in said
    other = refused("colours", "--bundle", made, "--camera", "/dev/null", "--quick", "--out", tmp_path)
    assert "no camera that can be opened" in other


@pytest.mark.parametrize(
    ("number", "said"),
    [(errno.ENOENT, "no such camera"), (errno.EACCES, "usermod -aG video"), (errno.EPERM, "may not open"),
     (errno.EBUSY, "in use(.|\n)*fuser -v /dev/video0"), (errno.ENOTTY, "v4l2-ctl"), (errno.EIO, "v4l2-ctl")],
)  # fmt: skip
def test_each_refusal_has_its_own_words(number: int, said: str) -> None:
    with pytest.raises(OSError) as raised:
        av.error.err_check(-number, "/dev/video0")
    assert re.search(said, str(refusal(raised.value, "/dev/video0")))


def test_number_is_a_device_and_a_path_stays_one() -> None:
    assert [device_of(source) for source in ("0", "12", "/dev/v4l/by-id/x")] == [
        "/dev/video0", "/dev/video12", "/dev/v4l/by-id/x"
    ]  # fmt: skip


def test_request_takes_images_or_a_camera_and_one_frame_after_another(inputs: dict[str, Any]) -> None:
    for changes, why in (
        ({"images": ("a.png",)}, "one of them"), ({"camera": None}, "one of them"),
        ({"load": {"scenario": "multi-stream"}}, "single-stream, not multi-stream"),
    ):  # fmt: skip
        with pytest.raises(ValidationError, match=why):
            BenchRequest.model_validate({**inputs, **changes})


def test_device_rooms_import_without_pyav_and_a_camera_names_its_extra() -> None:
    code = BLOCK.format(blocked={"av"}) + (
        "import edgeprune.bench.device\n"
        "from edgeprune.bench.camera import open_camera\n"
        "from edgeprune.errors import DeviceError\n"
        "try:\n"
        "    with open_camera('0'): pass\n"
        "except DeviceError as error:\n"
        "    print(error)\n"
    )
    assert "pip install 'edgeprune[camera]'" in python(code).stdout
