"""Rollouts as a state machine: where the thresholds lie, what is final, and that nothing goes backwards."""

from __future__ import annotations

from datetime import timedelta

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgeprune.errors import UpdateError
from edgeprune.fleet.rollout import (
    TERMINAL,
    Counts,
    RolloutRecipe,
    WaveCounts,
    abort,
    advance,
    change,
    count,
    pause,
    refuse_backwards,
    resume,
    start,
)
from edgeprune.records.rollout import Rollout, Selector, Wave, bucket
from tests.fleet.told import NOW, SALT, begun, later, seen

HOUR = 3600


def test_the_canary_comes_first_and_alone() -> None:
    rollout = begun(Wave(percent=1), Wave(percent=100))
    reached = [n for n in range(10_000) if rollout.reaches(f"d{n}", "pi", "onnxruntime 1.30.0")]
    assert 60 < len(reached) < 140
    assert all(bucket(SALT, f"d{n}") < 0.01 for n in reached)
    assert rollout.release_for(f"d{reached[0]}", "pi", "onnxruntime 1.30.0") == 1
    other = next(n for n in range(10_000) if n not in reached)
    assert rollout.release_for(f"d{other}", "pi", "onnxruntime 1.30.0") is None


def test_every_rollout_has_other_canaries() -> None:
    names = [f"d{n}" for n in range(20_000)]
    first, second = ({n for n in names if bucket(salt, n) < 0.05} for salt in ("salt-one", "salt-two"))
    assert len(first & second) / len(first) < 0.1


def test_counting_agrees_with_what_a_device_decides() -> None:
    rollout = begun(Wave(percent=5), Wave(percent=30), Wave(percent=70))
    names = [f"d{n}" for n in range(3000)]
    counts = count(rollout, ((name, None, "") for name in names))
    for index in range(3):
        at = rollout.model_copy(update={"wave": index})
        assert counts.until(index).devices == sum(at.reaches(name, "pi", "onnxruntime") for name in names)
    assert counts.selected == 3000


@pytest.mark.parametrize(("failed", "state"), [(1, "running"), (2, "halted")])
def test_exactly_at_the_error_threshold_does_not_fire(failed: int, state: str) -> None:
    rollout = begun(Wave(percent=10, error=0.05), Wave(percent=100))
    assert advance(rollout, seen((40, 20 - failed, failed), (60, 0, 0)), NOW)[0].state == state


@pytest.mark.parametrize("of", [20, 60, 100, 140, 1_000_000])
def test_exactly_at_is_exact_for_every_size(of: int) -> None:
    rollout = begun(Wave(percent=10, error=0.05, success=0.95, dwell_s=0), Wave(percent=100))
    failed = of // 20
    assert advance(rollout, seen((of, of - failed, failed), (60, 0, 0)), NOW)[0].wave == 1
    assert advance(rollout, seen((of, of - failed - 1, failed + 1), (60, 0, 0)), NOW)[0].state == "halted"


@pytest.mark.parametrize(("committed", "wave"), [(18, 0), (19, 1)])
def test_exactly_at_the_success_threshold_does(committed: int, wave: int) -> None:
    rollout = begun(Wave(percent=10, success=0.95, error=0.5), Wave(percent=100))
    after, event = advance(rollout, seen((20, committed, 20 - committed), (80, 0, 0)), later(HOUR))
    assert after.wave == wave
    assert (event is not None) == (wave == 1)


@pytest.mark.parametrize(("seconds", "wave"), [(HOUR - 1, 0), (HOUR, 1)])
def test_a_wave_lasts_its_dwell(seconds: float, wave: int) -> None:
    after, _ = advance(begun(), seen((10, 10, 0), (40, 0, 0), (50, 0, 0)), later(seconds))
    assert after.wave == wave
    assert after.since == (later(seconds) if wave else NOW)


def test_an_error_does_not_wait_for_the_dwell() -> None:
    after, event = advance(begun(), seen((10, 4, 3), (40, 0, 0), (50, 0, 0), latency=2, crash=1), NOW)
    assert after.state == "halted"
    assert event is not None
    assert (event.kind, event.state) == ("halted", "halted")
    assert after.reason == event.text
    assert after.reason == "3 of 7 of the wave failed (42.9%, over 5.0%) at 10 %; most often: latency"


def test_nothing_counts_before_enough_have_executed() -> None:
    rollout = begun(Wave(percent=10, min_executed=5), Wave(percent=100))
    assert advance(rollout, seen((50, 0, 4), (50, 0, 0)), later(HOUR))[0] == rollout
    assert advance(rollout, seen((50, 4, 0), (50, 0, 0)), later(HOUR))[0] == rollout
    assert advance(rollout, seen((50, 0, 5), (50, 0, 0)), later(HOUR))[0].state == "halted"
    assert advance(rollout, seen((50, 5, 0), (50, 0, 0)), later(HOUR))[0].wave == 1


def test_all_of_a_wave_is_enough_where_it_has_fewer() -> None:
    rollout = begun(Wave(percent=10, min_executed=50), Wave(percent=100))
    assert advance(rollout, seen((3, 2, 0), (97, 0, 0)), later(HOUR))[0].wave == 0
    assert advance(rollout, seen((3, 3, 0), (97, 0, 0)), later(HOUR))[0].wave == 1
    assert advance(rollout, seen((3, 2, 1), (97, 0, 0)), NOW)[0].state == "halted"


def test_zero_devices_wait() -> None:
    rollout = begun()
    assert advance(rollout, seen((0, 0, 0), (0, 0, 0), (0, 0, 0)), later(10**9)) == (rollout, None)


def test_a_wave_that_nobody_is_in_passes_when_its_time_is_up() -> None:
    counts = seen((0, 0, 0), (2, 0, 0), (3, 0, 0))
    assert advance(begun(), counts, later(HOUR - 1))[0].wave == 0
    after = advance(begun(), counts, later(HOUR))[0]
    assert after.wave == 1
    assert advance(after, counts, later(10 * HOUR))[0] == after, "the next has devices, and waits for them"


def test_a_wave_is_judged_by_its_own_newcomers() -> None:
    rollout = begun().model_copy(update={"wave": 1})
    assert advance(rollout, seen((100, 100, 0), (400, 0, 0), (500, 0, 0)), later(HOUR))[0].wave == 1
    halted = advance(rollout, seen((100, 100, 0), (400, 2, 1), (500, 0, 0)), NOW)[0]
    assert halted.state == "halted", "a hundred canaries that did well don't outweigh a wave that doesn't"


def test_what_breaks_late_in_an_earlier_wave_halts_too() -> None:
    rollout = begun().model_copy(update={"wave": 1})
    halted = advance(rollout, seen((100, 60, 40), (400, 50, 0), (500, 0, 0)), NOW)[0]
    assert halted.state == "halted"
    assert "40 of 150 of all so far failed" in halted.reason


def test_a_device_removed_mid_wave_takes_no_other_out() -> None:
    rollout = begun(Wave(percent=10), Wave(percent=100))
    names = [f"d{n}" for n in range(500)]
    before = count(rollout, [(name, None, "") for name in names])
    fewer = count(rollout, [(name, None, "") for name in names[1:]])
    assert before.selected - fewer.selected == 1
    inside = [name for name in names if rollout.reaches(name, "pi", "onnxruntime")]
    left = count(rollout, [(n, "committed" if n in inside[1:] else None, "") for n in names if n != inside[0]])
    assert left.waves[0] == WaveCounts(len(inside) - 1, len(inside) - 1, 0)
    assert advance(rollout, left, later(HOUR))[0].wave == 1, "nobody waits for who is gone"


def test_late_joiners_are_in_the_wave_of_their_bucket() -> None:
    rollout = begun(Wave(percent=10, min_executed=10**6), Wave(percent=100))
    inside = [n for n in (f"d{n}" for n in range(500)) if rollout.reaches(n, "pi", "onnxruntime")]
    all_done = count(rollout, [(name, "committed", "") for name in inside])
    assert advance(rollout, all_done, later(HOUR))[0].wave == 1
    joiner = next(n for n in (f"late{n}" for n in range(500)) if rollout.reaches(n, "pi", "onnxruntime"))
    joined = count(rollout, [*((name, "committed", "") for name in inside), (joiner, None, "")])
    assert advance(rollout, joined, later(HOUR))[0].wave == 0, "all of the wave has one more now"
    done = begun(Wave(percent=100)).model_copy(update={"state": "done"})
    assert done.release_for("a-year-late", "pi", "onnxruntime 1.30.0") == 1


def test_pause_and_resume() -> None:
    rollout = begun()
    paused, event = pause(rollout, "by hand")
    assert (paused.state, paused.reason, event.kind, event.text) == ("paused", "by hand", "paused", "by hand")
    good = seen((10, 10, 0), (40, 0, 0), (50, 0, 0))
    assert advance(paused, good, later(10 * HOUR)) == (paused, None)
    assert not any(paused.release_for(f"d{n}", "pi", "onnxruntime") for n in range(100)), "nobody begins"
    resumed, event = resume(paused, later(10 * HOUR))
    assert (resumed.state, resumed.wave, resumed.reason, event.kind) == ("running", 0, "", "resumed")
    assert advance(resumed, good, later(10 * HOUR + 1))[0] == resumed, "with a new dwell"
    assert advance(resumed, good, later(11 * HOUR))[0].wave == 1


def test_a_paused_rollout_is_halted_by_errors_all_the_same() -> None:
    paused, _ = pause(begun())
    assert advance(paused, seen((10, 5, 5), (40, 0, 0), (50, 0, 0)), NOW)[0].state == "halted"


def test_abort_during_install_is_final_whatever_the_devices_say_after() -> None:
    aborted, event = abort(begun(), "wrong one")
    assert (aborted.state, aborted.reason, event.kind) == ("aborted", "wrong one", "aborted")
    assert not any(aborted.release_for(f"d{n}", "pi", "onnxruntime") for n in range(100)), "who hasn't begun, doesn't"
    for counts in (seen((10, 10, 0), (40, 0, 0), (50, 0, 0)), seen((10, 0, 10), (40, 0, 0), (50, 0, 0))):
        assert advance(aborted, counts, later(10 * HOUR)) == (aborted, None)
    for ask in (pause, abort, lambda rollout: resume(rollout, NOW)):
        with pytest.raises(UpdateError, match="aborted"):
            ask(aborted)


def test_the_last_wave_ends_it() -> None:
    rollout = begun().model_copy(update={"wave": 2})
    after, event = advance(rollout, seen((10, 10, 0), (40, 40, 0), (50, 48, 1)), later(HOUR))
    assert after.state == "done"
    assert event is not None
    assert event.kind == "done"


def test_a_newer_rollout_supersedes() -> None:
    first = begun(counter=3)
    second = begun(counter=4, before=first, salt="another-salt")
    assert (second.serial, second.counter, second.stable) == (2, 4, None)
    refuse_backwards(first, second)
    with pytest.raises(UpdateError, match="serial 1 is under 2"):
        refuse_backwards(second, first)
    event = change(first, second)
    assert event is not None
    assert (event.kind, event.serial) == ("started", 2)


def test_stable_is_what_a_done_rollout_brought_to_all() -> None:
    done = begun(counter=3).model_copy(update={"state": "done", "wave": 2})
    assert begun(counter=4, before=done).stable == 3
    running = begun(counter=4, before=done)
    assert begun(counter=5, before=running).stable == 3, "of one that isn't done: what was stable then"
    half = begun(Wave(percent=50), counter=4, before=done).model_copy(update={"state": "done"})
    assert begun(counter=5, before=half).stable == 3, "half of them have 4, and 3 is what all have"
    some = begun(counter=4, before=done, selector=Selector(skus=("pi",))).model_copy(
        update={"state": "done", "wave": 2}
    )
    assert begun(counter=5, before=some).stable == 3
    assert begun(counter=5, before=some, selector=Selector(skus=("pi",))).stable == 4
    assert begun(counter=3, before=done, selector=Selector(skus=("pi",))).stable is None


def test_an_older_release_and_another_product_are_refused() -> None:
    before = begun(counter=5)
    with pytest.raises(UpdateError, match="later release"):
        begun(counter=4, before=before)
    with pytest.raises(UpdateError, match="one product"):
        start("stable", "parts", 6, before, SALT, RolloutRecipe(), NOW)


def test_a_selector_chooses() -> None:
    rollout = begun(Wave(percent=100), selector=Selector(skus=("pi",), runtimes=("onnxruntime",), tags=("day",)))
    assert rollout.release_for("d", "pi", "onnxruntime 1.30.0", ("day", "site-3")) == 1
    for sku, runtime, tags in (
        ("orin", "onnxruntime 1.30.0", ("day",)), ("pi", "openvino 2026.1", ("day",)), ("pi", "onnxruntime 1.30.0", ()),
    ):  # fmt: skip
        assert rollout.release_for("d", sku, runtime, tags) is None


def test_the_same_serial_never_goes_back() -> None:
    rollout = begun().model_copy(update={"wave": 1})
    refuse_backwards(rollout, rollout)
    refuse_backwards(rollout, rollout.model_copy(update={"wave": 2}))
    with pytest.raises(UpdateError, match="leave a wave"):
        refuse_backwards(rollout, rollout.model_copy(update={"wave": 0}))
    with pytest.raises(UpdateError, match="halted is final"):
        refuse_backwards(rollout.model_copy(update={"state": "halted"}), rollout)
    with pytest.raises(UpdateError, match="same serial"):
        refuse_backwards(rollout, rollout.model_copy(update={"salt": "another-salt"}))


waves = st.lists(
    st.builds(
        Wave, percent=st.integers(1, 100), dwell_s=st.integers(0, 10), success=st.floats(0, 1), error=st.floats(0, 1),
        min_executed=st.integers(0, 5),
    ),
    min_size=1, max_size=5, unique_by=lambda wave: wave.percent,
).map(lambda found: tuple(sorted(found, key=lambda wave: wave.percent)))  # fmt: skip
outcomes = st.sampled_from([None, None, "committed", "committed", "failed"])
moves = st.lists(
    st.one_of(
        st.tuples(st.just("tick"), st.integers(0, 20), st.lists(outcomes, max_size=12)),
        st.tuples(st.sampled_from(["pause", "resume", "abort"]), st.just(0), st.just([])),
    ),
    max_size=12,
)


def _apply(rollout: Rollout, move: str, now: timedelta, ended: list[str | None]) -> Rollout:
    if move == "tick":
        devices = [(f"d{n}", outcome, "") for n, outcome in enumerate(ended)]
        return advance(rollout, count(rollout, devices), NOW + now)[0]  # type: ignore[arg-type]
    try:
        ask = {"pause": pause, "abort": abort, "resume": lambda r: resume(r, NOW + now)}[move]
        return ask(rollout)[0]
    except UpdateError:
        return rollout


@settings(max_examples=300, deadline=None)
@given(waves, moves)
def test_no_percentage_falls_no_device_leaves_and_final_states_stay(
    given_waves: tuple[Wave, ...], given_moves: list[tuple[str, int, list[str | None]]]
) -> None:
    rollout, clock = begun(*given_waves), 0
    for move, seconds, ended in given_moves:
        clock += seconds
        after = _apply(rollout, move, timedelta(seconds=clock), ended)
        refuse_backwards(rollout, after)
        assert after.percent >= rollout.percent
        assert after.wave - rollout.wave in (0, 1), "one wave at a time"
        before_in = {n for n in range(50) if rollout.reaches(f"d{n}", "pi", "onnxruntime")}
        assert before_in <= {n for n in range(50) if after.reaches(f"d{n}", "pi", "onnxruntime")}
        if rollout.state in TERMINAL:
            assert after == rollout
        event = change(rollout, after)
        assert (event is None) == ((after.state, after.wave) == (rollout.state, rollout.wave)), (
            "the history can tell every change by comparing"
        )
        rollout = after


@settings(max_examples=200, deadline=None)
@given(waves, st.lists(outcomes, max_size=30), st.integers(0, 100))
def test_a_tick_again_at_once_changes_nothing_but_empty_waves(
    given_waves: tuple[Wave, ...], ended: list[str | None], seconds: int
) -> None:
    rollout = begun(*(wave.model_copy(update={"dwell_s": wave.dwell_s + 1}) for wave in given_waves))
    counts: Counts = count(rollout, [(f"d{n}", outcome, "") for n, outcome in enumerate(ended)])  # type: ignore[misc]
    once, event = advance(rollout, counts, later(seconds))
    again, nothing = advance(once, counts, later(seconds))
    if event is not None and event.kind == "advanced" and again.state == "halted":
        return  # the next wave has a stricter threshold, and errors don't wait
    assert (again, nothing) == (once, None)
