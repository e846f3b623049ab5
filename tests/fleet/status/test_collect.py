"""Statuses over MQTT, through a real broker with TLS and a password for each device."""

from __future__ import annotations

import contextlib
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import paho.mqtt.client as mqtt
import pytest
from paho.mqtt.enums import CallbackAPIVersion
from sqlalchemy import create_engine, text
from sqlalchemy.engine import make_url

from edgeprune.errors import UpdateError
from edgeprune.fleet.collect import Collector, broker_of
from edgeprune.fleet.credentials import write_passwords
from edgeprune.fleet.rollout import WaveCounts
from edgeprune.fleet.store import Store
from edgeprune.fleet.taking import Intake
from edgeprune.records.base import to_json
from edgeprune.records.device_status import DeviceStatus
from edgeprune.records.rollout import Wave
from tests.fleet import broker as server
from tests.fleet.broker import WATCHER, Mosquitto
from tests.fleet.status.processes import listening
from tests.fleet.told import NOW, begun, committed, enrolled, reverted, status
from tests.test_cli import edgeprune

ROLLOUT = begun(Wave(percent=100))
NAMES = ("a", "b", "c")


@pytest.fixture
def mosquitto(tmp_path: Path) -> Iterator[Mosquitto]:
    if (why := server.missing()) is not None:
        pytest.skip(f"left out: {why}")
    made = Mosquitto(tmp_path / "broker")
    write_passwords(made.passwords, {WATCHER: "watching", **{name: f"token of {name}" for name in NAMES}})
    made.start()
    yield made
    made.stop()


@pytest.fixture
def said() -> list[str]:
    return []


@pytest.fixture
def intake(store: Store, said: list[str]) -> Intake:
    store.enroll(enrolled("a", "b"), NOW)
    return Intake(store, said.append)


Collecting = Callable[[], Any]


@pytest.fixture
def collecting(mosquitto: Mosquitto, intake: Intake) -> Collecting:
    """Runs a collector while it is open."""

    @contextlib.contextmanager
    def run() -> Iterator[None]:
        collector = Collector(
            broker_of(mosquitto.url, user=WATCHER, password="watching", ca=mosquitto.ca, session="tests"), intake
        )
        thread = threading.Thread(target=collector.run)
        thread.start()
        try:
            yield
        finally:
            collector.stop()
            thread.join()

    return run


def speak(mosquitto: Mosquitto, user: str, *messages: tuple[str, bytes], password: str | None = None) -> bool:
    """Publish as a device does: retained, QoS 1; False: the broker refuses it."""
    client = mqtt.Client(CallbackAPIVersion.VERSION2, client_id=f"edgeprune-{user}")
    client.username_pw_set(user, password or f"token of {user}")
    client.tls_set_context(ssl.create_default_context(cafile=mosquitto.ca))
    answered, codes = threading.Event(), []

    def connected(_client: Any, _data: Any, _flags: Any, code: Any, _properties: Any) -> None:
        codes.append(code)
        answered.set()

    client.on_connect = connected
    client.connect("127.0.0.1", mosquitto.port)
    client.loop_start()
    try:
        assert answered.wait(60)
        if codes[0].is_failure:
            return False
        for device, content in messages:
            sent = client.publish(f"edgeprune/status/{device}", content, qos=1, retain=True)
            sent.wait_for_publish(60)
            assert sent.is_published()
    finally:
        client.disconnect()
        client.loop_stop()
    return True


def say(*statuses: DeviceStatus) -> list[tuple[str, bytes]]:
    return [(one.device, to_json(one)) for one in statuses]


def until(what: Callable[[], bool], seconds: float = 60.0) -> None:
    end = time.monotonic() + seconds
    while not what():
        assert time.monotonic() < end, "it didn't happen"
        time.sleep(0.05)


def sums(store: Store) -> WaveCounts:
    return store.counts(ROLLOUT).until(0)


def test_what_devices_say_is_kept(mosquitto: Mosquitto, store: Store, collecting: Collecting) -> None:
    assert speak(mosquitto, "a", *say(status("a", 1)))
    with collecting():
        until(lambda: sums(store) == WaveCounts(2, 0, 0))
        assert speak(mosquitto, "a", *say(status("a", 2, state="watching"), committed("a", 3, ROLLOUT)))
        assert speak(mosquitto, "b", *say(reverted("b", 1, ROLLOUT)))
        until(lambda: sums(store) == WaveCounts(2, 1, 1))


def test_what_was_said_while_nobody_listened_is_retained(
    mosquitto: Mosquitto, store: Store, collecting: Collecting
) -> None:
    with collecting():
        speak(mosquitto, "a", *say(status("a", 1)))
        until(lambda: any(tally.state == "idle" for tally in store.tallies()))
    assert speak(mosquitto, "a", *say(reverted("a", 2, ROLLOUT), status("a", 3)))
    assert sums(store) == WaveCounts(2, 0, 0)
    with collecting():
        until(lambda: sums(store) == WaveCounts(2, 0, 1))


def test_a_broker_that_was_away_is_heard_again(mosquitto: Mosquitto, store: Store, collecting: Collecting) -> None:
    with collecting():
        speak(mosquitto, "a", *say(status("a", 1)))
        until(lambda: any(tally.state == "idle" for tally in store.tallies()))
        mosquitto.stop()
        time.sleep(0.5)
        mosquitto.start()
        assert speak(mosquitto, "a", *say(committed("a", 2, ROLLOUT)))
        until(lambda: sums(store) == WaveCounts(2, 1, 0))


def test_malformed_strange_and_foreign_statuses_are_refused_by_name(
    mosquitto: Mosquitto, store: Store, collecting: Collecting, said: list[str]
) -> None:
    with collecting():
        speak(mosquitto, "a", ("a", b"\xff not json"))
        until(
            lambda: len(said) == 1
        )  # it listens by now: from here on, every message comes, not the retained one alone
        speak(mosquitto, "a", ("a", b"{}"))
        speak(mosquitto, "b", ("b", to_json(status("a", 99))), *say(status("b", 5)))
        speak(mosquitto, "c", *say(status("c", 1)))
        until(lambda: any(tally.state == "idle" for tally in store.tallies()))
        until(lambda: len(said) == 3)
    assert {(t.state, t.devices) for t in store.tallies()} == {("idle", 1), (None, 1)}
    assert "status of a" in said[0]
    assert "malformed" in said[0]
    assert "another device's" in said[1]
    assert "refused the status of c (pi): not enrolled" in said[2]


def test_a_device_writes_its_own_topic_only(mosquitto: Mosquitto, store: Store, collecting: Collecting) -> None:
    with collecting():
        speak(mosquitto, "a", *say(reverted("b", 1, ROLLOUT)))  # the broker takes it, and lets nobody hear it
        assert not speak(mosquitto, "b", *say(status("b", 1)), password="token of a")
        assert not speak(mosquitto, "nobody", *say(status("nobody", 1)))
        speak(mosquitto, "a", *say(committed("a", 1, ROLLOUT)))
        until(lambda: sums(store) == WaveCounts(2, 1, 0))


def test_a_database_that_is_away_loses_nothing(
    mosquitto: Mosquitto, store: Store, collecting: Collecting, url: str, postgres: str, said: list[str]
) -> None:
    if store.url.get_backend_name() == "sqlite":
        pytest.skip("left out: SQLite has no server")
    engine = create_engine(make_url(postgres).set(drivername="postgresql+psycopg"), isolation_level="AUTOCOMMIT")

    def allow(whether: bool) -> None:
        with engine.connect() as connection:
            connection.execute(text(f"ALTER DATABASE {store.url.database} ALLOW_CONNECTIONS {whether}"))
            if not whether:
                connection.execute(text(
                    f"SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = '{store.url.database}'"
                ))  # fmt: skip

    with collecting():
        speak(mosquitto, "b", *say(status("b", 1)))
        until(lambda: any(tally.state == "idle" for tally in store.tallies()))
        allow(False)
        assert speak(mosquitto, "a", *say(reverted("a", 1, ROLLOUT), status("a", 2)))
        until(lambda: any("broker keeps what comes" in one for one in said))
        allow(True)
        until(lambda: sums(store) == WaveCounts(2, 0, 1))
    engine.dispose()


def test_a_broker_that_refuses_us_ends_it(mosquitto: Mosquitto, intake: Intake) -> None:
    broker = broker_of(mosquitto.url, user=WATCHER, password="wrong", ca=mosquitto.ca)
    with pytest.raises(UpdateError, match="refuses us"):
        Collector(broker, intake).run()


def test_many_at_once(mosquitto: Mosquitto, store: Store, collecting: Collecting) -> None:
    with collecting():
        assert speak(mosquitto, "a", *say(*(status("a", seq) for seq in range(1, 400)), committed("a", 400, ROLLOUT)))
        until(lambda: sums(store) == WaveCounts(2, 1, 0))


@pytest.mark.parametrize(
    "given", ["http://broker", "mqtts://", "broker:8883", "mqtts://u:p@broker", "mqtts://broker:port", "mqtts://b/x"]
)
def test_what_is_no_broker(given: str) -> None:
    with pytest.raises(UpdateError, match="broker"):
        broker_of(given)


def test_a_password_does_not_travel_unencrypted() -> None:
    with pytest.raises(UpdateError, match="as it is"):
        broker_of("mqtt://broker.example", user="u", password="p")
    assert broker_of("mqtt://127.0.0.1", user="u", password="p").port == 1883
    assert str(broker_of("mqtts://broker.example")) == "mqtts://broker.example:8883"


def test_as_a_command_both_ways_at_once(mosquitto: Mosquitto, store: Store, url: str, tmp_path: Path) -> None:
    store.enroll(enrolled("a", "b"), NOW)
    options = ("--mqtt", mosquitto.url, "--mqtt-user", WATCHER, "--mqtt-ca", mosquitto.ca, "--db", url)
    listen = listening(
        "collect", *options, "--http", "127.0.0.1:0", log=tmp_path / "log", EDGEPRUNE_MQTT_PASSWORD="watching"
    )
    with listen as address:
        assert speak(mosquitto, "a", *say(committed("a", 1, ROLLOUT)))
        answer = httpx.post(
            f"{address}/status/b", content=to_json(reverted("b", 1, ROLLOUT)), headers={"Authorization": "Bearer b"},
            timeout=120, trust_env=False,
        )  # fmt: skip
        assert answer.status_code == 204
        until(lambda: sums(store) == WaveCounts(2, 1, 1))
        metrics = httpx.get(f"{address}/metrics", timeout=120, trust_env=False).text
        for way in ("http", "mqtt"):
            assert f'edgeprune_collect_statuses_total{{answer="taken",way="{way}"}} 1.0' in metrics
    password = tmp_path / "password"
    password.write_text("wrong\n")
    refused = edgeprune("fleet", "collect", *options, EDGEPRUNE_MQTT_PASSWORD_FILE=str(password))
    assert refused.returncode == 2
    assert "The broker refuses us" in refused.stderr
