"""Input sizes that are raced: a build for each, the parent at its own size and at each, and the choice among them."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import onnx
import pytest

import edgeprune
from edgeprune.bench import measure
from edgeprune.errors import EdgepruneError, RecipeError
from edgeprune.job import plan_job
from edgeprune.records import BenchRun, Bundle, Goal, Latency, Report, Row, Sweep, read_json
from edgeprune.records.files import sha256_file
from edgeprune.records.measurement import Comparison
from edgeprune.records.sweep import Point, Raced
from edgeprune.sizes import choose
from tests.short import SHORT
from tests.test_cli import refused
from tests.test_pipeline import edgeprune_command
from tests.test_sweep import Ear

pytestmark = pytest.mark.usefixtures("few_rounds")

RECIPE = SHORT.model_copy(update={"imgsz": (64, 96)})
TARGET = "description: small\nruntime: onnxruntime\ninput_shape: [1, 3, 96, 96]\nthreads: 1\n"


@pytest.fixture(scope="module")
def target(tmp_path_factory: pytest.TempPathFactory) -> str:
    file = tmp_path_factory.mktemp("targets") / "small.yaml"
    file.write_text(TARGET)
    return str(file)


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory, tiny: Path, scenes: Path, target: str) -> tuple[Path, Report, Ear]:
    out, ear = tmp_path_factory.mktemp("sizes"), Ear()
    report = edgeprune.build(model=tiny, data=scenes, target=target, recipe=RECIPE, out=out, listener=ear)
    assert isinstance(report, Report)
    return out, report, ear


def edge(file: Path) -> int:
    return int(onnx.load(file).graph.input[0].type.tensor_type.shape.dim[2].dim_value)


def test_every_size_is_a_build_and_the_parent_keeps_its_own(built: tuple[Path, Report, Ear]) -> None:
    out, _, _ = built
    for size in (64, 96):
        folder = out / f"small-{size}px"
        assert (edge(folder / "parent.onnx"), edge(folder / "pruned.onnx")) == (96, size)
        report = read_json(folder / "report.json", Report, EdgepruneError)
        assert [(r.variant, r.image_size) for r in report.rows] == [("parent", 96), ("pruned", size)]
    small, own = (read_json(out / f"small-{s}px" / "report.json", Report, EdgepruneError) for s in (64, 96))
    assert small.rows[0].macs == own.rows[0].macs  # the parent's, at its own size, in both
    assert small.rows[1].macs < 0.5 * own.rows[1].macs
    assert any("the build sees 64 px" in note for note in small.notes)
    assert not any("the build sees" in note for note in own.notes)


def test_what_sizes_share_is_done_once(built: tuple[Path, Report, Ear]) -> None:
    _, _, ear = built
    for stage in ("admit", "export parent to onnx", "export parent to onnxruntime", "parent at 64px", "sizes race"):
        assert ear.ran[stage] == 1, stage
    assert "parent at 96px" not in ear.ran  # that is the parent itself
    for stage in ("prune 1", "finetune 1", "verify", "bench", "report"):
        assert ear.ran[stage] == 2, stage  # none for the chosen build: it is taken over


def test_the_chosen_build_is_the_targets(built: tuple[Path, Report, Ear]) -> None:
    out, report, _ = built
    found = read_json(out / "small" / "sizes.json", Sweep, EdgepruneError)
    assert found.kind == "imgsz"
    (winner,) = (p for p in found.points if p.chosen)
    for name in ("finetuned.pt", "pruned.onnx", "engines/pruned", "bench.json"):
        assert sha256_file(out / "small" / name) == sha256_file(out / winner.folder / name), name
    assert report.rows[1].image_size == winner.value
    assert (out / "small" / "bundle").is_dir() == report.verdict.accepted == winner.accepted
    if report.verdict.accepted:
        manifest = read_json(out / "small" / "bundle" / "manifest.json", Bundle, EdgepruneError)
        assert manifest.profile.input_shape == (1, 3, winner.value, winner.value)
        pixels = (1, winner.value, winner.value, 3)
        assert manifest.input.shape == (pixels if manifest.form.input == "pixels" else manifest.profile.input_shape)
    page = (out / "small" / "report.html").read_text()
    assert "Builds by input size" in page
    assert (out / "small" / "sizes.html").is_file()


def test_one_race_has_the_parent_at_each_size(built: tuple[Path, Report, Ear]) -> None:
    out, _, _ = built
    found = read_json(out / "small" / "sizes.json", Sweep, EdgepruneError)
    run = read_json(out / "small" / "sizes-bench.json", BenchRun, EdgepruneError)
    names = ["parent fp32", "96px pruned fp32", "64px pruned fp32", "64px parent fp32"]
    assert sorted(m.engine for m in run.measurements) == sorted(names)
    assert [(p.engine, p.row.image_size) for p in found.parents] == [("parent fp32", 96), ("64px parent fp32", 64)]
    assert found.parent == "parent fp32"
    whole, small = (p.row for p in found.parents)
    assert small.macs / whole.macs == pytest.approx((64 / 96) ** 2, rel=0.01)
    assert edge(out / "small/parents/64px/engine/model.onnx") == 64
    assert {r.against and r.against.parent for r in found.raced} == {None, "parent fp32"}


def test_a_second_run_does_nothing(built: tuple[Path, Report, Ear], tiny: Path, scenes: Path, target: str) -> None:
    out, report, _ = built
    ear = Ear()
    again = edgeprune.build(model=tiny, data=scenes, target=target, recipe=RECIPE, out=out, listener=ear)
    assert ear.ran == {}
    assert again == report


def test_one_size_alone_is_a_plain_build(tmp_path: Path, tiny: Path, scenes: Path, target: str) -> None:
    recipe = RECIPE.model_copy(update={"imgsz": (64,)})
    edgeprune.build(model=tiny, data=scenes, target=target, recipe=recipe, out=tmp_path, until="export")
    assert [p.name for p in tmp_path.iterdir() if p.is_dir()] == ["small"]
    assert (edge(tmp_path / "small/parent.onnx"), edge(tmp_path / "small/pruned.onnx")) == (96, 64)


@pytest.mark.parametrize("text", ["imgsz: 100", "imgsz: [64, 65]", "imgsz: [64, 64]", "imgsz: 0", "imgsz: big"])
def test_sizes_that_no_detector_takes_are_refused(
    tmp_path: Path, tiny: Path, scenes: Path, target: str, text: str
) -> None:
    (tmp_path / "recipe.yaml").write_text(f"{text}\n")
    said = refused(
        "build", target, "--model", tiny, "--data", scenes, "--out", tmp_path / "out", "--recipe",
        tmp_path / "recipe.yaml",
    )  # fmt: skip
    assert "imgsz" in said
    assert "recipe.yaml:1" in said


def test_several_sizes_are_not_one_job(tmp_path: Path, tiny: Path, scenes: Path, target: str) -> None:
    with pytest.raises(RecipeError, match="one input size"):
        plan_job(tiny, scenes, target, RECIPE, tmp_path)


def test_a_calibration_set_of_the_targets_own_size_serves_the_sizes_of_the_recipe(
    tmp_path: Path, tiny: Path, scenes: Path
) -> None:
    (tmp_path / "t.yaml").write_text(TARGET + "precisions: [fp32, int8]\n")

    def select(size: int) -> str:
        done = edgeprune_command(
            "calibrate", "select", "--data", str(scenes), "--size", "8", "--name", f"of{size}", "--input-size",
            str(size), "--licence", "synthetic", "--out", str(tmp_path),
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        return str(tmp_path / f"of{size}.yaml")

    def job(calibration: str, imgsz: tuple[int, ...]) -> tuple[int, ...]:
        recipe = RECIPE.model_copy(update={"imgsz": imgsz})
        return plan_job(
            tiny, scenes, str(tmp_path / "t.yaml"), recipe, tmp_path, calibration=calibration
        ).profile.input_shape  # fmt: skip

    own, small = select(96), select(64)
    assert job(own, (64,)) == (1, 3, 64, 64) == job(small, (64,))
    with pytest.raises(RecipeError, match="another input"):
        job(small, ())
    with pytest.raises(RecipeError, match="another input"):
        job(small, (128,))


def test_a_quantized_build_of_another_size_is_scored_against_the_parent_at_its_own(
    tmp_path: Path, tiny: Path, scenes: Path
) -> None:
    (tmp_path / "t.yaml").write_text(TARGET + "precisions: [fp32, int8]\nquantization: {activations: asymmetric}\n")
    done = edgeprune_command(
        "calibrate", "select", "--data", str(scenes), "--size", "8", "--name", "few", "--input-size", "96",
        "--licence", "synthetic", "--out", str(tmp_path),
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    recipe = RECIPE.model_copy(update={"imgsz": (64,), "schedule": "ptq"})
    report = edgeprune.build(
        model=tiny, data=scenes, target=str(tmp_path / "t.yaml"), recipe=recipe, out=tmp_path,
        calibration=str(tmp_path / "few.yaml"),
    )  # fmt: skip
    assert isinstance(report, Report)
    assert [(r.variant, r.precision, r.image_size) for r in report.rows] == [
        ("parent", "fp32", 96), ("pruned", "fp32", 64), ("pruned", "int8", 64),
    ]  # fmt: skip
    assert any("chosen for 96 px, are letterboxed to 64" in note for note in report.notes)


# the choice

SPREAD = 0.05


def raced(engine: str, ms: float, map50_95: float, against: Comparison | None) -> Raced:
    latency = Latency(p50=ms, p90=ms, p99=ms, mad=0, samples=100)
    row = Row(
        variant="parent" if "parent" in engine else "pruned", runtime="r", precision="fp32", map50_95=map50_95,
        map50=map50_95, latency_ms=latency, macs=1, parameters=1, bytes=1,
    )  # fmt: skip
    interval = (ms * (1 - SPREAD), ms * (1 + SPREAD))
    return Raced(engine=engine, row=row, artifact_sha256="a" * 64, p50_interval_ms=interval, against=against)


PARENT = raced("parent fp32", 10.0, 0.60, None)


def point(size: int, ms: float, map50_95: float, accepted: bool) -> Point:
    against = Comparison(
        build=f"{size}px pruned fp32", parent="parent fp32", ratio=ms / 10, low=ms / 10 * (1 - SPREAD),
        high=ms / 10 * (1 + SPREAD), confidence=0.99, pairs=40,
    )  # fmt: skip
    made = raced(f"{size}px pruned fp32", ms, map50_95, against)
    return Point(name=f"{size}px", value=size, folder=f"t-{size}px", raced=made, accepted=accepted, why="so")


@pytest.mark.parametrize(
    ("goal", "expected"),
    [
        ({"macs_ratio": 0.5}, 416),  # the fastest that holds
        ({"latency_ms": 7.0}, 512),  # all that hold are in time: the best of them
        ({"latency_ms": 5.0}, 416),
        ({"latency_ms": 1.0}, 416),  # none is: the fastest that holds
        ({"speedup": 1.5}, 512),
        ({"speedup": 2.0}, 416),
        ({"fps": 150}, 512),
    ],
)
def test_the_choice_by_goal(goal: dict[str, float], expected: int) -> None:
    listed = [point(512, 6.5, 0.61, True), point(416, 5.0, 0.595, True), point(320, 3.0, 0.5, False)]
    asked: Any = SimpleNamespace(max_map_drop=0.01, **goal)  # whichever kinds goals have
    assert [p.value for p in choose(listed, [PARENT], asked) if p.chosen] == [expected]


def test_where_none_holds_the_one_that_lost_least_is_kept() -> None:
    goal = Goal(max_map_drop=0.01)
    listed = [point(416, 5.0, 0.58, False), point(320, 3.0, 0.5, False)]
    assert [p.value for p in choose(listed, [PARENT], goal) if p.chosen] == [416]
    as_good = [point(416, 11.0, 0.6, False), point(320, 3.0, 0.5, False)]
    assert [p.value for p in choose(as_good, [PARENT], goal) if p.chosen] == [416]
    without = Point(name="352px", value=352, folder="t", why="no")
    assert [p.value for p in choose([without, *listed], [PARENT], goal) if p.chosen] == [416]


def test_engines_of_several_input_sizes_take_turns_on_images_of_their_own(tmp_path: Path) -> None:
    from edgeprune.records.request import Engine
    from tests.bench.test_measure import net

    small, large = (str(net(tmp_path / f"{n}.onnx", 2)) for n in ("a", "b"))
    engines = [
        Engine(name=name, runtime="onnxruntime", precision="fp32", file=file)
        for name, file in (("small", small), ("large", large))
    ]
    images = [np.zeros((2, 3, edge, edge), np.float32) for edge in (32, 32)]
    run = measure.measure(engines, images, rounds=2)
    assert [m.engine for m in run.measurements] == ["small", "large"]
    wrong = [images[0], np.zeros((1, 3, 64, 64), np.float32)]
    with pytest.raises(EdgepruneError):
        measure.measure(engines, wrong, rounds=2)  # the second engine got the second images
