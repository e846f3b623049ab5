"""A board's target from the checkpoint to the verdict, over a real sshd on loopback; the board's TensorRT is simulated
(tests/sim says what that shows and what not: no latency here is a figure of any board)."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from edgeprune import stages
from edgeprune.errors import EdgepruneError
from edgeprune.job import plan_job
from edgeprune.records import Benchmark, Kit, Mixed, Report, VerifyRun, read_json
from edgeprune.records.files import sha256_file
from edgeprune.remote.setup import ROOT as BELOW_HOME
from edgeprune.runtime.bundle import open_bundle
from tests.remote.conftest import Board, boards
from tests.remote.test_setup import working
from tests.sim.board import SimulatedTensorRt

VERSION = "10.3.0+simulated"
ENGINES = ("parent-fp16", "pruned-fp16", "pruned-int8")
TARGET = """
description: a small input for the tests
runtime: tensorrt
device: {device}
input_shape: [1, 3, 64, 64]
precisions: [fp16, int8]
channel_multiple: 8
"""
RECIPE = """
goal: {macs_ratio: 0.5, max_map_drop: 0.5}
schedule: ptq
epochs: 1
batch: 8
importance: l2
allocation: global
torch_device: cpu
"""


@dataclass
class Fleet:
    """A board, its TensorRT, and what was built for it."""

    board: Board
    tensorrt: SimulatedTensorRt
    inputs: dict[str, str]
    out: Path

    @property
    def folder(self) -> Path:
        return self.out / "nano"

    def command(self, *words: object, verb: str = "build") -> list[str]:
        options = [f"--{key}={value}" for key, value in self.inputs.items() if key != "target"]
        return [sys.executable, "-m", "edgeprune", verb, self.inputs["target"], *options, f"--out={self.out}",
                *map(str, words)]  # fmt: skip

    def run(self, *words: object, verb: str = "build") -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            self.command(*words, verb=verb), capture_output=True, text=True, timeout=580, env=self.environment
        )

    @property
    def environment(self) -> dict[str, str]:
        return os.environ | {"HOME": str(self.board.host)}

    def forget(self) -> None:
        """A board that has built nothing yet."""
        shutil.rmtree(self.board.home / ".cache", ignore_errors=True)


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory, tiny: Path, scenes: Path) -> Iterator[Fleet]:
    """The whole way, once; then the device is gone in the middle of nothing."""
    folder = tmp_path_factory.mktemp("fleet")
    with pytest.MonkeyPatch.context() as patch:
        making = boards(folder, patch)
        board = next(making)()
        board.start()
        simulated = SimulatedTensorRt(folder / "jetpack")
        simulated.interpreter(board.home / BELOW_HOME / "current/bin/python")
        (folder / "nano.yaml").write_text(TARGET.format(device=board.address))
        (folder / "recipe.yaml").write_text(RECIPE)
        words = ["calibrate", "select", "--data", scenes, "--size", "8", "--name", "few", "--input-size", "64",
                 "--licence", "synthetic", "--out", folder]  # fmt: skip
        subprocess.run([sys.executable, "-m", "edgeprune", *map(str, words)], check=True, capture_output=True)
        inputs = {"model": str(tiny), "data": str(scenes), "target": str(folder / "nano.yaml"),
                  "recipe": str(folder / "recipe.yaml"), "calibration": str(folder / "few.yaml")}  # fmt: skip
        fleet = Fleet(board, simulated, inputs, folder / "build")
        done = fleet.run()
        assert done.returncode in {0, 1}, done.stdout + done.stderr
        assert "build_engine" not in done.stderr
        yield fleet
        for _ in making:
            raise AssertionError("one device a fixture")


@pytest.fixture
def copy(built: Fleet, tmp_path: Path) -> Iterator[Fleet]:
    """The same build in a folder of its own, and a board whose cache is empty; the board is as it was afterwards."""
    shutil.copytree(built.out, tmp_path / "build")
    built.forget()
    yield Fleet(built.board, built.tensorrt, built.inputs, tmp_path / "build")
    built.tensorrt.upgrade("10.3.0")


def report(fleet: Fleet) -> Report:
    return read_json(fleet.folder / "report.json", Report, EdgepruneError)


def test_report_has_the_boards_figures_for_parent_and_build(built: Fleet) -> None:
    found = report(built)
    assert {(r.variant, r.precision) for r in found.rows} == {
        ("parent", "fp16"), ("pruned", "fp16"), ("pruned", "int8")
    }  # fmt: skip
    assert {row.runtime for row in found.rows} == {f"tensorrt {VERSION}"}, "no figure passes for a board's"
    for row in found.rows:
        assert row.bytes == (built.folder / f"engines/{row.variant}-{row.precision}/model.engine").stat().st_size
    assert found.verdict.comparison.parent == "parent fp16"
    assert (found.environment["tensorrt"], found.environment["gpu"]) == (
        VERSION, "simulated (compute capability 8.7)",
    )  # fmt: skip
    notes = "\n".join(found.notes)
    assert "pruned int8: built in" in notes
    assert "57 convolutions, all in INT8; golden outputs: boxes off by" in notes
    assert "mAP50-95 of onnxruntime in its stead" in notes
    assert read_json(built.folder / "mixed.json", Mixed, EdgepruneError).stand_in == "onnxruntime"


def test_engines_are_the_kits_and_were_held_against_golden_outputs(built: Fleet) -> None:
    checked = read_json(built.folder / "verify.json", VerifyRun, EdgepruneError)
    assert set(checked.golden) == {"parent fp16", "pruned fp16", "pruned int8"}
    assert all(g.scores_rms <= g.scores_rms_tolerated for g in checked.golden.values())
    assert [parity.engine for parity in checked.parity] == [a.engine for a in checked.accuracy] == list(checked.golden)
    assert all(parity.holds for parity in checked.parity)
    parent = read_json(built.folder / "kits/parent/kit.json", Kit, EdgepruneError)
    assert ({g.precision for g in parent.graphs}, parent.int8_convolutions) == ({"fp16"}, ())
    assert sorted(p.name for p in (built.folder / "engines").iterdir()) == sorted(ENGINES)


def test_second_run_does_nothing(built: Fleet) -> None:
    before = {p: p.stat().st_mtime_ns for p in built.folder.rglob("*") if p.is_file() and p.name != "lock"}
    done = built.run()
    assert "nothing to do" in done.stdout, done.stdout + done.stderr
    assert {p: p.stat().st_mtime_ns for p in before} == before


def test_kits_are_made_without_the_board(built: Fleet, tmp_path: Path) -> None:
    """Nobody answers at the target's address; what needs no board is there already, and taken over."""
    (tmp_path / "nano.yaml").write_text(TARGET.format(device="ssh://127.0.0.1:1"))
    alone = Fleet(built.board, built.tensorrt, built.inputs | {"target": str(tmp_path / "nano.yaml")}, tmp_path)
    shutil.copytree(built.folder, tmp_path / "lender")
    done = alone.run(verb="export")
    assert done.returncode == 0, done.stdout + done.stderr
    assert sha256_file(tmp_path / "nano/kits/pruned") == sha256_file(built.folder / "kits/pruned")
    assert not (tmp_path / "nano/engines").exists()
    assert alone.run(verb="verify").returncode == 10


def test_bundle_is_the_kit_with_this_boards_figures_and_is_built_anew_where_it_is_measured(
    copy: Fleet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(copy.board.host))
    inputs = copy.inputs
    job = plan_job(inputs["model"], inputs["data"], inputs["target"], inputs["recipe"], copy.out,
                   calibration=inputs["calibration"])  # fmt: skip
    found = report(copy)
    accepted = found.model_copy(update={"verdict": found.verdict.model_copy(update={"accepted": True})})
    with job.shop.open():
        stages.bundle(job, accepted)
    bundle = open_bundle(copy.folder / "bundle")
    assert bundle.kit is not None
    assert bundle.engine == "kit/kit.json"
    assert bundle.kit.tensorrt == VERSION
    assert sha256_file(copy.folder / "bundle/kit") == sha256_file(copy.folder / "kits/pruned")
    winner = copy.folder / f"engines/pruned-{bundle.precision}"
    assert bundle.kit.engine_sha256 == sha256_file(winner / "model.engine")
    assert sha256_file(copy.folder / "bundle/board.json") == sha256_file(winner / "engine.json")
    assert not list((copy.folder / "bundle").rglob("*.engine")), "an engine is for its own board alone"

    copy.tensorrt.upgrade("10.7.0")  # another board of the fleet
    words = ["bench", "nano", "--bundle", copy.folder / "bundle", "--data", inputs["data"], "--duration", "0.5s",
             "--sustained", "--out", tmp_path / "measured"]  # fmt: skip
    done = subprocess.run([sys.executable, "-m", "edgeprune", *map(str, words)], capture_output=True, text=True)
    assert done.returncode in {0, 1}, done.stdout + done.stderr
    measured = read_json(tmp_path / "measured/nano/benchmark.json", Benchmark, EdgepruneError)
    assert measured.run.runtime == "tensorrt 10.7.0+simulated"
    assert any("measured on tensorrt 10.3.0" in note for note in measured.notes)


def test_another_jetpack_builds_anew_and_nothing_before_it(copy: Fleet) -> None:
    copy.tensorrt.upgrade("10.7.0")
    done = copy.run()
    assert done.returncode in {0, 1}, done.stdout + done.stderr
    assert all(f"build {engine.replace('-', ' ')} on the device" in done.stdout for engine in ENGINES)
    assert not any(stage in done.stdout for stage in ("finetune", "prune 1", "kit of", "mix")), done.stdout
    assert {row.runtime for row in report(copy).rows} == {"tensorrt 10.7.0+simulated"}


def test_convolution_that_isnt_int8_ends_the_build_with_the_boards_words_and_exit_code(copy: Fleet) -> None:
    shutil.rmtree(copy.folder / "engines/pruned-int8")
    copy.tensorrt.set(SIM_FLOAT="/model.2/cv1/conv/Conv")
    done = copy.run()
    assert done.returncode == 1, done.stdout + done.stderr
    assert "exit code 1" in done.stderr
    assert "1 of 57 convolutions should be INT8 and aren't." in done.stderr
    assert "/model.2/cv1/conv/Conv" in done.stderr
    assert "Traceback" not in done.stderr
    assert not (copy.folder / "engines/pruned-int8").exists()


def test_killed_while_the_board_builds_the_same_command_goes_on(copy: Fleet) -> None:
    shutil.rmtree(copy.folder / "engines/pruned-int8")
    (copy.folder / "report.json").unlink()
    copy.tensorrt.set(SIM_BUILD_S="300")
    process = subprocess.Popen(
        copy.command(), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True,
        env=copy.environment,
    )  # fmt: skip
    for _ in range(1800):
        if list(copy.board.home.glob(".cache/edgeprune/engines/*/*/*/.part-*")):
            break
        time.sleep(0.1)
    else:
        process.kill()
        pytest.fail(f"the board never began to build: {process.communicate()[0]}")
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate()
    for _ in range(300):
        if not working(copy.board, b"build_engine"):
            break
        time.sleep(0.1)
    else:
        pytest.fail("the board builds on for nobody")
    copy.tensorrt.set()
    done = copy.run()
    assert done.returncode in {0, 1}, done.stdout + done.stderr
    assert (copy.folder / "engines/pruned-int8/model.engine").is_file()
    assert (copy.folder / "report.json").is_file()
    assert not list(copy.board.home.glob(".cache/edgeprune/engines/*/*/*/.part-*")), "what was half made is gone"
    assert json.loads((copy.folder / "engines/pruned-int8/engine.json").read_text())["chosen"] == "int8"


def test_dla_is_raced_against_itself_in_fp16(copy: Fleet, tmp_path: Path) -> None:
    text = TARGET.format(device=copy.board.address).replace("[fp16, int8]", "[fp16]\ndla: 1")
    (tmp_path / "dla.yaml").write_text(text)
    copy.tensorrt.set(SIM_DLA="2")
    inputs = {key: value for key, value in copy.inputs.items() if key != "calibration"}
    fleet = Fleet(copy.board, copy.tensorrt, inputs | {"target": str(tmp_path / "dla.yaml")}, copy.out)
    done = fleet.run()
    assert done.returncode in {0, 1}, done.stdout + done.stderr
    found = read_json(copy.out / "dla/report.json", Report, EdgepruneError)
    assert [(r.variant, r.precision) for r in found.rows] == [("parent", "fp16"), ("pruned", "fp16")]
    for engine in ("parent-fp16", "pruned-fp16"):
        made = json.loads((copy.out / f"dla/engines/{engine}/engine.json").read_text())
        assert made["candidates"][0]["flags"] == ["FP16", "GPU_FALLBACK"]
        assert "--useDLACore=1" in made["trtexec"]


def test_a_board_that_cant_is_told_before_anything_is_trained(built: Fleet, tmp_path: Path) -> None:
    fresh = Fleet(built.board, built.tensorrt, built.inputs, tmp_path / "build")
    for settings, words in (
        ({"SIM_CUDA_CHIP": "53"}, "this GPU has no INT8"), ({"SIM_CUDA_NONE": "1"}, "There is no GPU."),
    ):  # fmt: skip
        built.tensorrt.set(**settings)
        done = fresh.run()
        built.tensorrt.set()
        assert done.returncode == 2, done.stdout + done.stderr
        assert words in done.stderr
        assert not (fresh.folder / "parent.pt").exists()
