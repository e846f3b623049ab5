"""`edgeprune latency-table`: how long a model's layers take on a target, on the command line."""

from __future__ import annotations

import sys
from pathlib import Path

from rich.console import Console

from edgeprune.bench.ask import about
from edgeprune.errors import CheckpointError, ProfileError
from edgeprune.job import find_target
from edgeprune.records import files
from edgeprune.records.model import ModelFiles
from edgeprune.records.target import Precision
from edgeprune.remote.bench import bench_at
from edgeprune.report.console import ConsoleListener
from edgeprune.workshop import Workshop

console = Console(file=sys.stdout, highlight=False, soft_wrap=True)


def latency_tables(name: str, model: Path, precision: str | None, device: str | None, out: Path, seed: int) -> None:
    """Measure, print and draw the tables of a target, one a precision.

    Raises:
        ProfileError: A precision that the target doesn't have.
        CheckpointError: No such model.
        DeviceError: The device can't be asked, or is too noisy.
    """
    from edgeprune.report.latency_table import page, show
    from edgeprune.stages.latency import Target, latency_table, refuse_boards

    if not model.is_file():
        raise CheckpointError("The model file doesn't exist.", where=model, next_step="give --model path/to/best.pt")
    profile = find_target(name)
    refuse_boards(profile)
    bench = bench_at(device or profile.device)
    asked = _precisions(name, profile.precisions, precision)
    lacking = about(bench, profile.runtime, asked, profile.plugin).lacking
    if len(lacking) == len(asked):
        raise ProfileError(
            "The device has none of these precisions.", where=bench.address, expected=", ".join(asked),
            got="; ".join(f"{p}: {why}" for p, why in lacking.items()),
        )  # fmt: skip
    target = Target(
        Path(name).stem, profile.model_copy(update={"device": bench.address}), bench,
        Workshop(out / Path(name).stem, ConsoleListener(console)), files.sha256_file(model), seed=seed,
    )  # fmt: skip
    with target.shop.open():
        found = [latency_table(target, one, ModelFiles(model)) for one in asked if one not in lacking]
        drawn = target.shop / "latency/latency.html"
        files.write_bytes(drawn, page(found))
    for table in found:
        show(table, console)
    for one, why in lacking.items():
        console.print(f"  {one} left out: {why}", markup=False)
    console.print(f"  the tables: {target.shop / 'latency'}; the page: {drawn}", markup=False)


def _precisions(target: str, known: tuple[Precision, ...], asked: str | None) -> tuple[Precision, ...]:
    chosen = tuple(p for p in known if asked in (None, p))
    if not chosen:
        raise ProfileError(
            "The target doesn't have this precision.", where=target, expected=", ".join(known), got=asked
        )
    return chosen
