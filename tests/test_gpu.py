"""The whole way on a machine with an NVIDIA GPU and TensorRT: `make test-gpu`. Left out everywhere else.

The target's device is this machine, so what is built, run and raced is what a Jetson would do, by the same code.
"""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from edgeprune.errors import EdgepruneError
from edgeprune.records import BoardEngine, Report, VerifyRun, read_json
from edgeprune.runtime.session import available, open_session, open_unoptimised
from tests.remote.test_jetson import RECIPE

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(importlib.util.find_spec("tensorrt") is None, reason="TensorRT is not installed"),
]

TARGET = """
description: this machine's GPU
runtime: tensorrt
input_shape: [1, 3, 64, 64]
precisions: [fp16, int8]
"""


def edgeprune(*words: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "edgeprune", *map(str, words)], capture_output=True, text=True, timeout=3000
    )


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory, tiny: Path, scenes: Path) -> tuple[Path, list[object]]:
    folder = tmp_path_factory.mktemp("gpu")
    (folder / "gpu.yaml").write_text(TARGET)
    (folder / "recipe.yaml").write_text(RECIPE)
    chosen = edgeprune("calibrate", "select", "--data", scenes, "--size", 8, "--name", "few", "--input-size", 64,
                       "--licence", "synthetic", "--out", folder)  # fmt: skip
    assert chosen.returncode == 0, chosen.stderr
    words = [folder / "gpu.yaml", "--model", tiny, "--data", scenes, "--recipe", folder / "recipe.yaml",
             "--calibration", folder / "few.yaml", "--out", folder / "build"]  # fmt: skip
    done = edgeprune("build", *words)
    assert done.returncode in {0, 1}, done.stdout + done.stderr
    return folder / "build/gpu", words


def test_parent_and_build_are_built_verified_and_raced(built: tuple[Path, list[object]]) -> None:
    folder, words = built
    report = read_json(folder / "report.json", Report, EdgepruneError)
    assert [(r.variant, r.precision) for r in report.rows] == [
        ("parent", "fp16"), ("pruned", "fp16"), ("pruned", "int8")
    ]  # fmt: skip
    checked = read_json(folder / "verify.json", VerifyRun, EdgepruneError)
    assert set(checked.golden) == {"parent fp16", "pruned fp16", "pruned int8"}
    made = read_json(folder / "engines/pruned-int8/engine.json", BoardEngine, EdgepruneError)
    assert set((made.candidate("int8").convolutions or {}).values()) == {"int8"}
    assert "nothing to do" in edgeprune("build", *words).stdout


def test_session_computes_what_the_graph_does(built: tuple[Path, list[object]]) -> None:
    folder, _ = built
    assert available("tensorrt", "fp16") is None
    kit = json.loads((folder / "kits/pruned/kit.json").read_text())
    tolerated = {e["precision"]: e for e in kit["golden"]["expected"]}
    pixels = np.fromfile(folder / "kits/pruned/golden/input.f32", "<f4").reshape(-1, 3, 64, 64)
    for precision in ("fp16", "int8"):
        session = open_session("tensorrt", folder / f"engines/pruned-{precision}/model.engine", precision)
        reference = open_unoptimised((folder / f"kits/pruned/graphs/{precision}.onnx").read_bytes())
        pairs = [(session.run(p[None])[0], reference({"images": p[None]})["output0"]) for p in pixels]
        off = np.sqrt(np.mean([np.square(a - b)[:, 4:].mean() for a, b in pairs]))
        assert off <= tolerated[precision]["scores_rms"]
        assert session.output_names == ("output0",)
