"""Which database is meant: SQLite or PostgreSQL by URL, as SQLAlchemy has them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from edgeprune.errors import EdgepruneError

if TYPE_CHECKING:
    from sqlalchemy.engine import URL


def read_url(given: str, *, option: str, what: str, refusal: str, error: type[EdgepruneError]) -> URL:
    """A URL that somebody gave; postgresql:// is psycopg's.

    Args:
        option: That it was given with.
        what, refusal: What can't be read, and what isn't kept in another database: for the error.
        error: Its kind.

    Raises:
        EdgepruneError: A URL that isn't one, or of another database; of kind `error`.
    """
    from sqlalchemy.engine import make_url
    from sqlalchemy.exc import ArgumentError

    try:
        url = make_url(given)
    except ArgumentError as problem:
        raise error(f"{what} can't be read.", where=option, got=given) from problem
    if url.get_backend_name() == "postgresql":
        return url.set(drivername="postgresql+psycopg")
    if url.get_backend_name() != "sqlite":
        raise error(refusal, where=option, expected="sqlite:///FILE or postgresql://…", got=url.get_backend_name())
    return url
