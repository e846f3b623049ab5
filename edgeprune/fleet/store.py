"""The status store: who is enrolled, what each device said last, and what became of rollouts.

Rules:
- A device's sequence number rises; a status that isn't over the last one taken is dropped, whether it is late, doubled
  or replayed.
- Who was never enrolled, or says it is another SKU than it was enrolled as, is refused by name. A refused status
  changes nothing, and the others of its batch are taken.
- A rollout counts the devices of its channel and product that its selector selects: by their last word, or by their
  enrolment until they speak. One has committed where its last finished update was of this rollout and ended so, or
  where it runs the release and rests; it has failed where that update ended badly.
- The repository is the truth for rollouts. The history here is told by comparing, so that one that was interrupted
  catches up.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Literal

from sqlalchemy import Connection, bindparam, delete, func, insert, select, update
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.engine import URL

from edgeprune.errors import UpdateError
from edgeprune.fleet.counting import belongs, counted, outcome_of, reason_of
from edgeprune.fleet.database import connect, said, writing
from edgeprune.fleet.rollout import Counts, Event, Outcome, change, count
from edgeprune.fleet.tables import devices, events, kinds, words
from edgeprune.records.device_status import FAILED, SUCCEEDED, DeviceStatus
from edgeprune.records.rollout import Rollout

Answer = Literal["taken", "not newer", "not enrolled", "another SKU"]
#: Rows in one statement: SQLite takes 32,766 parameters, PostgreSQL 65,535.
CHUNK = 1000
#: Rows fetched at a time.
FETCH = 10_000


@dataclass(frozen=True)
class Enrollment:
    """A device that may speak.

    Attributes:
        token_sha256: Hex SHA-256 of its token.
        runtime, tags, product, channel: What is expected of it until it speaks.
    """

    device: str
    sku: str
    token_sha256: str
    runtime: str = ""
    tags: tuple[str, ...] = ()
    product: str | None = None
    channel: str | None = None


@dataclass(frozen=True)
class Tally:
    """Devices that are alike: SKU, product, channel, state (None: never heard) and the release that they run."""

    product: str | None
    channel: str | None
    sku: str
    state: str | None
    counter: int | None
    devices: int


@dataclass(frozen=True)
class Told:
    """An event of the history, and when it was noticed."""

    at: datetime
    event: Event


class Store:
    """A status store on a database. Threads may share one."""

    def __init__(self, url: URL) -> None:
        """Open it; see `database.connect` for what is raised."""
        self.url = url
        self._engine = connect(url)
        self._kinds: dict[tuple[str, str, str], int] = {}

    def close(self) -> None:
        self._engine.dispose()

    def enroll(self, given: Sequence[Enrollment], now: datetime, *, again: bool = False) -> None:
        """Let devices speak; all of them or none.

        Args:
            again: Those that are enrolled get a new token, and may count from 1 again: they were installed anew.

        Raises:
            UpdateError: A device that is enrolled already, or stands here twice.
        """
        names = [one.device for one in given]
        twice = sorted(name for name, number in Counter(names).items() if number > 1)
        with said(self.url):
            ids = self._kind_ids({_kind(one) for one in given})
            with writing(self._engine) as connection:
                there = sorted(self._enrolled(connection, names))
                if twice or (there and not again):
                    raise UpdateError(
                        "A device is enrolled once.", got=", ".join((twice or there)[:10]),
                        next_step="--again gives those that are enrolled a new token",
                    )  # fmt: skip
                self._forget(connection, there)
                for some in _chunks(given):
                    connection.execute(insert(devices), [
                        {"id": one.device, "sku": one.sku, "token_sha256": one.token_sha256, "enrolled_at": now}
                        for one in some
                    ])  # fmt: skip
                    connection.execute(insert(words), [
                        {
                            "device": one.device, "kind": ids[_kind(one)],
                            "product": one.product, "channel": one.channel, "seq": 0, "ended": 0, "ended_rollout": 0,
                            "ended_release": 0, "ended_reason": "",
                        }
                        for one in some
                    ])  # fmt: skip

    def retire(self, names: Sequence[str]) -> None:
        """Let devices speak no longer, and forget what they said; all of them or none.

        Raises:
            UpdateError: A device that was never enrolled.
        """
        with said(self.url), writing(self._engine) as connection:
            unknown = sorted(set(names) - set(self._enrolled(connection, names)))
            if unknown:
                raise UpdateError("No such device is enrolled.", got=", ".join(unknown[:10]))
            self._forget(connection, names)

    def token_sha256(self, device: str) -> str | None:
        """Of an enrolled device's token; None: it never was."""
        with said(self.url), self._engine.connect() as connection:
            return connection.scalar(select(devices.c.token_sha256).where(devices.c.id == device))

    def take(self, statuses: Sequence[DeviceStatus], now: datetime) -> list[Answer]:
        """Keep what is newer; an answer for each, in order."""
        answers: list[Answer] = []
        names = sorted({status.device for status in statuses})
        with said(self.url):
            with self._engine.connect() as connection:
                known = self._before(connection, names)
            welcome = [s for s in statuses if known.get(s.device, (None, 0))[0] == s.sku]
            ids = self._kind_ids({_kind(status) for status in welcome})
            with writing(self._engine) as connection:
                known = {name: was for name, was in self._before(connection, names, held=True).items() if name in known}
                last: dict[str, dict[str, Any]] = {}
                ended: dict[str, dict[str, Any]] = {}
                for status in statuses:
                    sku, seq = known.get(status.device, (None, 0))
                    answer: Answer = (
                        "not enrolled" if sku is None
                        else "another SKU" if sku != status.sku or _kind(status) not in ids
                        else "not newer" if status.seq <= seq else "taken"
                    )  # fmt: skip
                    answers.append(answer)
                    if answer == "taken":
                        known[status.device] = (sku, status.seq)
                        last[status.device] = _word(status, ids[_kind(status)], now)
                        if status.state in SUCCEEDED + FAILED:
                            ended[status.device] = _end(status)
                for rows in (last, ended):
                    if rows:
                        columns = next(iter(rows.values())).keys() - {"b_device"}
                        values: dict[str, Any] = {column: bindparam(column) for column in columns}
                        statement = update(words).where(words.c.device == bindparam("b_device")).values(values)
                        connection.execute(statement, list(rows.values()))
        return answers

    def counts(self, rollout: Rollout) -> Counts:
        """What a rollout's devices have made of it."""
        if self.url.get_backend_name() != "postgresql":
            return count(rollout, self._outcomes(rollout))
        with said(self.url), self._engine.connect() as connection:
            return counted(connection, rollout, *self._chosen(connection, rollout))

    def tallies(self) -> list[Tally]:
        """The fleet by what its devices are, do and run."""
        by = (words.c.product, words.c.channel, kinds.c.sku, words.c.state, words.c.counter)
        query = select(*by, func.count()).join(kinds, kinds.c.id == words.c.kind).group_by(*by)
        with said(self.url), self._engine.connect() as connection:
            return [Tally(*row) for row in connection.execute(query)]

    def skus(self) -> dict[str, int]:
        """SKU -> devices enrolled as it."""
        query = select(devices.c.sku, func.count()).group_by(devices.c.sku)
        with said(self.url), self._engine.connect() as connection:
            return {row[0]: row[1] for row in connection.execute(query)}

    def record(self, rollouts: Sequence[Rollout], now: datetime) -> list[Event]:
        """Write down what became of rollouts since the last time, and return it."""
        found = []
        with said(self.url), writing(self._engine) as connection:
            if connection.dialect.name == "postgresql":  # two at once would both tell it
                connection.exec_driver_sql("LOCK TABLE events IN SHARE ROW EXCLUSIVE MODE")
            for rollout in rollouts:
                told = self._history(connection, rollout.channel, 1)
                event = change(told[0].event if told else None, rollout)
                if event is not None:
                    connection.execute(insert(events), {"at": now} | event.__dict__)
                    found.append(event)
        return found

    def history(self, channel: str, most: int = 20) -> list[Told]:
        """What became of a channel's rollouts, the newest first."""
        with said(self.url), self._engine.connect() as connection:
            return self._history(connection, channel, most)

    def _history(self, connection: Connection, channel: str, most: int) -> list[Told]:
        query = select(events).where(events.c.channel == channel).order_by(events.c.id.desc()).limit(most)
        told = []
        for row in connection.execute(query).mappings():
            fields = {key: value for key, value in row.items() if key not in ("id", "at")}
            told.append(Told(row["at"], Event(**fields)))
        return told

    def each(self, rollout: Rollout, most: int) -> list[tuple[str, Outcome | None, str, str | None]]:
        """Id, outcome, reason and state of a rollout's devices; none where they are more than `most`."""
        rows = list(self._outcomes(rollout, most + 1, words.c.state))
        return rows if len(rows) <= most else []

    def _outcomes(self, rollout: Rollout, most: int | None = None, *more: Any) -> Iterator[Any]:
        """Id, outcome and reason of every device that a rollout selects, and more columns if asked."""
        with said(self.url), self._engine.connect() as connection:
            chosen, all_of_them = self._chosen(connection, rollout)
            query = select(words.c.device, outcome_of(rollout), reason_of(rollout), *more).where(belongs(rollout))
            few = len(chosen) <= CHUNK
            if not all_of_them:
                query = query.where(words.c.kind.in_(chosen)) if few else query.add_columns(words.c.kind)
            if most is not None:
                query = query.limit(most)
            for rows in connection.execution_options(yield_per=FETCH).execute(query).partitions():
                yield from rows if all_of_them or few else (
                    row[:-1] for row in rows if row[-1] in chosen
                )  # fmt: skip

    def _chosen(self, connection: Connection, rollout: Rollout) -> tuple[set[int], bool]:
        """Kinds that a rollout selects, and whether these are all that there are."""
        every = connection.execute(select(kinds)).all()
        chosen = {row.id for row in every if rollout.selector.selects(row.sku, row.runtime, _untagged(row.tags))}
        return chosen, len(chosen) == len(every)

    def _enrolled(self, connection: Connection, names: Sequence[str]) -> Iterator[str]:
        for some in _chunks(names):
            yield from connection.scalars(select(devices.c.id).where(devices.c.id.in_(some)))

    def _forget(self, connection: Connection, names: Sequence[str]) -> None:
        for some in _chunks(names):
            connection.execute(delete(words).where(words.c.device.in_(some)))
            connection.execute(delete(devices).where(devices.c.id.in_(some)))

    def _before(
        self, connection: Connection, names: Sequence[str], held: bool = False
    ) -> dict[str, tuple[str | None, int]]:
        """SKU and last sequence number of those of some devices that are enrolled; held: until the transaction ends."""
        found: dict[str, tuple[str | None, int]] = {}
        for some in _chunks(names):
            query = (
                select(devices.c.id, devices.c.sku, words.c.seq).join(words, words.c.device == devices.c.id)
                .where(devices.c.id.in_(some)).order_by(devices.c.id)
            )  # fmt: skip
            if held:
                query = query.with_for_update(of=words)
            found.update({device: (sku, seq) for device, sku, seq in connection.execute(query)})
        return found

    def _kind_ids(self, wanted: set[tuple[str, str, str]]) -> dict[tuple[str, str, str], int]:
        """Rows of `kinds`, made where there are none: in a transaction of their own, and never taken back."""
        missing = sorted(wanted - self._kinds.keys())
        if missing:
            rows = [dict(zip(("sku", "runtime", "tags"), kind, strict=True)) for kind in missing]
            with writing(self._engine) as connection:
                make = postgresql.insert if connection.dialect.name == "postgresql" else sqlite.insert
                connection.execute(make(kinds).on_conflict_do_nothing(), rows)
                for sku, runtime, tags in missing:
                    query = select(kinds.c.id).where(
                        kinds.c.sku == sku, kinds.c.runtime == runtime, kinds.c.tags == tags
                    )  # fmt: skip
                    self._kinds[sku, runtime, tags] = connection.scalars(query).one()
        return {kind: self._kinds[kind] for kind in wanted}


def _kind(given: DeviceStatus | Enrollment) -> tuple[str, str, str]:
    return given.sku, given.runtime, json.dumps(sorted(set(given.tags)))


def _word(status: DeviceStatus, kind: int, now: datetime) -> dict[str, Any]:
    return {
        "b_device": status.device, "kind": kind, "product": status.product, "channel": status.channel,
        "seq": status.seq, "at": status.at, "heard_at": now, "agent": status.agent, "counter": status.counter,
        "model_sha256": status.model_sha256, "state": status.state, "rollout": status.rollout,
        "release": status.release, "reason": status.reason, "latency_ms": status.latency_ms,
    }  # fmt: skip


def _end(status: DeviceStatus) -> dict[str, Any]:
    good = status.state in SUCCEEDED
    return {
        "b_device": status.device, "ended": 1 if good else 2, "ended_rollout": status.rollout,
        "ended_release": status.release, "ended_reason": "" if good else status.reason,
    }  # fmt: skip


def _untagged(text: str) -> tuple[str, ...]:
    return tuple(json.loads(text))


def _chunks(given: Sequence[Any]) -> Iterator[Sequence[Any]]:
    for first in range(0, len(given), CHUNK):
        yield given[first : first + CHUNK]
