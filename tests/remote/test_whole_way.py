"""The whole way against a second host that has no internet: set up, build, bench, report; killed and gone on with."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import edgeprune
from edgeprune.bench.store import DAY_S, clean
from edgeprune.errors import EdgepruneError
from edgeprune.records import Benchmark, BenchRun, Report, VerifyRun, read_json
from edgeprune.records.files import sha256_file
from tests.bench.colours import bundle
from tests.conftest import ROOT
from tests.remote.conftest import Board
from tests.remote.namespace import second_host
from tests.remote.test_setup import left, root, wait_for, working
from tests.scenes import draw

TARGET = """
description: a small input for the tests
runtime: onnxruntime
device: {device}
input_shape: [1, 3, 64, 64]
precisions: [fp32]
threads: 1
forms: stock
"""
RECIPE = "{goal: {macs_ratio: 0.5, max_map_drop: 0.5}, epochs: 2, batch: 8, importance_batches: 2, torch_device: cpu}"
SAME = (
    "parent.pt", "plan.json", "pruned.pt", "finetuned.pt", "pruned.onnx", "engines/pruned", "engines/parent",
    "predictions",
)  # fmt: skip
KILLS = 10


@pytest.fixture
def board(make_board: Callable[[], Board]) -> Iterator[Board]:
    with second_host() as (name, address):
        board = make_board()
        board.ip, board.inside = address, ("ip", "netns", "exec", name)
        board.trust()
        board.start()
        yield board
        board.stop()


def test_killed_at_ten_random_moments_the_build_over_ssh_ends_as_one_here(
    board: Board, tmp_path: Path, tiny: Path, scenes: Path
) -> None:
    for name, device in (("here", "local"), ("there", str(board.address))):
        (tmp_path / f"{name}.yaml").write_text(TARGET.format(device=device))
    (tmp_path / "recipe.yaml").write_text(RECIPE)
    cells = draw(tmp_path / "colours-data", "detect")
    edgeprune.build(model=tiny, data=scenes, target=str(tmp_path / "here.yaml"), recipe=tmp_path / "recipe.yaml",
                    out=tmp_path / "reference")  # fmt: skip
    out = tmp_path / "out"
    steps = [
        ["device", "setup", str(board.address), "--offline"],
        ["build", str(tmp_path / "there.yaml"), f"--model={tiny}", f"--data={scenes}",
         f"--recipe={tmp_path / 'recipe.yaml'}", f"--out={out}"],
        ["bench", "colours", f"--bundle={bundle(tmp_path / 'bundle')}", f"--data={cells}", "--duration=3s",
         "--sustained", f"--device={board.address}", f"--out={out}"],
        ["report", str(tmp_path / "there.yaml"), f"--out={out}"],
    ]  # fmt: skip
    chance, killed, finished = random.Random(5), 0, 0
    while killed < KILLS or not finished:
        moment = chance.uniform(1, 14) if killed < KILLS else None
        if run(steps, board, tmp_path / "said.txt", moment):
            finished += 1
        else:
            killed += 1
            wait_for(lambda: not working(board), "the end of what ran on the device")
    folder, reference = out / "there", tmp_path / "reference" / "here"
    for made in SAME:
        assert sha256_file(folder / made) == sha256_file(reference / made), made
    verified = [read_json(f / "verify.json", VerifyRun, EdgepruneError) for f in (folder, reference)]
    assert verified[0].accuracy == verified[1].accuracy
    report = read_json(folder / "report.json", Report, EdgepruneError)
    run_there = read_json(folder / "bench.json", BenchRun, EdgepruneError)
    assert len(run_there.measurements[0].blocks_ms) == 40
    assert report.rows[0].latency_ms == run_there.measurements[0].latency_ms
    found = read_json(out / "colours" / "benchmark.json", Benchmark, EdgepruneError)
    assert found.device == str(board.address)
    assert found.accuracy is not None
    assert found.accuracy.map50 > 0.9
    # and the device is as a single run would have left it
    assert left(board)[-1].startswith("venv-")
    assert len(left(board)) == 5, left(board)  # .lock, current, files, requests, venv-…
    left_behind = list((root(board) / "requests").iterdir())
    assert len(left_behind) <= KILLS, "what a killed host asked for; nobody else's"
    for entry in (root(board) / "files").iterdir():
        assert sha256_file(entry) == entry.name.split(".")[0]
    clean(root(board), time.time() + 2 * DAY_S)
    assert not list((root(board) / "requests").iterdir()), "that goes after a day"


def run(steps: list[list[str]], board: Board, said: Path, moment: float | None) -> bool:
    """Run commands one after the other, killed after so many seconds; whether they came to their end."""
    environment = os.environ | {"HOME": str(board.host), "TMPDIR": str(board.folder)}  # what is killed can't tidy up
    deadline = None if moment is None else time.monotonic() + moment
    for step in steps:
        with open(said, "w") as output:
            process = subprocess.Popen(
                [sys.executable, "-m", "edgeprune", *step], cwd=ROOT, env=environment, start_new_session=True,
                stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT,
            )  # fmt: skip
        try:
            code = process.wait(None if deadline is None else max(0.1, deadline - time.monotonic()))
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            return False
        assert code in {0, 1}, f"{step}: {code}\n{said.read_text()}"
    return True
