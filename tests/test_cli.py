"""The command as a user meets it: bad input ends in words and exit code 2, never in a traceback."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import ROOT
from tests.disk import small_disk


def edgeprune(*arguments: object, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "edgeprune", *map(str, arguments)], capture_output=True, text=True, cwd=ROOT,
        env=os.environ | environment, timeout=300,
    )  # fmt: skip


def refused(*arguments: object, **environment: str) -> str:
    done = edgeprune(*arguments, **environment)
    assert done.returncode == 2, done.stdout + done.stderr
    assert "Traceback" not in done.stderr
    return done.stderr


@pytest.fixture
def recipe(tmp_path: Path) -> Path:
    file = tmp_path / "recipe.yaml"
    file.write_text("goal: {macs_ratio: 0.6}\nepochs: 1\nimportance: l2\nallocation: global\n")
    return file


def test_unknown_target(tiny: Path, scenes: Path) -> None:
    assert "There is no target 'nope'" in refused("build", "nope", "--model", tiny, "--data", scenes)


def test_missing_arguments() -> None:
    assert "Missing" in refused("build")
    assert "Missing" in refused("build", "openvino-x86")


def test_checkpoint_that_isnt_one(tmp_path: Path, scenes: Path) -> None:
    file = tmp_path / "x.pt"
    file.write_text("no model")
    arguments = ("--data", scenes, "--out", tmp_path / "out")
    assert "not a PyTorch checkpoint" in refused("build", "onnxruntime-x86", "--model", file, *arguments)
    assert "doesn't exist" in refused("build", "onnxruntime-x86", "--model", tmp_path / "none.pt", *arguments)


def test_segmentation_model(tmp_path: Path, scenes: Path) -> None:
    from ultralytics import YOLO

    YOLO("yolov8n-seg.yaml", verbose=False).save(tmp_path / "seg.pt")
    said = refused(
        "build", "onnxruntime-x86", "--model", tmp_path / "seg.pt", "--data", scenes, "--out", tmp_path / "out"
    )
    assert "not a YOLO detector" in said
    assert "task segment" in said


def test_data_set_with_other_classes(tmp_path: Path, tiny: Path, scenes: Path) -> None:
    folder = tmp_path / "data"
    folder.mkdir()
    for name in ("images", "labels"):
        (folder / name).symlink_to(scenes.parent / name)
    (folder / "data.yaml").write_text("train: images/train\nval: images/val\nnames: [cat, dog]\n")
    said = refused(
        "build", "onnxruntime-x86", "--model", tiny, "--data", folder / "data.yaml", "--out", tmp_path / "out"
    )
    assert "classes are not the model's" in said
    assert "0: cat" in said
    assert "0: disc" in said


def test_data_set_without_labels(tmp_path: Path, tiny: Path, scenes: Path) -> None:
    (tmp_path / "images").symlink_to(scenes.parent / "images")
    (tmp_path / "data.yaml").write_text(scenes.read_text())
    assert "has no labels" in refused("build", "openvino-x86", "--model", tiny, "--data", tmp_path / "data.yaml")


@pytest.mark.parametrize(
    ("text", "what"),
    [("goal: {macs_ratio: 2}", "goal.macs_ratio"), ("epoch: 3", "'epochs'?"), ("rounds: none", "'rounds'")],
)
def test_recipe_out_of_range_or_misspelt(tmp_path: Path, tiny: Path, scenes: Path, text: str, what: str) -> None:
    file = tmp_path / "r.yaml"
    file.write_text(text)
    assert what in refused("build", "openvino-x86", "--model", tiny, "--data", scenes, "--recipe", file)


def test_goal_that_cant_be_reached(tmp_path: Path, tiny: Path, scenes: Path) -> None:
    file = tmp_path / "r.yaml"
    file.write_text("goal: {macs_ratio: 0.06}\nimportance: l2\nallocation: global\nmin_width: 64\n")
    arguments = ("--data", scenes, "--recipe", file, "--out", tmp_path / "out")
    assert "can't be reached" in refused("build", "openvino-x86", "--model", tiny, *arguments)


def test_no_space_left_is_said_before_anything_is_made(tmp_path: Path, tiny: Path, scenes: Path) -> None:
    with small_disk(tmp_path / "small", 8) as small:
        said = refused("build", "openvino-x86", "--model", tiny, "--data", scenes, "--out", small / "out")
        assert "not enough space" in said
        assert not (small / "out").exists()


@pytest.mark.parametrize("ratio", ["1.5", "0", "-1"])
def test_prune_ratio_out_of_range(tmp_path: Path, ratio: str) -> None:
    said = refused("prune", "yolov8n.yaml", f"--ratio={ratio}", "--importance", "random", "--out", tmp_path)
    assert "out of range" in said
    assert list(tmp_path.iterdir()) == []


def test_prune_refuses_what_it_doesnt_know(tmp_path: Path) -> None:
    assert "--importance" in refused(
        "prune", "yolov8n.yaml", "--ratio", 0.4, "--importance", "magic", "--out", tmp_path
    )
    assert "Give one goal" in refused("prune", "yolov8n.yaml", "--out", tmp_path)
    said = refused("prune", "yolov8n.yaml", "--ratio", 0.4, "--importance", "taylor", "--out", tmp_path)
    assert "needs training data" in said


def test_runtime_that_isnt_installed(tmp_path: Path, tiny: Path, scenes: Path, recipe: Path) -> None:
    """A stand-in `openvino` that fails to import, first on the path: as on a machine without it."""
    (tmp_path / "openvino.py").write_text("raise ImportError('not here')\n")
    said = refused(
        "bench", "openvino-x86", "--model", tiny, "--data", scenes, "--recipe", recipe, "--out", tmp_path / "out",
        PYTHONPATH=str(tmp_path),
    )  # fmt: skip
    assert "pip install 'edgeprune[openvino]'" in said


def test_debug_shows_the_traceback() -> None:
    done = edgeprune("--debug", "build", "nope", "--model", "x", "--data", "y")
    assert done.returncode != 0
    assert "Traceback" in done.stderr


def test_report_of_nothing(tmp_path: Path) -> None:
    assert "no report of this target" in refused("report", "openvino-x86", "--out", tmp_path)


def test_targets_doctor_schema_and_help_work() -> None:
    assert "openvino-x86" in edgeprune("targets").stdout
    assert "telemetry of ONNX Runtime" in edgeprune("doctor").stdout
    schemas = json.loads(edgeprune("schema").stdout)
    assert set(schemas) >= {"TargetProfile", "Recipe", "CalibrationSet", "PrunePlan", "Measurement", "Bundle"}
    assert set(schemas) >= {"Report", "BenchRequest", "Benchmark", "Release", "Rollout", "AgentConfig", "RolloutRecipe"}
    assert schemas["Recipe"]["properties"]["epochs"]["description"]
    said = edgeprune("--help").stdout
    for command in (
        "build",
        "doctor",
        "targets",
        "prune",
        "finetune",
        "export",
        "tune",
        "verify",
        "bench",
        "report",
        "schema",
        "calibrate",
        "device",
    ):
        assert command in said
