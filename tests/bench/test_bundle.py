"""`edgeprune bench TARGET --bundle`: what is measured is what was built, and what isn't is refused."""

from __future__ import annotations

import json
import os
import platform
import subprocess
import sys
from pathlib import Path

import pytest

from edgeprune.bench.bundle import differences, refuse_architecture
from edgeprune.errors import BundleError, EdgepruneError, RecipeError
from edgeprune.records import Benchmark, Settings, read_json
from edgeprune.records.dataset import read_dataset
from edgeprune.runtime.bundle import open_bundle
from edgeprune.train.evaluate import score
from tests.bench import faults
from tests.bench.colours import bundle
from tests.bench.trees import RASPBERRY_PI_5, plant
from tests.conftest import ROOT
from tests.scenes import draw


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return draw(tmp_path_factory.mktemp("data"), "detect")


def bench(*arguments: object, env: dict[str, str] | None = None) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "edgeprune", "bench", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, cwd=ROOT, timeout=60, env=env)


def refused(*arguments: object, code: int = 2) -> str:
    done = bench(*arguments)
    assert done.returncode == code, done.stdout + done.stderr
    assert "Traceback" not in done.stderr
    return done.stderr


def test_bundle_is_measured_scored_and_written(tmp_path: Path, data: Path) -> None:
    made, out = bundle(tmp_path / "bundle"), tmp_path / "out"
    done = bench("colours", "--bundle", made, "--data", data, "--duration", "0.5s", "--sustained", "--out", out)
    found = read_json(out / "colours" / "benchmark.json", Benchmark, EdgepruneError)
    assert done.returncode == (1 if found.void else 0), done.stderr  # a busy machine's runs are void, and say so
    assert ("void: these figures don't count" in done.stdout) == bool(found.void)
    for why in found.void:
        assert why in done.stdout
    result = found.run.result
    assert (result.scenario, found.target) == ("single-stream", "colours")
    assert len(result.query_ms) >= 64
    assert result.early_stopping[0].estimate_ms is not None
    assert f"{result.latency_ms.p90:.2f}" in done.stdout
    assert "from s" in done.stdout  # sustained: latency over time
    assert f"{result.over_time[-1].p50_ms:.2f}" in done.stdout

    told = json.loads((out / "colours" / "benchmark-predictions.json").read_text())
    again = score("x", read_dataset(data), told)
    assert found.accuracy.map50_95 == again.map50_95 > 0.3  # it finds its rectangles
    assert found.notes == ()


def test_throttle_bit_that_appears_during_the_run_voids_it(tmp_path: Path, data: Path) -> None:
    """The device's sensors are a Raspberry Pi's as recorded; once the run has begun its firmware says 'throttled'."""
    made, out, root = bundle(tmp_path / "bundle"), tmp_path / "out", plant(tmp_path / "pi", RASPBERRY_PI_5)
    (bits,) = [name for name in RASPBERRY_PI_5 if name.endswith("get_throttled")]
    env = faults.environment(sensors=str(root), bits=json.dumps({bits: "40004\n"}))
    done = bench("colours", "--bundle", made, "--data", data, "--duration", "2.5s", "--out", out, env=env)
    assert done.returncode == 1, done.stderr
    assert "void: these figures don't count" in done.stdout
    assert "throttled: throttled (bit 2)" in done.stdout
    found = read_json(out / "colours" / "benchmark.json", Benchmark, EdgepruneError)
    assert "throttled: throttled (bit 2)" in found.void
    readings = [reading.throttled for reading in found.run.readings]
    assert readings[0] == 0
    assert readings[-1] == 0x40004
    assert readings.count(0x40004) >= 2  # seen while it ran, not only after it
    assert len(found.run.result.query_ms) >= 64  # the figures stay, beside the reason


def test_a_bundle_runs_with_the_settings_that_won(tmp_path: Path, data: Path) -> None:
    core = min(os.sched_getaffinity(0))
    won = Settings(threads=1, cores=(core,), spinning=False)
    made, out = bundle(tmp_path / "bundle", settings=won), tmp_path / "out.json"
    done = bench("colours", "--bundle", made, "--data", data, "--duration", "0.5s", "--sustained", "--out", out)
    found = read_json(out, Benchmark, EdgepruneError)
    assert found.request.settings == won
    assert found.run.threads == 1
    assert f"1 thread, on core {core}, not spinning" in done.stdout
    if found.run.cpu is not None:  # what it was held to is what counts as its own
        assert found.run.cpu.available_s == pytest.approx(found.run.result.duration_s, rel=0.05)


def test_a_bundle_from_before_settings_were_raced_runs_as_its_target_says(tmp_path: Path, data: Path) -> None:
    made, out = bundle(tmp_path / "bundle"), tmp_path / "out.json"
    manifest = json.loads((made / "manifest.json").read_text())
    del manifest["settings"], manifest["measured"]["settings"], manifest["parent"]["settings"]
    manifest["profile"] = {k: manifest["profile"][k] for k in ("description", "runtime", "input_shape")} | {
        "threads": 1
    }
    (made / "manifest.json").write_text(json.dumps(manifest))
    bench("colours", "--bundle", made, "--data", data, "--duration", "0.5s", "--sustained", "--out", out)
    assert read_json(out, Benchmark, EdgepruneError).request.settings == Settings(threads=1)


def test_changed_file_is_refused(tmp_path: Path, data: Path) -> None:
    made = bundle(tmp_path / "bundle")
    content = bytearray((made / "model.onnx").read_bytes())
    content[len(content) // 2] ^= 1
    (made / "model.onnx").write_bytes(content)
    said = refused("colours", "--bundle", made, "--data", data, "--quick", "--out", tmp_path / "out")
    assert "not the one that was measured" in said
    assert "model.onnx" in said
    assert not (tmp_path / "out").exists()


def test_missing_unnamed_linked_and_outside_files_are_refused(tmp_path: Path) -> None:
    made = bundle(tmp_path / "unnamed")
    (made / "extra.bin").write_bytes(b"x")
    with pytest.raises(BundleError, match=r"doesn't name(.|\n)*extra\.bin"):
        open_bundle(made)
    made = bundle(tmp_path / "missing")
    engine = made / "model.onnx"
    engine.rename(tmp_path / "elsewhere.onnx")
    with pytest.raises(BundleError, match="no such file"):
        open_bundle(made)
    engine.symlink_to(tmp_path / "elsewhere.onnx")
    with pytest.raises(BundleError, match="no such file"):
        open_bundle(made)
    made = bundle(tmp_path / "outside")
    manifest = made / "manifest.json"
    manifest.write_text(manifest.read_text().replace('"path": "model.onnx"', '"path": "sub/../../x/model.onnx"'))
    with pytest.raises(BundleError, match="outside the bundle"):
        open_bundle(made)
    with pytest.raises(BundleError, match="no bundle here"):
        open_bundle(tmp_path)


def test_bundle_of_another_architecture_is_refused(tmp_path: Path, data: Path) -> None:
    other = {"x86_64": "aarch64"}.get(platform.machine(), "x86_64")
    made = bundle(tmp_path / "bundle", architecture=other)
    said = refused("colours", "--bundle", made, "--data", data, "--quick", "--out", tmp_path, code=20)
    assert "another architecture" in said
    assert other in said
    refuse_architecture(open_bundle(made), made, other)


def test_bundle_for_another_version_of_the_runtime_is_refused_unless_asked_for(tmp_path: Path, data: Path) -> None:
    made, out = bundle(tmp_path / "bundle", runtime="onnxruntime 1.2.3"), tmp_path / "out"
    asked = ("colours", "--bundle", made, "--data", data, "--duration", "0.5s", "--sustained", "--out", out)
    said = refused(*asked, code=19)
    assert "expected: onnxruntime 1.2.3" in said
    assert not out.exists()
    done = bench(*asked, "--any-version")
    assert "measured on onnxruntime 1.2.3, this run is on" in done.stdout, done.stderr


def test_other_runtime_version_and_unknown_architecture_are_said(tmp_path: Path) -> None:
    found = open_bundle(bundle(tmp_path / "bundle", runtime="onnxruntime 1.2.3"))
    (note,) = differences(found, "onnxruntime 1.31.1")
    assert "measured on onnxruntime 1.2.3, this run is on onnxruntime 1.31.1" in note
    old = found.model_copy(update={"architecture": None})
    assert "doesn't say on which it was built" in differences(old, "onnxruntime 1.2.3")[0]
    refuse_architecture(old, tmp_path)


def test_other_target_or_classes_are_refused(tmp_path: Path, data: Path) -> None:
    made = bundle(tmp_path / "bundle")
    assert "for another target" in refused("openvino-x86", "--bundle", made, "--data", data, "--quick")
    other = tmp_path / "other.yaml"
    other.write_text(data.read_text().replace("flat", "round"))
    assert "classes are not the model's" in refused("colours", "--bundle", made, "--data", other, "--quick")


@pytest.mark.parametrize(
    ("options", "what"),
    [
        (("--bundle", "x", "--model", "m.pt"), "measured as it is"),
        (("--model", "m.pt", "--quick"), "These options are for a bundle"),
        ((), "--model"),
        (("--bundle", "x", "--scenario", "server"), "Unknown scenario"),
        (("--bundle", "x", "--quick", "--duration", "5s"), "Give one of them"),
        (("--bundle", "x", "--sustained", "--scenario", "offline"), "one image after another"),
        (("--bundle", "x", "--camera", "0", "--scenario", "offline"), "one frame after another"),
        (("--model", "m.pt", "--camera", "0"), "These options are for a bundle"),
        (("--bundle", "x", "--duration", "soon"), "duration can't be read"),
    ],
)
def test_options_that_dont_go_together(data: Path, options: tuple[str, ...], what: str) -> None:
    from typer.testing import CliRunner

    from edgeprune.cli import app

    done = CliRunner().invoke(app, ["bench", "colours", "--data", str(data), *options])
    assert done.exit_code == 2
    assert what in done.output


def test_bundle_without_images_or_camera_is_refused() -> None:
    assert "--data data.yaml, or --camera N" in refused("colours", "--bundle", "x")


def test_out_is_a_folder_or_a_json_file() -> None:
    from edgeprune.cli_bench import file_of

    assert file_of(Path("build"), "some") == Path("build/some/benchmark.json")
    assert file_of(Path("x/mine.json"), "some") == Path("x/mine.json")


def test_durations() -> None:
    from edgeprune.cli_bench import Asked, load_of, seconds_of

    assert [seconds_of(text) for text in ("600s", "90", "10m", "1.5 h", "2min")] == [600, 90, 600, 5400, 120]
    for text in ("0s", "-5s", "5 days", ""):
        with pytest.raises(RecipeError):
            seconds_of(text)
    assert load_of(Asked()).min_duration_s == 600
    assert load_of(Asked(quick=True)).quick
