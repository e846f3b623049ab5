"""`edgeprune calibrate …`: calibration sets on the command line."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from edgeprune.errors import DataError

if TYPE_CHECKING:
    from edgeprune.calibration.select import Selection

#: Classes that the table lists: all of a few, else those with the fewest images.
LISTED = 12
#: Images left out that are named before it says '…'.
NAMED = 5

calibrate = typer.Typer(no_args_is_help=True, help="Calibration sets: the images that activation ranges come from.")
console = Console(file=sys.stdout, highlight=False, soft_wrap=True, markup=False)


@calibrate.callback()
def _calibrate() -> None:
    """Keeps `select` a subcommand while it is the only one."""


@calibrate.command()
def select(
    data: Annotated[Path, typer.Option("--data", help="data.yaml in Ultralytics' format.")],
    size: Annotated[int, typer.Option(min=1, help="Images to choose.")] = 128,
    name: Annotated[str | None, typer.Option(help="Of the set; without one, FOLDER-SIZE.")] = None,
    seed: Annotated[int, typer.Option(min=0, help="Of the choice.")] = 0,
    licence: Annotated[
        str | None, typer.Option(help="Terms of the images; without it, the data set's own 'license' or LICENSE file.")
    ] = None,
    input_size: Annotated[int, typer.Option(min=32, max=4096, help="Edge of the square input in pixels.")] = 320,
    out: Annotated[Path, typer.Option("--out", help="Folder to write NAME.yaml into.")] = Path("calibration"),
    force: Annotated[bool, typer.Option("--force", help="Overwrite another set of this name.")] = False,
) -> None:
    """Choose train images that cover the classes and the scenes; write calibration/NAME.yaml."""
    from edgeprune.calibration.select import find_licence, suggest_name
    from edgeprune.calibration.select import select as select_images
    from edgeprune.calibration.sets import write_calibration
    from edgeprune.records.dataset import read_dataset

    found = read_dataset(data)
    terms = (find_licence(found) if licence is None else licence.strip()) or None
    if terms is None:
        raise DataError(
            "Nothing says under which terms these images may be used.", where=data,
            expected="--licence TEXT, a key 'license' in the data.yaml, or a LICENSE file in the data set's folder",
            got="none of them", next_step="for example: --licence 'CC BY 4.0'; your own pictures have terms too",
        )  # fmt: skip
    columns = (TextColumn("  {task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as bars:
        tasks = {what: bars.add_task(what, total=None) for what in ("reading labels", "looking at images")}
        selection = select_images(
            found, size, seed, name=name or suggest_name(found, size), licence=terms,
            input_shape=(1, 3, input_size, input_size),
            progress=lambda what, done, total: bars.update(tasks[what], completed=done, total=total),
        )  # fmt: skip
    _show(selection, write_calibration(selection.calibration, out, force=force))


def _show(selection: Selection, file: Path) -> None:
    calibration = selection.calibration
    console.print(
        f"{file}: {len(calibration.images)} of {selection.train} train images, seed {calibration.seed}, "
        f"licence: {calibration.licence}"
    )
    table = Table(box=None)
    table.add_column("class")
    for heading in ("train images", "chosen"):
        table.add_column(heading, justify="right")
    rarest = sorted(selection.occurs, key=lambda name: (selection.occurs[name], name))
    for name in rarest[:LISTED]:
        table.add_row(name, str(selection.occurs[name]), str(selection.chosen[name]))
    console.print(table)
    if len(rarest) > LISTED:
        console.print(f"  … and {len(rarest) - LISTED} classes with more images")
    lacking = [name for name in rarest if not selection.chosen[name]]
    console.print(f"  classes covered: {len(rarest) - len(lacking)} of the {len(rarest)} that occur in train")
    if lacking:
        console.print(f"  not covered: {', '.join(lacking)}; a larger --size covers more")
    left_out = selection.left_out
    console.print(f"  looked at {selection.pool + len(left_out)} images; left out: {left_out}")
    for label, images in (
        ("is", left_out.copies),
        ("is", left_out.evaluation),
        ("can't be read:", left_out.unreadable),
    ):
        for image, why in list(images.items())[:NAMED]:
            console.print(f"    {image} {label} {why}")
        if len(images) > NAMED:
            console.print("    …")
