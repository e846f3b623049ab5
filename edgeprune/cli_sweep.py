"""`edgeprune sweep`: several goals, one curve."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from edgeprune.errors import RecipeError

console = Console(file=sys.stdout, highlight=False, soft_wrap=True)


def sweep(
    target: Annotated[str, typer.Argument(help="Name under targets/, or a target's YAML.")],
    model: Annotated[Path, typer.Option("--model", help="Trained checkpoint (.pt).")],
    data: Annotated[Path, typer.Option("--data", help="data.yaml in Ultralytics' format.")],
    goals: Annotated[str, typer.Option("--goals", help="Values of the kind, with commas between: 1.5,2,3,4.")],
    kind: Annotated[str, typer.Option("--kind", help="speedup, latency_ms, fps or macs_ratio.")] = "speedup",
    refine: Annotated[
        int, typer.Option("--refine", min=0, max=20, help="Goals to try between the last that holds and the next.")
    ] = 0,
    recipe: Annotated[Path | None, typer.Option("--recipe", help="Recipe YAML; its goal gives the drop alone.")] = None,
    out: Annotated[Path, typer.Option("--out", help="Folder that builds go into.")] = Path("build"),
    calibration: Annotated[str | None, typer.Option("--calibration", help="Calibration set for int8.")] = None,
    device: Annotated[str | None, typer.Option("--device", help="local or ssh://…, instead of the target's.")] = None,
) -> None:
    """One build for each of several goals, and the curve of mAP over latency. Exit code 1 where none is accepted."""
    from edgeprune.report.console import ConsoleListener
    from edgeprune.report.pareto import show
    from edgeprune.sweep import sweep as story

    listener = ConsoleListener(console)
    found = story(
        model=model, data=data, target=target, goals=_values(goals), kind=kind, refine=refine, recipe=recipe, out=out,
        calibration=calibration, device=device, listener=listener,
        on_point=lambda said: console.print(said, markup=False),
    )  # fmt: skip
    if not listener.worked:
        console.print("  nothing to do: every stage was done before with the same inputs")
    show(found, console)
    folder = out / found.target
    console.print(f"  the curve: {folder / 'sweep.json'}, the page: {folder / 'sweep.html'}")
    if not any(point.accepted for point in found.points):
        raise typer.Exit(1)


def _values(text: str) -> list[float]:
    """'1.5,2' as numbers."""
    try:
        return [float(part) for part in text.split(",")]
    except ValueError as error:
        raise RecipeError(
            "The goals aren't numbers.", where="--goals", expected="numbers with commas between: 1.5,2,3,4", got=text
        ) from error  # fmt: skip
