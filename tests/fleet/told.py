"""Rollouts, devices and statuses to test with."""

from __future__ import annotations

from datetime import datetime, timedelta, timezone
from typing import Any

from edgeprune.fleet.credentials import token_sha256
from edgeprune.fleet.rollout import Counts, RolloutRecipe, WaveCounts, start
from edgeprune.fleet.store import Enrollment
from edgeprune.records.device_status import DeviceStatus
from edgeprune.records.rollout import Rollout, Selector, Wave

NOW = datetime(2026, 11, 25, 12, 0, tzinfo=timezone.utc)
SALT = "salt-salt"


def later(seconds: float) -> datetime:
    return NOW + timedelta(seconds=seconds)


def begun(
    *waves: Wave, counter: int = 1, before: Rollout | None = None, salt: str = SALT, selector: Selector | None = None
) -> Rollout:
    """A rollout of `cells` in `stable`, just started."""
    recipe = RolloutRecipe(
        waves=waves or tuple(Wave(percent=p) for p in (10, 50, 100)), selector=selector or Selector()
    )
    return start("stable", "cells", counter, before, salt, recipe, NOW)[0]


def seen(*waves: tuple[int, int, int], beyond: int = 0, **reasons: int) -> Counts:
    """Counts of (devices, committed, failed) a wave."""
    return Counts(tuple(WaveCounts(*wave) for wave in waves), beyond, reasons)


def enrolled(*names: str, sku: str = "pi", **more: Any) -> list[Enrollment]:
    """Enrollments whose token is the device's name."""
    return [
        Enrollment(name, sku, token_sha256(name), **({"product": "cells", "channel": "stable"} | more))
        for name in names
    ]


def status(device: str, seq: int, **more: Any) -> DeviceStatus:
    """A status of an idle device of `cells` on the factory model."""
    fields: dict[str, Any] = {
        "device": device, "seq": seq, "at": NOW, "product": "cells", "channel": "stable", "sku": "pi",
        "runtime": "onnxruntime 1.30.0", "agent": "0.1", "counter": 0, "state": "idle",
    }  # fmt: skip
    return DeviceStatus.model_validate(fields | more)


def committed(device: str, seq: int, rollout: Rollout, **more: Any) -> DeviceStatus:
    about = {"rollout": rollout.serial, "release": rollout.counter, "counter": rollout.counter}
    return status(device, seq, state="committed", **(about | more))


def reverted(device: str, seq: int, rollout: Rollout, reason: str = "crash: it died", **more: Any) -> DeviceStatus:
    about = {"rollout": rollout.serial, "release": rollout.counter, "reason": reason}
    return status(device, seq, state="reverted", **(about | more))
