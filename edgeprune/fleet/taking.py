"""Taking statuses in from whichever way they come: read, kept, counted, and what is refused said once in a while.

Rules:
- What is refused is said with the device's name and the reason, a device once a minute at most: who can send rubbish
  can't fill a disk with our complaints about it.
"""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable, Sequence
from datetime import datetime, timezone

from edgeprune.errors import UpdateError, missing_package
from edgeprune.fleet.status import read_status
from edgeprune.fleet.store import Answer, Store
from edgeprune.records.device_status import DeviceStatus

try:
    from prometheus_client import CollectorRegistry, Counter, generate_latest
except ImportError as error:
    raise missing_package("prometheus_client", "fleet") from error

#: Seconds between two complaints about one device.
_QUIET_S = 60.0
#: Devices that are remembered for that.
_REMEMBERED = 10_000


def to_stderr(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


class Intake:
    """Where statuses go in; threads may share it."""

    def __init__(self, store: Store, say: Callable[[str], None] = to_stderr) -> None:
        self.store = store
        self._say = say
        self._said: dict[str, float] = {}
        self._lock = threading.Lock()
        self._registry = CollectorRegistry(auto_describe=False)
        self._statuses = Counter(
            "edgeprune_collect_statuses", "Statuses that came, by what became of them", ["way", "answer"],
            registry=self._registry,
        )  # fmt: skip

    def read(self, content: bytes, device: str, way: str) -> DeviceStatus:
        """A status out of what came; UpdateError, counted and said, where it is none."""
        try:
            return read_status(content, device)
        except UpdateError as error:
            self.count(way, "malformed")
            self.complain(device, str(error))
            raise

    def take(self, statuses: Sequence[DeviceStatus], way: str) -> list[Answer]:
        """Keep statuses; an answer for each. UpdateError: the database doesn't answer, and nothing is kept."""
        answers = self.store.take(statuses, datetime.now(timezone.utc))
        for status, answer in zip(statuses, answers, strict=True):
            self.count(way, answer)
            if answer in ("not enrolled", "another SKU"):
                self.complain(status.device, f"refused the status of {status.device} ({status.sku}): {answer}")
        return answers

    def count(self, way: str, answer: str) -> None:
        """Count a status that was answered so."""
        self._statuses.labels(way, answer.replace(" ", "_")).inc()

    def complain(self, device: str, text: str) -> None:
        """Say what is wrong with a device's status, unless that was said a moment ago."""
        now = time.monotonic()
        with self._lock:
            if now - self._said.get(device, float("-inf")) < _QUIET_S:
                return
            if len(self._said) >= _REMEMBERED:
                self._said.clear()
            self._said[device] = now
        self._say(text)

    def metrics(self) -> bytes:
        """For Prometheus."""
        return generate_latest(self._registry)
