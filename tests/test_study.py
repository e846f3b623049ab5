"""Studies in a database: entered once, taken once, taken up again when a worker dies, and of one thing only."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from optuna.trial import TrialState, create_trial

from edgeprune.errors import DeviceError, EdgepruneError, PlanError, RecipeError
from edgeprune.records.arena import Finish
from edgeprune.study import TRIES, ForAll, GivenAway, Ran, Study, open_study, url_of
from tests.fleet import postgres as server
from tests.records.test_arena import run as finished

ABOUT = {"model": "m", "data set": "d", "target": "t", "budget": "2x", "epochs": "8", "base recipe": "r"}
KEYS = [(name, seed) for seed in (0, 1) for name in ("base", "importance=random", "importance=l1")]


def opened(file: Path, **given: object) -> Study:
    return open_study(url_of(str(file), file.parent), "s", ABOUT, 8, **{"beat_s": 1, **given})  # type: ignore[arg-type]


def finish(ran: Ran) -> Finish:
    found = finished(ran.entrant, ran.seed, 0.5).finish
    assert found is not None
    return found


def work(study: Study, act: Callable[[Ran], Finish] = finish) -> Counter[tuple[str, int]]:
    """Work until all is decided; how often each run was done."""
    did: Counter[tuple[str, int]] = Counter()

    def counted(ran: Ran) -> Finish:
        did[ran.entrant, ran.seed] += 1
        return act(ran)

    study.work(KEYS, counted, lambda: None)
    return did


def test_each_run_is_entered_and_done_once_and_later_ones_join(tmp_path: Path) -> None:
    study = opened(tmp_path / "s.db")
    assert [r.state for r in study.runs(KEYS)] == ["waiting"] * 6
    assert work(study) == Counter(KEYS)
    assert work(opened(tmp_path / "s.db")) == Counter()
    assert [(r.state, r.finish is not None) for r in study.runs(KEYS)] == [("done", True)] * 6
    more = [*KEYS, ("allocation=uniform", 0)]
    study.work(more, finish, lambda: None)
    assert [r.state for r in study.runs(more)] == ["done"] * 7


def test_a_worker_that_was_told_of_fewer_leaves_the_others_to_those_that_know_them(tmp_path: Path) -> None:
    study = opened(tmp_path / "s.db")
    study.enter(KEYS)
    few = [key for key in KEYS if key[0] != "importance=l1"]
    study.work(few, finish, lambda: None)
    assert [r.state for r in study.runs(few)] == ["done"] * 4
    assert {r.state for r in study.runs(KEYS)} == {"done", "waiting"}
    assert work(study) == Counter(key for key in KEYS if key not in few)
    assert [r.state for r in study.runs(KEYS)] == ["done"] * 6


@pytest.mark.parametrize("word", ABOUT)
def test_a_study_of_something_else_is_refused_by_name_and_nothing_is_lost(tmp_path: Path, word: str) -> None:
    before = opened(tmp_path / "s.db")
    before.enter(KEYS)
    with pytest.raises(RecipeError, match=f"begun with another {word}"):
        open_study(url_of(str(tmp_path / "s.db"), tmp_path), "s", ABOUT | {word: "other"}, 8)
    assert [r.state for r in opened(tmp_path / "s.db").runs(KEYS)] == ["waiting"] * 6
    assert before.inner.user_attrs["of"] == ABOUT
    open_study(url_of(str(tmp_path / "s.db"), tmp_path), "another", ABOUT | {word: "other"}, 8)  # in the same database


def test_what_was_entered_twice_runs_once(tmp_path: Path) -> None:
    """Two workers that begin at the same moment."""
    study = opened(tmp_path / "s.db")
    study.enter(KEYS)
    for entrant, seed in KEYS:
        study.inner.add_trial(create_trial(state=TrialState.WAITING, user_attrs={"entrant": entrant, "seed": seed}))
    assert work(study) == Counter(KEYS)
    assert [r.state for r in study.runs(KEYS)] == ["done"] * 6


def test_one_methods_failure_is_its_row(tmp_path: Path) -> None:
    def act(ran: Ran) -> Finish:
        if ran.entrant == "importance=l1":
            raise PlanError("So little time can't be reached.", got="3 ms")
        if ran.entrant == "importance=random" and ran.seed:
            raise ZeroDivisionError("division by zero")
        return finish(ran)

    study = opened(tmp_path / "s.db")
    assert work(study, act) == Counter(KEYS)
    found = {(r.entrant, r.seed): (r.state, r.why) for r in study.runs(KEYS)}
    assert found["importance=l1", 0] == ("failed", "So little time can't be reached. got: 3 ms")
    assert found["importance=random", 1] == ("failed", "ZeroDivisionError: division by zero")
    assert found["importance=random", 0] == ("done", "")
    assert work(study, act) == Counter()  # decided


def test_what_would_fail_for_all_ends_the_worker_and_its_run_waits_again(tmp_path: Path) -> None:
    def act(ran: Ran) -> Finish:
        try:
            raise DeviceError("The device doesn't answer.")
        except DeviceError as error:
            raise ForAll from error

    study = opened(tmp_path / "s.db")
    for _ in range(TRIES + 1):  # that is no silent death, however often
        with pytest.raises(DeviceError, match="doesn't answer"):
            work(study, act)
    assert [r.state for r in study.runs(KEYS)] == ["waiting"] * 6
    assert work(study) == Counter(KEYS)


def test_an_interrupted_run_waits_again(tmp_path: Path) -> None:
    def act(ran: Ran) -> Finish:
        raise KeyboardInterrupt

    study = opened(tmp_path / "s.db")
    for _ in range(TRIES + 1):
        with pytest.raises(KeyboardInterrupt):
            work(study, act)
    assert work(study) == Counter(KEYS)


def test_those_who_fall_behind_are_stopped_base_and_control_never(tmp_path: Path) -> None:
    """8 epochs: rungs after 2 and 4. In the order of entering, fitness 0.3, 0.2, 0.1; then l1 leads with 0.9.

    base leads where it is alone; random is behind base and kept; l1 with 0.1 is the last of three: stopped after 2.
    With seed 1, base and random are kept though they are behind, l1 leads all the way.
    """
    fitness = {("base", 0): 0.3, ("importance=random", 0): 0.2, ("importance=l1", 0): 0.1, ("importance=l1", 1): 0.9}

    def act(ran: Ran) -> Finish:
        for epoch in range(1, 9):
            value = fitness.get((ran.entrant, ran.seed), 0.05)
            ran.trained(epoch, 8, value, kept=ran.entrant != "importance=l1")
        return finish(ran)

    study = opened(tmp_path / "s.db")
    work(study, act)
    found = {(r.entrant, r.seed): r for r in study.runs(KEYS)}
    stopped = found["importance=l1", 0]
    assert (stopped.state, stopped.epochs, stopped.fitness) == ("stopped", 2, 0.1)
    assert "0.100 after 2 of 8 epochs" in stopped.why
    assert {key: r.state for key, r in found.items() if r is not stopped} == dict.fromkeys(
        [key for key in KEYS if key != ("importance=l1", 0)], "done"
    )
    assert found["importance=l1", 1].epochs == 8


def test_without_halving_all_go_the_whole_way(tmp_path: Path) -> None:
    def act(ran: Ran) -> Finish:
        for epoch in range(1, 9):
            ran.trained(epoch, 8, 0.9 if ran.entrant == "base" else 0.1, kept=False)
        return finish(ran)

    study = opened(tmp_path / "s.db", halving=False)
    work(study, act)
    assert [r.state for r in study.runs(KEYS)] == ["done"] * 6


def test_a_run_that_was_given_away_is_done_by_the_other_worker(tmp_path: Path) -> None:
    """Its machine slept; in the meantime it was taken for dead and entered again."""
    asked: list[int] = []

    def act(ran: Ran) -> Finish:
        asked.append(ran.trial.number)
        if len(asked) == 1:
            ran.study.inner._storage.set_trial_state_values(ran.trial._trial_id, TrialState.FAIL)
            with pytest.raises(GivenAway):
                ran.trained(1, 8, 0.5, kept=True)
            raise GivenAway
        return finish(ran)

    study = opened(tmp_path / "s.db")
    did = work(study, act)
    assert did.pop(KEYS[0]) == 2
    assert set(did.values()) == {1}
    assert [r.state for r in study.runs(KEYS)] == ["done"] * 6


def test_a_run_whose_worker_dies_each_time_is_given_up(tmp_path: Path) -> None:
    study = opened(tmp_path / "s.db")
    for _ in range(TRIES):
        dead = {"entrant": "base", "seed": 0}
        study.inner.add_trial(create_trial(state=TrialState.FAIL, user_attrs=dead))
    assert work(study) == Counter(KEYS[1:])
    found = study.runs(KEYS)[0]
    assert found.state == "failed"
    assert f"died {TRIES} times" in found.why


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ("mysql://here/db", "such a database"),
        ("://", "can't be read"),
        ("postgresql://nobody@/none?host=/nowhere", "can't"),
    ],
)
def test_storages_that_cant_be_used_are_refused(tmp_path: Path, given: str, says: str) -> None:
    with pytest.raises(EdgepruneError, match=says):
        open_study(url_of(given, tmp_path), "s", ABOUT, 8)


def test_a_report_of_a_study_that_there_isnt_begins_none(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match="no such study"):
        opened(tmp_path / "s.db", begin=False)
    opened(tmp_path / "s.db")
    opened(tmp_path / "s.db", begin=False)


WORKER = """
import sys, time
from pathlib import Path
from edgeprune.study import open_study, url_of
from tests.test_study import ABOUT, KEYS, finish
url, name = sys.argv[1:]
study = open_study(url_of(url, Path()), "s", ABOUT, 8, beat_s=1)
def act(ran):
    print(ran.entrant, ran.seed, flush=True)
    time.sleep(3600 if name == "doomed" else 0.2)
    return finish(ran).model_copy(update={"machine": name})
study.work(KEYS, act, lambda: None)
"""


@pytest.fixture(scope="module")
def postgres() -> Iterator[str]:
    if (why := server.missing()) is not None:
        pytest.skip(f"left out: {why}")
    with server.postgres() as url:
        yield url


def test_two_workers_share_a_postgresql_study_and_one_is_killed(postgres: str) -> None:
    """The one that is killed holds a run; the other one does all, and that run last, once the heart is silent."""

    def start(name: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [sys.executable, "-c", WORKER, postgres, name], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
            cwd=Path(__file__).parent.parent, env=os.environ | {"PYTHONPATH": str(Path(__file__).parent.parent)},
        )  # fmt: skip

    doomed = start("doomed")
    assert doomed.stdout is not None
    held = doomed.stdout.readline().split()
    other = start("alive")
    assert other.stdout is not None
    assert other.stdout.readline().split() != held  # they split the work
    time.sleep(1)
    os.kill(doomed.pid, signal.SIGKILL)
    doomed.communicate()
    said, error = other.communicate(timeout=300)
    assert other.returncode == 0, error[-3000:]
    study = open_study(url_of(postgres, Path()), "s", ABOUT, 8, beat_s=1)
    runs = study.runs(KEYS)
    assert {r.state for r in runs} == {"done"}
    assert {r.finish.machine for r in runs if r.finish} == {"alive"}
    assert said.splitlines()[-1].split() == held
    trials = study.inner.get_trials(deepcopy=False)
    dead = [t for t in trials if t.state == TrialState.FAIL and t.user_attrs.get("entrant") == held[0]]
    assert len([t for t in dead if t.user_attrs["seed"] == int(held[1])]) == 1
