"""FleetProfile: one bundle on several devices at once, and how far boards of one kind differ.

Rules:
- Boards are compared with their own kind: same board model, same power mode. Another kind is another group.
- A void or failed device is in the profile with its reason, and in no spread.
"""

from __future__ import annotations

from pydantic import Field, field_validator

from edgeprune.records.address import FORM, NotAnAddressError, read_address
from edgeprune.records.base import Record
from edgeprune.records.calibration import Sha256
from edgeprune.records.measurement import Latency, Milliseconds


class Hosts(Record):
    """A hosts file: the devices that are measured together."""

    hosts: tuple[str, ...] = Field(min_length=1)
    """Addresses: ssh://user@host, or local."""

    @field_validator("hosts")
    @classmethod
    def _addressed(cls, hosts: tuple[str, ...]) -> tuple[str, ...]:
        for host in hosts:
            try:
                read_address(host)
            except NotAnAddressError as error:
                raise ValueError(f"{FORM} ({error.shown}: {error})") from error
        if len(set(hosts)) != len(hosts):
            raise ValueError(f"every host once; twice: {next(h for h in hosts if hosts.count(h) > 1)}")
        return hosts


class DeviceFigures(Record):
    """One device's benchmark in short; the whole of it lies in `file`."""

    device: str
    board: str | None = None
    power_mode: str | None = None
    file: str | None = None
    """Its benchmark.json beside the profile; None where it failed."""
    latency_ms: Latency | None = None
    """Of queries."""
    throughput_per_s: float | None = None
    map50_95: float | None = None
    void: tuple[str, ...] = ()
    failed: str | None = None
    """Why there are no figures."""

    @property
    def counts(self) -> bool:
        """Whether it belongs into a spread."""
        return self.failed is None and not self.void


class Spread(Record):
    """Boards of one kind."""

    board: str | None
    power_mode: str | None
    devices: tuple[str, ...] = Field(min_length=1)
    """Slowest last."""
    median_ms: Milliseconds
    """Of the devices' p50."""
    fastest_ms: Milliseconds
    slowest_ms: Milliseconds
    range_ratio: float = Field(ge=0)
    """(slowest - fastest) : median."""
    outliers: tuple[str, ...]
    """Devices whose p50 is more than 10 % over the median: look at their cooling and power supply."""


class FleetProfile(Record):
    """fleet.json."""

    target: str
    bundle_sha256: Sha256
    devices: tuple[DeviceFigures, ...]
    spreads: tuple[Spread, ...]
    """One a kind of board, those that count; empty where none does."""
