"""Statuses over HTTP, by a process of its own: who is heard, and what each gets for an answer."""

from __future__ import annotations

import json
import ssl
from collections.abc import Iterator
from datetime import datetime, timezone
from pathlib import Path

import httpx
import pytest

from edgeprune.fleet.rollout import WaveCounts
from edgeprune.fleet.store import Store
from edgeprune.records.base import to_json
from edgeprune.records.device_status import DeviceStatus
from edgeprune.records.rollout import Wave
from tests.fleet.broker import certificate
from tests.fleet.status.processes import listening
from tests.fleet.told import NOW, begun, committed, enrolled, status

ROLLOUT = begun(Wave(percent=100))


@pytest.fixture
def address(store: Store, url: str, tmp_path: Path) -> Iterator[str]:
    """Where statuses are taken; 'a' and 'b' are enrolled, with their names for tokens."""
    store.enroll(enrolled("a", "b"), NOW)
    with listening("collect", "--http", "127.0.0.1:0", "--db", url, log=tmp_path / "log") as found:
        yield found


def post(address: str, content: DeviceStatus | bytes, device: str = "a", token: str | None = None) -> httpx.Response:
    body = content if isinstance(content, bytes) else to_json(content)
    headers = {"Authorization": f"Bearer {device if token is None else token}"}
    return httpx.post(f"{address}/status/{device}", content=body, headers=headers, timeout=120, trust_env=False)


def test_every_answer_and_nothing_changed_by_a_refusal(address: str, store: Store) -> None:
    assert post(address, committed("a", 5, ROLLOUT)).status_code == 204
    kept = store.counts(ROLLOUT), store.tallies()
    late = post(address, status("a", 5))
    assert (late.status_code, late.text) == (409, "a: not newer\n")
    assert post(address, status("a", 4)).status_code == 409
    wrong = post(address, status("a", 6), token="b")
    assert (wrong.status_code, wrong.headers["www-authenticate"]) == (401, "Bearer")
    assert post(address, status("a", 6), token="a b").status_code == 401
    assert httpx.post(f"{address}/status/a", content=b"", trust_env=False).status_code == 401
    ghost = post(address, status("ghost", 1), "ghost")
    assert (ghost.status_code, ghost.text) == (404, "'ghost' was never enrolled\n")
    assert post(address, status("a", 6), "..%2fa").status_code == 404
    assert post(address, b"\0", "%00", "x").status_code == 404
    for content in (b"", b"no json", b"[]", b"{}", to_json(status("b", 9)), to_json(status("a", 6, sku="orin"))):
        answer = post(address, content)
        assert answer.status_code == 422, content
        assert "a" in answer.text
    assert post(address, b" " * 20_000).status_code == 413
    assert httpx.get(f"{address}/status/a", trust_env=False).status_code == 405
    assert (store.counts(ROLLOUT), store.tallies()) == kept
    assert store.counts(ROLLOUT).until(0) == WaveCounts(2, 1, 0)
    metrics = httpx.get(f"{address}/metrics", trust_env=False).text
    assert 'edgeprune_collect_statuses_total{answer="taken",way="http"} 1.0' in metrics
    assert 'edgeprune_collect_statuses_total{answer="not_newer",way="http"} 2.0' in metrics
    assert 'edgeprune_collect_statuses_total{answer="wrong_token",way="http"} 3.0' in metrics


def test_what_a_database_could_not_hold_is_malformed(address: str, store: Store) -> None:
    kept = store.tallies()
    for field in (
        {"seq": 2**63}, {"counter": 2**70}, {"rollout": 2**64}, {"release": 2**63}, {"reason": "a\0b"},
        {"runtime": "a\0"}, {"tags": ["\0"]}, {"model_sha256": "f" * 65}, {"at": "1066-10-14T00:00:00Z"},
        {"at": "9999-12-31T23:59:59-23:00"}, {"at": "0001-01-01T00:00:00+23:00"}, {"latency_ms": -1}, {"seq": 0},
    ):  # fmt: skip
        answer = post(address, json.dumps(json.loads(to_json(status("b", 1))) | field).encode(), "b")
        assert answer.status_code == 422, field
        assert next(iter(field)) in answer.text
    surrogate = to_json(status("b", 1, reason="xyz")).replace(b"xyz", b"\\ud800")
    assert post(address, surrogate, "b").status_code == 422
    assert store.tallies() == kept
    assert post(address, status("b", 1, at=datetime(1970, 1, 1, tzinfo=timezone.utc)), "b").status_code == 204


def test_over_tls(store: Store, url: str, tmp_path: Path) -> None:
    store.enroll(enrolled("a"), NOW)
    cert, key = certificate(tmp_path / "tls")
    options = ("--tls-cert", cert, "--tls-key", key, "--db", url)
    with listening("collect", "--http", "127.0.0.1:0", *options, log=tmp_path / "log") as address:
        assert address.startswith("https://")
        answer = httpx.post(
            f"{address}/status/a", content=to_json(status("a", 1)), headers={"Authorization": "Bearer a"}, timeout=60,
            verify=ssl.create_default_context(cafile=cert), trust_env=False,
        )  # fmt: skip
        assert answer.status_code == 204
