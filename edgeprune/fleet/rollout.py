"""How a rollout starts, moves on and ends: decisions only, of records and counts; no clock, disk or network.

Rules:
- States: running and paused go on; halted, aborted and done are final. Who wants more starts another: its serial is
  higher, and the channel has one rollout at a time, so that it supersedes what was there.
- A wave is judged by its own newcomers: committed : executed at or over `success` lets it on, failed : executed over
  `error` halts. Errors are also counted over all that have it so far: what breaks after a day breaks in the first wave.
- Nothing counts before `min_executed` devices have ended their update, or all of the wave where it has fewer. A wave
  that nobody is in passes when its time is up; a rollout that nobody is selected for waits.
- Errors halt at once, and a paused rollout too; the next wave comes after the dwell, one at a time. A pause ends with a
  new dwell: nobody watched meanwhile.
- `stable`, for those not reached yet: what the rollout before brought, if it is done and brought it to all whom the new
  one selects; else what was stable then.

A quotient of whole numbers is the double nearest to it, and so is a threshold that was written as a decimal: 1 of 20 is
0.05 to the bit, and 'exactly at' needs no tolerance.

Sources: facts on fleets; hawkBit's rollout groups (trigger and error thresholds, 'exactly at' as here).
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Literal, Protocol

from pydantic import Field

from edgeprune.errors import UpdateError
from edgeprune.records.base import Record
from edgeprune.records.rollout import Rollout, RolloutState, Selector, Wave, bucket

TERMINAL: tuple[RolloutState, ...] = ("halted", "aborted", "done")
Kind = Literal["started", "advanced", "paused", "resumed", "halted", "aborted", "done"]
#: How a device's update ended; None: it hasn't.
Outcome = Literal["committed", "failed"]

#: An hour for the first per cent, half a day for the first half, and a day at the end, after which nothing halts it.
DEFAULT_WAVES = (
    Wave(percent=1, dwell_s=3600, min_executed=10),
    Wave(percent=10, dwell_s=4 * 3600, min_executed=50),
    Wave(percent=50, dwell_s=12 * 3600, min_executed=100),
    Wave(percent=100, dwell_s=24 * 3600, min_executed=1000),
)


class RolloutRecipe(Record):
    """A YAML file: how to roll out, whatever is rolled out."""

    waves: tuple[Wave, ...] = Field(default=DEFAULT_WAVES, min_length=1)
    selector: Selector = Selector()


@dataclass(frozen=True)
class WaveCounts:
    """A wave's own devices: those that no earlier wave has.

    Attributes:
        devices: Of them, enrolled and selected.
        committed, failed: How their updates to this rollout's release ended; the others' haven't.
    """

    devices: int = 0
    committed: int = 0
    failed: int = 0

    @property
    def executed(self) -> int:
        return self.committed + self.failed

    def __add__(self, other: WaveCounts) -> WaveCounts:
        return WaveCounts(
            self.devices + other.devices, self.committed + other.committed, self.failed + other.failed
        )  # fmt: skip


@dataclass(frozen=True)
class Counts:
    """What a rollout's devices have made of it.

    Attributes:
        waves: One for each wave of the rollout, those to come among them.
        beyond: Selected devices that its last wave leaves out.
        reasons: Kind of failure -> devices.
    """

    waves: tuple[WaveCounts, ...]
    beyond: int = 0
    reasons: Mapping[str, int] = field(default_factory=dict)

    @property
    def selected(self) -> int:
        return sum(wave.devices for wave in self.waves) + self.beyond

    def until(self, wave: int) -> WaveCounts:
        """Of all waves up to one, itself among them."""
        return sum(self.waves[: wave + 1], WaveCounts())


class Mark(Protocol):
    """Where a rollout stood; a `Rollout` is one, and so is what the history keeps of it."""

    @property
    def serial(self) -> int: ...
    @property
    def wave(self) -> int: ...
    @property
    def state(self) -> RolloutState: ...


@dataclass(frozen=True)
class Event:
    """What happened to a rollout, for its history."""

    kind: Kind
    channel: str
    product: str
    serial: int
    counter: int
    wave: int
    percent: float
    state: RolloutState
    text: str


def count(rollout: Rollout, devices: Iterable[tuple[str, Outcome | None, str]]) -> Counts:
    """Sort devices into a rollout's waves.

    Args:
        rollout: The rollout.
        devices: Id, outcome and reason of every device that its selector selects.
    """
    percents, salt = [wave.percent for wave in rollout.waves], rollout.salt
    found = [0] * (len(percents) + 1)
    ended = {"committed": [0] * len(found), "failed": [0] * len(found)}
    reasons: dict[str, int] = {}
    for device, outcome, reason in devices:
        place = bisect_right(percents, bucket(salt, device) * 100.0)
        found[place] += 1
        if outcome is not None:
            ended[outcome][place] += 1
            if outcome == "failed":
                kind = kind_of(reason)
                reasons[kind] = reasons.get(kind, 0) + 1
    waves = zip(found[:-1], ended["committed"], ended["failed"], strict=False)
    return Counts(tuple(WaveCounts(*wave) for wave in waves), found[-1], reasons)


def kind_of(reason: str) -> str:
    """The short kind that a device's reason begins with ('latency: 9.1 ms, …')."""
    return reason.partition(":")[0].strip()[:40] or "no reason given"


def start(
    channel: str, product: str, counter: int, before: Rollout | None, salt: str, recipe: RolloutRecipe, now: datetime
) -> tuple[Rollout, Event]:
    """Begin a rollout, over whatever the channel has.

    Raises:
        UpdateError: The channel is another product's, or has had a later release.
    """
    if before is not None and before.product != product:
        raise UpdateError(
            "A channel brings one product.", where=f"channel {channel}", expected=before.product, got=product,
            next_step="give another --channel",
        )  # fmt: skip
    if before is not None and counter < before.counter:
        raise UpdateError(
            "The channel has had a later release; devices that have it refuse an earlier one.",
            where=f"channel {channel}", expected=f"release {before.counter} or later", got=f"release {counter}",
            next_step="edgeprune fleet revert publishes old bytes under a new number",
        )  # fmt: skip
    begun = Rollout(
        channel=channel, product=product, serial=before.serial + 1 if before else 1, counter=counter,
        stable=_stable(before, counter, recipe.selector), salt=salt, waves=recipe.waves, selector=recipe.selector,
        since=now,
    )  # fmt: skip
    return begun, _event("started", begun)


def pause(rollout: Rollout, reason: str = "") -> tuple[Rollout, Event]:
    """Let no further device begin; those that have, go on."""
    _must_be(rollout, "paused", "running")
    return _moved(rollout, "paused", state="paused", reason=reason)


def resume(rollout: Rollout, now: datetime) -> tuple[Rollout, Event]:
    """Go on in the same wave, with a new dwell."""
    _must_be(rollout, "resumed", "paused")
    return _moved(rollout, "resumed", state="running", reason="", since=now)


def abort(rollout: Rollout, reason: str = "") -> tuple[Rollout, Event]:
    """End it where it is. Devices that have the release keep it, and no other begins."""
    _must_be(rollout, "aborted", "running", "paused")
    return _moved(rollout, "aborted", state="aborted", reason=reason)


def advance(rollout: Rollout, counts: Counts, now: datetime) -> tuple[Rollout, Event | None]:
    """Halt a rollout, move it on by one wave, end it, or leave it as it is (None)."""
    if rollout.state in TERMINAL or counts.selected == 0:
        return rollout, None
    wave, newcomers = rollout.waves[rollout.wave], counts.waves[rollout.wave]
    for who, seen in (("of the wave", newcomers), ("of all so far", counts.until(rollout.wave))):
        if counting(wave, seen) and seen.executed and seen.failed / seen.executed > wave.error:
            return _moved(rollout, "halted", state="halted", reason=_why(rollout, who, seen, counts.reasons))
    if rollout.state == "paused" or (now - rollout.since).total_seconds() < wave.dwell_s:
        return rollout, None
    if not counting(wave, newcomers) or (
        newcomers.executed and newcomers.committed / newcomers.executed < wave.success
    ):  # fmt: skip
        return rollout, None
    if rollout.wave + 1 < len(rollout.waves):
        return _moved(rollout, "advanced", wave=rollout.wave + 1, since=now)
    return _moved(rollout, "done", state="done")


def counting(wave: Wave, seen: WaveCounts) -> bool:
    """Whether enough devices have ended their update for shares to mean something."""
    return seen.executed >= min(wave.min_executed, seen.devices)


def change(before: Mark | None, after: Rollout) -> Event | None:
    """What must have happened between two looks at a channel, for a history that missed it; None: nothing."""
    if before is None or before.serial < after.serial:
        return _event("started", after)
    if before.state != after.state:
        kind: dict[RolloutState, Kind] = {
            "running": "resumed", "paused": "paused", "halted": "halted", "aborted": "aborted", "done": "done",
        }  # fmt: skip
        return _event(kind[after.state], after)
    return _event("advanced", after) if before.wave < after.wave else None


def refuse_backwards(before: Rollout | None, after: Rollout) -> None:
    """Raise UpdateError for a rollout that takes back what its channel has: the last gate before it is signed."""
    if before is None or after.serial > before.serial:
        return
    wrong = (
        f"serial {after.serial} is under {before.serial}" if after.serial < before.serial
        else "another rollout of the same serial" if after.salt != before.salt or after.counter != before.counter
        else f"{before.state} is final" if before.state in TERMINAL and after != before
        else "a device would leave a wave" if after.percent < before.percent
        else None
    )  # fmt: skip
    if wrong is not None:
        raise UpdateError("A rollout only goes forward.", where=f"channel {after.channel}", got=wrong)


def _stable(before: Rollout | None, counter: int, selector: Selector) -> int | None:
    if before is None:
        return None
    brought = before.state == "done" and before.percent == 100.0 and _covers(before.selector, selector)
    if brought and before.counter < counter:
        return before.counter
    return before.stable


def _covers(old: Selector, new: Selector) -> bool:
    """Whether one surely selects every device that the other does."""
    return (
        (not old.skus or (bool(new.skus) and set(new.skus) <= set(old.skus)))
        and (not old.runtimes or (bool(new.runtimes) and set(new.runtimes) <= set(old.runtimes)))
        and set(old.tags) <= set(new.tags)
    )


def _must_be(rollout: Rollout, done: str, *states: RolloutState) -> None:
    if rollout.state not in states:
        raise UpdateError(
            f"This rollout can't be {done}.", where=f"channel {rollout.channel}, rollout {rollout.serial}",
            expected=f"one that is {' or '.join(states)}", got=rollout.state,
            next_step="edgeprune fleet rollout start begins another" if rollout.state in TERMINAL else None,
        )  # fmt: skip


def _moved(rollout: Rollout, kind: Kind, **changes: object) -> tuple[Rollout, Event]:
    after = Rollout.model_validate(rollout.model_dump() | changes)
    return after, _event(kind, after)


def _event(kind: Kind, rollout: Rollout) -> Event:
    texts: dict[Kind, str] = {
        "started": f"{rollout.product} {rollout.counter}, waves of "
        f"{', '.join(f'{wave.percent:g}' for wave in rollout.waves)} %",
        "advanced": f"to {rollout.percent:g} %",
        "done": f"at {rollout.percent:g} %",
    }  # fmt: skip
    return Event(
        kind, rollout.channel, rollout.product, rollout.serial, rollout.counter, rollout.wave, rollout.percent,
        rollout.state, texts.get(kind, rollout.reason),
    )  # fmt: skip


def _why(rollout: Rollout, who: str, seen: WaveCounts, reasons: Mapping[str, int]) -> str:
    wave = rollout.waves[rollout.wave]
    most = max(reasons, key=lambda kind: (reasons[kind], kind), default=None)
    return (
        f"{seen.failed} of {seen.executed} {who} failed ({seen.failed / seen.executed:.1%}, over {wave.error:.1%}) "
        f"at {wave.percent:g} %" + (f"; most often: {most}" if most else "")
    )
