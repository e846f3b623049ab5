"""Looking at a fleet: what is shown, how often it is looked, and what is said when it can't be."""

from __future__ import annotations

import threading
from datetime import datetime, timezone
from pathlib import Path

import pytest
from rich.console import Console

from edgeprune.fleet.moving import begin
from edgeprune.fleet.repository import Repository
from edgeprune.fleet.rollout import RolloutRecipe
from edgeprune.fleet.show import WIDTH, show
from edgeprune.fleet.store import Store
from edgeprune.fleet.view import Lookout, look
from edgeprune.records.rollout import Rollout, Wave
from tests.fleet.told import committed, enrolled, reverted

NOW = datetime.now(timezone.utc).replace(microsecond=0)
NAMES = [f"d{n}" for n in range(30)]


def started(repository: Repository, fleet: Store) -> Rollout:
    fleet.enroll(enrolled(*NAMES), NOW)
    return begin(
        repository, fleet, "cells", "stable", RolloutRecipe(waves=(Wave(percent=40), Wave(percent=90))), NOW
    ).rollout


def test_the_view_is_what_the_rollout_is_judged_by(repository: Repository, fleet: Store) -> None:
    rollout = started(repository, fleet)
    inside = [name for name in NAMES if rollout.reaches(name, "pi", "")]
    fleet.take([reverted(inside[0], 1, rollout, "crash: x"), *(committed(n, 1, rollout) for n in inside[1:])], NOW)
    view, counts = look(repository, fleet, NOW), fleet.counts(rollout)
    shown = view.rollouts[0]
    assert [(w.devices, w.committed, w.failed) for w in shown.waves] == [
        (w.devices, w.committed, w.failed) for w in counts.waves
    ]
    assert [w.state for w in shown.waves] == ["now", "to come"]
    assert shown.beyond == counts.beyond == 30 - shown.waves[0].devices - shown.waves[1].devices
    assert shown.waves[0].error == 1 / len(inside)
    assert shown.waves[1].error is None
    assert [dot.is_ for dot in shown.dots].count("committed") == len(inside) - 1
    assert [dot.wave for dot in shown.dots] == sorted(dot.wave for dot in shown.dots)
    assert shown.failures == (("crash", 1),)
    assert dict(view.states) == {"committed": len(inside) - 1, "reverted": 1, "never heard": 30 - len(inside)}
    assert look(repository, fleet, NOW, dots=29).rollouts[0].dots == ()


def test_reasons_without_end_are_told_apart_as_far_as_they_mean_something(repository: Repository, fleet: Store) -> None:
    rollout = started(repository, fleet)
    fleet.take([reverted(name, 1, rollout, f"kind {n}: x") for n, name in enumerate(NAMES)], NOW)
    failures = look(repository, fleet, NOW).rollouts[0].failures
    assert len(failures) == 13
    assert failures[-1] == ("others", 18)


def test_no_figure_is_left_out_on_a_terminal(repository: Repository, fleet: Store) -> None:
    rollout = started(repository, fleet)
    fleet.take([committed(name, 1, rollout) for name in NAMES], NOW)
    for width in (WIDTH, 200):
        console = Console(width=width, record=True, file=open("/dev/null", "w"))  # noqa: SIM115
        show(look(repository, fleet, NOW), console)
        said = console.export_text()
        for words in (
            "stable: cells 3",
            "40 %",
            "90 %",
            "committed",
            "cells 3",
            "100.0% ≥ 95%",
            "30 devices, 30 heard",
        ):
            assert words in said, said


def test_however_many_look_it_is_looked_once(repository: Repository, fleet: Store) -> None:
    started(repository, fleet)
    clock = [0.0]
    lookout = Lookout(repository, fleet, lambda: clock[0])
    seen = []
    threads = [threading.Thread(target=lambda: seen.append(lookout.latest())) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(seen) == 8
    assert len({id(one.view) for one in seen}) == 1
    clock[0] = 0.9
    assert lookout.latest().view is seen[0].view
    clock[0] = 1.0
    assert lookout.latest().view is not seen[0].view


def test_who_comes_while_somebody_looks_does_not_wait(
    repository: Repository, fleet: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = [0.0]
    lookout = Lookout(repository, fleet, lambda: clock[0])
    first = lookout.latest()
    clock[0] = 5.0
    looking, go_on, tallies = threading.Event(), threading.Event(), fleet.tallies

    def slow() -> object:
        looking.set()
        go_on.wait(60)
        return tallies()

    monkeypatch.setattr(fleet, "tallies", slow)
    thread = threading.Thread(target=lookout.latest)
    thread.start()
    assert looking.wait(60)
    assert lookout.latest() is first
    go_on.set()
    thread.join()
    assert lookout.latest() is not first


def test_what_cannot_be_read_is_said_beside_the_last_view(repository: Repository, fleet: Store, site: Path) -> None:
    started(repository, fleet)
    clock = [0.0]
    lookout = Lookout(repository, fleet, lambda: clock[0])
    view = lookout.latest().view
    (site / "fleet").rename(site / "away")
    clock[0] = 10.0
    seen = lookout.latest()
    assert seen.view is view
    assert seen.trouble is not None
    (site / "away").rename(site / "fleet")
    clock[0] = 20.0
    assert lookout.latest().trouble is None
