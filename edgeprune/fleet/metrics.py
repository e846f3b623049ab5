"""A fleet's figures for Prometheus: those of the view, under names that start with edgeprune_fleet.

Source: Prometheus, 'Metric and label naming'; exposition format 0.0.4.
"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime
from typing import get_args

from edgeprune.errors import missing_package
from edgeprune.fleet.view import Seen, View
from edgeprune.records.rollout import RolloutState

try:
    from prometheus_client import CollectorRegistry, generate_latest
    from prometheus_client.core import GaugeMetricFamily, Metric
    from prometheus_client.registry import Collector
except ImportError as error:
    raise missing_package("prometheus_client", "fleet") from error


def exposed(seen: Seen) -> bytes:
    """The figures as text; without a view, only that there is none."""
    registry = CollectorRegistry(auto_describe=False)
    registry.register(_Gauges(seen))
    return generate_latest(registry)


class _Gauges(Collector):
    def __init__(self, seen: Seen) -> None:
        self._seen = seen

    def collect(self) -> Iterator[Metric]:
        up = GaugeMetricFamily("edgeprune_fleet_up", "1 where repository and status database could be read just now")
        up.add_metric([], float(self._seen.trouble is None and self._seen.view is not None))
        yield up
        if self._seen.view is not None:
            yield from _of(self._seen.view)


def _of(view: View) -> Iterator[Metric]:
    devices = GaugeMetricFamily("edgeprune_fleet_devices", "Enrolled devices by state", labels=["state"])
    for state, number in view.states:
        devices.add_metric([state.replace(" ", "_")], number)
    yield devices
    running = GaugeMetricFamily(
        "edgeprune_fleet_running", "Devices by the release that they run; 0: factory", labels=["product", "release"]
    )
    for product, counter, number in view.versions:
        running.add_metric([product, str(counter)], number)
    yield running
    expires = GaugeMetricFamily(
        "edgeprune_fleet_metadata_expires_timestamp_seconds", "When a role's metadata expire", labels=["role"]
    )
    for role, moment in view.expires.items():
        expires.add_metric([role], datetime.fromisoformat(moment.replace("Z", "+00:00")).timestamp())
    yield expires
    of = ["channel", "product"]
    numbers = {
        name: GaugeMetricFamily(f"edgeprune_fleet_rollout_{name}", text, labels=of)
        for name, text in (
            ("serial", "Serial of the channel's rollout"), ("release", "Release that it brings"),
            ("percent", "Percentage of devices that may have it"), ("wave", "Index of its wave, from 0"),
        )
    }  # fmt: skip
    state_of = GaugeMetricFamily(
        "edgeprune_fleet_rollout_state", "1 for the state that it is in", labels=[*of, "state"]
    )
    waves = GaugeMetricFamily(
        "edgeprune_fleet_wave_devices", "Devices of a wave by outcome", labels=[*of, "wave", "outcome"]
    )
    failures = GaugeMetricFamily(
        "edgeprune_fleet_failures", "Devices that failed, by reason", labels=[*of, "reason"]
    )  # fmt: skip
    for rollout in view.rollouts:
        where = [rollout.channel, rollout.product]
        figures = (rollout.serial, rollout.counter, rollout.waves[rollout.wave].percent, rollout.wave)
        for family, figure in zip(numbers.values(), figures, strict=True):
            family.add_metric(where, figure)
        for state in get_args(RolloutState):
            state_of.add_metric([*where, state], float(state == rollout.state))
        for index, wave in enumerate(rollout.waves):
            pending = wave.devices - wave.committed - wave.failed
            for outcome, number in (("committed", wave.committed), ("failed", wave.failed), ("pending", pending)):
                waves.add_metric([*where, str(index), outcome], number)
        for reason, number in rollout.failures:
            failures.add_metric([*where, reason], number)
    yield from (*numbers.values(), state_of, waves, failures)
