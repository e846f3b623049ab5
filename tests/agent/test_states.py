"""The state machine alone: data in, data out."""

from __future__ import annotations

from datetime import datetime, timedelta, timezone
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgeprune.agent import states
from edgeprune.records import Heartbeat, Rollout, Wave
from edgeprune.records.agent import AgentConfig, AgentState, Floor, Installed, Update, Watched, WatchRules

AT = datetime(2026, 11, 25, tzinfo=timezone.utc)
HASH = "0" * 64
CONFIG = AgentConfig(
    device="dev-1", product="cells", channel="stable", sku="pi", runtime="onnxruntime", folder="/f", repository="/r",
    root="/r.json",
)  # fmt: skip
RUNTIME = "onnxruntime 1.30.0"


def installed(counter: int, slot: Any = "a") -> AgentState:
    return AgentState(
        installed=Installed(slot=slot, counter=counter, manifest_sha256=HASH), floor=Floor(counter=counter)
    )


def rollout(counter: int, serial: int = 1, **changed: Any) -> Rollout:
    fields: dict[str, Any] = {
        "channel": "stable", "product": "cells", "serial": serial, "counter": counter, "salt": "saltsalt",
        "waves": (Wave(percent=100.0),), "since": AT,
    }  # fmt: skip
    return Rollout(**(fields | changed))


def watched(state: AgentState, release: int) -> AgentState:
    for step in ("downloading", "installing", "testing"):
        state = states.begin(state, release, 1) if step == "downloading" else states.going(state, step)  # type: ignore[arg-type]
    return states.watching(state, HASH, 1.5, "boot", 100.0)


@pytest.mark.parametrize(
    ("counter", "asked", "kind"),
    [(1, 2, "take"), (2, 2, "stay"), (3, 2, "refuse"), (0, 1, "take")],
)
def test_only_what_is_above_the_floor_is_taken(counter: int, asked: int, kind: str) -> None:
    assert states.choose(installed(counter), CONFIG, RUNTIME, rollout(asked), ()).kind == kind


def test_the_floor_outlives_the_model() -> None:
    state = installed(5).model_copy(update={"installed": Installed(slot="factory", counter=0, manifest_sha256=HASH)})
    assert states.choose(state, CONFIG, RUNTIME, rollout(4), ()).kind == "refuse"
    assert states.choose(state, CONFIG, RUNTIME, rollout(5), ()).kind == "take"


@pytest.mark.parametrize(("change", "release"), [("paused", 2), ("halted", 2), ("aborted", 2), ("done", 3)])
def test_a_rollout_that_stands_brings_the_stable_release_alone(change: Any, release: int) -> None:
    choice = states.choose(installed(1), CONFIG, RUNTIME, rollout(3, stable=2, state=change), ())
    assert (choice.kind, choice.release) == ("take", release)


def test_a_rollout_of_another_product_is_none_of_ours() -> None:
    assert states.choose(installed(1), CONFIG, RUNTIME, rollout(2, product="other"), ()).kind == "defer"
    assert states.choose(installed(1), CONFIG, RUNTIME, None, ()).kind == "stay"


def test_what_is_current_follows_from_the_state_alone() -> None:
    state = installed(1)
    assert states.active(AgentState()) is None
    assert states.active(state) == "a"
    for step in ("downloading", "installing", "testing"):
        state = states.begin(state, 2, 1) if step == "downloading" else states.going(state, step)  # type: ignore[arg-type]
        assert states.active(state) == "a"
    state = states.watching(state, HASH, 1.0, "boot", 5.0)
    assert states.active(state) == "b"
    assert states.running(state) == 2
    assert states.active(states.committed(state)) == "b"
    assert states.active(states.rejected(state, "reverted", 2, 1, "errors: many")) == "a"


def test_a_commit_raises_the_floor_and_a_revert_does_not() -> None:
    state = watched(installed(1), 2)
    assert states.committed(state).floor.counter == 2
    back = states.rejected(state, "reverted", 2, 1, "errors: many")
    assert back.floor.counter == 1
    assert states.choose(back, CONFIG, RUNTIME, rollout(2, serial=2), ()).kind == "stay"
    assert states.choose(back, CONFIG, RUNTIME, rollout(3, serial=2), ()).kind == "take"
    settled = states.settled(back, 2, rollout(2, serial=9))
    assert settled.outcome is not None
    assert (settled.outcome.state, settled.outcome.rollout) == ("reverted", 9)


def test_attempts_are_counted_over_starts() -> None:
    state = installed(1)
    for attempt in range(3):
        state = states.going(states.going(states.begin(state, 2, 1), "installing"), "testing")
        assert state.update is not None
        assert state.update.attempts == attempt + 1
    other = states.begin(state, 3, 2)
    assert other.update is not None
    assert other.update.attempts == 0


RULES = WatchRules(seconds=100.0, start_s=20.0, stale_s=10.0, errors=0.05, min_images=20, restarts=1)
SINCE = Watched(boot="x", since_s=1000.0)


def beat(**changed: Any) -> Heartbeat:
    fields: dict[str, Any] = {"counter": 2, "pid": 7, "images": 50, "errors": 0, "at_monotonic_s": 1050.0}
    return Heartbeat(**(fields | changed))


def seen(now_s: float, heard: Heartbeat | None, before: Watched = SINCE, **more: Any) -> tuple[Watched, str]:
    asked: dict[str, Any] = {"boot": "x", "said": False, "rules": RULES} | more
    return states.look(before, asked["rules"], heard, 2, asked["boot"], now_s, asked["said"])


@pytest.mark.parametrize(
    ("now_s", "heard", "verdict"),
    [
        (1010.0, None, "go on"),
        (1021.0, None, "heartbeat: none of release 2 within 20 s"),
        (1010.0, beat(counter=1, at_monotonic_s=1009.0), "go on"),
        (1021.0, beat(counter=1, at_monotonic_s=1020.0), "heartbeat: none of release 2 within 20 s"),
        (1010.0, beat(at_monotonic_s=999.0), "go on"),  # of before the switch
        (1055.0, beat(), "go on"),
        (1061.0, beat(), "heartbeat: none for 11 s"),
        (1055.0, beat(errors=3), "errors: 3 of 50 images"),
        (1055.0, beat(images=19, errors=19), "go on"),  # too few to tell
        (1101.0, beat(images=19, errors=19, at_monotonic_s=1100.0), "errors: 19 of 19 images"),
        (1055.0, beat(images=100, errors=5), "go on"),  # exactly at the limit
        (1101.0, beat(at_monotonic_s=1100.0), "commit"),
        (1101.0, beat(at_monotonic_s=1100.0, images=0), "heartbeat: no image"),
    ],
)
def test_looks(now_s: float, heard: Heartbeat | None, verdict: str) -> None:
    assert seen(now_s, heard)[1].startswith(verdict)


def test_a_watch_shorter_than_a_heartbeat_waits_for_the_first_that_tells_of_images() -> None:
    rules = RULES.model_copy(update={"seconds": 1.0})
    assert seen(1002.0, beat(at_monotonic_s=1001.0, images=0), rules=rules)[1] == "go on"
    assert seen(1006.0, beat(at_monotonic_s=1005.0, images=1), rules=rules)[1] == "commit"
    assert seen(1010.0, beat(at_monotonic_s=1009.0, images=0), rules=rules)[1] == "heartbeat: no image within 10 s"


def test_an_application_that_starts_again_and_again_is_a_crash() -> None:
    known, verdict = seen(1010.0, beat(at_monotonic_s=1009.0))
    assert (known.pid, verdict) == (7, "go on")
    known, verdict = seen(1012.0, beat(pid=8, at_monotonic_s=1011.0), known)
    assert (known.starts, verdict) == (1, "go on")
    known, verdict = seen(1014.0, beat(pid=9, at_monotonic_s=1013.0), known)
    assert verdict.startswith("crash:")


def test_a_device_that_starts_again_and_again_is_a_crash() -> None:
    known, verdict = seen(5.0, None, boot="y")
    assert (known.starts, known.since_s, verdict) == (1, 5.0, "go on")
    _, verdict = seen(5.0, None, known, boot="z")
    assert verdict.startswith("crash:")


def test_a_word_is_enough_or_needed() -> None:
    rules = RULES.model_copy(update={"by": "confirm"})
    assert seen(1010.0, None, rules=rules)[1] == "go on"
    assert seen(1010.0, None, rules=rules, said=True)[1] == "commit"
    assert seen(1100.0, None, rules=rules)[1].startswith("confirm: nobody")
    assert seen(1001.0, None, said=True)[1] == "commit"
    assert seen(1001.0, None, rules=RULES.model_copy(update={"by": "self-test"}))[1] == "commit"


def test_statuses_rise_and_are_said_once() -> None:
    state = states.word(installed(1), CONFIG, RUNTIME, "0", HASH, AT)
    assert state.seq == 1
    assert states.word(state, CONFIG, RUNTIME, "0", HASH, AT + timedelta(hours=1)) == state
    state = states.word(states.begin(state, 2, 4), CONFIG, RUNTIME, "0", HASH, AT)
    assert state.word is not None
    assert (state.seq, state.word.state, state.word.release, state.word.rollout) == (2, "downloading", 2, 4)
    state = states.word(states.deferred(state, "network: away"), CONFIG, RUNTIME, "0", HASH, AT)
    assert state.word is not None
    assert (state.word.state, state.word.reason, state.word.release) == ("deferred", "network: away", 2)


@given(
    kept=st.integers(0, 5), floor=st.integers(0, 5), asked=st.integers(1, 6), stable=st.integers(0, 5),
    serial=st.integers(1, 5), percent=st.sampled_from([0.001, 50.0, 100.0]),
    state=st.sampled_from(["running", "paused", "halted", "aborted", "done"]),
)  # fmt: skip
def test_nothing_goes_under_the_floor_whatever_is_asked(
    kept: int, floor: int, asked: int, stable: int, serial: int, percent: float, state: Any
) -> None:
    have = installed(kept).model_copy(update={"floor": Floor(counter=max(floor, kept), serial=3, keys=("k",))})
    given_one = rollout(
        asked, serial, stable=stable if 0 < stable < asked else None, waves=(Wave(percent=percent),), state=state
    )
    choice = states.choose(have, CONFIG, RUNTIME, given_one, ("k",))
    if choice.kind == "take":
        assert choice.release >= have.floor.counter
        assert choice.release > kept
        assert serial >= 3
        assert choice.release in (asked, stable)


def test_an_update_never_goes_into_the_slot_that_is_current() -> None:
    for slot, other in (("a", "b"), ("b", "a"), ("factory", "a")):
        state = states.begin(installed(1, slot), 2, 1)
        assert isinstance(state.update, Update)
        assert state.update.slot == other
