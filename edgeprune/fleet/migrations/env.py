"""Alembic's entry: on the connection that `Store` hands over, or on `-x url=…` from alembic's command line."""

from __future__ import annotations

from alembic import context
from sqlalchemy import Connection, create_engine

from edgeprune.fleet.tables import metadata


def run(connection: Connection) -> None:
    context.configure(connection=connection, target_metadata=metadata, transactional_ddl=True, render_as_batch=True)
    with context.begin_transaction():
        context.run_migrations()


given = context.config.attributes.get("connection")
if given is not None:
    run(given)
else:
    with create_engine(context.get_x_argument(as_dictionary=True)["url"]).begin() as own:
        run(own)
