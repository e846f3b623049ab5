"""What every test stands on: no calls home, nothing left behind, small data drawn once."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

os.environ.setdefault("YOLO_AUTOINSTALL", "false")
os.environ.setdefault("YOLO_OFFLINE", "true")
if "PYTEST_XDIST_WORKER" in os.environ:
    os.environ.setdefault("OMP_NUM_THREADS", "1")  # PyTorch's: processes share the cores
# Ultralytics writes a settings file into its configuration folder: let it be one that goes with the tests
_CONFIG = tempfile.TemporaryDirectory(prefix="edgeprune-tests-")
os.environ["YOLO_CONFIG_DIR"] = _CONFIG.name

ROOT = Path(__file__).resolve().parent.parent
SHARED = ROOT.parent / "shared"


@pytest.fixture(scope="module")
def few_rounds() -> Iterator[None]:
    """Where no figure is looked at, a short race will do."""
    from edgeprune.bench import measure

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(measure, "ROUNDS", 4)
        yield


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder with real images and weights, where there is one."""
    if not (SHARED / "weights" / "yolov8n-bccd.pt").is_file():
        pytest.skip(f"left out: no real data at {SHARED}")
    return SHARED


@pytest.fixture(scope="session")
def scenes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """data.yaml of a small synthetic data set: 24 train and 12 val images of 64 px."""
    from edgeprune.demo import draw_data_set

    folder = tmp_path_factory.mktemp("scenes")
    draw_data_set(folder, seed=1, train=24, val=12, size=64)
    return folder / "data.yaml"


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint of an untrained YOLOv8n for the synthetic classes."""
    from edgeprune.demo import NAMES
    from edgeprune.yolo.checkpoint import pack
    from edgeprune.yolo.load import untrained

    file = tmp_path_factory.mktemp("tiny") / "tiny.pt"
    file.write_bytes(pack(untrained("yolov8n.yaml", dict(enumerate(NAMES)), seed=0), {}, half=True))
    return file
