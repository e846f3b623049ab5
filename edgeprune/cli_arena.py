"""`edgeprune arena`: pruning methods against each other, on the command line."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from edgeprune.records.arena import Entrant, Run

console = Console(file=sys.stdout, highlight=False, soft_wrap=True)


def arena(
    target: Annotated[str, typer.Argument(help="Name under targets/, or a target's YAML.")],
    model: Annotated[Path, typer.Option("--model", help="Trained checkpoint (.pt).")],
    data: Annotated[Path, typer.Option("--data", help="data.yaml in Ultralytics' format.")],
    budget: Annotated[str, typer.Option("--budget", help="What all are cut to: 2x, 8ms, 30fps or 0.5macs.")],
    epochs: Annotated[int, typer.Option("--epochs", min=1, help="Of training, the same for all.")],
    methods: Annotated[
        str, typer.Option("--methods", help="all; or importance=l1,slimming,… with commas between.")
    ] = "all",
    seeds: Annotated[int, typer.Option("--seeds", min=1, max=100, help="Runs of each entrant.")] = 1,
    recipe: Annotated[Path | None, typer.Option("--recipe", help="Base recipe; its goal gives the drop alone.")] = None,
    entrants: Annotated[
        Path | None, typer.Option("--entrants", help="YAML of your own: name: {key of a recipe: value}.")
    ] = None,
    out: Annotated[Path, typer.Option("--out", help="Folder that builds go into.")] = Path("build"),
    calibration: Annotated[str | None, typer.Option("--calibration", help="Calibration set for int8.")] = None,
    device: Annotated[str | None, typer.Option("--device", help="local or ssh://…, instead of the target's.")] = None,
    storage: Annotated[
        str | None,
        typer.Option("--storage", help="postgresql://… for many machines; without it, SQLite in the study's folder."),
    ] = None,
    study: Annotated[str | None, typer.Option("--study", help="Its name; without it, TARGET-BUDGET.")] = None,
    halving: Annotated[bool, typer.Option("--halving/--no-halving", help="Stop runs that fall behind.")] = True,
    report: Annotated[bool, typer.Option("--report", help="Run nothing: race and show what is finished.")] = False,
) -> None:
    """Every pruning method, cut to one budget, trained alike, raced. The same command on many machines splits the work.
    Exit code 1 where nobody reaches the budget."""
    from edgeprune.arena import arena as story
    from edgeprune.report.arena import progress, show
    from edgeprune.report.console import ConsoleListener

    said: set[int] = set()

    def on_field(found: Sequence[Entrant]) -> None:
        runs = sum(entrant.refused is None for entrant in found)
        console.print(f"{Path(target).stem} at {budget}: {runs} entrants, {seeds} seeds each")
        for entrant in found:
            if entrant.refused:
                console.print(f"  {entrant.name} is refused: {entrant.refused}", markup=False)

    def on_runs(runs: Sequence[Run]) -> None:
        decided = sum(not run.open for run in runs)
        if decided not in said:  # while others are at work, only what is new
            said.add(decided)
            console.print(f"  {progress(runs)}", markup=False)

    found = story(
        model=model, data=data, target=target, budget=budget, epochs=epochs, seeds=seeds, methods=methods,
        entrants_file=entrants, recipe=recipe, out=out, calibration=calibration, device=device, storage=storage,
        study=study, halving=halving, report_only=report, listener=ConsoleListener(console), on_field=on_field,
        on_runs=on_runs,
    )  # fmt: skip
    show(found, console)
    folder = out / "arena" / found.study
    console.print(f"  every figure: {folder / 'arena.json'}, the page: {folder / 'arena.html'}", markup=False)
    if found.winner is None:
        raise typer.Exit(1)
