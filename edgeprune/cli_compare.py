"""`edgeprune compare`: a finished build beside everybody else's exports of its parent, on the command line."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

console = Console(file=sys.stdout, highlight=False, soft_wrap=True)


def compare(
    target: Annotated[str, typer.Argument(help="Name under targets/, or a target's YAML.")],
    model: Annotated[Path, typer.Option("--model", help="Trained checkpoint (.pt): the build's parent.")],
    data: Annotated[Path, typer.Option("--data", help="data.yaml in Ultralytics' format.")],
    recipe: Annotated[
        Path | None, typer.Option("--recipe", help="The build's recipe; without it, what the build wrote down.")
    ] = None,
    out: Annotated[Path, typer.Option("--out", help="Folder that builds go into.")] = Path("build"),
    build: Annotated[Path | None, typer.Option("--build", help="The build's folder, instead of OUT/TARGET.")] = None,
    calibration: Annotated[
        str | None, typer.Option("--calibration", help="Calibration set that rivals take their ranges from too.")
    ] = None,
    device: Annotated[str | None, typer.Option("--device", help="local or ssh://…, instead of the target's.")] = None,
    without: Annotated[
        list[str] | None,
        typer.Option("--without", help="Leave a rival out: fp32, fp16, int8, qat, nncf, nncf-mixed. May be repeated."),
    ] = None,
    rounds: Annotated[
        int | None,
        typer.Option("--rounds", min=2, help="Of the race; fewer than a verdict's are to try, not to quote."),
    ] = None,
    again: Annotated[bool, typer.Option("--again", help="Race anew.")] = False,
) -> None:
    """Race a build against what others' tools make of its parent: Ultralytics' exports and its QAT, NNCF."""
    from edgeprune.comparison import compare as story
    from edgeprune.report.console import ConsoleListener
    from edgeprune.report.rivals import show

    listener = ConsoleListener(console)
    folder = build or out / Path(target).stem
    result = folder.parent / "compare" / folder.name
    console.print(f"{Path(target).stem}: {folder} against everybody else -> {result}", markup=False)
    found = story(
        model=model, data=data, target=target, recipe=recipe, out=out, build=build, calibration=calibration,
        device=device, without=without or (), rounds=rounds, again=again, listener=listener,
    )  # fmt: skip
    if not listener.worked:
        console.print("  nothing to do: every stage was done before with the same inputs")
    show(found, console)
    console.print(f"  every figure: {result / 'compare.json'}, the page: {result / 'compare.html'}", markup=False)
