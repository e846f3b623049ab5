"""Rollout: how one release comes to a channel's devices, a few first; what the online key signs.

Rules:
- A device's bucket is a salted hash of its id, so that every rollout has other canaries, and nobody has to be told who
  they are. Percentages only grow: no device leaves a wave.
- A device takes `counter` where it is reached, and otherwise `stable`, what everybody else has: that is for who joins
  late, or comes back after a year.
- It chooses among what the release role signed and nothing else: a stolen online key can't bring a model of its own.

Sources: facts on fleets; Uptane's split of director and image repository (Uptane Standard 2.1.0, 5.1); hawkBit's
rollout groups (success and error thresholds).
"""

from __future__ import annotations

import hashlib
from datetime import datetime
from typing import Annotated, Literal

from pydantic import AwareDatetime, Field, model_validator

from edgeprune.records.base import Record
from edgeprune.records.release import Counter, Name

RolloutState = Literal["running", "paused", "halted", "aborted", "done"]
Share = Annotated[float, Field(ge=0.0, le=1.0)]


class Wave(Record):
    """One step of a rollout, and when it has gone well enough for the next."""

    percent: float = Field(gt=0.0, le=100.0)
    """Of the selected devices, those of the earlier waves among them."""
    dwell_s: int = Field(default=3600, ge=0)
    """Seconds that it lasts at least."""
    success: Share = 0.95
    """Committed : executed, at least."""
    error: Share = 0.05
    """Failed : executed; over it, the rollout is halted."""
    min_executed: int = Field(default=1, ge=0)
    """Devices that must have committed or failed before either share counts; all of the wave where it has fewer."""


class Selector(Record):
    """Whom a rollout is for; what is empty selects all."""

    skus: tuple[Name, ...] = ()
    runtimes: tuple[str, ...] = ()
    """Library ('onnxruntime'), or library and version ('onnxruntime 1.30.0')."""
    tags: tuple[str, ...] = ()
    """A device has all of them."""

    def selects(self, sku: str, runtime: str, tags: tuple[str, ...] = ()) -> bool:
        runtimes = {runtime, runtime.split(" ")[0]}
        return (
            (not self.skus or sku in self.skus)
            and (not self.runtimes or not runtimes.isdisjoint(self.runtimes))
            and set(self.tags) <= set(tags)
        )


class Rollout(Record):
    """rollouts/CHANNEL.json, a TUF target file."""

    format: Literal[1] = 1
    channel: Name
    product: Name
    serial: int = Field(ge=1)
    """Rises with every rollout of the channel; a later one supersedes."""
    counter: Counter
    """The release that it brings."""
    stable: Counter | None = None
    """The release of those that it hasn't reached; None: they keep what they have."""
    salt: str = Field(min_length=8, max_length=64)
    waves: tuple[Wave, ...] = Field(min_length=1)
    selector: Selector = Selector()
    state: RolloutState = "running"
    wave: int = Field(default=0, ge=0)
    """Index of the wave that it is in."""
    since: AwareDatetime
    """When that wave began, UTC."""
    reason: str = ""
    """Why it is in this state: who paused it, what halted it."""

    @model_validator(mode="after")
    def _grows(self) -> Rollout:
        percents = [wave.percent for wave in self.waves]
        if percents != sorted(set(percents)):
            raise ValueError(f"percent of each wave is over that of the one before, got {percents}")
        if self.wave >= len(self.waves):
            raise ValueError(f"wave is one of 0 to {len(self.waves) - 1}, got {self.wave}")
        if self.stable is not None and self.stable >= self.counter:
            raise ValueError(f"stable is an earlier release than {self.counter}, got {self.stable}")
        return self

    @property
    def percent(self) -> float:
        """Of the selected devices, how many may have it now."""
        return self.waves[self.wave].percent

    def reaches(self, device: str, sku: str, runtime: str, tags: tuple[str, ...] = ()) -> bool:
        """Whether a device is in one of the waves so far, whatever the state."""
        return self.selector.selects(sku, runtime, tags) and bucket(self.salt, device) * 100.0 < self.percent

    def release_for(self, device: str, sku: str, runtime: str, tags: tuple[str, ...] = ()) -> int | None:
        """The release that a device is to have, were it to have none; None: what it has."""
        if self.state in ("running", "done") and self.reaches(device, sku, runtime, tags):
            return self.counter
        return self.stable if self.selector.selects(sku, runtime, tags) else None


def bucket(salt: str, device: str) -> float:
    """Where a device lies in 0..1: sha256(salt + device id) / 2^64, of its first eight bytes."""
    return int.from_bytes(hashlib.sha256(f"{salt}{device}".encode()).digest()[:8], "big") / 2.0**64


def utc(moment: datetime) -> str:
    """A moment as records write it: to the second, with Z."""
    return moment.strftime("%Y-%m-%dT%H:%M:%SZ")
