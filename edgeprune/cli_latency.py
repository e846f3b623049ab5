"""`edgeprune latency-table`: how long a model's layers take on a target, on the command line."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from edgeprune.bench.ask import about
from edgeprune.errors import CheckpointError, ProfileError
from edgeprune.job import find_target
from edgeprune.records import files
from edgeprune.records.model import ModelFiles
from edgeprune.records.target import Precision
from edgeprune.remote.bench import bench_at
from edgeprune.workshop import Workshop

console = Console(file=sys.stdout, highlight=False, soft_wrap=True)


def latency_table(
    target: Annotated[str, typer.Argument(help="Name under targets/, or a target's YAML.")],
    model: Annotated[Path, typer.Option("--model", help="Trained checkpoint (.pt).")],
    precision: Annotated[str | None, typer.Option(help="One of the target's; all of them without it.")] = None,
    out: Annotated[Path, typer.Option("--out", help="Folder that builds go into.")] = Path("build"),
    device: Annotated[str | None, typer.Option("--device", help="local or ssh://…, instead of the target's.")] = None,
    seed: Annotated[int, typer.Option(min=0, help="Of random plans and of orders.")] = 0,
) -> None:
    """How long a model's layers take on a target at a grid of widths, measured there; goals in time are met with it."""
    from edgeprune.report.console import ConsoleListener
    from edgeprune.report.latency_table import page, show
    from edgeprune.stages.latency import Target
    from edgeprune.stages.latency import latency_table as table_of

    if not model.is_file():
        raise CheckpointError("The model file doesn't exist.", where=model, next_step="give --model path/to/best.pt")
    profile = find_target(target)
    bench = bench_at(device or profile.device)
    asked = _precisions(target, profile.precisions, precision)
    lacking = about(bench, profile.runtime, asked, profile.plugin).lacking
    if len(lacking) == len(asked):
        raise ProfileError(
            "The device has none of these precisions.", where=bench.address, expected=", ".join(asked),
            got="; ".join(f"{p}: {why}" for p, why in lacking.items()),
        )  # fmt: skip
    name = Path(target).stem
    timed = Target(
        name, profile.model_copy(update={"device": bench.address}), bench,
        Workshop(out / name, ConsoleListener(console)), files.sha256_file(model), seed=seed,
    )  # fmt: skip
    with timed.shop.open():
        found = [table_of(timed, one, ModelFiles(model)) for one in asked if one not in lacking]
        drawn = timed.shop / "latency/latency.html"
        files.write_bytes(drawn, page(found))
    for table in found:
        show(table, console)
    for one, why in lacking.items():
        console.print(f"  {one} left out: {why}", markup=False)
    console.print(f"  the tables: {timed.shop / 'latency'}; the page: {drawn}", markup=False)


def _precisions(target: str, known: tuple[Precision, ...], asked: str | None) -> tuple[Precision, ...]:
    chosen = tuple(p for p in known if asked in (None, p))
    if not chosen:
        raise ProfileError(
            "The target doesn't have this precision.", where=target, expected=", ".join(known), got=asked
        )
    return chosen
