"""Rollouts that move in a real repository: started, ticked, halted, interrupted."""

from __future__ import annotations

import threading
from datetime import datetime, timedelta, timezone
from pathlib import Path

import pytest

from edgeprune.errors import UpdateError
from edgeprune.fleet import moving
from edgeprune.fleet.moving import begin, move
from edgeprune.fleet.repository import Repository
from edgeprune.fleet.rollout import RolloutRecipe, abort, pause
from edgeprune.fleet.store import Store
from edgeprune.fleet.tick import Ticked
from edgeprune.fleet.tick import tick as tick_with
from edgeprune.records.files import sha256_file
from edgeprune.records.rollout import Rollout, Selector, Wave
from tests.fleet.told import committed, enrolled, reverted

NOW = datetime.now(timezone.utc).replace(microsecond=0)
NAMES = [f"d{n}" for n in range(60)]
RECIPE = RolloutRecipe(waves=(Wave(percent=20, dwell_s=60), Wave(percent=100, dwell_s=60)))


def tick(repository: Repository, store: Store, seconds: float) -> Ticked:
    return tick_with(repository, lambda: store, NOW + timedelta(seconds=seconds))


def started(repository: Repository, store: Store, counter: int = 1, recipe: RolloutRecipe = RECIPE) -> Rollout:
    return begin(repository, store, "cells", "stable", recipe, NOW, counter).rollout


def reached(rollout: Rollout) -> list[str]:
    return [name for name in NAMES if rollout.reaches(name, "pi", "")]


def test_a_good_release_goes_to_all_wave_by_wave(repository: Repository, fleet: Store) -> None:
    fleet.enroll(enrolled(*NAMES), NOW)
    rollout = started(repository, fleet)
    assert 0 < len(reached(rollout)) < 60
    assert rollout.selector == Selector(skus=("pi", "orin")), "those that it has builds for"
    assert tick(repository, fleet, 61).events == (), "nobody has said anything"
    fleet.take([committed(name, 1, rollout) for name in reached(rollout)], NOW)
    assert tick(repository, fleet, 59).events == (), "its time isn't up"
    assert [event.kind for event in tick(repository, fleet, 60).events] == ["advanced"]
    on = repository.rollout("stable")
    assert on is not None
    assert on.wave == 1
    assert reached(on) == NAMES
    fleet.take([committed(name, 2, on) for name in NAMES], NOW)
    assert [event.kind for event in tick(repository, fleet, 121).events] == ["done"]
    read = Repository.open(repository.folder).rollout("stable")
    assert read is not None
    assert (read.state, read.release_for("late", "pi", "")) == ("done", 1)
    assert started(repository, fleet, 2).stable == 1
    assert [told.event.kind for told in fleet.history("stable")] == ["started", "done", "advanced", "started"]


def test_a_bad_one_is_halted_at_the_canary_and_that_is_signed(repository: Repository, fleet: Store) -> None:
    fleet.enroll(enrolled(*NAMES), NOW)
    rollout = started(repository, fleet)
    fleet.take([reverted(name, 1, rollout, "latency: 9 ms, 4 allowed") for name in reached(rollout)], NOW)
    done = tick(repository, fleet, 0)
    assert [event.kind for event in done.events] == ["halted"]
    read = Repository.open(repository.folder).rollout("stable")
    assert read is not None
    assert read.state == "halted"
    assert "most often: latency" in read.reason
    assert not any(read.release_for(name, "pi", "") for name in NAMES)
    assert tick(repository, fleet, 10**6).events == (), "for good"


def test_a_second_tick_does_nothing(repository: Repository, fleet: Store) -> None:
    fleet.enroll(enrolled(*NAMES), NOW)
    rollout = started(repository, fleet)
    fleet.take([committed(name, 1, rollout) for name in reached(rollout)], NOW)
    tick(repository, fleet, 60)
    before = sha256_file(repository.folder)
    again = tick(repository, fleet, 60)
    assert (again.events, again.renewed) == ((), ())
    assert sha256_file(repository.folder) == before


def test_killed_between_publication_and_history_the_next_tick_tells_it(repository: Repository, fleet: Store) -> None:
    fleet.enroll(enrolled(*NAMES), NOW)
    rollout = started(repository, fleet)
    repository.put_rollouts(abort(rollout, "by hand")[0])  # what a kill right after it leaves behind
    assert [told.event.kind for told in fleet.history("stable")] == ["started"]
    assert [(event.kind, event.text) for event in tick(repository, fleet, 0).events] == [("aborted", "by hand")]
    assert tick(repository, fleet, 0).events == ()


def test_a_lost_history_does_not_change_a_rollout(repository: Repository, fleet: Store, site: Path) -> None:
    fleet.enroll(enrolled(*NAMES), NOW)
    rollout = started(repository, fleet)
    (site / "fleet.db").rename(site / "lost.db")
    for left in site.glob("fleet.db-*"):
        left.unlink()
    from edgeprune.fleet.database import url_of

    empty = Store(url_of(None, site / "fleet"))
    assert [event.kind for event in tick(repository, empty, 10**6).events] == ["started"]
    assert repository.rollout("stable") == rollout, "nobody is enrolled any more: it waits"
    empty.close()


def test_an_abort_waits_for_a_tick_and_then_stands(
    repository: Repository, fleet: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    fleet.enroll(enrolled(*NAMES), NOW)
    rollout = started(repository, fleet)
    fleet.take([committed(name, 1, rollout) for name in reached(rollout)], NOW)
    inside, go_on, aborted = threading.Event(), threading.Event(), threading.Event()
    counts = fleet.counts

    def slow(of: Rollout) -> object:
        found = counts(of)
        inside.set()
        go_on.wait(60)
        return found

    monkeypatch.setattr(fleet, "counts", slow)
    ticking = threading.Thread(target=tick, args=(repository, fleet, 60))
    ticking.start()
    assert inside.wait(60)

    def ask() -> None:
        move(Repository.open(repository.folder, repository.keyring), fleet, "stable", abort, NOW)
        aborted.set()

    asking = threading.Thread(target=ask)
    asking.start()
    assert not aborted.wait(1), "a tick is in the midst of it"
    go_on.set()
    ticking.join()
    asking.join()
    found = repository.rollout("stable")
    assert found is not None
    assert (found.state, found.wave) == ("aborted", 1)


def test_metadata_are_renewed_while_the_database_is_away(repository: Repository) -> None:
    versions = sorted((repository.folder / "metadata").glob("*.snapshot.json"))

    def away() -> Store:
        raise UpdateError("The status database can't be used.")

    later = NOW + timedelta(days=400)
    with pytest.raises(UpdateError, match="database"):
        tick_with(repository, away, later)
    assert sorted((repository.folder / "metadata").glob("*.snapshot.json")) != versions
    assert Repository.open(repository.folder).published().remaining(later)["timestamp"] > 0


@pytest.mark.parametrize(
    ("product", "counter", "recipe", "match"),
    [
        ("cells", 1, RolloutRecipe(selector=Selector(skus=("pie",))), "no build for this SKU"),
        ("cells", 9, RECIPE, "9"), ("parts", None, RECIPE, "no release yet"), ("nobody", None, RECIPE, "nobody"),
    ],
)  # fmt: skip
def test_what_cannot_be_rolled_out_is_refused_and_nothing_changes(
    repository: Repository, fleet: Store, product: str, counter: int | None, recipe: RolloutRecipe, match: str
) -> None:
    before = sha256_file(repository.folder)
    with pytest.raises(UpdateError, match=match):
        begin(repository, fleet, product, "stable", recipe, NOW, counter)
    assert sha256_file(repository.folder) == before
    assert fleet.history("stable") == []


def test_an_older_release_than_the_channels_is_refused(repository: Repository, fleet: Store) -> None:
    started(repository, fleet, 2)
    with pytest.raises(UpdateError, match="later release"):
        started(repository, fleet, 1)
    with pytest.raises(UpdateError, match="no rollout"):
        move(repository, fleet, "beta", pause, NOW)


def test_a_small_fleet_gets_a_salt_with_a_canary(repository: Repository, fleet: Store) -> None:
    fleet.enroll(enrolled(*NAMES[:10]), NOW)
    recipe = RolloutRecipe(waves=(Wave(percent=5), Wave(percent=100)))
    for counter in (1, 2, 3):
        assert begin(repository, fleet, "cells", "stable", recipe, NOW, counter).counts.waves[0].devices > 0


def test_who_has_no_build_is_said(repository: Repository, fleet: Store) -> None:
    fleet.enroll(enrolled("a", "b", sku="atom"), NOW)
    begun = begin(repository, fleet, "cells", "stable", RECIPE, NOW)
    assert begun.left_out == {"atom": 2}
    assert begun.counts.selected == 0
    assert begun.rollout.counter == 3, "the newest"


def test_channels_move_apart(repository: Repository, fleet: Store) -> None:
    fleet.enroll(enrolled(*NAMES), NOW)
    fleet.enroll(enrolled("b1", "b2", channel="beta"), NOW)
    whole = RolloutRecipe(waves=(Wave(percent=100, dwell_s=0),))
    stable = started(repository, fleet)
    beta = begin(repository, fleet, "cells", "beta", whole, NOW, 3).rollout
    fleet.take([committed(name, 1, beta, channel="beta") for name in ("b1", "b2")], NOW)
    fleet.take([reverted(name, 1, stable) for name in reached(stable)], NOW)
    done = tick(repository, fleet, 0)
    assert [(event.channel, event.kind) for event in done.events] == [("beta", "done"), ("stable", "halted")]


def test_the_lock_lies_beside_what_is_served_and_stays_quiet(repository: Repository, fleet: Store) -> None:
    with moving.moving(repository) as there:
        assert there == {}
    assert not any(Repository.open(repository.folder).published().problems(NOW))
