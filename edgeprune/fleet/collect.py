"""Statuses over MQTT: every device's topic, into the store, in batches.

Rules:
- The topic's device is who speaks: the broker lets nobody write another's (`pattern write edgeprune/status/%u`). A
  status that names another device is refused.
- A message is acknowledged when it has been dealt with: kept, or refused for good. While the database doesn't answer,
  nothing is, and the broker keeps what comes: the session outlives us.
- A batch is whatever has come while the last one was written. The broker's window (mosquitto: max_inflight_messages,
  20) is the most that it can be.
- A broker that is away is waited for; one that refuses us isn't.

Sources: MQTT 3.1.1, 3.1.2.4 (sessions), 4.3.2 (QoS 1), 3.3.1.3 (retained); paho-mqtt 2, `Client(manual_ack=)`.
"""

from __future__ import annotations

import queue
import ssl
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from edgeprune.errors import UpdateError, missing_package
from edgeprune.fleet.taking import Intake, to_stderr
from edgeprune.records.device_status import STATUS_TOPIC

try:
    import paho.mqtt.client as mqtt
    from paho.mqtt.enums import CallbackAPIVersion
except ImportError as error:
    raise missing_package("paho-mqtt", "fleet") from error

#: Statuses in one batch at most.
BATCH = 500
#: Seconds between two tries to write while the database doesn't answer, at first and at most.
_AGAIN_S, _AGAIN_AT_MOST_S = 1.0, 30.0
#: Seconds after which a stop is noticed at the latest.
_WAIT_S = 0.2
_WAY = "mqtt"


@dataclass(frozen=True)
class Broker:
    """Where statuses are heard.

    Attributes:
        host, port: Of the broker.
        tls: Whether TLS is spoken.
        ca: Certificates to trust, PEM; the system's.
        certificate, key: Our own, PEM, where the broker asks for one.
        user, password: Where it asks for these.
        session: Client id: the broker keeps a session for it.
    """

    host: str
    port: int
    tls: bool = False
    ca: Path | None = None
    certificate: Path | None = None
    key: Path | None = None
    user: str | None = None
    password: str | None = None
    session: str = "edgeprune-collect"

    def __str__(self) -> str:
        return f"{'mqtts' if self.tls else 'mqtt'}://{self.host}:{self.port}"


def broker_of(url: str, **more: Any) -> Broker:
    """A broker from mqtt://HOST[:PORT] or mqtts://…; `more`: the other fields of `Broker`.

    Raises:
        UpdateError: Another kind of URL, or a password that would go unencrypted to another machine.
    """
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError as problem:
        raise UpdateError("The broker's URL can't be read.", where="--mqtt", got=url) from problem
    if parts.scheme not in ("mqtt", "mqtts") or not parts.hostname or parts.username or parts.path.strip("/"):
        raise UpdateError(
            "That is no broker.", where="--mqtt", expected="mqtts://HOST:PORT or mqtt://HOST:PORT", got=url
        )  # fmt: skip
    tls = parts.scheme == "mqtts"
    if more.get("password") and not tls and parts.hostname not in ("localhost", "127.0.0.1", "::1"):
        raise UpdateError(
            "The password would go over the network as it is.", where=url, expected=f"mqtts://{parts.hostname}"
        )  # fmt: skip
    return Broker(parts.hostname, port or (8883 if tls else 1883), tls, **more)


class Collector:
    """Subscribes, and writes what comes."""

    def __init__(self, broker: Broker, intake: Intake) -> None:
        self._broker, self._intake = broker, intake
        self._come: queue.SimpleQueue[mqtt.MQTTMessage] = queue.SimpleQueue()
        self._stop = threading.Event()
        self._refused: str | None = None

    def stop(self) -> None:
        """Let `run` end."""
        self._stop.set()

    def run(self) -> None:
        """Collect until `stop`.

        Raises:
            UpdateError: The broker refuses us, or a certificate can't be read.
        """
        client = self._client()
        try:
            client.connect_async(self._broker.host, self._broker.port, keepalive=30)
            client.loop_start()
            while not self._stop.is_set():
                if self._refused is not None:
                    raise UpdateError(
                        "The broker refuses us.", where=self._broker, got=self._refused,
                        next_step="--mqtt-user, and EDGEPRUNE_MQTT_PASSWORD or EDGEPRUNE_MQTT_PASSWORD_FILE",
                    )  # fmt: skip
                batch = self._next_batch()
                if batch and self._keep(batch):
                    for message in batch:
                        client.ack(message.mid, message.qos)
        finally:
            client.disconnect()
            client.loop_stop()

    def _client(self) -> mqtt.Client:
        broker = self._broker
        client = mqtt.Client(
            CallbackAPIVersion.VERSION2, client_id=broker.session, clean_session=False, manual_ack=True
        )
        client.reconnect_delay_set(1, 60)
        if broker.user:
            client.username_pw_set(broker.user, broker.password)
        if broker.tls:
            try:
                context = ssl.create_default_context(cafile=broker.ca)
                if broker.certificate:
                    context.load_cert_chain(broker.certificate, broker.key)
            except OSError as problem:
                raise UpdateError(
                    "A certificate can't be read.", where=broker.certificate or broker.ca, got=str(problem)
                ) from problem
            client.tls_set_context(context)
        client.on_connect = self._connected
        client.on_connect_fail = lambda *_: self._intake.complain("", f"{broker} doesn't answer; trying again")
        client.on_disconnect = self._disconnected
        client.on_message = lambda _client, _data, message: self._come.put(message)
        return client

    def _connected(self, client: mqtt.Client, _data: Any, _flags: Any, code: Any, _properties: Any) -> None:
        if code.is_failure:
            self._refused = str(code)
        else:
            client.subscribe(STATUS_TOPIC.format(device="+"), qos=1)
            to_stderr(f"{self._broker}: listening")

    def _disconnected(self, _client: mqtt.Client, _data: Any, _flags: Any, code: Any, _properties: Any) -> None:
        if not self._stop.is_set() and self._refused is None:
            to_stderr(f"{self._broker}: {code}; trying again")

    def _next_batch(self) -> list[mqtt.MQTTMessage]:
        try:
            batch = [self._come.get(timeout=_WAIT_S)]
        except queue.Empty:
            return []
        while len(batch) < BATCH:
            try:
                batch.append(self._come.get_nowait())
            except queue.Empty:
                break
        return batch

    def _keep(self, batch: list[mqtt.MQTTMessage]) -> bool:
        """Write a batch, however long the database takes to answer; False: we were stopped before it did."""
        statuses = []
        for message in batch:
            try:
                statuses.append(self._intake.read(bytes(message.payload), message.topic.rpartition("/")[2], _WAY))
            except UpdateError:
                continue  # said and counted
        pause = _AGAIN_S
        while True:
            try:
                self._intake.take(statuses, _WAY)
                return True
            except UpdateError as error:
                self._intake.complain("", f"{error}\n  nothing is lost: the broker keeps what comes")
            until = time.monotonic() + pause
            while time.monotonic() < until:
                if self._stop.wait(_WAIT_S):
                    return False
            pause = min(pause * 2, _AGAIN_AT_MOST_S)
