"""A status store's database: SQLite by default, PostgreSQL by URL; opened, brought up to date, its errors in words.

Rules:
- The default is one file beside the repository, outside what is served: REPO.db. A URL with postgresql:// is psycopg's.
- Opening runs the migrations that are missing, one process at a time. A database of a later edgeprune is refused.
- On SQLite: write-ahead log, foreign keys held, and who means to write says so at the start: a transaction that reads
  first and then can't write would have to be begun again.

Sources: SQLite, 'Write-Ahead Logging' and 'PRAGMA foreign_keys'; SQLAlchemy 2.0, 'SQLite: Serializable isolation /
Savepoints / Transactional DDL'; PostgreSQL 15, 13.3.5 (advisory locks).
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from importlib.resources import files
from pathlib import Path
from typing import Any

from edgeprune.database import read_url
from edgeprune.errors import UpdateError, missing_package

try:
    from sqlalchemy import Connection, Engine, create_engine, event, inspect, text
    from sqlalchemy.engine import URL
    from sqlalchemy.exc import DBAPIError, NoSuchModuleError
except ImportError as error:
    raise missing_package("sqlalchemy", "fleet") from error

#: Seconds that a writer waits for another.
WAIT_S = 30
#: 'edgeprun' as a number: the advisory lock that migrations take.
_LOCK = int.from_bytes(b"edgeprun", "big")


def url_of(given: str | None, repository: Path) -> URL:
    """Which database is meant: a URL, a file's path, or, without either, the one beside the repository.

    Raises:
        UpdateError: A URL that isn't one, or of another database.
    """
    if given is None or "://" not in given:
        file = Path(given) if given else repository.resolve().with_name(f"{repository.resolve().name}.db")
        return URL.create("sqlite", database=str(file))
    return read_url(
        given, option="--db", what="The database's URL", refusal="Status isn't kept in such a database.",
        error=UpdateError,
    )  # fmt: skip


def connect(url: URL) -> Engine:
    """An engine on a database that has all migrations.

    Raises:
        UpdateError: It doesn't answer, or is of a later edgeprune.
    """
    from edgeprune.fleet.tables import REVISION

    sqlite = url.get_backend_name() == "sqlite"
    try:
        engine = create_engine(url, connect_args={"timeout": WAIT_S} if sqlite else {}, pool_pre_ping=not sqlite)
    except (ImportError, NoSuchModuleError) as problem:
        raise missing_package("psycopg", "fleet") from problem
    if sqlite:
        if url.database and url.database != ":memory:":
            _make_folder(Path(url.database).parent)
        event.listen(engine, "connect", _prepare)
        event.listen(engine, "begin", _begin)
    with said(url):
        if _revision(engine) != REVISION:
            migrate(engine)
    return engine


def migrate(engine: Engine) -> None:
    """Run what is missing, one process at a time."""
    from alembic import command
    from alembic.config import Config
    from alembic.script import ScriptDirectory

    config = Config()
    config.set_main_option("script_location", str(files("edgeprune.fleet") / "migrations"))
    with writing(engine) as connection:
        if connection.dialect.name == "postgresql":
            connection.execute(text("SELECT pg_advisory_xact_lock(:lock)"), {"lock": _LOCK})
        has = _revision(connection)
        known = [script.revision for script in ScriptDirectory.from_config(config).walk_revisions()]
        if has is not None and has not in known:
            raise UpdateError(
                "The status database was made by a later edgeprune.", where=engine.url.render_as_string(),
                expected=f"migration {known[0]} or earlier", got=has, next_step="update edgeprune here too",
            )  # fmt: skip
        config.attributes["connection"] = connection
        command.upgrade(config, "head")


@contextmanager
def writing(engine: Engine) -> Iterator[Connection]:
    """A transaction that is going to write."""
    with engine.connect().execution_options(writes=True) as connection, connection.begin():
        yield connection


@contextmanager
def said(url: URL) -> Iterator[None]:
    """Turn a database's errors into one that names it; passwords aren't said."""
    try:
        yield
    except DBAPIError as problem:
        raise UpdateError(
            "The status database can't be used.", where=url.render_as_string(), got=str(problem.orig).strip(),
            next_step="give another one with --db, or start it",
        ) from problem  # fmt: skip


def _revision(connectable: Engine | Connection) -> str | None:
    """The migration that a database is at; None: it is empty."""
    if not inspect(connectable).has_table("alembic_version"):
        return None
    query = text("SELECT version_num FROM alembic_version")
    if isinstance(connectable, Connection):
        return connectable.execute(query).scalar()
    with connectable.connect() as connection:
        return connection.execute(query).scalar()


def _make_folder(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as problem:
        raise UpdateError("The folder can't be made.", where=folder, got=problem.strerror) from problem


def _prepare(connection: Any, _: Any) -> None:
    connection.isolation_level = None  # SQLAlchemy begins, not sqlite3: or DDL would stand outside
    for pragma in ("journal_mode=WAL", "foreign_keys=ON"):
        connection.execute(f"PRAGMA {pragma}")


def _begin(connection: Connection) -> None:
    immediate = connection.get_execution_options().get("writes")
    connection.exec_driver_sql("BEGIN IMMEDIATE" if immediate else "BEGIN")
