"""A small arena end to end: a tiny detector, three methods and two that can't, raced on ONNX Runtime."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest
import yaml

from edgeprune.arena import _Judge, arena, folder_of
from edgeprune.errors import EdgepruneError, RecipeError
from edgeprune.records import BenchRun, Goal, Recipe, Report, read_json
from edgeprune.records.arena import Arena, Run
from edgeprune.study import open_study, url_of
from edgeprune.workshop import Listener
from tests.conftest import ROOT
from tests.fleet import postgres as server
from tests.test_cli import edgeprune as edgeprune_command
from tests.test_cli import refused
from tests.test_sweep import Ear

pytestmark = pytest.mark.usefixtures("few_rounds")

RECIPE = Recipe(goal=Goal(max_map_drop=0.5), batch=8, importance="l2", allocation="global", torch_device="cpu")
#: `stuck` may cut next to nothing: no plan reaches the budget. `wrong` isn't a recipe.
COMPOSED = {"stuck": {"max_group_ratio": 0.05}, "wrong": {"importance": "l7"}}


@dataclass(frozen=True)
class Held:
    """An arena that was held."""

    arguments: dict[str, object]
    arena: Arena
    ear: Ear
    told: list[list[Run]]
    folder: Path


@pytest.fixture(scope="module")
def target(tmp_path_factory: pytest.TempPathFactory) -> str:
    file = tmp_path_factory.mktemp("targets") / "small.yaml"
    file.write_text("description: small\nruntime: onnxruntime\ninput_shape: [1, 3, 64, 64]\nthreads: 1\nforms: stock\n")
    return str(file)


@pytest.fixture(scope="module")
def held(tmp_path_factory: pytest.TempPathFactory, tiny: Path, scenes: Path, target: str) -> Held:
    out, ear, told = tmp_path_factory.mktemp("arena"), Ear(), list[list[Run]]()
    (out / "mine.yaml").write_text(yaml.safe_dump(COMPOSED))
    arguments: dict[str, object] = {
        "model": tiny, "data": scenes, "target": target, "budget": "0.5macs", "epochs": 1, "methods": "l1,stuck,wrong",
        "entrants_file": out / "mine.yaml", "recipe": RECIPE, "out": out,
    }  # fmt: skip
    found = arena(**arguments, listener=ear, on_runs=lambda runs: told.append(list(runs)))  # type: ignore[arg-type]
    return Held(arguments, found, ear, told, out / "arena/small-0.5macs")


def test_every_entrant_is_a_build_with_the_same_budget_and_training(held: Held) -> None:
    finished = {s.entrant.name: s.done[0].finish for s in held.arena.standings if s.done}
    assert set(finished) == {"base", "importance=random", "importance=l1"}
    for name, finish in finished.items():
        assert finish is not None
        report = read_json(held.folder / folder_of(name, 0) / "report.json", Report, EdgepruneError)
        assert report.origin is not None
        assert report.origin.recipe.goal.macs_ratio == 0.5
        assert report.origin.recipe.epochs == 1
        parent, build = report.rows
        assert finish.row == build
        assert build.macs <= 0.5 * parent.macs
        assert finish.against == report.verdict.comparison
        assert len(finish.layers) > 50
        assert 0 < sum(x.build for x in finish.layers) < sum(x.parent for x in finish.layers)
    recipes = [read_json(held.folder / folder_of(n, 0) / "report.json", Report, EdgepruneError) for n in finished]
    assert {r.origin.recipe.importance for r in recipes if r.origin} == {"l2", "random", "l1"}
    assert held.ear.ran["admit"] == held.ear.ran["verify parent"] == 1  # what is shared is done once


def test_a_budget_out_of_reach_and_a_recipe_that_isnt_one_are_rows(held: Held) -> None:
    rows = {s.entrant.name: s for s in held.arena.standings}
    (stuck,) = rows["stuck"].runs
    assert stuck.state == "failed"
    assert "MACs" in stuck.why or "macs_ratio" in stuck.why
    assert rows["wrong"].runs == ()
    assert "importance" in (rows["wrong"].entrant.refused or "")
    text = (held.folder / "arena.html").read_text()
    assert all(name in text for name in (*rows, "Stopped, failed, refused"))


def test_one_last_race_has_the_parent_and_every_finished_engine(held: Held) -> None:
    run = read_json(held.folder / "heat-1-bench.json", BenchRun, EdgepruneError)
    assert [m.engine for m in run.measurements] == [
        "parent fp32", "base-s0 pruned fp32", "importance-random-s0 pruned fp32", "importance-l1-s0 pruned fp32",
    ]  # fmt: skip
    assert held.arena.parent is not None
    assert held.arena.parent.engine == "parent fp32"
    for standing in held.arena.standings:
        for each in standing.done:
            assert each.epochs == 1  # training was heard
            assert each.fitness is not None
            assert each.raced is not None
            assert each.raced.engine == f"{folder_of(each.entrant, 0)} pruned fp32"
            assert standing.speed is not None
            assert each.raced.against is not None
            assert standing.speed[0] == pytest.approx(1 / each.raced.against.ratio)
    assert read_json(held.folder / "arena.json", Arena, EdgepruneError) == held.arena
    assert held.arena.winner in {"base", "importance=random", "importance=l1"}


def test_epochs_are_counted_towards_the_end_and_only_once_nothing_more_is_cut() -> None:
    """8 epochs in all: 4 before the last cut, of which nothing is reported, then 5 to 8."""
    reported: list[tuple[int, int, bool]] = []

    class Told:
        entrant = "pruning=gradual"

        def trained(self, epoch: int, of: int, fitness: float, *, kept: bool) -> None:
            reported.append((epoch, of, kept))

    judge = _Judge(Listener(), Told(), epochs=8, cut=4)  # type: ignore[arg-type]
    for left in range(7, -1, -1):
        judge.trained(left, 0.5)
    assert reported == [(5, 8, False), (6, 8, False), (7, 8, False), (8, 8, False)]
    Told.entrant = "base"
    judge.trained(0, 0.5)
    assert reported[-1] == (8, 8, True)


def test_progress_was_told_after_each_run(held: Held) -> None:
    decided = [sum(run.state != "waiting" for run in runs) for runs in held.told]
    assert decided == [1, 2, 3, 4]


def test_the_same_command_again_does_nothing(held: Held) -> None:
    again = Ear()
    assert arena(**held.arguments, listener=again) == held.arena  # type: ignore[arg-type]
    assert again.ran == {}
    assert arena(**held.arguments, listener=again, report_only=True) == held.arena  # type: ignore[arg-type]
    assert again.ran == {}


@pytest.mark.parametrize(("word", "changes"), [("epochs", {"epochs": 2}), ("base recipe", {"importance": "bn"})])
def test_another_race_in_the_same_study_is_refused(held: Held, word: str, changes: dict[str, object]) -> None:
    before = (held.folder / "arena.json").read_bytes()
    recipe = RECIPE.model_copy(update={k: v for k, v in changes.items() if k != "epochs"})
    given = held.arguments | {k: v for k, v in changes.items() if k == "epochs"} | {"recipe": recipe}
    with pytest.raises(RecipeError, match=f"begun with another {word}"):
        arena(**given)  # type: ignore[arg-type]
    assert (held.folder / "arena.json").read_bytes() == before


def test_the_command_shows_it(held: Held, tmp_path: Path) -> None:
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(RECIPE.model_dump(mode="json")))
    done = edgeprune_command(
        "arena", held.arguments["target"], "--model", held.arguments["model"], "--data", held.arguments["data"],
        "--budget", "0.5macs", "--epochs", 1, "--methods", "l1,stuck,wrong", "--entrants",
        held.arguments["entrants_file"], "--recipe", tmp_path / "recipe.yaml", "--out", held.arguments["out"],
        "--report",
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    assert "finetune" not in done.stdout
    for said in ("importance=l1", "wrong is refused", "stuck: seed 0: failed", "winner: ", "arena.html"):
        assert said in done.stdout, said
    assert json.loads((held.folder / "arena.json").read_text())["study"] == "small-0.5macs"


@pytest.mark.slow
def test_a_killed_workers_run_is_done_by_another_machine(tmp_path: Path, tiny: Path, scenes: Path, target: str) -> None:
    """Two commands on one PostgreSQL study, each with folders of its own; one is killed while it trains. Two minutes
    pass before its heart is missed."""
    if (why := server.missing()) is not None:
        pytest.skip(f"left out: {why}")
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(RECIPE.model_dump(mode="json")))
    with server.postgres() as url:
        given = [
            sys.executable, "-m", "edgeprune", "arena", target, "--model", str(tiny), "--data", str(scenes), "--budget",
            "0.5macs", "--epochs", "2", "--methods", "l1", "--recipe", str(tmp_path / "recipe.yaml"), "--storage", url,
        ]  # fmt: skip

        def start(machine: str) -> subprocess.Popen[str]:
            return subprocess.Popen(
                [*given, "--out", str(tmp_path / machine)], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
                cwd=ROOT,
            )  # fmt: skip

        doomed = start("doomed")
        assert doomed.stdout is not None
        for line in doomed.stdout:
            if "finetune 1 …" in line:
                break
        else:
            raise AssertionError("it didn't begin to train")
        os.kill(doomed.pid, signal.SIGKILL)
        doomed.communicate()
        alive = start("alive")
        said = alive.communicate(timeout=1200)[0]
        assert alive.returncode == 0, said[-3000:]
        study = open_study(url_of(url, tmp_path), "small-0.5macs", {}, 2)
        dead = [t for t in study.inner.get_trials() if t.state.name == "FAIL" and "entrant" in t.user_attrs]
        assert [t.user_attrs["entrant"] for t in dead] == ["base"]
    found = read_json(tmp_path / "alive/arena/small-0.5macs/arena.json", Arena, EdgepruneError)
    assert {s.entrant.name for s in found.standings if s.whole} == {"base", "importance=random", "importance=l1"}
    assert found.open == 0


def test_what_is_wrong_is_said_before_anything_is_entered(
    tmp_path: Path, tiny: Path, scenes: Path, target: str
) -> None:
    given = ("--model", tiny, "--data", scenes, "--epochs", 1, "--out", tmp_path)
    assert "budget can't be read" in refused("arena", target, *given, "--budget", "fast")
    assert "no such entrant" in refused("arena", target, *given, "--budget", "2x", "--methods", "magic")
    assert "no such study" in refused("arena", target, *given, "--budget", "2x", "--report")
    assert "in such a database" in refused("arena", target, *given, "--budget", "2x", "--storage", "mysql://x/y")
    given = ("--model", tiny, "--data", tmp_path / "none.yaml", "--epochs", 1, "--out", tmp_path)
    assert "none.yaml" in refused("arena", target, *given, "--budget", "2x")
