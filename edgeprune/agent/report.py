"""A device's last word on its way to who watches the fleet: MQTT or HTTP.

Rules:
- A word that isn't heard stays in the agent's state and is said at the next go. Only the last one matters: it is
  retained at the broker, and kept in the store.
- MQTT: topic `edgeprune/status/DEVICE`, retained, QoS 1, by the device's own name and password or certificate.
- HTTP: `POST URL/status/DEVICE` with the device's own token; 204 is heard, 409 says that a later word was heard before,
  which happens to a device that lost its memory.
- An update never waits for it longer than `timeout_s`, and never fails for it.

Sources: MQTT 3.1.1, 3.3.1.3 (RETAIN), 4.3.2 (QoS 1); paho-mqtt 2, `Client`; RFC 6750 (bearer tokens).
"""

from __future__ import annotations

import contextlib
import json
import ssl
from enum import Enum
from urllib.parse import urlsplit

from edgeprune.agent.fetch import read_secret
from edgeprune.errors import EdgepruneError, missing_package
from edgeprune.records.agent import AgentConfig, StatusTo
from edgeprune.records.device_status import STATUS_TOPIC, DeviceStatus


class Answer(Enum):
    """What became of a word."""

    HEARD = "heard"
    STALE = "stale"
    """A later word was heard before."""


class UnheardError(Exception):
    """Why a word wasn't heard."""


def send(config: AgentConfig, status: DeviceStatus) -> Answer:
    """Say a device's last word.

    Raises:
        UnheardError: Nobody heard it.
    """
    to, content = config.status, json.dumps(status.model_dump(mode="json"), sort_keys=True).encode()
    try:
        if to.kind == "mqtt":
            return _publish(to, config.device, content)
        if to.kind == "http":
            return _post(to, config.device, content)
    except (EdgepruneError, OSError, ValueError, RuntimeError) as error:
        raise UnheardError(" ".join(str(error).split())) from error
    return Answer.HEARD


def _post(to: StatusTo, device: str, content: bytes) -> Answer:
    import urllib3

    headers = {"Content-Type": "application/json"}
    if to.secret:
        headers["Authorization"] = f"Bearer {read_secret(to.secret)}"
    timeout = urllib3.Timeout(total=to.timeout_s)
    with urllib3.PoolManager(cert_reqs="CERT_REQUIRED", ca_certs=to.ca or None) as pool:
        try:
            answer = pool.request(
                "POST", f"{to.url.rstrip('/')}/status/{device}", body=content, headers=headers, timeout=timeout,
                retries=False, redirect=False, preload_content=False,
            )  # fmt: skip
            said, code = answer.read(500), answer.status
            answer.close()
        except urllib3.exceptions.HTTPError as error:
            raise UnheardError(str(error)) from error
    if code == 409:
        return Answer.STALE
    if code // 100 != 2:
        raise UnheardError(f"{to.url} answers {code}: {' '.join(said.decode(errors='replace').split())}")
    return Answer.HEARD


def _publish(to: StatusTo, device: str, content: bytes) -> Answer:
    try:
        import paho.mqtt.client as mqtt
        from paho.mqtt.enums import CallbackAPIVersion
    except ImportError as error:
        raise missing_package("paho-mqtt", "agent") from error
    address = urlsplit(to.url)
    client = mqtt.Client(CallbackAPIVersion.VERSION2, client_id=f"edgeprune-{device}")
    client.connect_timeout = to.timeout_s
    if to.secret:
        client.username_pw_set(to.username or device, read_secret(to.secret))
    if address.scheme == "mqtts":
        context = ssl.create_default_context(cafile=to.ca or None)
        if to.certificate:
            context.load_cert_chain(to.certificate, to.key)
        client.tls_set_context(context)
    refused: list[str] = []
    client.on_connect = lambda c, data, flags, code, properties: refused.append(str(code)) if code.is_failure else None
    try:
        client.connect(address.hostname or "", address.port or (8883 if address.scheme == "mqtts" else 1883))
        client.loop_start()
        sent = client.publish(STATUS_TOPIC.format(device=device), content, qos=1, retain=True)
        waited = 0.0
        while not sent.is_published() and not refused and waited < to.timeout_s:
            sent.wait_for_publish(0.1)
            waited += 0.1
        if refused:
            raise UnheardError(f"the broker refuses {to.username or device}: {refused[0]}")
        if not sent.is_published():
            raise UnheardError(f"the broker at {to.url} took nothing for {to.timeout_s:g} s")
    finally:
        with contextlib.suppress(OSError, ValueError, RuntimeError):
            client.disconnect()
            client.loop_stop()
    return Answer.HEARD
