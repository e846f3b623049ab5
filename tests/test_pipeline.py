"""The whole way on a small detector and small scenes: what it makes, that it is done once, that it survives."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

import edgeprune
from edgeprune import stages
from edgeprune.errors import EdgepruneError
from edgeprune.job import plan_job
from edgeprune.records import Bundle, PrunePlan, Report, read_json
from edgeprune.records.files import sha256_file

TARGET = """
description: a small input for the tests
runtime: {runtime}
input_shape: [1, 3, 64, 64]
precisions: [fp32]
threads: 1
"""
RECIPE = """
goal: {macs_ratio: 0.5, max_map_drop: 0.5}
rounds: 2
round_epochs: 1
epochs: 2
batch: 8
importance_batches: 2
torch_device: cpu
"""


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory, tiny: Path, scenes: Path) -> dict[str, str]:
    folder = tmp_path_factory.mktemp("inputs")
    for runtime in ("onnxruntime", "openvino"):
        (folder / f"small-{runtime}.yaml").write_text(TARGET.format(runtime=runtime))
    (folder / "recipe.yaml").write_text(RECIPE)
    return {
        "model": str(tiny), "data": str(scenes), "target": str(folder / "small-onnxruntime.yaml"),
        "recipe": str(folder / "recipe.yaml"),
    }  # fmt: skip


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory, inputs: dict[str, str]) -> tuple[Path, Report]:
    out = tmp_path_factory.mktemp("build")
    report = edgeprune.build(**inputs, out=out)
    assert isinstance(report, Report)
    return out / "small-onnxruntime", report


def command(inputs: dict[str, str], out: Path, verb: str = "build") -> list[str]:
    options = [f"--{key}={inputs[key]}" for key in ("model", "data", "recipe")]
    return [sys.executable, "-m", "edgeprune", verb, inputs["target"], *options, f"--out={out}"]


def test_report_has_a_row_for_every_variant(built: tuple[Path, Report]) -> None:
    folder, report = built
    content = json.loads((folder / "report.json").read_text())
    assert [row["variant"] for row in content["rows"]] == ["parent", "pruned"]
    for row in content["rows"]:
        assert set(row) >= {"variant", "runtime", "precision", "map50_95", "map50", "latency_ms", "macs", "parameters"}
        assert row["latency_ms"]["p50"] <= row["latency_ms"]["p90"] <= row["latency_ms"]["p99"]
        assert row["runtime"].startswith("onnxruntime ")
    parent, pruned = content["rows"]
    assert pruned["macs"] <= 0.5 * parent["macs"]
    assert pruned["bytes"] < parent["bytes"]
    assert set(content["inputs"]) == {"model", "data", "target", "recipe"}
    assert content["environment"]["cpu"]
    assert len(content["verdict"]["reasons"]) == 2
    assert report.rows[0].map50_95 == parent["map50_95"]


def test_plan_of_two_rounds_is_from_the_parent(built: tuple[Path, Report]) -> None:
    folder, _ = built
    plan = read_json(folder / "plan.json", PrunePlan, EdgepruneError)
    assert plan.macs_ratio <= 0.5
    first = read_json(folder / "rounds/1/plan.json", PrunePlan, EdgepruneError)
    assert plan.graph_sha256 == first.graph_sha256
    for name, group in plan.groups.items():
        assert set(group.keep) <= set(first.groups[name].keep)


def test_accepted_build_has_a_bundle_whose_hashes_hold_and_rejected_has_none(
    built: tuple[Path, Report], inputs: dict[str, str]
) -> None:
    folder, report = built
    assert (folder / "bundle" / "manifest.json").is_file() == report.verdict.accepted
    job = plan_job(inputs["model"], inputs["data"], inputs["target"], inputs["recipe"], folder.parent)
    accepted = report.model_copy(update={"verdict": report.verdict.model_copy(update={"accepted": True})})
    with job.shop.open():
        stages.bundle(job, accepted)
    manifest = read_json(folder / "bundle" / "manifest.json", Bundle, EdgepruneError)
    found = {p.relative_to(folder / "bundle").as_posix() for p in (folder / "bundle").rglob("*") if p.is_file()}
    assert found == {f.path for f in manifest.files} | {"manifest.json"}
    for file in manifest.files:
        assert sha256_file(folder / "bundle" / file.path) == file.sha256
    assert manifest.engine in {f.path for f in manifest.files}
    assert manifest.lineage.model_sha256 == sha256_file(Path(inputs["model"]))
    rejected = report.model_copy(update={"verdict": report.verdict.model_copy(update={"accepted": False})})
    with job.shop.open():
        stages.bundle(job, rejected)
        assert not (folder / "bundle").exists()
        stages.bundle(job, report)


def test_second_run_does_nothing_says_so_and_loads_no_torch(built: tuple[Path, Report], inputs: dict[str, str]) -> None:
    folder, report = built
    before = {p: p.stat().st_mtime_ns for p in folder.rglob("*") if p.is_file() and p.name != "lock"}
    code = (
        "import sys\nsys.argv = sys.argv[1:]\nfrom edgeprune.cli import app\n"
        "try:\n    app()\nexcept SystemExit as end:\n    print('exit', end.code)\n"
        "print('torch' in sys.modules, 'ultralytics' in sys.modules)"
    )
    arguments = command(inputs, folder.parent)[2:]
    done = subprocess.run([sys.executable, "-c", code, *arguments], capture_output=True, text=True, timeout=120)
    assert "nothing to do" in done.stdout
    assert f"exit {0 if report.verdict.accepted else 1}" in done.stdout
    assert done.stdout.strip().endswith("False False"), done.stdout + done.stderr
    after = {p: p.stat().st_mtime_ns for p in folder.rglob("*") if p.is_file() and p.name != "lock"}
    assert after == before


def test_another_target_takes_over_what_is_the_same(built: tuple[Path, Report], inputs: dict[str, str]) -> None:
    folder, _ = built
    other = inputs | {"target": inputs["target"].replace("onnxruntime", "openvino")}
    done = subprocess.run(command(other, folder.parent), capture_output=True, text=True, timeout=600)
    assert "finetune 2: taken over from another target" in done.stdout, done.stdout + done.stderr
    assert done.returncode in {0, 1}
    sibling = folder.parent / "small-openvino"
    assert sha256_file(sibling / "finetuned.pt") == sha256_file(folder / "finetuned.pt")
    assert (sibling / "engines/pruned/model_openvino_model/model.bin").is_file()


def test_stages_can_be_run_alone(tmp_path: Path, inputs: dict[str, str]) -> None:
    done = subprocess.run(command(inputs, tmp_path, "finetune"), capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr
    folder = tmp_path / "small-onnxruntime"
    assert (folder / "finetuned.pt").is_file()
    assert not (folder / "pruned.onnx").exists()
    done = subprocess.run(command(inputs, tmp_path, "verify"), capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr
    assert (folder / "verify.json").is_file()
    assert not (folder / "bench.json").exists()


def test_killed_in_every_stage_ends_in_the_same_build(
    tmp_path: Path, built: tuple[Path, Report], inputs: dict[str, str]
) -> None:
    whole, _ = built
    folder = tmp_path / "small-onnxruntime"
    for stage in (
        "prune 1 …",
        "finetune 1 …",
        "prune 2 …",
        "finetune 2 …",
        "export pruned to onnx …",
        "verify …",
        "bench …",
    ):
        process = subprocess.Popen(
            command(inputs, tmp_path),
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            start_new_session=True,
        )
        assert process.stdout is not None
        for line in process.stdout:
            if stage in line:
                time.sleep(1.5)
                break
        else:
            pytest.fail(f"the build never came to '{stage}'")
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        assert not (folder / "report.json").exists()
    done = subprocess.run(command(inputs, tmp_path), capture_output=True, text=True, timeout=600)
    assert done.returncode in {0, 1}, done.stderr
    for made in (
        "parent.pt",
        "plan.json",
        "pruned.pt",
        "finetuned.pt",
        "pruned.onnx",
        "engines/pruned",
        "engines/parent",
    ):
        assert sha256_file(folder / made) == sha256_file(whole / made), made
