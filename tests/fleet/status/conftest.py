"""Status stores on both databases, and statuses to put into them."""

from __future__ import annotations

import itertools
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import create_engine, text
from sqlalchemy.engine import make_url

from edgeprune.fleet.database import url_of
from edgeprune.fleet.repository import Repository
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


#: Opens all keys of the tests' repositories.
PASSWORD = "correct horse battery"


@pytest.fixture(scope="session")
def published(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a repository `fleet` and its keys: `cells` has three releases for pi and orin, `parts` has none."""
    from edgeprune.fleet.authority import add_product
    from edgeprune.fleet.init import init
    from edgeprune.fleet.keys import Keyring
    from edgeprune.fleet.publish import examine, publish
    from tests.fleet.bundles import make_bundle

    folder = tmp_path_factory.mktemp("published")
    made = init(folder / "fleet", Keyring.make(folder / "fleet.keys", lambda role, new: PASSWORD))
    add_product(made, "cells")
    add_product(made, "parts")
    for seed in (1, 2, 3):
        offered = [examine(make_bundle(folder / f"{sku}-{seed}", sku, seed)) for sku in ("pi", "orin")]
        publish(made, "cells", offered, label="night shift" if seed == 2 else "")
    return folder


@pytest.fixture
def site(published: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of it, of the test's own; the command line finds its parts."""
    folder = tmp_path / "site"
    for name in ("fleet", "fleet.keys"):
        shutil.copytree(published / name, folder / name)
    monkeypatch.setenv("EDGEPRUNE_KEY_PASSWORD", PASSWORD)
    monkeypatch.setenv("EDGEPRUNE_FLEET_REPO", str(folder / "fleet"))
    return folder


@pytest.fixture
def repository(site: Path) -> Repository:
    from edgeprune.fleet.keys import Keyring

    return Repository.open(site / "fleet", Keyring(site / "fleet.keys"))


@pytest.fixture
def fleet(site: Path) -> Iterator[Store]:
    """The status store beside it."""
    store = Store(url_of(None, site / "fleet"))
    yield store
    store.close()
