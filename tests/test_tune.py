"""Settings in a build: raced for parent and build, the fastest kept, the others with figures, done once."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import onnx
import openvino
import pytest

import edgeprune
from edgeprune import stages
from edgeprune.errors import DeviceError, EdgepruneError
from edgeprune.job import Job, plan_job
from edgeprune.records import (
    BenchRun,
    Bundle,
    Choice,
    Form,
    Report,
    Settings,
    TargetProfile,
    Tune,
    VerifyRun,
    read_json,
)
from edgeprune.records.request import Engine
from edgeprune.runtime.openvino import lacks
from edgeprune.stages.common import asked, forms_of, run_as
from edgeprune.stages.tune import Fastest, choose
from edgeprune.workshop import Listener
from tests.bench.colours import detector
from tests.short import SHORT

RECIPE = SHORT
CORE = max(os.sched_getaffinity(0))
RACED = TargetProfile.model_validate(
    {
        "description": "settings to race", "runtime": "onnxruntime", "input_shape": (1, 3, 64, 64),
        "precisions": ("fp32", "fp16"), "threads": (1, 200), "affinity": ("free", [CORE]),
        "forms": "stock",
    }
)  # fmt: skip


class Ear(Listener):
    def __init__(self) -> None:
        self.ran: list[str] = []

    def event(self, stage: str, what: str) -> None:
        if what == "runs":
            self.ran.append(stage)


@pytest.fixture(scope="module")
def out(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("tune")


@pytest.fixture(scope="module")
def report(out: Path, tiny: Path, scenes: Path) -> Report:
    found = edgeprune.build(model=tiny, data=scenes, target=RACED, recipe=RECIPE, out=out)
    assert isinstance(found, Report)
    return found


FORMS, PIXELS = RACED.model_copy(update={"forms": "race"}), Form(input="pixels")


@pytest.fixture
def job(tmp_path: Path, tiny: Path, scenes: Path) -> Job:
    """A job whose build has an engine that detects, and one in another form that is no graph at all."""
    made = plan_job(tiny, scenes, FORMS, RECIPE, tmp_path)
    detector(made.shop / "engines/pruned/model.onnx")
    broken = made.shop / "engines/pruned@forms/pixels-graph/model.onnx"
    broken.parent.mkdir(parents=True)
    broken.write_bytes(b"not a graph")
    return made


def stock(job: Job) -> Engine:
    return Engine.of(job.profile, "pruned fp32", "fp32", job.shop / "engines/pruned/model.onnx")


def test_a_form_that_the_device_cant_run_is_left_out_with_what_it_said(job: Job) -> None:
    assert list(forms_of(job, "pruned", "fp32")) == [Form(), PIXELS]
    both = (Settings(threads=1), Settings(threads=1, arena=False))
    found = choose(job, stock(job), both, None)
    assert {c.choice for c in found.candidates} == {Choice(settings=s) for s in both}
    assert found.chosen["pruned fp32"] == found.candidates[0].choice
    assert len(found.left_out) == 2
    for sentence in found.left_out:
        assert sentence.startswith("pruned fp32, pixels in, 1 thread")
        assert "can't load the engine" in sentence
    assert any(s.startswith("settings left out: pruned fp32, pixels in") for s in found.sentences())
    one = choose(job, stock(job), both[:1], None)  # nothing is left to choose from
    assert (one.chosen, one.candidates, len(one.left_out)) == ({"pruned fp32": Choice(settings=both[0])}, (), 1)
    (job.shop / "engines/pruned/model.onnx").write_bytes(b"no graph either")
    with pytest.raises(DeviceError, match="can't load the engine"):
        choose(job, stock(job), both, None)


def test_stock_alone_races_no_other_form_and_a_race_of_one_asks_nothing(job: Job) -> None:
    alone = replace(job, profile=RACED)
    assert list(forms_of(alone, "pruned", "fp32")) == [Form()]
    (job.shop / "engines/pruned/model.onnx").write_bytes(b"nobody looks at it")
    assert choose(alone, stock(job), [Settings(threads=1)], None).candidates == ()


def test_an_engine_runs_in_the_form_that_won_from_that_forms_folder(job: Job) -> None:
    engine = run_as(job, stock(job), Choice(settings=Settings(threads=1, arena=False), form=PIXELS))
    assert engine.file == str(job.shop / "engines/pruned@forms/pixels-graph/model.onnx")
    assert (engine.name, engine.form, engine.settings.arena) == ("pruned fp32", PIXELS, False)


def test_a_hopeless_engine_is_raced_no_further_than_the_first_rung_and_stays(job: Job) -> None:
    alone = replace(job, profile=RACED)
    three = [Settings(threads=1), Settings(threads=1, arena=False), Settings(threads=1, optimization="basic")]
    told: list[float] = []
    found = choose(alone, stock(job), three, Fastest(1e-6, "pruned bf16"), told.append)
    assert {c.rung for c in found.candidates} == {1}
    assert set(found.chosen) == {"pruned fp32"}
    assert "times the time of pruned bf16 after the first rung; its race ended there" in found.notes[0]
    assert any(s.startswith("settings: pruned fp32 takes ") for s in found.sentences())
    assert told == sorted(told)
    assert told[-1] <= 1


def test_the_parent_is_raced_in_every_float_precision_of_the_target(job: Job) -> None:
    profile = TargetProfile.model_validate(
        {**RACED.model_dump(), "runtime": "openvino", "precisions": ("fp32", "bf16", "int8")}
    )
    pairs = asked(replace(job, profile=profile))
    assert [p for v, p in pairs if v == "parent"] == ["fp32", "bf16"]
    assert [p for v, p in pairs if v == "pruned"] == ["fp32", "bf16", "int8"]


def test_parent_and_build_each_run_with_the_fastest_of_their_own_race(out: Path, report: Report) -> None:
    folder = out / "custom"
    found = read_json(folder / "tune.json", Tune, EdgepruneError)
    assert set(found.chosen) == {"parent fp32", "pruned fp32"}
    for engine, choice in found.chosen.items():
        raced = [c for c in found.candidates if c.engine == engine]
        assert {c.settings for c in raced} == {Settings(threads=1), Settings(threads=1, cores=(CORE,))}
        assert [c.choice for c in raced if c.chosen] == [choice] == [raced[0].choice]
        assert all(c.ratio >= 1 or not c.chosen for c in raced)
        assert all(c.latency_ms.samples >= 8 * c.rounds for c in raced)
    assert any("200 threads" in sentence for sentence in found.left_out)
    run = read_json(folder / "bench.json", BenchRun, EdgepruneError)
    assert {m.engine: m.settings for m in run.measurements} == {e: c.settings for e, c in found.chosen.items()}
    rows = {f"{row.variant} {row.precision}": Choice(settings=row.settings, form=row.form) for row in report.rows}
    assert rows == found.chosen
    assert report.tuned == found.candidates
    assert sum(note.startswith("settings: ") for note in report.notes) == 2
    assert any(note.startswith("settings left out: 200 threads") for note in report.notes)


def test_a_second_run_races_nothing_and_other_settings_race_again_and_no_more(
    out: Path, report: Report, tiny: Path, scenes: Path
) -> None:
    ear = Ear()
    edgeprune.build(model=tiny, data=scenes, target=RACED, recipe=RECIPE, out=out, listener=ear)
    assert ear.ran == []
    other = RACED.model_copy(update={"affinity": ("free",), "threads": (1,)})
    edgeprune.build(model=tiny, data=scenes, target=other, recipe=RECIPE, out=out, listener=ear)
    assert set(ear.ran) <= {"tune parent", "tune", "bench", "report", "offer", "bundle", "page"}  # not accuracy
    assert ear.ran[:3] == ["tune parent", "tune", "bench"]
    one = read_json(out / "custom" / "tune.json", Tune, EdgepruneError)
    assert one.candidates == ()
    assert [choice.settings for choice in one.chosen.values()] == [Settings(threads=1)] * 2


def test_the_bundle_has_the_settings_that_won(out: Path, report: Report, tiny: Path, scenes: Path) -> None:
    job = plan_job(tiny, scenes, RACED, RECIPE, out)
    latest = read_json(out / "custom" / "report.json", Report, EdgepruneError)  # what the stage's key is made of
    accepted = latest.model_copy(update={"verdict": latest.verdict.model_copy(update={"accepted": True})})
    with job.shop.open():
        stages.bundle(job, accepted)
    manifest = read_json(out / "custom" / "bundle" / "manifest.json", Bundle, EdgepruneError)
    best = accepted.verdict.comparison.build
    assert manifest.settings == {f"{r.variant} {r.precision}": r.settings for r in latest.rows}[best]


def test_fp16_has_its_own_file_on_onnxruntime_and_is_left_out_where_the_cpu_cant(out: Path, report: Report) -> None:
    made = onnx.load(out / "custom" / "engines" / "pruned-fp16" / "model.onnx")
    weights = {w.data_type for w in made.graph.initializer if len(w.dims) == 4 and w.dims[0] > 1}
    assert weights == {onnx.TensorProto.FLOAT16}
    raced = {row.precision for row in report.rows}
    assert ("fp16" in raced) != any(sentence.startswith("fp16: ") for sentence in report.left_out)


@pytest.mark.skipif(lacks("fp16", "CPU") is not None, reason="this CPU has no FP16 for OpenVINO")
def test_a_target_in_fp16_alone_goes_the_whole_way(out: Path, report: Report, tiny: Path, scenes: Path) -> None:
    target = out / "half.yaml"
    target.write_text(
        "description: d\nruntime: openvino\ninput_shape: [1, 3, 64, 64]\nprecisions: [fp16]\nthreads: 1\ncache: true\n"
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(out / "cache"))
        found = edgeprune.build(model=tiny, data=scenes, target=str(target), recipe=RECIPE, out=out)
    assert isinstance(found, Report)
    assert [row.precision for row in found.rows] == ["fp16", "fp16"]
    verified = read_json(out / "half" / "verify.json", VerifyRun, EdgepruneError)
    assert all(parity.holds for parity in verified.parity)
    assert max(tensor.max_abs / tensor.scale for p in verified.parity for tensor in p.tensors) > 1e-5  # not FP32
    run = read_json(out / "half" / "bench.json", BenchRun, EdgepruneError)
    assert {m.cache for m in run.measurements} == {"warm"}  # verify has compiled them


@pytest.mark.parametrize(
    ("keys", "says"),
    [
        ({"runtime": "openvino", "plugin": "GPU", "precisions": ("fp16",)}, "finds no GPU(.|\n)*intel-opencl-icd"),
        ({"runtime": "openvino", "plugin": "NPU", "precisions": ("fp16",)}, "finds no NPU(.|\n)*intel-level-zero-npu"),
        ({"affinity": ([1023],)}, "no core 1023"),
    ],
)
def test_what_the_device_hasnt_got_is_refused_before_anything_is_trained(
    tmp_path: Path, tiny: Path, scenes: Path, keys: dict[str, object], says: str
) -> None:
    if keys.get("plugin") in {name.split(".")[0] for name in openvino.Core().available_devices}:
        pytest.skip("it is there")
    base = {"description": "d", "runtime": "onnxruntime", "input_shape": (1, 3, 64, 64)}
    with pytest.raises(DeviceError, match=says):
        edgeprune.build(
            model=tiny, data=scenes, target=TargetProfile.model_validate(base | keys), recipe=RECIPE, out=tmp_path
        )
    assert not list(tmp_path.rglob("*.pt"))
