"""A sweep on a small detector: what the goals share is done once, one race for all, an unreachable goal ends nobody."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import pytest
import yaml

from edgeprune import curve, sweep
from edgeprune.errors import DeviceError, EdgepruneError, RecipeError
from edgeprune.records import BenchRun, Report, Sweep, read_json
from edgeprune.report.pareto import curves_of
from edgeprune.sweep import between
from edgeprune.workshop import Listener
from tests.short import SHORT
from tests.test_cli import edgeprune as edgeprune_command
from tests.test_cli import refused

pytestmark = pytest.mark.usefixtures("few_rounds")

RECIPE = SHORT
#: Out of reach: no channel group gives more than max_group_ratio.
GOALS = (0.4, 0.06, 0.7)


class Ear(Listener):
    """Counts (stage, what)."""

    def __init__(self) -> None:
        self.heard: Counter[tuple[str, str]] = Counter()

    def event(self, stage: str, what: str) -> None:
        self.heard[stage, what] += 1

    @property
    def ran(self) -> dict[str, int]:
        return {stage: count for (stage, what), count in self.heard.items() if what == "runs"}


@pytest.fixture(scope="module")
def target(tmp_path_factory: pytest.TempPathFactory) -> str:
    file = tmp_path_factory.mktemp("targets") / "small.yaml"
    file.write_text("description: small\nruntime: onnxruntime\ninput_shape: [1, 3, 64, 64]\nthreads: 1\n")
    return str(file)


@pytest.fixture(scope="module")
def swept(tmp_path_factory: pytest.TempPathFactory, tiny: Path, scenes: Path, target: str) -> tuple[Path, Sweep, Ear]:
    out, ear = tmp_path_factory.mktemp("sweep"), Ear()
    found = sweep.sweep(
        model=tiny, data=scenes, target=target, goals=GOALS, kind="macs_ratio", recipe=RECIPE, out=out, listener=ear
    )
    return out, found, ear


def test_what_goals_share_is_done_once(swept: tuple[Path, Sweep, Ear]) -> None:
    _, _, ear = swept
    goals, built = len(GOALS), len(GOALS) - 1
    for stage in ("admit", "export parent to onnx", "export parent to onnxruntime", "tune parent", "verify parent"):
        assert ear.ran[stage] == 1, stage
    assert ear.heard["admit", "taken over"] == goals - 1
    assert ear.heard["export parent to onnx", "taken over"] == built - 1
    assert ear.ran["prune 1"] == goals
    for stage in ("finetune 1", "export pruned to onnx", "verify", "bench", "report"):
        assert ear.ran[stage] == built, stage
    assert ear.ran["sweep race"] == ear.ran["sweep"] == 1


def test_points_go_from_mild_to_hard_and_each_is_a_build(swept: tuple[Path, Sweep, Ear]) -> None:
    out, found, _ = swept
    assert [p.name for p in found.points] == ["0.7macs", "0.4macs", "0.06macs"]
    for point in found.points[:2]:
        report = read_json(out / point.folder / "report.json", Report, EdgepruneError)
        assert report.verdict.accepted == point.accepted
        assert (out / point.folder / "bundle").is_dir() == point.accepted
        assert point.raced is not None
        row = next(r for r in report.rows if r.variant == "pruned")
        assert point.raced.row.map50_95 == row.map50_95
        assert point.raced.row.macs == row.macs <= point.value * report.rows[0].macs
    assert read_json(out / "small" / "sweep.json", Sweep, EdgepruneError) == found


def test_a_goal_out_of_reach_is_a_row_with_its_reason(swept: tuple[Path, Sweep, Ear]) -> None:
    out, found, _ = swept
    point = found.points[2]
    assert point.raced is None
    assert not point.accepted
    assert "macs_ratio" in point.why or "MACs" in point.why
    text = (out / "small" / "sweep.html").read_text()
    assert "no build" in text
    assert "0.06macs" in text


def test_one_race_has_the_parent_and_every_build(swept: tuple[Path, Sweep, Ear]) -> None:
    out, found, _ = swept
    run = read_json(out / "small" / "sweep-bench.json", BenchRun, EdgepruneError)
    names = ["parent fp32", "0.7macs pruned fp32", "0.4macs pruned fp32"]
    assert [m.engine for m in run.measurements] == names == [r.engine for r in found.raced]
    assert sorted(run.order) == sorted([0, 1, 2] * 4)
    assert all(sorted(run.order[n : n + 3]) == [0, 1, 2] for n in range(0, 12, 3))
    assert found.parent == "parent fp32"
    for raced, measured in zip(found.raced, run.measurements, strict=True):
        assert raced.row.latency_ms == measured.latency_ms
        assert raced.artifact_sha256 == measured.artifact_sha256
    assert {r.against and r.against.parent for r in found.raced} == {None, "parent fp32"}
    own = read_json(out / found.points[0].folder / "bench.json", BenchRun, EdgepruneError)
    assert own.measurements[1].artifact_sha256 == found.raced[1].artifact_sha256
    assert own.measurements[1].latency_ms != found.raced[1].row.latency_ms


def test_a_second_sweep_runs_nothing_and_another_goal_runs_alone(
    swept: tuple[Path, Sweep, Ear], tiny: Path, scenes: Path, target: str
) -> None:
    out, found, _ = swept
    arguments = {"model": tiny, "data": scenes, "target": target, "kind": "macs_ratio", "recipe": RECIPE, "out": out}
    again = Ear()
    assert sweep.sweep(**arguments, goals=GOALS, listener=again) == found
    assert set(again.ran) == {"prune 1"}  # of the goal that can't be had: it is asked again, and says the same
    (out / "small-0.4macs" / "finetuned.pt").unlink()
    (out / "small-0.4macs" / "verify.json").unlink()
    broken = Ear()
    after = sweep.sweep(**arguments, goals=GOALS, listener=broken)
    assert {"finetune 1", "verify"} <= set(broken.ran)
    assert not {"admit", "export parent to onnx", "sweep race"} & set(broken.ran)  # the same engine comes of it
    assert after.raced == found.raced


def test_the_command_says_what_became_of_it_and_where_it_is(
    swept: tuple[Path, Sweep, Ear], tmp_path: Path, tiny: Path, scenes: Path, target: str
) -> None:
    out, found, _ = swept
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(RECIPE.model_dump(mode="json")))
    done = edgeprune_command(
        "sweep", target, "--model", tiny, "--data", scenes, "--out", out, "--kind", "macs_ratio", "--recipe",
        tmp_path / "recipe.yaml", "--goals", ",".join(map(str, GOALS)),
    )  # fmt: skip
    assert done.returncode == (0 if any(p.accepted for p in found.points) else 1), done.stdout + done.stderr
    assert "finetune" not in done.stdout  # all of it was done before
    for said in ("small: multiply-accumulates that may stay", "0.4macs pruned fp32", "no build", "sweep.html"):
        assert said in done.stdout, said


def test_a_broken_device_ends_the_sweep(
    tmp_path: Path, tiny: Path, scenes: Path, target: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It would fail for every goal: no row, but an error. What was done before stays."""
    asked: list[str] = []

    def build(**given: object) -> None:
        asked.append(str(given["folder"]))
        raise DeviceError("The device went away.")

    monkeypatch.setattr(curve, "build", build)
    with pytest.raises(DeviceError, match="went away"):
        sweep.sweep(
            model=tiny, data=scenes, target=target, goals=(0.7, 0.4), kind="macs_ratio", recipe=RECIPE, out=tmp_path
        )
    assert asked == ["small-0.7macs"]
    assert not (tmp_path / "small" / "sweep.json").exists()


def test_another_models_curve_is_not_shown(swept: tuple[Path, Sweep, Ear]) -> None:
    out, found, _ = swept
    assert [sweep.points for sweep in curves_of(out / "small", found.inputs)] == [found.points]
    assert curves_of(out / "small", found.inputs | {"model": "0" * 64}) == []


def made(value: float, accepted: bool) -> curve.Made:
    found = curve.Made(f"{value}", value, "", {}, None, "")
    return _Accepted(**vars(found)) if accepted else found


class _Accepted(curve.Made):
    accepted = True  # type: ignore[assignment]


@pytest.mark.parametrize(
    ("kind", "outcomes", "expected"),
    [
        ("macs_ratio", {0.9: True, 0.4: False, 0.2: False}, 0.6),
        ("macs_ratio", {0.9: False, 0.4: True, 0.1: False}, 0.2),  # the hardest that holds counts
        ("speedup", {1.5: True, 2.0: True, 8.0: False}, 4.0),
        ("speedup", {1.5: True, 2.0: True}, None),
        ("speedup", {1.5: False, 2.0: False}, None),
        ("latency_ms", {8.0: True, 2.0: False}, 4.0),
    ],
)
def test_refining_halves_the_gap(kind: sweep.GoalKind, outcomes: dict[float, bool], expected: float | None) -> None:
    found = between(kind, [made(value, accepted) for value, accepted in outcomes.items()])
    assert found == (None if expected is None else pytest.approx(expected))


def test_refining_looks_for_the_fastest_that_holds(
    tmp_path: Path, tiny: Path, scenes: Path, target: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All that keeps over 45 % of the MACs holds: the search closes in on that, in the order that a rerun takes too."""
    tried: list[float] = []

    def outcome(order: object, name: str, value: float, folder: str, changes: object, refined: bool) -> curve.Made:
        tried.append(value)
        return made(value, value > 0.45)

    monkeypatch.setattr(sweep, "make", outcome)
    monkeypatch.setattr(sweep, "_curve", lambda order, kind, found, shop: found)
    found = sweep.sweep(
        model=tiny, data=scenes, target=target, goals=(0.2, 0.8), kind="macs_ratio", refine=3, recipe=RECIPE,
        out=tmp_path,
    )  # fmt: skip
    assert tried == [0.8, 0.2, 0.4, 0.566, 0.476]
    assert [m.value for m in found] == sorted(tried, reverse=True)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (("--goals", "0.5,fast"), "aren't numbers"),
        (("--goals", "0.5,0.5"), "distinct goals"),
        (("--goals", "0.5,7"), "macs_ratio"),
        (("--goals", "0.5", "--kind", "watts"), "no goal of this kind"),
    ],
)
def test_malformed_goals_are_refused(
    tmp_path: Path, tiny: Path, scenes: Path, target: str, options: tuple[str, ...], says: str
) -> None:
    kind = () if "--kind" in options else ("--kind", "macs_ratio")
    said = refused("sweep", target, "--model", tiny, "--data", scenes, "--out", tmp_path, *options, *kind)
    assert says in said
    assert not list(tmp_path.iterdir())


def test_what_is_wrong_for_all_goals_is_said_before_the_first(tmp_path: Path, tiny: Path, target: str) -> None:
    with pytest.raises(EdgepruneError, match=r"nowhere\.yaml"):
        sweep.sweep(model=tiny, data=tmp_path / "nowhere.yaml", target=target, goals=(0.5,), kind="macs_ratio")
    with pytest.raises(RecipeError, match="no goal of this kind"):
        sweep.sweep(model=tiny, data=tmp_path / "nowhere.yaml", target=target, goals=(0.5,), kind="imgsz")


def test_the_table_says_what_became_of_each_point(
    swept: tuple[Path, Sweep, Ear], capsys: pytest.CaptureFixture[str]
) -> None:
    import sys

    from rich.console import Console

    from edgeprune.report.pareto import show

    _, found, _ = swept
    show(found, Console(file=sys.stdout, width=200))
    said = capsys.readouterr().out
    for raced in found.raced:
        assert raced.engine in said
        assert f"{raced.row.latency_ms.p50:.2f}" in said
    for point in found.points:
        assert point.folder in said
    assert "no build" in said
    assert json.loads((swept[0] / "small" / "sweep.json").read_text())["kind"] == "macs_ratio"
