"""`edgeprune methods`: every pruning method that a recipe can name, on the command line."""

from __future__ import annotations

import json
import sys
from typing import Annotated

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from edgeprune.errors import RecipeError
from edgeprune.records import Recipe
from edgeprune.records.methods import METHODS

console = Console(file=sys.stdout, highlight=False, soft_wrap=True)


def methods(
    row: Annotated[str | None, typer.Option("--row", help="One key of a recipe alone: importance, say.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="For programs.")] = False,
) -> None:
    """List the pruning methods: where each is from, what it can't do without, and its line in a recipe."""
    if row is not None and row not in METHODS:
        raise RecipeError("There is no such row.", where="--row", expected=", ".join(METHODS), got=row)
    found = {key: known for key, known in METHODS.items() if row in (None, key)}
    if as_json:
        listed = [
            {"row": key, "name": name, "source": m.source, "needs": list(m.needs), "recipe": f"{key}: {name}"}
            for key, known in found.items()
            for name, m in known.items()
        ]
        sys.stdout.write(json.dumps(listed, indent=2) + "\n")
        return
    default = Recipe()
    table = Table(box=None, pad_edge=False)
    table.add_column("in a recipe", no_wrap=True)
    table.add_column("needs", no_wrap=True)
    table.add_column("source", overflow="fold")
    for key, known in found.items():
        for name, method in known.items():
            line = f"{key}: {name}"
            shown = f"[bold]{escape(line)}[/]" if getattr(default, key) == name else escape(line)
            table.add_row(shown, ", ".join(method.needs), escape(method.source))
        table.add_section()
    Console(file=sys.stdout, highlight=False).print(table)
    console.print("  bold: the default. A recipe takes one of each; edgeprune arena races them.")
