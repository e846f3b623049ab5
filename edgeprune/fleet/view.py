"""What there is to see of a fleet at one moment: for the terminal, the page and the metrics alike.

Rules:
- Figures are those that the rollouts are judged by (rollout.count), not another count of the same.
- Small fleets are shown device by device, in the order of their buckets: who is next stands next.
- Looking costs as much as a tick. However many look, it is done once in `INTERVAL_S`, and seldom enough to take a fifth
  of the time.
"""

from __future__ import annotations

import threading
import time
from bisect import bisect_right
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from datetime import datetime, timedelta, timezone
from typing import Any

from edgeprune.errors import EdgepruneError
from edgeprune.fleet.repository import Repository
from edgeprune.fleet.rollout import counting
from edgeprune.fleet.store import Store
from edgeprune.records.release import Release
from edgeprune.records.rollout import Rollout, bucket, utc

#: Seconds between two looks at least.
INTERVAL_S = 1.0
#: Devices that are shown one by one, at most.
DOTS = 600
#: Events of a channel's history.
HISTORY = 12
#: Kinds of failures that are told apart: devices word their reasons themselves.
REASONS = 12
NEVER_HEARD = "never heard"


@dataclass(frozen=True)
class WaveView:
    """A wave and its own devices.

    Attributes:
        state: 'past', 'now' or 'to come'.
        success, error: Shares of the executed; None where nobody has.
        counts: Whether enough have executed for these to count.
        next_at: When its dwell is over; None unless it is the running one.
    """

    percent: float
    state: str
    devices: int
    committed: int
    failed: int
    success: float | None
    error: float | None
    success_wanted: float
    error_allowed: float
    min_executed: int
    counts: bool
    next_at: str | None


@dataclass(frozen=True)
class Dot:
    """One device: its outcome ('committed', 'failed' or what it says it does), and the wave that it is in."""

    device: str
    is_: str
    wave: int
    reason: str


@dataclass(frozen=True)
class RolloutView:
    """A channel's rollout."""

    channel: str
    product: str
    serial: int
    counter: int
    label: str
    stable: int | None
    reverts_to: int | None
    state: str
    reason: str
    since: str
    wave: int
    waves: tuple[WaveView, ...]
    beyond: int
    failures: tuple[tuple[str, int], ...]
    history: tuple[dict[str, Any], ...]
    dots: tuple[Dot, ...]


@dataclass(frozen=True)
class View:
    """A fleet.

    Attributes:
        states, versions, skus: (name, devices), most first. Version: (product, counter, devices); counter 0: factory.
        expires: Role -> when its metadata expire: what nobody renews, devices stop to believe.
    """

    at: str
    devices: int
    heard: int
    states: tuple[tuple[str, int], ...]
    versions: tuple[tuple[str, int, int], ...]
    skus: tuple[tuple[str, int], ...]
    rollouts: tuple[RolloutView, ...]
    expires: dict[str, str]

    def as_json(self) -> dict[str, Any]:
        return asdict(self)


def look(repository: Repository, store: Store, now: datetime, dots: int = DOTS) -> View:
    """Look at a fleet.

    Raises:
        UpdateError: A repository that can't be read, or a database that doesn't answer.
    """
    tallies = store.tallies()
    states: Counter[str] = Counter()
    skus: Counter[str] = Counter()
    versions: Counter[tuple[str, int]] = Counter()
    for tally in tallies:
        states[tally.state or NEVER_HEARD] += tally.devices
        skus[tally.sku] += tally.devices
        if tally.product is not None and tally.counter is not None:
            versions[tally.product, tally.counter] += tally.devices
    devices = sum(states.values())
    published = repository.published()
    views = [
        _rollout(rollout, published.release(rollout.product, rollout.counter), store, dots)
        for _, rollout in sorted(published.rollouts().items())
    ]
    return View(
        utc(now), devices, devices - states[NEVER_HEARD], tuple(states.most_common()),
        tuple((product, counter, n) for (product, counter), n in sorted(versions.items(), reverse=True)),
        tuple(skus.most_common()), tuple(views),
        {role: utc(expires) for role, expires in published.expiries().items()},
    )  # fmt: skip


def _rollout(rollout: Rollout, release: Release, store: Store, dots: int) -> RolloutView:
    counts = store.counts(rollout)
    waves = []
    for index, (wave, seen) in enumerate(zip(rollout.waves, counts.waves, strict=True)):
        current = index == rollout.wave and rollout.state != "done"
        share = lambda n, of=seen.executed: n / of if of else None  # noqa: E731
        waves.append(WaveView(
            wave.percent, "now" if current else "past" if index <= rollout.wave else "to come", seen.devices,
            seen.committed, seen.failed, share(seen.committed), share(seen.failed), wave.success, wave.error,
            min(wave.min_executed, seen.devices), counting(wave, seen),
            utc(rollout.since + timedelta(seconds=wave.dwell_s)) if current and rollout.state == "running" else None,
        ))  # fmt: skip
    history = [{"at": utc(told.at)} | asdict(told.event) for told in store.history(rollout.channel, HISTORY)]
    return RolloutView(
        rollout.channel, rollout.product, rollout.serial, rollout.counter, release.label, rollout.stable,
        release.reverts_to, rollout.state, rollout.reason, utc(rollout.since), rollout.wave, tuple(waves),
        counts.beyond, _most(counts.reasons), tuple(history),
        _dots(rollout, store, dots) if counts.selected <= dots else (),
    )  # fmt: skip


def _most(reasons: Mapping[str, int]) -> tuple[tuple[str, int], ...]:
    """Kinds of failures, most first, the rare ones of very many as one."""
    found = sorted(reasons.items(), key=lambda item: (-item[1], item[0]))
    rare = sum(number for _, number in found[REASONS:])
    return (*found[:REASONS], *([("others", rare)] if rare else []))


def _dots(rollout: Rollout, store: Store, most: int) -> tuple[Dot, ...]:
    found = sorted(
        (bucket(rollout.salt, device), device, outcome or state or NEVER_HEARD, reason)
        for device, outcome, reason, state in store.each(rollout, most)
    )
    percents = [wave.percent for wave in rollout.waves]
    return tuple(
        Dot(device, is_, bisect_right(percents, place * 100.0), reason) for place, device, is_, reason in found
    )


@dataclass(frozen=True)
class Seen:
    """The last look.

    Attributes:
        view: None where none has succeeded yet.
        trouble: Why the last one didn't; the view is an older one then.
    """

    view: View | None
    trouble: str | None


class Lookout:
    """Looks for all who watch, once for all of them; threads may share it."""

    def __init__(self, repository: Repository, store: Store, clock: Callable[[], float] = time.monotonic) -> None:
        self._repository, self._store, self._clock = repository, store, clock
        self._lock = threading.Lock()
        self._seen = Seen(None, None)
        self._next = float("-inf")

    def latest(self) -> Seen:
        """The fleet as it is, or was a moment ago. Who comes while somebody looks gets the last view, if there is."""
        nothing_yet = self._seen == Seen(None, None)
        if self._clock() < self._next or not self._lock.acquire(blocking=nothing_yet):
            return self._seen
        try:
            begun = self._clock()
            if begun >= self._next:
                self._seen = self._look()
                ended = self._clock()
                self._next = ended + max(INTERVAL_S, 4 * (ended - begun))
        finally:
            self._lock.release()
        return self._seen

    def _look(self) -> Seen:
        try:
            return Seen(look(self._repository, self._store, datetime.now(timezone.utc)), None)
        except EdgepruneError as error:
            return Seen(self._seen.view, str(error))
