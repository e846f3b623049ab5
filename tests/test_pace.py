"""A goal in time on a small detector: the parent first, a table, widths that were measured; a second goal shares it."""

from __future__ import annotations

from collections.abc import Iterator
from importlib import import_module
from pathlib import Path

import pytest

from edgeprune.errors import DeviceError, EdgepruneError, ProfileError, RecipeError
from edgeprune.pipeline import build
from edgeprune.records import BenchRun, Goal, PrunePlan, Recipe, TargetProfile, Tune, read_json, write_json
from edgeprune.records.latency import LatencyTable, Pace, Precisions
from edgeprune.report.latency_table import tables_of
from edgeprune.workshop import Listener
from tests.short import shorten_tables
from tests.test_cli import edgeprune as edgeprune_command
from tests.test_cli import refused

TARGET = TargetProfile.model_validate(
    {
        "description": "small", "runtime": "onnxruntime", "input_shape": (1, 3, 128, 128), "channel_multiple": 32,
        "forms": "stock",
    }
)  # fmt: skip


def recipe(**goal: float) -> Recipe:
    return Recipe(
        goal=Goal(max_map_drop=0.5, **goal),
        importance="l2",
        allocation="global",
        epochs=1,
        torch_device="cpu",
        min_width=8,
    )


class Ear(Listener):
    def __init__(self) -> None:
        self.heard: dict[str, str] = {}

    def event(self, stage: str, what: str) -> None:
        self.heard[stage] = what


@pytest.fixture(scope="module", autouse=True)
def quick() -> Iterator[None]:
    """Few engines, short passes, no refusal of a busy machine: figures are only looked at for being there."""
    with pytest.MonkeyPatch.context() as patch:
        shorten_tables(patch)
        for stage in ("pace", "plans"):  # the package has a stage of the first name
            patch.setattr(import_module(f"edgeprune.stages.{stage}"), "ROUNDS", 4)
        yield


@pytest.fixture(scope="module")
def out(tmp_path_factory: pytest.TempPathFactory, tiny: Path, scenes: Path) -> Path:
    folder = tmp_path_factory.mktemp("pace")
    build(model=tiny, data=scenes, target=TARGET, recipe=recipe(speedup=1.3), out=folder, folder="a", until="prune")
    return folder


def test_the_parent_is_raced_before_anything_is_cut(out: Path) -> None:
    parent = read_json(out / "a/latency/parent.json", BenchRun, DeviceError)
    assert [m.engine for m in parent.measurements] == ["parent fp32"]
    assert parent.measurements[0].parts is not None
    assert set(read_json(out / "a/tune-parent.json", Tune, DeviceError).chosen) == {"parent fp32"}
    assert not (out / "a/tune.json").exists()


def test_widths_were_chosen_by_what_engines_took(out: Path) -> None:
    plan = read_json(out / "a/plan.json", PrunePlan, EdgepruneError)
    (paced,) = (out / "a/latency").glob("pace-fp32-*.json")
    assert plan.time is not None
    assert plan.time.budget_ms == pytest.approx(read_json(paced, Pace, DeviceError).parent_ms / 1.3)
    chosen = plan.time.chosen
    assert chosen.measured_ms is not None
    assert chosen.measured_ms <= plan.time.budget_ms
    assert plan.pruning_ratio > 0
    table = read_json(out / "a/latency/fp32.json", LatencyTable, DeviceError)
    assert table.device == "local"
    assert read_json(out / "a/latency/precisions-keep.json", Precisions, DeviceError).model[0].precision == "fp32"
    assert [t.precision for t in tables_of(out / "a")] == ["fp32"]


def test_another_goal_takes_over_all_but_its_own(out: Path, tiny: Path, scenes: Path) -> None:
    ear = Ear()
    build(
        model=tiny, data=scenes, target=TARGET, recipe=recipe(speedup=1.35), out=out, folder="b", until="prune",
        listener=ear,
    )  # fmt: skip
    own = {stage for stage, what in ear.heard.items() if what == "runs" or what == "done"}
    assert own <= {"prune 1", *(stage for stage in own if stage.startswith("pace in"))}
    assert ear.heard["latency table fp32"] == "taken over"
    assert ear.heard["tune parent"] == "taken over"
    again = Ear()
    build(
        model=tiny, data=scenes, target=TARGET, recipe=recipe(speedup=1.35), out=out, folder="b", until="prune",
        listener=again,
    )  # fmt: skip
    assert set(again.heard.values()) == {"done before"}


def test_goals_that_cannot_be(out: Path, tiny: Path, scenes: Path) -> None:
    def ask(asked: Recipe, target: TargetProfile = TARGET) -> None:
        build(model=tiny, data=scenes, target=target, recipe=asked, out=out, folder="b", until="prune")

    with pytest.raises(EdgepruneError, match="faster than an empty engine"):
        ask(recipe(latency_ms=1e-4))
    with pytest.raises(RecipeError, match="reaches the goal as it is"):
        ask(recipe(latency_ms=1e4))
    with pytest.raises(RecipeError, match="raced for a goal in time"):
        ask(recipe(macs_ratio=0.5).model_copy(update={"activation": "race"}))
    board = TARGET.model_copy(update={"runtime": "tensorrt", "precisions": ("fp16",), "device": "ssh://nobody@[::1]:1"})
    with pytest.raises(DeviceError):
        ask(recipe(speedup=2), board)


def test_a_table_that_was_made_before_is_taken_where_it_fits(
    out: Path, tiny: Path, scenes: Path, tmp_path: Path
) -> None:
    def ask(file: Path, ear: Listener | None = None) -> None:
        build(
            model=tiny, data=scenes, target=TARGET, out=tmp_path, folder="c", until="prune", listener=ear,
            recipe=recipe(speedup=1.3).model_copy(update={"latency_table": str(file)}),
        )  # fmt: skip

    made = read_json(out / "a/latency/fp32.json", LatencyTable, DeviceError)
    for change, named in (
        ({"version": "0.1"}, "version"), ({"soc": "Another"}, "soc"), ({"power_mode": "0 MAXN"}, "power_mode"),
        ({"input_shape": (1, 3, 64, 64)}, "input_shape"), ({"runtime": "openvino"}, "runtime"),
    ):  # fmt: skip
        write_json(tmp_path / "other.json", made.model_copy(update=change))
        with pytest.raises(ProfileError, match=f"made for something else(.|\n)*{named}"):
            ask(tmp_path / "other.json")
    write_json(tmp_path / "other.json", made.model_copy(update={"precision": "int8"}))
    with pytest.raises(ProfileError, match="doesn't race"):
        ask(tmp_path / "other.json")
    ear = Ear()
    ask(out / "a/latency/fp32.json", ear)
    assert "latency table fp32" not in ear.heard
    plan = read_json(tmp_path / "c/plan.json", PrunePlan, EdgepruneError)
    assert plan.time is not None


def test_the_table_by_itself_on_the_command_line(tmp_path: Path, tiny: Path) -> None:
    away = ("--device", "ssh://127.0.0.1:1")
    done = edgeprune_command("latency-table", "jetson-orin-nano", "--model", tiny, "--out", tmp_path, *away)
    assert done.returncode == 10, done.stderr
    assert "127.0.0.1:1" in done.stderr
    assert "doesn't have this precision" in refused(
        "latency-table", "onnxruntime-x86", "--model", str(tiny), "--out", str(tmp_path), "--precision", "int8"
    )
    assert "doesn't exist" in refused("latency-table", "onnxruntime-x86", "--model", "none.pt", "--out", str(tmp_path))
    assert "precision" in edgeprune_command("latency-table", "--help").stdout
