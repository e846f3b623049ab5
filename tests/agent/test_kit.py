"""A bundle that carries a build kit: the device builds its own engine in the inactive slot, and runs that. Its TensorRT
is simulated (tests/sim says what that shows and what not)."""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
from pathlib import Path

import pytest

from edgeprune.agent.exits import Exit
from edgeprune.errors import EdgepruneError
from edgeprune.export.kit import kit_sha256
from edgeprune.records import Bundle, BundleFile, Kit, TargetProfile, read_json, write_json
from edgeprune.records.bundle import KitOrigin
from edgeprune.records.files import sha256_file
from tests.agent.simulator import Device, Repository
from tests.export.conftest import images, kit, small  # noqa: F401  fixtures
from tests.fleet.bundles import make_bundle
from tests.sim.board import SimulatedTensorRt

SKU, VERSION = "nano", "10.3.0+simulated"


@pytest.fixture
def kit_bundle(kit: Path, tmp_path: Path) -> Path:  # noqa: F811
    """A bundle as `stages.bundle` writes one for a Jetson."""
    like = read_json(make_bundle(tmp_path / "like", sku=SKU) / "manifest.json", Bundle, EdgepruneError)
    folder, made = tmp_path / "bundle", read_json(kit / "kit.json", Kit, EdgepruneError)
    shutil.copytree(kit, folder / "kit")
    (folder / "board.json").write_text("{}\n")
    names = sorted(p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file())
    row = like.measured.model_copy(update={"runtime": f"tensorrt {VERSION}", "precision": "int8"})
    manifest = like.model_copy(
        update={
            "precision": "int8", "engine": "kit/kit.json", "architecture": platform.machine(),
            "profile": TargetProfile(
                description="d", runtime="tensorrt", input_shape=(1, 3, 64, 64), precisions=("int8",),
                quantization={"activations": "symmetric"},  # type: ignore[arg-type]
            ),
            "files": tuple(
                BundleFile(path=n, sha256=sha256_file(folder / n), bytes=(folder / n).stat().st_size) for n in names
            ),
            "input": made.input, "outputs": (made.output,), "names": made.names, "measured": row, "parent": row,
            "kit": KitOrigin(
                folder="kit", sha256=kit_sha256(folder / "kit"), board="board.json", tensorrt=VERSION,
                engine_sha256="0" * 64,
            ),
        }
    )  # fmt: skip
    write_json(folder / "manifest.json", manifest)
    return folder


@pytest.fixture
def device(kit_bundle: Path, tmp_path: Path) -> Device:
    fleet = Repository(tmp_path / "repo")
    fleet.release(1, kit_bundle, sku=SKU)
    fleet.rollout(1)
    fleet.publish()
    return Device(tmp_path, fleet, sku=SKU, runtime="tensorrt")


def go(device: Device, board: SimulatedTensorRt, tmp_path: Path, *words: str) -> subprocess.CompletedProcess[str]:
    python = tmp_path / "python"
    if not python.is_file():
        board.interpreter(python)
    (tmp_path / "home").mkdir(exist_ok=True)
    return subprocess.run(
        [str(python), "-m", "edgeprune.agent", "--config", str(device.file), *words], capture_output=True, text=True,
        env={k: v for k, v in os.environ.items() if k != "PYTHONPATH"} | {"HOME": str(tmp_path / "home")}, timeout=500,
    )  # fmt: skip


def test_a_device_builds_its_own_engine_and_runs_it(device: Device, tmp_path: Path) -> None:
    board = SimulatedTensorRt(tmp_path / "jetpack")
    done = go(device, board, tmp_path, "once")
    assert done.returncode == Exit.UPDATED, done.stdout + done.stderr
    assert device.counter == 1
    engine = device.folder / "current" / "engine"
    assert {"model.engine", "engine.json"} <= {path.name for path in engine.iterdir()}
    word = device.state.word
    assert word is not None
    assert (word.state, word.runtime) == ("committed", f"tensorrt {VERSION}")
    # an engine that isn't the one that was built is as good as none
    (engine / "model.engine").write_bytes(b"another")
    done = go(device, board, tmp_path, "once")
    assert done.returncode == Exit.UPDATED, done.stdout + done.stderr
    assert "is damaged" in done.stdout
    assert device.counter == 1


@pytest.mark.slow
def test_another_jetpack_builds_with_its_own_version(device: Device, tmp_path: Path) -> None:
    board = SimulatedTensorRt(tmp_path / "jetpack", "10.7.0")
    done = go(device, board, tmp_path, "once")
    assert done.returncode == Exit.UPDATED, done.stdout + done.stderr
    assert '"tensorrt": "10.7.0+simulated"' in (device.folder / "current/engine/engine.json").read_text()


@pytest.mark.slow
def test_an_engine_that_the_kit_refuses_is_refused(device: Device, tmp_path: Path) -> None:
    board = SimulatedTensorRt(tmp_path / "jetpack")
    name = read_json(
        tmp_path / "bundle/kit/kit.json", Kit, EdgepruneError
    ).int8_convolutions[0]  # fmt: skip
    board.set(SIM_FLOAT=name)
    done = go(device, board, tmp_path, "once")
    assert done.returncode == Exit.REFUSED, done.stdout + done.stderr
    assert "build: exit code 1" in done.stdout
    assert "should be INT8" in done.stdout
    assert device.counter is None
