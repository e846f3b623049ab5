"""DeviceStatus: what a device of the fleet says of itself; Heartbeat: what the application on it says to its agent."""

from __future__ import annotations

from typing import Literal

from pydantic import AwareDatetime, Field

from edgeprune.records.base import Record
from edgeprune.records.release import Name

DeviceState = Literal[
    "idle", "deferred", "downloading", "installing", "testing", "watching", "committed", "reverted", "refused"
]
#: Where a device says its last word at a broker; `+` in its place stands for all.
STATUS_TOPIC = "edgeprune/status/{device}"
#: States that end an update well, and those that end it badly. All others go on, or have nothing to do.
SUCCEEDED: tuple[DeviceState, ...] = ("committed",)
FAILED: tuple[DeviceState, ...] = ("reverted", "refused")


class DeviceStatus(Record):
    """The last word of one device: retained at the broker, and kept on the device while nobody hears it."""

    format: Literal[1] = 1
    device: Name
    seq: int = Field(ge=1)
    """Rises with every status of the device, over restarts too: an older one that comes late, or again, is dropped."""
    at: AwareDatetime
    """By the device's clock."""
    product: Name
    channel: Name
    sku: Name
    runtime: str
    """Library and version."""
    tags: tuple[str, ...] = ()
    agent: str
    """Version of edgeprune there."""
    counter: int = Field(ge=0)
    """The release that runs; 0: the factory model."""
    model_sha256: str = ""
    """Of its manifest.json."""
    state: DeviceState
    rollout: int = Field(default=0, ge=0)
    """Serial of the rollout that `state` is about; 0: none."""
    release: int = Field(default=0, ge=0)
    """Counter of the release that `state` is about; 0: none."""
    reason: str = ""
    """Of a deferred, reverted or refused one: a short kind, a colon, and what happened ('latency: 9.1 ms, …')."""
    latency_ms: float | None = Field(default=None, gt=0)
    """Median of the self-test."""


class Heartbeat(Record):
    """heartbeat.json in the agent's folder: the application's health, written over at least every ten seconds."""

    format: Literal[1] = 1
    counter: int = Field(ge=0)
    """The release that the application runs."""
    pid: int = Field(ge=1)
    images: int = Field(ge=0)
    """Since it loaded this release."""
    errors: int = Field(ge=0)
    """Images among them that failed."""
    at_monotonic_s: float = Field(ge=0)
    """CLOCK_BOOTTIME of the device when it was written: clocks jump, this doesn't."""
