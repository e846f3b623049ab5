"""Status stores on both databases, and statuses to put into them."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import create_engine, text
from sqlalchemy.engine import make_url

from edgeprune.fleet.database import url_of
from edgeprune.fleet.store import Store
from tests.fleet import postgres as server

_NUMBERS = itertools.count()


@pytest.fixture(scope="session")
def postgres() -> Iterator[str]:
    """URL of a PostgreSQL that the tests started."""
    if (why := server.missing()) is not None:
        pytest.skip(f"left out: {why}")
    with server.postgres() as url:
        yield url


@pytest.fixture(params=["sqlite", "postgresql"])
def url(request: Any, tmp_path: Path) -> str:
    """URL of an empty database, of each kind."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path / 'fleet.db'}"
    given = make_url(request.getfixturevalue("postgres"))
    name = f"fleet{next(_NUMBERS)}"
    engine = create_engine(given.set(drivername="postgresql+psycopg"), isolation_level="AUTOCOMMIT")
    with engine.connect() as connection:
        connection.execute(text(f"CREATE DATABASE {name}"))
    engine.dispose()
    return given.set(database=name).render_as_string()


@pytest.fixture
def opened(url: str, tmp_path: Path) -> Iterator[Callable[[], Store]]:
    """Opens a store on the database; again and again, if asked."""
    stores: list[Store] = []

    def open_store() -> Store:
        stores.append(Store(url_of(url, tmp_path / "repository")))
        return stores[-1]

    yield open_store
    for store in stores:
        store.close()


@pytest.fixture
def store(opened: Callable[[], Store]) -> Store:
    return opened()
