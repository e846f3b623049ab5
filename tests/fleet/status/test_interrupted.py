"""A tick that is killed, at any change of the disk and any statement to the database: the next one makes it whole."""

from __future__ import annotations

import os
import shutil
import signal
from collections.abc import Callable
from datetime import datetime, timedelta, timezone
from pathlib import Path

import pytest
from sqlalchemy import event

from edgeprune.fleet.database import url_of
from edgeprune.fleet.keys import Keyring
from edgeprune.fleet.moving import begin
from edgeprune.fleet.repository import Repository
from edgeprune.fleet.rollout import RolloutRecipe
from edgeprune.fleet.store import Store
from edgeprune.fleet.tick import tick
from edgeprune.records.rollout import Wave
from tests.fleet import faults
from tests.fleet.status.conftest import PASSWORD
from tests.fleet.told import committed, enrolled

NOW = datetime.now(timezone.utc).replace(microsecond=0)
NAMES = [f"d{n}" for n in range(30)]
RECIPE = RolloutRecipe(waves=(Wave(percent=30, dwell_s=60), Wave(percent=100, dwell_s=60)))


def reopened(folder: Path) -> Repository:
    return Repository.open(folder / "fleet", Keyring(folder / "fleet.keys", lambda role, new: PASSWORD))


def ticked(folder: Path, kill_at: int = 0) -> None:
    """A tick that moves the rollout on; `kill_at`: ended at that statement or commit of its database."""

    def open_store() -> Store:
        store = Store(url_of(None, folder / "fleet"))
        met = 0

        def count(*_: object) -> None:
            nonlocal met
            met += 1
            if met == kill_at:
                os.kill(os.getpid(), signal.SIGKILL)

        for name in ("before_cursor_execute", "commit"):
            event.listen(store._engine, name, count)
        return store

    tick(reopened(folder), open_store, NOW + timedelta(seconds=60))


@pytest.fixture
def due(site: Path, repository: Repository, fleet: Store) -> Path:
    """A site whose rollout is to move on with the next tick."""
    fleet.enroll(enrolled(*NAMES), NOW)
    rollout = begin(repository, fleet, "cells", "stable", RECIPE, NOW, 1).rollout
    fleet.take([committed(name, 1, rollout) for name in NAMES if rollout.reaches(name, "pi", "")], NOW)
    fleet.close()
    return site


def survives(due: Path, here: Path, run: Callable[[int], int]) -> int:
    """Kill a tick at its first point, its second …; returns how many there were."""
    for at in range(1, 1000):
        shutil.copytree(due, here)
        code = run(at)
        assert code in (-9, faults.ENDED)
        assert reopened(here).rollouts()["stable"].wave in (0, 1), "what readers see is the old or the new"
        ticked(here)
        store = Store(url_of(None, here / "fleet"))
        assert [told.event.kind for told in store.history("stable")] == ["advanced", "started"], f"killed at {at}"
        again = tick(reopened(here), lambda store=store: store, NOW + timedelta(seconds=60))  # type: ignore[misc]
        assert (again.events, again.renewed) == ((), ())
        store.close()
        assert reopened(here).rollouts()["stable"].wave == 1
        assert reopened(here).published().problems(NOW) == ()
        shutil.rmtree(here)
        if code == faults.ENDED:
            return at - 1
    raise AssertionError("it never ended")


def test_killed_at_any_change_of_the_disk(due: Path, tmp_path: Path) -> None:
    here = tmp_path / "here"
    assert survives(due, here, lambda at: faults.run(lambda: ticked(here), at)) > 10


def test_killed_at_any_statement_to_the_database(due: Path, tmp_path: Path) -> None:
    here = tmp_path / "here"

    def run(at: int) -> int:
        pid = os.fork()
        if pid == 0:
            code = 1
            try:
                ticked(here, at)
                code = faults.ENDED
            finally:
                os._exit(code)
        return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])

    assert survives(due, here, run) > 5
