"""The status store, on both databases: who is believed, what is kept, and what counts."""

from __future__ import annotations

import threading
from collections.abc import Callable
from datetime import datetime, timezone
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import create_engine, text

from edgeprune.errors import UpdateError
from edgeprune.fleet.counting import bounds
from edgeprune.fleet.database import url_of
from edgeprune.fleet.rollout import WaveCounts, count
from edgeprune.fleet.store import Store, Tally
from edgeprune.fleet.tables import REVISION, metadata
from edgeprune.records.device_status import DeviceStatus
from edgeprune.records.rollout import Rollout, Selector, Wave
from tests.fleet.told import NOW, begun, committed, enrolled, later, reverted, status

WHOLE = Wave(percent=100)


def sums(store: Store, rollout: Rollout) -> WaveCounts:
    return store.counts(rollout).until(len(rollout.waves) - 1)


def everything(store: Store) -> list[object]:
    """All rows that a status could touch."""
    with store._engine.connect() as connection:
        return [
            sorted(map(str, connection.execute(text(f"SELECT * FROM {table}")).all()))
            for table in ("devices", "words", "kinds")
        ]


def test_the_first_word_counts_and_the_newer_one_replaces_it(store: Store) -> None:
    rollout = begun(WHOLE)
    store.enroll(enrolled("a", "b"), NOW)
    assert sums(store, rollout) == WaveCounts(2, 0, 0), "enrolled, not heard yet"
    assert store.take([status("a", 1)], NOW) == ["taken"]
    assert store.take([committed("a", 2, rollout)], NOW) == ["taken"]
    assert sums(store, rollout) == WaveCounts(2, 1, 0)


@pytest.mark.parametrize("seq", [1, 4, 5])
def test_duplicate_late_and_replayed_statuses_are_dropped(store: Store, seq: int) -> None:
    rollout = begun(WHOLE)
    store.enroll(enrolled("a"), NOW)
    assert store.take([reverted("a", 5, rollout)], NOW) == ["taken"]
    before = everything(store)
    assert store.take([committed("a", seq, rollout)], later(9)) == ["not newer"]
    assert everything(store) == before


def test_of_one_batch_each_device_counts_in_order(store: Store) -> None:
    rollout = begun(WHOLE)
    store.enroll(enrolled("a", "b"), NOW)
    batch = [
        reverted("a", 3, rollout), committed("a", 2, rollout), status("b", 1), committed("b", 2, rollout),
        status("a", 4), status("ghost", 1), committed("b", 2, rollout), status("b", 7, sku="orin"),
    ]  # fmt: skip
    answers = ["taken", "not newer", "taken", "taken", "taken", "not enrolled", "not newer", "another SKU"]
    assert store.take(batch, NOW) == answers
    assert sums(store, rollout) == WaveCounts(2, 1, 1)


def test_a_failure_outlives_the_word_that_said_so(store: Store) -> None:
    rollout = begun(WHOLE)
    store.enroll(enrolled("a"), NOW)
    store.take([reverted("a", 1, rollout, "latency: 9.1 ms, 4.0 allowed")], NOW)
    store.take([status("a", 2)], NOW)
    counts = store.counts(rollout)
    assert counts.until(0) == WaveCounts(1, 0, 1)
    assert counts.reasons == {"latency": 1}
    store.take([committed("a", 3, rollout)], NOW)
    assert sums(store, rollout) == WaveCounts(1, 1, 0), "tried again, and well"


def test_what_committed_and_broke_later_has_failed(store: Store) -> None:
    rollout = begun(WHOLE)
    store.enroll(enrolled("a"), NOW)
    store.take([committed("a", 1, rollout), reverted("a", 2, rollout, "heartbeat: none for 60 s")], NOW)
    assert sums(store, rollout) == WaveCounts(1, 0, 1)


def test_the_outcome_of_another_rollout_does_not_count(store: Store) -> None:
    first = begun(WHOLE)
    second = begun(WHOLE, counter=2, before=first)
    store.enroll(enrolled("a", "b", "c"), NOW)
    store.take([committed("a", 1, first), reverted("b", 1, first)], NOW)
    assert sums(store, second) == WaveCounts(3, 0, 0)
    again = begun(WHOLE, counter=1, before=first)
    assert sums(store, again) == WaveCounts(3, 1, 0), "who runs the release already has committed to it"


def test_a_device_on_its_way_has_not_executed(store: Store) -> None:
    rollout = begun(WHOLE)
    store.enroll(enrolled("a"), NOW)
    for seq, state in enumerate(("downloading", "installing", "testing", "watching"), 1):
        counter = rollout.counter if state == "watching" else 0
        store.take([status("a", seq, state=state, rollout=1, release=1, counter=counter)], NOW)
        assert sums(store, rollout) == WaveCounts(1, 0, 0)


def test_only_those_of_the_channel_the_product_and_the_selector_count(store: Store) -> None:
    store.enroll(enrolled("a", "b", runtime="onnxruntime 1.30.0", tags=("day", "x")), NOW)
    store.enroll(enrolled("c", sku="orin", runtime="tensorrt 10.3", tags=("day",)), NOW)
    store.enroll(enrolled("d", channel="beta"), NOW)
    store.enroll(enrolled("e", product="parts"), NOW)
    store.enroll(enrolled("f", product=None, channel=None), NOW)
    for selector, devices in (
        (Selector(), 3), (Selector(skus=("orin",)), 1), (Selector(tags=("day",)), 3), (Selector(tags=("x", "day")), 2),
        (Selector(runtimes=("onnxruntime",)), 2), (Selector(runtimes=("tensorrt 10.3",)), 1),
        (Selector(skus=("none",)), 0),
    ):  # fmt: skip
        assert store.counts(begun(WHOLE, selector=selector)).selected == devices, selector
    store.take([status("f", 1)], NOW)
    store.take([status("b", 1, tags=("night",), runtime="onnxruntime 1.30.0")], NOW)
    assert store.counts(begun(WHOLE)).selected == 4, "it said where it belongs"
    assert store.counts(begun(WHOLE, selector=Selector(tags=("day",)))).selected == 2, (
        "its last word, not its enrolment"
    )


def test_more_kinds_than_a_statement_takes(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    for number in range(8):
        store.enroll(enrolled(f"d{number}", tags=(f"site-{number}", "even" if number % 2 == 0 else "odd")), NOW)
    selector = Selector(tags=("even",))
    few = store.counts(begun(WHOLE, selector=selector))
    monkeypatch.setattr("edgeprune.fleet.store.CHUNK", 2)
    assert store.counts(begun(WHOLE, selector=selector)) == few
    assert few.selected == 4


def test_a_device_is_enrolled_once(store: Store) -> None:
    store.enroll(enrolled("a"), NOW)
    before = everything(store)
    with pytest.raises(UpdateError, match="enrolled once") as refused:
        store.enroll(enrolled("b", "a"), NOW)
    assert refused.value.details["got"] == "a"
    with pytest.raises(UpdateError, match="enrolled once"):
        store.enroll(enrolled("c", "c"), NOW)
    assert everything(store) == before


def test_enrolled_again_it_counts_from_one(store: Store) -> None:
    store.enroll(enrolled("a"), NOW)
    store.take([status("a", 900)], NOW)
    old = store.token_sha256("a")
    store.enroll([*enrolled("a")], NOW, again=True)
    assert store.token_sha256("a") == old, "the token that was given"
    assert store.take([status("a", 1)], NOW) == ["taken"]


def test_who_was_never_enrolled_changes_nothing(store: Store) -> None:
    store.enroll(enrolled("a"), NOW)
    before = everything(store)
    assert store.take([status("ghost", 1, runtime="never seen 1.0")], NOW) == ["not enrolled"]
    assert store.take([status("a", 1, sku="orin")], NOW) == ["another SKU"]
    with pytest.raises(UpdateError, match="No such device") as refused:
        store.retire(["a", "ghost"])
    assert refused.value.details["got"] == "ghost"
    assert everything(store) == before
    assert store.token_sha256("ghost") is None


def test_the_retired_are_forgotten(store: Store) -> None:
    rollout = begun(WHOLE)
    store.enroll(enrolled("a", "b"), NOW)
    store.take([committed("a", 1, rollout)], NOW)
    store.retire(["a"])
    assert sums(store, rollout) == WaveCounts(1, 0, 0)
    assert store.take([status("a", 2)], NOW) == ["not enrolled"]
    assert store.token_sha256("a") is None


def test_the_fleet_by_what_it_does(store: Store) -> None:
    store.enroll(enrolled("a", "b", "c"), NOW)
    store.take([status("a", 1, counter=2), status("b", 1, counter=2)], NOW)
    assert sorted(store.tallies(), key=lambda tally: tally.devices) == [
        Tally("cells", "stable", "pi", None, None, 1), Tally("cells", "stable", "pi", "idle", 2, 2),
    ]  # fmt: skip
    assert store.skus() == {"pi": 3}


def test_each_device_where_they_are_few(store: Store) -> None:
    rollout = begun(WHOLE)
    store.enroll(enrolled("a", "b"), NOW)
    store.take([reverted("a", 1, rollout, "crash: it died")], NOW)
    assert sorted(tuple(row) for row in store.each(rollout, 2)) == [
        ("a", "failed", "crash: it died", "reverted"), ("b", None, "", None),
    ]  # fmt: skip
    assert store.each(rollout, 1) == []


def test_the_history_is_told_by_comparing(store: Store) -> None:
    first = begun(Wave(percent=10), WHOLE)
    assert [event.kind for event in store.record([first], NOW)] == ["started"]
    assert store.record([first], later(1)) == [], "nothing happened"
    on = first.model_copy(update={"wave": 1})
    assert [(event.kind, event.percent) for event in store.record([on], later(2))] == [("advanced", 100.0)]
    halted = on.model_copy(update={"state": "halted", "reason": "2 of 3 failed"})
    assert [event.text for event in store.record([halted], later(3))] == ["2 of 3 failed"]
    store.record([begun(WHOLE, counter=2, before=halted)], later(4))
    told = store.history("stable")
    assert [one.event.kind for one in told] == ["started", "halted", "advanced", "started"]
    assert [one.at for one in told] == [later(4), later(3), later(2), NOW]
    assert [one.event.kind for one in store.history("stable", 1)] == ["started"]
    assert store.history("beta") == []


def test_two_writers_at_once_lose_nothing(opened: Callable[[], Store]) -> None:
    one, two = opened(), opened()
    names = [f"d{n}" for n in range(40)]
    one.enroll(enrolled(*names), NOW)
    answers: list[tuple[str, int, str]] = []

    def speak(store: Store, order: list[str], seqs: range) -> None:
        for seq in seqs:
            batch = [status(name, seq, runtime=f"onnxruntime 1.{seq}") for name in order]
            answers.extend((s.device, seq, answer) for s, answer in zip(batch, store.take(batch, NOW), strict=True))

    threads = [
        threading.Thread(target=speak, args=(one, names, range(1, 16))),
        threading.Thread(target=speak, args=(two, names[::-1], range(1, 16))),
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(answers) == 2 * 15 * 40
    taken = [(device, seq) for device, seq, answer in answers if answer == "taken"]
    assert len(set(taken)) == len(taken), "no status is taken twice"
    assert {seq for device, seq in taken if device == "d0"} >= {15}


def test_migrations_make_what_the_tables_say(store: Store) -> None:
    from alembic.autogenerate import compare_metadata
    from alembic.migration import MigrationContext

    with store._engine.connect() as connection:
        context = MigrationContext.configure(connection, opts={"compare_type": True})
        assert compare_metadata(context, metadata) == []
        assert context.get_current_revision() == REVISION


def test_it_opens_again_with_all_that_was_in_it(opened: Callable[[], Store]) -> None:
    first = opened()
    first.enroll(enrolled("a"), NOW)
    before = everything(first)
    first.close()
    assert everything(opened()) == before


def test_many_open_an_empty_database_at_once(opened: Callable[[], Store]) -> None:
    errors: list[BaseException] = []

    def open_it() -> None:
        try:
            opened()
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=open_it) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == []


def test_a_database_of_a_later_edgeprune_is_refused(opened: Callable[[], Store]) -> None:
    store = opened()
    with store._engine.begin() as connection:
        connection.execute(text("UPDATE alembic_version SET version_num = '9999'"))
    with pytest.raises(UpdateError, match="later edgeprune"):
        opened()


def test_which_database_is_meant(tmp_path: Path) -> None:
    assert url_of(None, tmp_path / "fleet").database == str(tmp_path / "fleet.db")
    assert url_of("some.db", tmp_path).database == "some.db"
    assert url_of("postgresql://u:p@h/d", tmp_path).drivername == "postgresql+psycopg"
    for other in ("mysql://u@h/d", "postgresql:/nonsense://"):
        with pytest.raises(UpdateError):
            url_of(other, tmp_path)


def test_a_database_that_does_not_answer_is_said_without_its_password(tmp_path: Path) -> None:
    with pytest.raises(UpdateError, match="can't be used") as refused:
        Store(url_of("postgresql://me:secret@127.0.0.1:1/none", tmp_path))
    assert "secret" not in str(refused.value)
    broken = tmp_path / "broken.db"
    broken.write_bytes(b"this is no database, and long enough to be looked at" * 100)
    with pytest.raises(UpdateError, match="can't be used"):
        Store(url_of(str(broken), tmp_path))


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.lists(st.tuples(st.sampled_from("abc"), st.integers(1, 8), st.sampled_from(
    ["idle", "watching", "committed", "reverted"])), max_size=5), max_size=6))  # fmt: skip
def test_any_order_of_any_batches_is_as_one_by_one(
    tmp_path_factory: pytest.TempPathFactory, batches: list[list[tuple[str, int, str]]]
) -> None:
    rollout = begun(WHOLE)
    both = [Store(url_of(str(tmp_path_factory.mktemp("store") / "fleet.db"), Path("."))) for _ in range(2)]
    for store in both:
        store.enroll(enrolled("a", "b"), NOW)

    def made(device: str, seq: int, state: str) -> DeviceStatus:
        return status(device, seq, state=state, rollout=1, release=1, counter=1, at=datetime.now(timezone.utc))

    for batch in batches:
        statuses = [made(*one) for one in batch]
        together = both[0].take(statuses, NOW)
        assert together == [both[1].take([one], NOW)[0] for one in statuses]
    assert both[0].counts(rollout) == both[1].counts(rollout)
    for store in both:
        store.close()


def test_a_server_that_went_away_and_came_back(opened: Callable[[], Store], url: str) -> None:
    store = opened()
    if store.url.get_backend_name() == "sqlite":
        pytest.skip("left out: SQLite has no server")
    store.enroll(enrolled("a"), NOW)
    killer = create_engine(store.url)
    with killer.connect() as connection:
        connection.execute(text(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
            "WHERE datname = current_database() AND pid <> pg_backend_pid()"
        ))  # fmt: skip
    killer.dispose()
    assert store.take([status("a", 1)], NOW) == ["taken"]


@settings(max_examples=20, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    percents=st.sets(st.one_of(st.integers(1, 100), st.floats(0.001, 100)), min_size=1, max_size=5),
    salt=st.text(st.characters(exclude_categories=["Cs", "Cc"]), min_size=8, max_size=20),
    skus=st.sampled_from([(), ("pi",), ("orin",), ("none",)]),
)
def test_the_database_counts_as_a_device_decides(
    store: Store, percents: set[float], salt: str, skus: tuple[str, ...]
) -> None:
    names = [f"d{n}" for n in range(60)]
    rollout = begun(*(Wave(percent=p) for p in sorted(percents)), salt=salt, selector=Selector(skus=skus))
    if store.token_sha256("d0") is None:
        store.enroll(enrolled(*names[:40]), NOW)
        store.enroll(enrolled(*names[40:], sku="orin"), NOW)
        store.take([committed(name, 1, rollout) for name in names[:20]], NOW)
        store.take([reverted(name, 1, rollout, f"kind {n % 3}: {n}") for n, name in enumerate(names[20:30])], NOW)
    found, every = store.counts(rollout), count(rollout, store._outcomes(rollout))
    assert found == every
    for index in range(len(percents)):
        at = rollout.model_copy(update={"wave": index})
        inside = sum(at.reaches(name, "pi" if n < 40 else "orin", "") for n, name in enumerate(names))
        assert found.until(index).devices == inside


@given(st.floats(0, 100, exclude_min=True), st.integers(0, 2**64 - 1), st.integers(-3000, 3000))
def test_a_bound_says_what_the_comparison_says(percent: float, anywhere: int, near: int) -> None:
    bound = bounds(begun(Wave(percent=percent)))[0]
    for place in (anywhere, min(max(int.from_bytes(bound, "big") + near, 0), 2**64 - 1)):
        assert (place.to_bytes(8, "big") < bound) == (place / 2.0**64 * 100.0 < percent)
