"""The whole way on a small detector and small scenes: what it makes, that it is done once, that it survives."""

from __future__ import annotations

import json
import os
import platform
import signal
import subprocess
import sys
import time
from pathlib import Path

import onnx
import pytest
import torch

import edgeprune
from edgeprune import stages
from edgeprune.errors import EdgepruneError
from edgeprune.job import plan_job
from edgeprune.records import Bundle, Goal, Mixed, PrunePlan, Quantization, Recipe, Report, read_json
from edgeprune.records.files import sha256_file
from edgeprune.workshop import Listener
from edgeprune.yolo.load import load

TARGET = """
description: a small input for the tests
runtime: {runtime}
input_shape: [1, 3, 64, 64]
precisions: [fp32]
threads: 1
forms: stock
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
    assert len(content["verdict"]["reasons"]) == 3  # speed, accuracy, tail
    assert report.rows[0].map50_95 == parent["map50_95"]


def test_page_shows_what_the_report_holds(built: tuple[Path, Report]) -> None:
    folder, report = built
    text = (folder / "report.html").read_text()
    assert ("Accepted:" if report.verdict.accepted else "Rejected:") in text
    assert [c.part for c in report.candidates] == ["parent", "chosen"]
    for candidate, row in zip(report.candidates, report.rows, strict=True):
        assert candidate.artifact_sha256[:12] in text
        assert candidate.p50_interval_ms[0] <= row.latency_ms.p50 <= candidate.p50_interval_ms[1]
        assert f"{row.latency_ms.p50:.2f}" in text
    after = dict(load(folder / "finetuned.pt").model.named_modules())
    before = dict(load(folder / "parent.pt").model.named_modules())
    assert {w.layer for w in report.widths} == {n for n, m in before.items() if isinstance(m, torch.nn.Conv2d)}
    for width in report.widths:
        assert (width.parent, width.build) == (before[width.layer].out_channels, after[width.layer].out_channels)
    assert 3 <= len(report.samples) <= 6
    assert all((folder / sample.picture).is_file() for sample in report.samples)
    assert report.origin is not None
    assert Path(report.origin.command.split("--model ")[1].split()[0]).is_file()
    assert report.parity


def test_plan_of_two_rounds_is_from_the_parent(built: tuple[Path, Report]) -> None:
    folder, _ = built
    plan = read_json(folder / "plan.json", PrunePlan, EdgepruneError)
    assert plan.macs_ratio <= 0.5
    first = read_json(folder / "phases/1/plan.json", PrunePlan, EdgepruneError)
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
    assert manifest.architecture == platform.machine()
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
    assert (folder / "tune.json").is_file()  # what accuracy is taken of
    assert not (folder / "bench.json").exists()


def test_killed_in_every_stage_ends_in_the_same_build(
    tmp_path: Path, built: tuple[Path, Report], inputs: dict[str, str]
) -> None:
    whole, _ = built
    folder = tmp_path / "small-onnxruntime"
    for stage, seconds in {
        "prune 1 …": 1.5,
        "finetune 1 …": 1.5,
        "prune 2 …": 1.5,
        "finetune 2 …": 1.5,
        "export pruned to onnx …": 0.1,  # a short stage, and the next is no longer: it must not be over by then
        "verify …": 0.1,
        "bench …": 1.5,
    }.items():
        with open(tmp_path / "stderr", "w") as errors:
            process = subprocess.Popen(
                command(inputs, tmp_path), stdout=subprocess.PIPE, stderr=errors, text=True, start_new_session=True
            )
        assert process.stdout is not None
        said = []
        for line in process.stdout:
            said.append(line)
            if stage in line:
                time.sleep(seconds)
                break
        else:
            text = "".join(said) + (tmp_path / "stderr").read_text()
            pytest.fail(f"the build never came to '{stage}', and said:\n{text}")
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


# INT8


@pytest.fixture(scope="module")
def int8_inputs(tmp_path_factory: pytest.TempPathFactory, inputs: dict[str, str]) -> dict[str, str]:
    folder = tmp_path_factory.mktemp("int8")
    for runtime, placement in (("onnxruntime", "all"), ("openvino", "conv-inputs")):
        text = TARGET.format(runtime=runtime).replace("[fp32]", "[fp32, int8]")
        text += f"quantization: {{activations: asymmetric, placement: {placement}}}\n"
        (folder / f"int8-{runtime}.yaml").write_text(text)
    selected = edgeprune_command(
        "calibrate", "select", "--data", inputs["data"], "--size", "8", "--name", "few", "--input-size", "64",
        "--licence", "synthetic", "--out", str(folder),
    )  # fmt: skip
    assert selected.returncode == 0, selected.stderr
    return {**inputs, "target": str(folder / "int8-onnxruntime.yaml"), "calibration": str(folder / "few.yaml")}


def edgeprune_command(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-m", "edgeprune", *arguments], capture_output=True, text=True, timeout=600)


@pytest.mark.parametrize("runtime", ["onnxruntime", "openvino"])
def test_a_quantized_build_goes_the_whole_way(tmp_path: Path, int8_inputs: dict[str, str], runtime: str) -> None:
    """qap in two rounds: scales and moments are cut with the model, INT8 is raced beside FP32."""
    target = int8_inputs["target"].replace("onnxruntime", runtime)
    report = edgeprune.build(**{**int8_inputs, "target": target}, out=tmp_path)
    assert isinstance(report, Report)
    folder = tmp_path / Path(target).stem
    rows = {f"{row.variant} {row.precision}": row for row in report.rows}
    assert set(rows) == {"parent fp32", "pruned fp32", "pruned int8"}
    assert rows["pruned int8"].bytes < 0.5 * rows["pruned fp32"].bytes
    assert any("convolutions" in note for note in report.notes)
    record = read_json(folder / "quantization.json", Quantization, EdgepruneError)
    model = load(folder / "finetuned.pt").model
    for name, scales in record.weights.items():
        assert len(scales) == model.get_submodule(name).weight.shape[0]
    start = read_json(folder / "calibrated.json", Quantization, EdgepruneError)
    moved = [record.activations[n].scale / entry.scale for n, entry in start.activations.items()]
    assert sum(abs(ratio - 1) > 1e-4 for ratio in moved) > len(moved) / 5  # scales learned, in three steps
    assert (folder / "phases/1/moments.pt").is_file()
    shop_ran = stages_run_again(int8_inputs, target, tmp_path)
    assert shop_ran == []


def stages_run_again(inputs: dict[str, str], target: str, out: Path) -> list[str]:
    """Stages that a second build of the same thing runs."""
    ran: list[str] = []

    class Ear(Listener):
        def event(self, stage: str, what: str) -> None:
            if what == "runs":
                ran.append(stage)

    edgeprune.build(**{**inputs, "target": target}, out=out, listener=Ear())
    return ran


@pytest.mark.parametrize("schedule", ["ptq", "prune-then-qat"])
def test_every_schedule_ends_in_a_quantized_graph(tmp_path: Path, int8_inputs: dict[str, str], schedule: str) -> None:
    recipe = Recipe(
        goal=Goal(macs_ratio=0.5, max_map_drop=0.5), schedule=schedule, epochs=2, batch=8, importance="l2",
        allocation="global", torch_device="cpu",
    )  # fmt: skip
    edgeprune.build(**{**int8_inputs, "recipe": recipe}, out=tmp_path, until="export")
    folder = tmp_path / "int8-onnxruntime"
    made = onnx.load(folder / "engines/quantized/model.onnx")
    assert sum(node.op_type == "QuantizeLinear" for node in made.graph.node) > 100
    mixed = read_json(folder / "mixed.json", Mixed, EdgepruneError)
    assert mixed.float_layers == ()
    assert len(mixed.layers) == 57


def test_another_activation_is_priced_and_said(tmp_path: Path, int8_inputs: dict[str, str]) -> None:
    recipe = Recipe(
        goal=Goal(macs_ratio=0.5, max_map_drop=0.5), schedule="ptq", epochs=1, batch=8, importance="l2",
        allocation="global", activation="relu", activation_epochs=1, torch_device="cpu",
    )  # fmt: skip
    report = edgeprune.build(**{**int8_inputs, "recipe": recipe}, out=tmp_path)
    assert isinstance(report, Report)
    assert any(note.startswith("activation relu: the whole model scores") for note in report.notes)
    model = load(tmp_path / "int8-onnxruntime/finetuned.pt").model
    assert not [m for m in model.modules() if isinstance(m, torch.nn.SiLU)]
    made = onnx.load(tmp_path / "int8-onnxruntime/engines/quantized/model.onnx")
    assert "Relu" in {node.op_type for node in made.graph.node}


def test_int8_without_a_calibration_set_is_refused(tmp_path: Path, int8_inputs: dict[str, str]) -> None:
    asked = {k: v for k, v in int8_inputs.items() if k != "calibration"}
    with pytest.raises(EdgepruneError, match="INT8 needs a calibration set"):
        edgeprune.build(**asked, out=tmp_path)
    assert not (tmp_path / "int8-onnxruntime").exists()


def test_a_checkpoint_that_was_quantized_already_is_refused(tmp_path: Path, inputs: dict[str, str]) -> None:
    content = torch.load(inputs["model"], weights_only=False)
    content["modelopt"] = {"state": "whatever ModelOpt keeps"}
    torch.save(content, tmp_path / "qat.pt")
    with pytest.raises(EdgepruneError, match=r"quantization already|can't be opened"):
        load(tmp_path / "qat.pt")


def test_a_device_that_is_off_is_said_before_anything_is_trained(tmp_path: Path, inputs: dict[str, str]) -> None:
    asked = [*command(inputs, tmp_path), "--device", "ssh://nobody@127.0.0.1:1"]
    done = subprocess.run(asked, capture_output=True, text=True, timeout=120, env=os.environ | {"HOME": str(tmp_path)})
    assert done.returncode == 10
    assert "can't be reached" in done.stderr
    assert not (tmp_path / "small-onnxruntime" / "parent.pt").exists()
    wrong = subprocess.run([*command(inputs, tmp_path), "--device", "pi"], capture_output=True, text=True, timeout=120)
    assert wrong.returncode == 2
    assert "not a device's address" in wrong.stderr
