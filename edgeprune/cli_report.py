"""`edgeprune report`: one build again, or several runs beside each other, on the command line."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

from edgeprune.errors import DeviceError, EdgepruneError, ProfileError
from edgeprune.records import Report, files, read_json
from edgeprune.workshop import Workshop

console = Console(file=sys.stdout, highlight=False, soft_wrap=True)


def one(name: str, out: Path, html: Path | None) -> None:
    """Print a build's table and make sure that its page is as its files are.

    Raises:
        ProfileError: No such build; or a page of a comparison is asked for.
    """
    if html is not None:
        raise ProfileError("--html writes a comparison.", expected="two runs or more", got=name)
    from edgeprune.report.compare import files_of
    from edgeprune.report.pareto import show_sizes
    from edgeprune.report.table import show

    file = files_of(name, out)[0]
    if file.name == "benchmark.json":
        raise ProfileError("There is no report beside this benchmark.", where=file.parent / "report.json")
    found = read_json(file, Report, EdgepruneError)
    show_sizes(file.parent, found, console)
    show(found, console)
    if file.name == "report.json":
        say_renewed(file.parent)


def say_renewed(folder: Path) -> None:
    """Renew a build's page and say where it is; a folder that can't be written isn't worth an error by now."""
    from edgeprune.report.pareto import renew_sweep
    from edgeprune.report.renew import renew

    shop = Workshop(folder)
    try:
        with shop.open():
            renew_sweep(shop)
            page = renew(shop)
    except DeviceError as error:
        console.print(f"  the page isn't renewed: {error.what} edgeprune report {folder} does it", markup=False)
        return
    console.print(f"  the page: {page}", markup=False)


def compared(names: Sequence[str], out: Path, html: Path | None) -> None:
    """Print runs beside each other, and write their page if one is asked for.

    Raises:
        EdgepruneError: A run that isn't there or can't be read.
    """
    from edgeprune.report.compare import gather, show

    runs = gather(names, out)
    show(runs, console)
    if html is not None:
        from edgeprune.report.compare_page import page

        files.write_bytes(html, page(runs))
        console.print(f"  the page: {html}", markup=False)
