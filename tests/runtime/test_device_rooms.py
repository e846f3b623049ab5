"""The device side on a machine without torch, and without anyone to call."""

from __future__ import annotations

import subprocess
import sys

import pytest

DEVICE_ROOMS = (
    "edgeprune.errors", "edgeprune.records", "edgeprune.records.dataset", "edgeprune.runtime.decode",
    "edgeprune.runtime.predict", "edgeprune.runtime.preprocess", "edgeprune.runtime.session",
    "edgeprune.bench.measure", "edgeprune.bench.worker", "edgeprune.bench.device", "edgeprune.bench.__main__",
    "edgeprune.bench.bundle", "edgeprune.bench.local", "edgeprune.calibration.select", "edgeprune.calibration.sets",
    "edgeprune.kit.build_engine", "edgeprune.runtime.tensorrt", "edgeprune.bench.build", "edgeprune.bench.gpu",
    "edgeprune.bench.board", "edgeprune.bench.sensors",
    "edgeprune.bench.store",
    "edgeprune.bench.answer", "edgeprune.bench.ask", "edgeprune.records.request", "edgeprune.records.fleet_profile",
    "edgeprune.bench.caching", "edgeprune.bench.camera", "edgeprune.bench.tail",
    "edgeprune.agent.__main__", "edgeprune.agent.client", "edgeprune.agent.example", "edgeprune.agent.exits",
    "edgeprune.agent.fetch", "edgeprune.agent.metrics", "edgeprune.agent.obtain", "edgeprune.agent.report",
    "edgeprune.agent.selftest", "edgeprune.agent.slots", "edgeprune.agent.states", "edgeprune.agent.trial",
    "edgeprune.agent.tuf_client", "edgeprune.agent.units", "edgeprune.agent.update", "edgeprune.records.agent",
    "edgeprune.records.archive", "edgeprune.runtime.bundle", "edgeprune.runtime.current",
    "edgeprune.bench.candidates", "edgeprune.bench.places", "edgeprune.runtime.openvino", "edgeprune.runtime.pinning",
)  # fmt: skip

BLOCK = """
import importlib.abc, importlib, sys
class Block(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name.split('.')[0] in {blocked!r}:
            raise ImportError(name + ' is blocked')
sys.meta_path.insert(0, Block())
"""


def python(code: str, **environment: str) -> subprocess.CompletedProcess[str]:
    import os

    kept = {k: v for k, v in os.environ.items() if k != "ORT_DISABLE_TELEMETRY"}
    return subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env=kept | environment, timeout=120
    )


def test_device_rooms_import_without_torch() -> None:
    code = BLOCK.format(blocked={"torch", "torchvision", "ultralytics", "cv2", "pycocotools", "onnx", "av"})
    code += "".join(f"importlib.import_module({room!r})\n" for room in DEVICE_ROOMS)
    done = python(code)
    assert done.returncode == 0, done.stderr


def test_importing_edgeprune_imports_nothing_heavy() -> None:
    code = (
        "import edgeprune, sys; print([m for m in ('torch', 'numpy', 'pydantic', 'ultralytics') if m in sys.modules])"
    )
    assert python(code).stdout.strip() == "[]"


@pytest.mark.parametrize("runtime", ["onnxruntime", "openvino"])
def test_runtime_that_is_not_installed_names_its_extra(runtime: str) -> None:
    code = BLOCK.format(blocked={runtime}) + (
        "from edgeprune.runtime.session import available\n"
        "from edgeprune.errors import DeviceError\n"
        "try:\n"
        f"    available({runtime!r}, 'fp32')\n"
        "except DeviceError as error:\n"
        "    print(error)\n"
    )
    assert f"pip install 'edgeprune[{runtime}]'" in python(code).stdout


def test_telemetry_is_off_before_onnxruntime_is_imported() -> None:
    code = (
        "import sys, os\n"
        "from edgeprune.runtime.session import available\n"
        "assert 'onnxruntime' not in sys.modules\n"
        "print(os.environ['ORT_DISABLE_TELEMETRY'])\n"
    )
    assert python(code).stdout.strip() == "1"


def test_ultralytics_neither_installs_nor_calls_home() -> None:
    code = "import edgeprune.yolo, os; print(os.environ['YOLO_AUTOINSTALL'], os.environ['YOLO_OFFLINE'])"
    assert python(code).stdout.split() == ["false", "true"]


def test_ultralytics_sees_itself_offline() -> None:
    code = "import edgeprune.yolo.load; from ultralytics.utils import ONLINE, AUTOINSTALL; print(ONLINE, AUTOINSTALL)"
    assert python(code).stdout.split()[-2:] == ["False", "False"]
