"""Processes that listen until they are interrupted: the page, and who collects statuses.

Rules:
- SIGINT and SIGTERM end them in order: what has been taken is kept, and said to have been.
- Statuses from another machine come over TLS: tokens travel with them. Whoever has a web server in front gives it this
  machine's own address.
"""

from __future__ import annotations

import signal
import socket
import threading
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgeprune.errors import EdgepruneError, UpdateError, missing_package
from edgeprune.fleet.repository import Repository
from edgeprune.fleet.store import Store

if TYPE_CHECKING:
    from edgeprune.fleet.collect import Broker

_HERE = ("127.0.0.1", "::1", "localhost")
#: Seconds that open connections have at the end: pages that watch never close theirs.
_GRACE_S = 2


@dataclass(frozen=True)
class Address:
    """Where to listen; `certificate` and `key`: PEM, for TLS."""

    host: str
    port: int
    certificate: Path | None = None
    key: Path | None = None


def address_of(
    text: str, certificate: Path | None = None, key: Path | None = None, strict: bool = False
) -> Address:  # fmt: skip
    """HOST:PORT.

    Args:
        strict: Refuse to listen to other machines without TLS.

    Raises:
        UpdateError: No such address.
    """
    host, _, port = text.rpartition(":")
    host = host.strip("[]")
    if not host or not port.isdigit() or int(port) > 65535:
        raise UpdateError("That is no address.", where="--http", expected="HOST:PORT, 127.0.0.1:8080", got=text)
    if (certificate is None) != (key is None):
        raise UpdateError("A certificate and its key go together.", expected="--tls-cert and --tls-key")
    if strict and certificate is None and host not in _HERE:
        raise UpdateError(
            "Tokens would go over the network as they are.", where=text, expected="--tls-cert and --tls-key",
            next_step="or listen on 127.0.0.1, with a web server in front that speaks TLS",
        )  # fmt: skip
    return Address(host, int(port), certificate, key)


def page(repository: Repository, store: Store, address: Address) -> None:
    """Show a fleet until interrupted."""
    from edgeprune.fleet.page import app
    from edgeprune.fleet.view import Lookout

    _listen(app(Lookout(repository, store)), address)


def collect(store: Store, broker: Broker | None, address: Address | None) -> None:
    """Take statuses until interrupted.

    Raises:
        UpdateError: The broker refuses us, or the address is taken.
    """
    from edgeprune.fleet.taking import Intake

    intake = Intake(store)
    if broker is None:
        assert address is not None, "the command line asks for one of them"
        return _listen_for(intake, address)
    from edgeprune.fleet.collect import Collector

    collector = Collector(broker, intake)
    if address is None:
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, lambda *_: collector.stop())
        return collector.run()
    trouble: list[EdgepruneError] = []

    def run() -> None:
        try:
            collector.run()
        except EdgepruneError as error:
            trouble.append(error)
            signal.raise_signal(signal.SIGTERM)

    thread = threading.Thread(target=run, name="mqtt")
    thread.start()
    try:
        _listen_for(intake, address)
    finally:
        collector.stop()
        thread.join()
        if trouble:
            raise trouble[0]
    return None


def _listen_for(intake: Any, address: Address) -> None:
    from edgeprune.fleet.receive import app

    _listen(app(intake), address)


def _listen(app: Any, address: Address) -> None:
    try:
        import uvicorn
    except ImportError as error:
        raise missing_package("uvicorn", "fleet") from error
    try:
        family = socket.AF_INET6 if ":" in address.host else socket.AF_INET
        opened = socket.create_server((address.host, address.port), family=family, backlog=2048)
    except OSError as problem:
        raise UpdateError(
            "The address can't be listened on.", where=f"{address.host}:{address.port}", got=problem.strerror,
            next_step="give another one with --http",
        ) from problem  # fmt: skip
    host = f"[{address.host}]" if ":" in address.host else address.host
    scheme = "https" if address.certificate else "http"
    with opened:
        config = uvicorn.Config(
            app, log_level="warning", access_log=False, timeout_graceful_shutdown=_GRACE_S, server_header=False,
            ssl_certfile=address.certificate, ssl_keyfile=address.key,
        )  # fmt: skip
        try:
            config.load()
        except OSError as problem:
            raise UpdateError(
                "The certificate can't be read.", where=address.certificate, got=str(problem)
            ) from problem
        for number in (signal.SIGINT, signal.SIGTERM):  # uvicorn raises them again when it has ended in order
            signal.signal(number, lambda *_: None)
        print(f"{scheme}://{host}:{opened.getsockname()[1]}/", flush=True)
        uvicorn.Server(config).run(sockets=[opened])
