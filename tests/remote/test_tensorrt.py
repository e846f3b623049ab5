"""Engines on a board: built there of a kit, run there, and what is refused; a device over a real sshd on loopback whose
TensorRT is simulated (tests/sim says what that shows and what not)."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from edgeprune.bench import ask
from edgeprune.errors import DeviceError, ExitCode, ExportError, ParityError
from edgeprune.records import BoardEngine, read_json
from edgeprune.records.request import Engine
from edgeprune.remote.bench import SshBench
from edgeprune.remote.setup import ROOT as BELOW_HOME
from edgeprune.runtime.session import open_unoptimised
from edgeprune.runtime.tensorrt import split_header
from tests.export.conftest import images, kit, small  # noqa: F401  fixtures
from tests.remote.conftest import Board
from tests.sim.board import SimulatedTensorRt
from tests.test_cli import edgeprune

SHAPE = (1, 3, 64, 64)
VERSION = "10.3.0+simulated"


@pytest.fixture
def simulated(board: Board, tmp_path: Path) -> SimulatedTensorRt:
    """The TensorRT of a device whose device side is this checkout's."""
    made = SimulatedTensorRt(tmp_path / "jetpack")
    made.interpreter(board.home / BELOW_HOME / "current/bin/python")
    return made


@pytest.fixture
def bench(board: Board, simulated: SimulatedTensorRt) -> SshBench:
    return SshBench(board.address)


def build(bench: SshBench, kit: Path, into: Path, precision: str = "int8", dla: int | None = None) -> BoardEngine:  # noqa: F811
    shutil.rmtree(into, ignore_errors=True)
    into.mkdir(parents=True)
    return ask.build(bench, kit, precision, dla, into)


def engine(file: Path, precision: str = "int8") -> Engine:
    return Engine.model_validate({"name": "e", "runtime": "tensorrt", "precision": precision, "file": str(file)})


@pytest.mark.parametrize("precision", ["int8", "fp16"])
def test_board_builds_of_a_kit_and_the_host_gets_the_engine_with_its_records(
    bench: SshBench,
    board: Board,
    kit: Path,  # noqa: F811
    tmp_path: Path,
    precision: str,
) -> None:
    seen: list[str] = []
    (tmp_path / "made").mkdir()
    made = ask.build(bench, kit, precision, None, tmp_path / "made", lambda what, *_: seen.append(what))
    assert (made.chosen, made.tensorrt, made.raced) == (precision, VERSION, False)
    assert made.candidate(precision).golden is not None
    there = {p.name for p in (tmp_path / "made").iterdir()}
    assert there == {"model.engine", "engine.json", f"layers-{precision}.json"}
    assert read_json(tmp_path / "made/engine.json", BoardEngine, DeviceError) == made
    assert any("golden outputs hold" in line for line in seen), "the board's own progress comes through"
    (cached,) = board.home.glob(".cache/edgeprune/engines/*/*/*/*/model.engine")
    assert cached.read_bytes() == (tmp_path / "made/model.engine").read_bytes()
    again = build(bench, kit, tmp_path / "again", precision)
    assert again == made, "found there, not built anew"


def test_engine_runs_there_and_computes_what_its_graph_does(
    bench: SshBench,
    kit: Path,  # noqa: F811
    images: Path,  # noqa: F811
    tmp_path: Path,
) -> None:
    build(bench, kit, tmp_path / "made")
    pixels = np.random.default_rng(0).random(SHAPE, dtype=np.float32)
    (found,) = ask.tensors(bench, engine(tmp_path / "made/model.engine"), [{"images": pixels}])
    expected = open_unoptimised((kit / "graphs/int8.onnx").read_bytes())({"images": pixels})
    np.testing.assert_allclose(found["output0"][:, 4:], expected["output0"][:, 4:], atol=0.02)
    assert ask.detections(bench, engine(tmp_path / "made/model.engine"), sorted(images.iterdir()), SHAPE)
    metadata, plan = split_header((tmp_path / "made/model.engine").read_bytes())
    assert metadata["names"] == {"0": "a", "1": "b"}
    (tmp_path / "bare.engine").write_bytes(plan)
    (bare,) = ask.tensors(bench, engine(tmp_path / "bare.engine"), [{"images": pixels}])
    np.testing.assert_array_equal(bare["output0"], found["output0"])


def test_engines_are_raced_there(bench: SshBench, kit: Path, images: Path, tmp_path: Path) -> None:  # noqa: F811
    found = []
    for precision in ("int8", "fp16"):
        build(bench, kit, tmp_path / precision, precision)
        found.append(engine(tmp_path / precision / "model.engine", precision).model_copy(update={"name": precision}))
    run = ask.race(bench, found, sorted(images.iterdir()), SHAPE, seed=0, rounds=2, on_round=lambda *_: None)
    assert {m.runtime for m in run.measurements} == {f"tensorrt {VERSION}"}
    assert [m.engine for m in run.measurements] == ["int8", "fp16"]


def test_convolution_that_isnt_int8_comes_back_in_the_boards_words_with_its_exit_code(
    bench: SshBench,
    simulated: SimulatedTensorRt,
    kit: Path,  # noqa: F811
    tmp_path: Path,
) -> None:
    simulated.set(SIM_FLOAT="/model.2/cv1/conv/Conv")
    with pytest.raises(ExportError, match=r"exit code 1(.|\n)*1 of 57 convolutions should be INT8") as caught:
        build(bench, kit, tmp_path / "made")
    assert "/model.2/cv1/conv/Conv" in str(caught.value)
    assert caught.value.code == ExitCode.REJECTED
    assert [p.name for p in (tmp_path / "made").iterdir()] == ["layers-int8.json"], "for whoever asks why"


def test_engine_that_computes_something_else_is_a_matter_of_parity(
    bench: SshBench,
    simulated: SimulatedTensorRt,
    kit: Path,  # noqa: F811
    tmp_path: Path,
) -> None:
    simulated.set(SIM_WRONG="fp16")
    with pytest.raises(ParityError, match="doesn't compute the golden outputs"):
        build(bench, kit, tmp_path / "made", "fp16")


def test_kit_that_is_for_another_version_is_the_users_to_mend(
    bench: SshBench,
    simulated: SimulatedTensorRt,
    kit: Path,  # noqa: F811
    tmp_path: Path,
) -> None:
    simulated.upgrade("12.0.0")
    with pytest.raises(DeviceError, match=r"exit code 2(.|\n)*No graph of the kit is for this TensorRT") as caught:
        build(bench, kit, tmp_path / "made")
    assert caught.value.code == ExitCode.USER


def test_engine_of_another_version_is_refused(
    bench: SshBench,
    simulated: SimulatedTensorRt,
    kit: Path,  # noqa: F811
    images: Path,  # noqa: F811
    tmp_path: Path,
) -> None:
    build(bench, kit, tmp_path / "made")
    simulated.upgrade("10.7.0")
    asked = engine(tmp_path / "made/model.engine")
    with pytest.raises(DeviceError, match=r"another version or another GPU(.|\n)*Version tag does not match"):
        ask.detections(bench, asked, sorted(images.iterdir()), SHAPE)
    (tmp_path / "x.engine").write_bytes(b"nonsense")
    with pytest.raises(DeviceError, match="it was damaged"):
        ask.detections(bench, engine(tmp_path / "x.engine"), sorted(images.iterdir()), SHAPE)


def test_gpu_that_is_full_or_gone_is_told(
    bench: SshBench,
    simulated: SimulatedTensorRt,
    kit: Path,  # noqa: F811
    images: Path,  # noqa: F811
    tmp_path: Path,
) -> None:
    build(bench, kit, tmp_path / "made")
    asked = engine(tmp_path / "made/model.engine")
    simulated.set(SIM_CUDA_FULL="1")
    with pytest.raises(DeviceError, match=r"cudaMalloc(.|\n)*out of memory"):
        ask.detections(bench, asked, sorted(images.iterdir()), SHAPE)
    simulated.set(SIM_CUDA_NONE="1")
    with pytest.raises(DeviceError, match=r"There is no GPU(.|\n)*group video"):
        ask.about(bench, "tensorrt", ["fp16"])


def test_what_the_board_has_is_told(bench: SshBench, simulated: SimulatedTensorRt, board: Board) -> None:
    assert ask.about(bench, "tensorrt", ["fp16", "int8"]).lacking == {}
    told = bench.versions("tensorrt")
    assert (told["tensorrt"], told["gpu"]) == (VERSION, "simulated (compute capability 8.7)")
    simulated.set(SIM_CUDA_CHIP="53")
    assert ask.about(bench, "tensorrt", ["fp16", "int8"]).lacking == {
        "int8": "this GPU has no INT8 (compute capability 5.3)"
    }
    shutil.rmtree(simulated.folder / "tensorrt")
    with pytest.raises(DeviceError, match=r"isn't installed on the device(.|\n)*--runtime tensorrt"):
        SshBench(board.address).versions("tensorrt")
    with pytest.raises(DeviceError, match="python3-libnvinfer"):
        ask.about(bench, "tensorrt", ["fp16"])


def test_dla_engine_is_loaded_for_its_core(
    bench: SshBench,
    simulated: SimulatedTensorRt,
    kit: Path,  # noqa: F811
    images: Path,  # noqa: F811
    tmp_path: Path,
) -> None:
    simulated.set(SIM_DLA="2")
    made = build(bench, kit, tmp_path / "made", "fp16", dla=1)
    assert "--useDLACore=1" in made.trtexec
    assert split_header((tmp_path / "made/model.engine").read_bytes())[0]["dla"] == "1"
    assert ask.detections(bench, engine(tmp_path / "made/model.engine", "fp16"), sorted(images.iterdir())[:1], SHAPE)
    with pytest.raises(DeviceError, match="hasn't this DLA core"):
        build(bench, kit, tmp_path / "other", "fp16", dla=2)


def test_setup_takes_the_boards_own_tensorrt_and_nothing_from_pip(board: Board, tmp_path: Path) -> None:
    """With pip and the registry for all else; the device's Python is one whose system packages have TensorRT."""
    made = SimulatedTensorRt(tmp_path / "jetpack")
    system = made.system(tmp_path / "usr")
    python = board.tools / "python3"
    python.unlink()
    python.write_text(f'#!/bin/sh\nexport LD_LIBRARY_PATH={made.libraries}\nexec {system} "$@"\n')
    python.chmod(0o755)
    done = edgeprune("device", "setup", board.address, "--runtime", "tensorrt", HOME=str(board.host))
    assert done.returncode == 0, done.stdout + done.stderr
    current = board.home / BELOW_HOME / "current"
    assert "include-system-site-packages = true" in (current / "pyvenv.cfg").read_text()
    record = json.loads((current / "installed.json").read_text())
    assert (record["versions"]["tensorrt"], record["runtime_bytes"]) == (VERSION, 0)
    assert "numpy" in record["versions"]
    assert not list(current.glob("lib/python*/site-packages/tensorrt*"))
    told = edgeprune("device", "info", board.address, "--json", HOME=str(board.host))
    assert json.loads(told.stdout)["runtimes"] == {"tensorrt": VERSION}
    again = edgeprune("device", "setup", board.address, "--runtime", "tensorrt", HOME=str(board.host))
    assert "nothing to do" in again.stdout


def test_setup_says_what_a_board_without_tensorrt_needs(board: Board) -> None:
    done = edgeprune("device", "setup", board.address, "--runtime", "tensorrt", HOME=str(board.host))
    assert done.returncode == ExitCode.NOT_SET_UP
    assert "has no tensorrt" in done.stderr
    assert "sudo apt install python3-libnvinfer" in done.stderr
    assert not (board.home / BELOW_HOME / "current").exists()


def test_setup_says_what_can_be_done_on_jetpack_5(board: Board) -> None:
    python = board.tools / "python3"
    python.unlink()
    python.write_text("#!/bin/sh\necho 3 8\n")
    python.chmod(0o755)
    done = edgeprune("device", "setup", board.address, "--runtime", "tensorrt", HOME=str(board.host))
    assert done.returncode == ExitCode.NO_PYTHON
    assert "flash JetPack 6 or later" in done.stderr
    assert "build_engine.py runs on Python 3.8" in done.stderr
