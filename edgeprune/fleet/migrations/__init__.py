"""How a status store's tables came to be, step by step: Alembic's scripts. `Store.open` runs what is missing.

A new one: change fleet/tables.py, then, with a database of the old shape,
`alembic -c edgeprune/fleet/migrations/alembic.ini -x url=sqlite:///old.db revision --autogenerate -m "what it does"`,
and its number goes into tables.REVISION.
"""
