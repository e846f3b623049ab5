"""A build beside everybody else's exports: really exported, raced and scored on both runtimes, with a tiny detector."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import openvino
import pytest

import edgeprune
from edgeprune import comparison
from edgeprune.bench import measure
from edgeprune.bench.measure import compare as compare_of
from edgeprune.comparison import compare
from edgeprune.errors import BundleError, DeviceError, EdgepruneError, ProfileError, RecipeError
from edgeprune.machine import installed
from edgeprune.records import BenchRun, Choice, Compared, Tune, files, read_json
from edgeprune.records.rivals import Ways
from edgeprune.runtime.session import open_session
from edgeprune.workshop import Listener
from tests.conftest import ROOT
from tests.short import SHORT

RECIPE = SHORT
RUNTIMES = ("onnxruntime", "openvino")
#: NNCF's other preset is in tests/rivals; training takes minutes where it can be had.
WITHOUT = ("nncf-mixed", *(("qat",) if installed("nvidia-modelopt") else ()))


class Ear(Listener):
    """Notes what runs; a stage of this name is interrupted."""

    def __init__(self, at: str = "") -> None:
        self.ran: list[str] = []
        self._at = at

    def event(self, stage: str, what: str) -> None:
        if what == "runs":
            self.ran.append(stage)
            if stage == self._at:
                raise KeyboardInterrupt


@pytest.fixture(scope="module")
def out(tmp_path_factory: pytest.TempPathFactory, tiny: Path, scenes: Path) -> Path:
    """Builds for both runtimes, and the targets."""
    folder = tmp_path_factory.mktemp("compare")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(measure, "ROUNDS", 4)  # what the build's own race finds doesn't matter here
        for runtime in RUNTIMES:
            target = folder / f"{runtime}.yaml"
            forms = "race" if runtime == "onnxruntime" else "stock"  # one runtime races forms, which takes minutes
            target.write_text(
                f"description: d\nruntime: {runtime}\ninput_shape: [1, 3, 64, 64]\nthreads: 1\nforms: {forms}\n"
            )
            edgeprune.build(model=tiny, data=scenes, target=str(target), recipe=RECIPE, out=folder)
    return folder


Again = Callable[..., Compared]


@pytest.fixture(scope="module")
def again(out: Path, tiny: Path, scenes: Path) -> Again:
    """The comparison for a runtime, as it was asked for first."""

    def run(runtime: str, **others: object) -> Compared:
        asked = {"model": tiny, "data": scenes, "target": str(out / f"{runtime}.yaml"), "out": out, "rounds": 2}
        return compare(**asked | {"without": WITHOUT} | others)  # type: ignore[arg-type]

    return run


@pytest.fixture(scope="module", params=RUNTIMES)
def runtime(request: pytest.FixtureRequest, again: Again) -> str:
    again(request.param)
    return str(request.param)


@pytest.fixture
def folder(out: Path, runtime: str) -> Path:
    """Of a finished comparison."""
    return out / "compare" / runtime


@pytest.fixture
def found(folder: Path) -> Compared:
    return read_json(folder / "compare.json", Compared, EdgepruneError)


def test_every_export_that_can_be_had_is_raced_beside_build_and_parent(
    runtime: str, folder: Path, found: Compared
) -> None:
    rivals = {row.name.removesuffix(" at its best") for row in found.rivals}
    expected = {"ultralytics fp32", "ultralytics int8"}
    if runtime == "openvino":
        expected |= {"ultralytics fp16", "nncf int8"}
    assert rivals == expected
    assert [row.name for row in found.rows if row.side != "rival"] == ["parent fp32", "pruned fp32"]
    left = {entry.name: entry.why for entry in found.left_out}
    why = "--without qat" if installed("nvidia-modelopt") else "nvidia-modelopt>=0.44"
    assert why in left.pop("ultralytics qat int8")
    assert set(left) == {"ultralytics fp16" if runtime == "onnxruntime" else "nncf mixed int8"}
    assert any("training images" in note for note in found.notes)
    assert any("to quote" in note for note in found.notes)


def test_a_ratio_is_ours_over_a_row_of_the_same_race(folder: Path, found: Compared) -> None:
    run = read_json(folder / "race.json", BenchRun, EdgepruneError)
    measured = {m.engine: m for m in run.measurements}
    assert list(measured) == [row.name for row in found.rows]
    assert sorted(run.order) == sorted([*range(len(found.rows))] * 2)
    for row in found.rows:
        if row.name == found.build:
            assert row.against is None
        else:
            assert row.against == compare_of(measured["pruned fp32"], measured[row.name])


def test_ours_runs_in_the_form_and_with_the_settings_that_the_build_chose(
    out: Path, runtime: str, found: Compared
) -> None:
    chosen = read_json(out / runtime / "tune.json", Tune, EdgepruneError).chosen
    ours = [row for row in found.rows if row.side != "rival"]
    assert {row.name: Choice(settings=row.settings, form=row.form) for row in ours} == chosen


def test_what_is_loaded_is_what_the_table_says(runtime: str, folder: Path, found: Compared) -> None:
    for row in found.rivals:
        made = folder / "engines" / row.name.removesuffix(" at its best").replace(" ", "-")
        (artifact,) = made.iterdir()
        assert files.sha256_file(artifact) == row.artifact_sha256
        quantized = "int8" in row.name
        if runtime == "onnxruntime":
            assert artifact.stat().st_size == row.bytes
            kinds = {node.op_type for node in onnx.load(artifact).graph.node}
            assert ("QuantizeLinear" in kinds) == quantized
        else:
            operations = openvino.Core().read_model(artifact / "model.xml").get_ops()
            assert ({"FakeQuantize"} <= {op.get_type_name() for op in operations}) == quantized
    whole = {row.name: row.bytes for row in found.rivals}
    assert whole["ultralytics int8"] < whole["ultralytics fp32"] / 2.5


def test_their_fp32_export_computes_what_ours_of_the_parent_computes(out: Path, runtime: str, folder: Path) -> None:
    """The same net: what differs between rows is the export, nothing else."""
    image = np.random.default_rng(0).random((1, 3, 64, 64), dtype=np.float32)
    file = "model.onnx" if runtime == "onnxruntime" else "model_openvino_model/model.xml"
    places = (out / runtime / "engines" / "parent" / file, folder / "engines" / "ultralytics-fp32" / file)
    ours, theirs = (open_session(runtime, place, "fp32").run(image)[0] for place in places)
    assert ours.shape == theirs.shape
    np.testing.assert_allclose(theirs, ours, rtol=1e-3, atol=1e-3)


def test_a_rival_is_raced_as_it_comes_and_at_its_best_where_that_is_faster(
    runtime: str, folder: Path, found: Compared
) -> None:
    rows = {row.name: row for row in found.rivals}
    for slug in {row.name.removesuffix(" at its best") for row in found.rivals}:
        ways = read_json(folder / "ways" / f"{slug.replace(' ', '-')}.json", Ways, EdgepruneError)
        assert ways.ways[0].settings.threads == 0
        assert (f"{slug} at its best" in rows) == (len(ways.ways) == 2)
        assert found.settings_raced[slug] == ways.raced
        assert len(ways.raced) >= 2  # one thread was raced as well, as it was for ours


def test_a_second_comparison_does_nothing_and_an_interrupted_one_goes_on(
    again: Again, runtime: str, folder: Path, found: Compared
) -> None:
    ear = Ear()
    assert again(runtime, listener=ear) == found
    assert ear.ran == []
    (folder / "scores" / "ultralytics-int8.json").unlink()
    with pytest.raises(KeyboardInterrupt):
        again(runtime, listener=Ear("score ultralytics-int8"))
    assert again(runtime, listener=ear) == found
    assert ear.ran == ["score ultralytics-int8"]


def test_a_rival_that_is_left_out_is_said_to_be_and_the_others_stay_as_they_were(again: Again, out: Path) -> None:
    again("onnxruntime")
    ear = Ear()
    found = again("onnxruntime", without=("int8", "qat"), listener=ear)
    assert {entry.name: entry.why for entry in found.left_out}["ultralytics int8"] == "--without int8"
    assert all("int8" not in row.name for row in found.rows)
    assert ear.ran == ["race", "compare", "page"]


def test_the_command_prints_the_table_and_says_where_the_page_is(
    again: Again, out: Path, tiny: Path, scenes: Path
) -> None:
    found = again("openvino")
    command = [
        sys.executable, "-m", "edgeprune", "compare", str(out / "openvino.yaml"), "--model", str(tiny), "--data",
        str(scenes), "--build", str(out / "openvino"), "--rounds", "2",
        *(word for key in WITHOUT for word in ("--without", key)),
    ]  # fmt: skip
    done = subprocess.run(
        command, capture_output=True, text=True, cwd=ROOT, env=os.environ | {"COLUMNS": "200"}, timeout=240
    )
    assert done.returncode == 0, done.stderr
    assert "nothing to do" in done.stdout
    lines = done.stdout.splitlines()
    for row in found.rows:
        line = next(text for text in lines if text.startswith(f"{row.name}  "))
        assert f" {row.latency_ms.p50:.2f} " in line
        assert f" {row.map50_95:.4f} " in line
        if row.against:
            assert f" {1 / row.against.ratio:.2f} x" in line
    page = (out / "compare" / "openvino" / "compare.html").read_text()
    assert str(out / "compare" / "openvino" / "compare.html") in done.stdout
    assert all(row.name in page for row in found.rows)


def test_without_a_build_it_says_which_command_makes_one(tmp_path: Path, tiny: Path, scenes: Path) -> None:
    with pytest.raises(BundleError, match=r"no finished build(.|\n)*edgeprune build openvino-x86 --model"):
        compare(model=tiny, data=scenes, target="openvino-x86", out=tmp_path)
    assert not list(tmp_path.iterdir())


def test_a_build_of_something_else_is_refused(out: Path, tiny: Path, scenes: Path, tmp_path: Path) -> None:
    given = {"data": scenes, "target": str(out / "onnxruntime.yaml"), "out": out}
    other = tmp_path / "other.pt"
    other.write_bytes(tiny.read_bytes() + b"\0")
    with pytest.raises(BundleError, match=r"of another model(.|\n)*--model"):
        compare(model=other, **given)  # type: ignore[arg-type]
    with pytest.raises(BundleError, match=r"of another recipe(.|\n)*--recipe"):
        compare(model=tiny, recipe=RECIPE.model_copy(update={"epochs": 2}), **given)  # type: ignore[arg-type]
    (tmp_path / "onnxruntime.yaml").write_text((out / "onnxruntime.yaml").read_text().replace("threads: 1", ""))
    with pytest.raises(BundleError, match=r"of another target(.|\n)*TARGET and --device"):
        compare(model=tiny, **given | {"target": str(tmp_path / "onnxruntime.yaml")})  # type: ignore[arg-type]


def test_an_unfinished_build_is_refused(tmp_path: Path, tiny: Path, scenes: Path) -> None:
    (tmp_path / "onnxruntime-x86").mkdir()
    (tmp_path / "onnxruntime-x86" / "tune.json").write_text("{}")
    with pytest.raises(BundleError, match=r"isn't whole(.|\n)*no report\.json, no verify\.json"):
        compare(model=tiny, data=scenes, target="onnxruntime-x86", out=tmp_path)


def test_a_board_is_refused_before_anything_else(tmp_path: Path) -> None:
    with pytest.raises(ProfileError, match="isn't offered yet"):
        compare(model="m.pt", data="d.yaml", target="jetson-orin-nano", out=tmp_path)


def test_nncf_is_asked_for_where_it_is_needed(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, tiny: Path, scenes: Path
) -> None:
    monkeypatch.setattr(comparison, "installed", lambda *names: {})
    given = {"model": tiny, "data": scenes, "out": tmp_path}
    with pytest.raises(DeviceError, match=r"pip install 'edgeprune\[compare\]'"):
        compare(target="openvino-x86", **given)  # type: ignore[arg-type]
    for target, without in (("onnxruntime-x86", ()), ("openvino-x86", ("int8", "nncf", "nncf-mixed"))):
        with pytest.raises(BundleError, match="no finished build"):
            compare(target=target, without=without, **given)  # type: ignore[arg-type]


def test_a_rival_that_there_is_none_of_is_refused(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match=r"no such rival(.|\n)*fp32, fp16, int8, qat, nncf, nncf-mixed(.|\n)*trt"):
        compare(model="m.pt", data="d.yaml", target="openvino-x86", out=tmp_path, without=("trt",))
