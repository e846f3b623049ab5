"""A device's word on its way: a real broker with TLS and passwords, a web server, nobody at all; metrics and units."""

from __future__ import annotations

import http.server
import json
import os
import shutil
import socket
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from edgeprune.agent.exits import Exit
from edgeprune.records import DeviceStatus
from tests.agent.simulator import Device, Repository

MOSQUITTO = shutil.which("mosquitto") or "/usr/sbin/mosquitto"
needs_broker = pytest.mark.skipif(
    not Path(MOSQUITTO).is_file() or shutil.which("mosquitto_passwd") is None, reason="mosquitto isn't installed"
)
needs_openssl = pytest.mark.skipif(shutil.which("openssl") is None, reason="openssl isn't installed")


def free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return int(one.getsockname()[1])


class Broker:
    """Debian's mosquitto on a port of its own, with one device's name and password."""

    def __init__(self, folder: Path, *, tls: bool) -> None:
        self.folder, self.port, self.tls = folder, free_port(), tls
        folder.mkdir()
        subprocess.run(["mosquitto_passwd", "-c", "-b", str(folder / "passwords"), "dev-1", "right"], check=True)
        subprocess.run(["mosquitto_passwd", "-b", str(folder / "passwords"), "fleet", "reads"], check=True)
        (folder / "acl").write_text("user fleet\ntopic read edgeprune/status/#\npattern write edgeprune/status/%u\n")
        lines = [
            f"listener {self.port} 127.0.0.1", "allow_anonymous false", *(["user root"] if os.geteuid() == 0 else []),
            f"password_file {folder}/passwords",
            f"acl_file {folder}/acl", "log_dest none",
        ]  # fmt: skip
        if tls:
            _certificate(folder)
            lines += [f"cafile {folder}/ca.pem", f"certfile {folder}/server.pem", f"keyfile {folder}/server.key"]
        (folder / "mosquitto.conf").write_text("\n".join(lines) + "\n")
        for file in folder.iterdir():
            file.chmod(0o644)

    def start(self) -> subprocess.Popen[bytes]:
        process = subprocess.Popen([MOSQUITTO, "-c", str(self.folder / "mosquitto.conf")])
        end = time.monotonic() + 60
        while time.monotonic() < end:
            try:
                socket.create_connection(("127.0.0.1", self.port), 1).close()
                return process
            except OSError:
                assert process.poll() is None
                time.sleep(0.02)
        process.kill()
        raise AssertionError("the broker doesn't start")

    def retained(self) -> DeviceStatus:
        """What the broker says to who asks now."""
        import paho.mqtt.client as mqtt
        from paho.mqtt.enums import CallbackAPIVersion

        heard: list[Any] = []
        client = mqtt.Client(CallbackAPIVersion.VERSION2)
        client.username_pw_set("fleet", "reads")
        if self.tls:
            client.tls_set(str(self.folder / "ca.pem"))
        client.on_message = lambda c, data, message: heard.append(message)
        client.on_connect = lambda c, *_: c.subscribe("edgeprune/status/#", 1)
        client.connect("localhost" if self.tls else "127.0.0.1", self.port)
        client.loop_start()
        end = time.monotonic() + 60
        while not heard and time.monotonic() < end:
            time.sleep(0.02)
        client.disconnect()
        client.loop_stop()
        assert heard[0].retain
        assert heard[0].topic == "edgeprune/status/dev-1"
        return DeviceStatus.model_validate_json(heard[0].payload)


def _certificate(folder: Path) -> None:
    """A CA, and a certificate of it for localhost."""

    def openssl(*arguments: str) -> None:
        subprocess.run(["openssl", *arguments], check=True, capture_output=True, cwd=folder)

    new = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "2")
    openssl("req", "-x509", *new, "-keyout", "ca.key", "-out", "ca.pem", "-subj", "/CN=test")
    openssl("req", *new[:-2], "-keyout", "server.key", "-out", "server.csr", "-subj", "/CN=localhost")
    (folder / "names").write_text("subjectAltName=DNS:localhost\n")
    openssl("x509", "-req", "-in", "server.csr", "-CA", "ca.pem", "-CAkey", "ca.key", "-CAcreateserial", "-days", "2",
            "-extfile", "names", "-out", "server.pem")  # fmt: skip


def mqtt_device(tmp_path: Path, fleet: Repository, broker: Broker, password: str = "right") -> Device:
    (tmp_path / "password").write_text(f"{password}\n")
    status = {"kind": "mqtt", "url": f"mqtt://127.0.0.1:{broker.port}", "secret": "password", "timeout_s": 10}
    if broker.tls:
        status |= {"url": f"mqtts://localhost:{broker.port}", "ca": str(broker.folder / "ca.pem")}
    return Device(tmp_path, fleet, status=status)


@needs_broker
@needs_openssl
@pytest.mark.parametrize("tls", [False, True])
def test_the_last_word_is_retained_at_the_broker(tmp_path: Path, fleet: Repository, tls: bool) -> None:
    broker = Broker(tmp_path / "broker", tls=tls)
    device = mqtt_device(tmp_path, fleet, broker)
    assert device.once().code == Exit.UPDATED  # nobody listens yet, and the update goes on
    assert any("the status isn't heard" in said for said in device.said)
    assert device.state.heard == 0
    process = broker.start()
    try:
        assert device.once().code == Exit.NOTHING
        word = broker.retained()
        assert (word.state, word.release, word.counter) == ("committed", 1, 1)
        assert word.seq == device.state.seq == device.state.heard
        fleet.rollout(2, serial=2)
        fleet.publish()
        device.once()
        later = broker.retained()
        assert later.release == 2
        assert later.seq > word.seq
    finally:
        process.terminate()
        process.wait()


@needs_broker
def test_a_wrong_password_is_told_and_fails_nothing(tmp_path: Path, fleet: Repository) -> None:
    broker = Broker(tmp_path / "broker", tls=False)
    device = mqtt_device(tmp_path, fleet, broker, password="wrong")
    process = broker.start()
    try:
        assert device.once().code == Exit.UPDATED
    finally:
        process.terminate()
        process.wait()
    assert any("the broker refuses dev-1" in said for said in device.said), device.said


@needs_broker
@needs_openssl
def test_a_broker_with_another_certificate_is_not_told(tmp_path: Path, fleet: Repository) -> None:
    broker = Broker(tmp_path / "broker", tls=True)
    device = mqtt_device(tmp_path, fleet, broker)
    (tmp_path / "other").mkdir()
    _certificate(tmp_path / "other")
    device.file.write_text(device.file.read_text().replace(str(broker.folder), str(tmp_path / "other")))
    process = broker.start()
    try:
        assert device.once().code == Exit.UPDATED
    finally:
        process.terminate()
        process.wait()
    assert any("certificate" in said for said in device.said), device.said


class Store:
    """A store that takes statuses over http, as `edgeprune fleet serve` does."""

    def __init__(self) -> None:
        self.heard: list[dict[str, Any]] = []
        self.code = 204


@pytest.fixture
def store() -> Iterator[Store]:
    kept = Store()

    class Answer(http.server.BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            content = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            right = self.headers["Authorization"] == "Bearer token" and self.path == "/status/dev-1"
            newer = not kept.heard or content["seq"] > kept.heard[-1]["seq"]
            code = kept.code if kept.code != 204 else 401 if not right else 204 if newer else 409
            if code == 204:
                kept.heard.append(content)
            self.send_response(code)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Answer)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    kept.url = f"http://127.0.0.1:{server.server_address[1]}"  # type: ignore[attr-defined]
    yield kept
    server.shutdown()
    server.server_close()
    thread.join()


def http_device(tmp_path: Path, fleet: Repository, store: Any, token: str = "token") -> Device:
    (tmp_path / "token").write_text(token)
    return Device(tmp_path, fleet, status={"kind": "http", "url": store.url, "secret": "token"})


def test_every_state_of_an_update_is_posted_with_rising_numbers(
    tmp_path: Path, fleet: Repository, store: Store
) -> None:
    device = http_device(tmp_path, fleet, store)
    assert device.once().code == Exit.UPDATED
    assert [one["state"] for one in store.heard] == ["downloading", "installing", "testing", "watching", "committed"]
    seqs = [one["seq"] for one in store.heard]
    assert seqs == sorted(set(seqs))
    device.once()
    assert len(store.heard) == 5


def test_what_is_not_heard_is_said_later(tmp_path: Path, fleet: Repository, store: Store) -> None:
    device = http_device(tmp_path, fleet, store)
    store.code = 503
    assert device.once().code == Exit.UPDATED
    assert device.state.heard == 0
    store.code = 204
    assert device.once().code == Exit.NOTHING
    assert [one["state"] for one in store.heard] == ["committed"]


def test_a_device_that_lost_its_memory_is_heard_again(tmp_path: Path, fleet: Repository, store: Store) -> None:
    """The store answers 409 to numbers that it has heard, so that nobody's replay counts; a device goes above them."""
    device = http_device(tmp_path, fleet, store)
    device.once()
    device.once()
    shutil.rmtree(device.folder)
    assert device.once().code == Exit.UPDATED
    assert store.heard[-1]["seq"] == device.state.seq == device.state.heard
    assert store.heard[-1]["seq"] > 1_000_000


def test_a_wrong_token_is_told(tmp_path: Path, fleet: Repository, store: Store) -> None:
    device = http_device(tmp_path, fleet, store, token="wrong")
    assert device.once().code == Exit.UPDATED
    assert not store.heard
    assert any("answers 401" in said for said in device.said)


def test_metrics_are_a_whole_file_for_the_textfile_collector(tmp_path: Path, fleet: Repository) -> None:
    from prometheus_client.parser import text_string_to_metric_families

    device = Device(tmp_path, fleet, metrics="metrics/edgeprune.prom")
    device.once()
    device.once()
    families = {
        one.name: one for one in text_string_to_metric_families((tmp_path / "metrics/edgeprune.prom").read_text())
    }
    assert families["edgeprune_agent_release"].samples[0].value == 1
    states = {one.labels["state"]: one.value for one in families["edgeprune_agent_state"].samples}
    assert states["committed"] == 1
    assert sum(states.values()) == 1
    assert families["edgeprune_agent_last_run_requests"].samples[0].value == 2
    assert families["edgeprune_agent_last_exit_code"].samples[0].value == 0
    assert [path.name for path in (tmp_path / "metrics").iterdir()] == ["edgeprune.prom"]


def test_units_are_what_systemd_takes(tmp_path: Path, fleet: Repository) -> None:
    device = Device(tmp_path, fleet, metrics="metrics/edgeprune.prom")
    (tmp_path / "device").mkdir()
    (tmp_path / "metrics").mkdir()
    done = device.command("install-units", "--into", str(tmp_path / "units"), "--user", "root", "--jitter", "5min")
    assert done.returncode == 0, done.stderr
    service, timer = (tmp_path / "units" / f"edgeprune-agent.{kind}" for kind in ("service", "timer"))
    assert f"ReadWritePaths={tmp_path / 'device'} {tmp_path / 'metrics'}" in service.read_text()
    assert "RandomizedDelaySec=5min" in timer.read_text()
    assert "{" not in service.read_text() + timer.read_text()
    if shutil.which("systemd-analyze"):
        checked = subprocess.run(
            ["systemd-analyze", "verify", str(service), str(timer)], capture_output=True, text=True, timeout=120
        )
        said = [line for line in checked.stderr.splitlines() if "edgeprune-agent" in line]
        assert not said, said
    for wrong in (("--jitter", "soon"), ("--user", "a b"), ("--every", "1h\nUser=root")):
        assert device.command("install-units", "--into", str(tmp_path / "x"), *wrong).returncode == 2
    assert not (tmp_path / "x").exists()
