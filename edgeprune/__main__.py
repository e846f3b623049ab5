"""`python -m edgeprune`."""

from __future__ import annotations

from edgeprune.cli import app

app(prog_name="edgeprune")
