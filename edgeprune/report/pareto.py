"""The curve of several builds: table on the terminal, picture, and a page of its own. Pure from records to markup; the
last functions alone read and write files.

Rules:
- Latencies of the curve are of one run. Other people's exports are of a run of their own (compare.json): they are drawn
  as they were measured there, marked as such, and are set against nothing here.
- The front is of what was raced in the one run. What isn't on it says what beats it.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from edgeprune.errors import EdgepruneError
from edgeprune.records import Compared, ComparedRow, Report, Sweep, files, read_json
from edgeprune.records.sweep import Point, Raced
from edgeprune.report import charts
from edgeprune.report.markup import Markup, tag
from edgeprune.report.quotable import emulated
from edgeprune.report.sheet import facts, figure, lead, legend, section, sheet, table, themes, warning
from edgeprune.version import __version__
from edgeprune.workshop import Workshop

#: A point that isn't of the race: where it comes from is for `others` to know.
PlotPoint = charts.Point
KINDS = {
    "parent": "the parent", "chosen": "a build that holds", "lost": "a build that doesn't",
    "other": "others' exports, of a run of their own",
}  # fmt: skip
#: What the points of a sweep differ in, in words.
DIFFER = {
    "speedup": "speed asked for", "latency_ms": "latency asked for", "fps": "frames a second asked for",
    "macs_ratio": "multiply-accumulates that may stay", "imgsz": "input size",
}  # fmt: skip
#: Page -> the record that it shows.
PAGES = {"sweep.html": "sweep.json", "sizes.html": "sizes.json"}


def show(sweep: Sweep, console: Console) -> None:
    """Print the curve, from mild to hard, and what became of each point."""
    wide = Console(file=console.file, width=max(console.width, 140), highlight=False)
    table = Table(title=f"{sweep.target}: {DIFFER[sweep.kind]}", title_justify="left", box=None, pad_edge=False)
    for heading in ("", "engine"):
        table.add_column(heading, no_wrap=True)
    for heading in ("input", "mAP50-95", "p50 ms", "p90", "GMACs", "MB", "times the parent's speed"):
        table.add_column(heading, justify="right", no_wrap=True)
    for heading in ("verdict", "front"):
        table.add_column(heading, no_wrap=True)
    for parent in sweep.parents:
        table.add_row("parent", *_cells(parent), "", _front(parent))
    for point in sweep.points:
        said = _verdict(point)
        if point.raced is None:
            table.add_row(point.name, "", "", "", "", "", "", "", "", said, "")
        else:
            table.add_row(point.name, *_cells(point.raced), said, _front(point.raced))
    wide.print(table)
    for point in sweep.points:
        console.print(f"  {point.name}, {escape(point.folder)}: {escape(point.why)}")


def show_sizes(folder: Path, report: Report, console: Console) -> None:
    """The race of input sizes that a build in `folder` was chosen in, if it was; the build has the size that won."""
    for sweep in curves_of(folder, report.inputs):
        edges = [p.value for p in sweep.points if p.chosen]
        if sweep.kind == "imgsz" and report.origin and [*report.origin.recipe.imgsz] == edges:
            show(sweep, console)
            console.print(f"  the page: {folder / 'sizes.html'}\n")


def picture(sweep: Sweep, others: Sequence[PlotPoint] = (), caption: str = "") -> Markup:
    """The curve as a figure: parent, builds, others, the agreed drop, the front."""
    points = [_mark(parent, parent.engine, "parent") for parent in sweep.parents]
    points += [
        _mark(point.raced, point.name, "chosen" if point.accepted else "lost") for point in sweep.points if point.raced
    ]
    best = next((p for p in sweep.parents if p.engine == sweep.parent), None)
    agreed = best.row.map50_95 - sweep.max_map_drop if best else None
    front = [(r.row.latency_ms.p50, r.row.map50_95) for r in sweep.raced if r.dominated_by is None]
    drawn = [*points, *others]
    kinds = {p.kind for p in drawn}
    return figure(
        charts.both(lambda width: charts.pareto(drawn, agreed, width, front=front)),
        "All engines took turns in one run; bars are the 99 % interval of p50, and where none is seen it is narrower "
        "than its mark. The line is the Pareto front: nothing that was raced is both faster and better."
        + (" Others' exports were measured in another run." if others else "") + caption,
        legend=legend({text: kind for kind, text in KINDS.items() if kind in kinds}),
    )  # fmt: skip


def curve_section(sweep: Sweep, others: Sequence[PlotPoint] = ()) -> Markup | None:
    """The same picture for a build's own page."""
    if not sweep.raced:
        return None
    name = "sizes" if sweep.kind == "imgsz" else "sweep"
    return section(
        name, f"Builds by {DIFFER[sweep.kind]}",
        lead(f"Beside this build: {', '.join(f'{p.name} ({p.folder})' for p in sweep.points)}."),
        picture(sweep, others),
    )  # fmt: skip


def page(sweep: Sweep, others: Sequence[PlotPoint] = ()) -> bytes:
    """The page as UTF-8; the same record gives the same bytes."""
    held = [p for p in sweep.points if p.accepted]
    title = f"{sweep.target}: {len(held)} of {len(sweep.points)} builds hold"
    spoiled = emulated(sweep.environment)
    head = tag(
        "header", tag("h1", title),
        tag("p", f"By {DIFFER[sweep.kind]}; mAP50-95 may drop by {sweep.max_map_drop:g}.", class_="about"),
        tag("ul", [tag("li", f"{p.name}: {p.why}") for p in sweep.points]),
        spoiled and warning("Not to be quoted", spoiled), themes(), class_=f"verdict {'yes' if held else 'no'}",
    )  # fmt: skip
    body = [section("curve", "Latency and accuracy", picture(sweep, others))] if sweep.raced else []
    return sheet(title, tag("main", head, body, _table(sweep), _environment(sweep)))


def renew_sweep(shop: Workshop) -> list[Path]:
    """Write the pages of the curves in an open workshop unless they are as they should be.

    Raises:
        EdgepruneError: A record can't be read.
        DeviceError: The folder can't be written.
    """
    made = []
    for name, record in PAGES.items():
        if not (shop / record).is_file():
            continue

        def act(work: Path, name: str = name, record: str = record) -> None:
            found = read_json(shop / record, Sweep, EdgepruneError)
            files.write_bytes(work / name, page(found, others(shop.folder, found.inputs)))

        shop.stage(
            f"page of {record}", act,
            reads={"record": shop / record, **comparison_of(shop.folder), "edgeprune": __version__}, makes=(name,),
        )  # fmt: skip
        made.append(shop / name)
    return made


def curves_of(folder: Path, inputs: dict[str, str]) -> list[Sweep]:
    """The curves that lie in a build's folder and are of the same model, data and target."""
    found = []
    for record in PAGES.values():
        try:
            sweep = read_json(folder / record, Sweep, EdgepruneError)
        except EdgepruneError:
            continue
        if all(inputs.get(name) == value for name, value in sweep.inputs.items()):
            found.append(sweep)
    return found


def comparison_of(folder: Path) -> dict[str, Path]:
    """Where `make compare` put its record of the target of a folder, if it did; for a stage's `reads`."""
    file = folder.absolute().parent / "compare" / folder.name / "compare.json"
    return {"compare.json": file} if file.is_file() else {}


def others(folder: Path, inputs: dict[str, str]) -> list[PlotPoint]:
    """Everybody else's exports of each tool and precision, the fastest, where `make compare` raced them for these
    inputs: model, data set and target, by their hashes."""
    try:
        compared = read_json(comparison_of(folder)["compare.json"], Compared, EdgepruneError)
    except (KeyError, EdgepruneError):
        return []
    if any(compared.inputs.get(name) != inputs.get(name) for name in ("model", "data", "target")):
        return []
    fastest: dict[tuple[str, str], ComparedRow] = {}
    for row in sorted(compared.rivals, key=lambda row: row.latency_ms.p50):
        fastest.setdefault((row.exporter, row.precision), row)
    return [
        PlotPoint(
            row.name.removesuffix(" at its best"), "other", row.latency_ms.p50, row.p50_interval_ms, row.map50_95,
            f"{row.how}, {row.exporter}; p50 {row.latency_ms.p50:.2f} ms, mAP50-95 {row.map50_95:.4f}",
        )
        for row in fastest.values()
    ]  # fmt: skip


def _mark(raced: Raced, label: str, kind: str) -> PlotPoint:
    q = raced.row.latency_ms
    said = f"{raced.engine}, p50 {q.p50:.2f} ms, mAP50-95 {raced.row.map50_95:.4f}"
    return PlotPoint(label, kind, q.p50, raced.p50_interval_ms, raced.row.map50_95, said)


def _cells(raced: Raced) -> tuple[str, ...]:
    row = raced.row
    return (
        raced.engine, f"{row.image_size or ''}", f"{row.map50_95:.4f}", f"{row.latency_ms.p50:.2f}",
        f"{row.latency_ms.p90:.2f}", f"{row.macs / 1e9:.3f}", f"{row.bytes / 1e6:.1f}", _speed(raced),
    )  # fmt: skip


def _speed(raced: Raced) -> str:
    c = raced.against
    return "1" if c is None else f"{1 / c.ratio:.2f} [{1 / c.high:.2f}, {1 / c.low:.2f}]"


def _front(raced: Raced) -> str:
    return "Pareto" if raced.dominated_by is None else f"behind {raced.dominated_by}"


def _verdict(point: Point) -> str:
    said = "accepted" if point.accepted else "rejected" if point.raced else "no build"
    return f"{said}, chosen" if point.chosen else said


def _table(sweep: Sweep) -> Markup:
    rows = [(p.engine, "", *_cells(p)[1:], "", _front(p)) for p in sweep.parents]
    rows += [
        (p.name, p.folder, *_cells(p.raced)[1:], _verdict(p), _front(p.raced)) if p.raced
        else (p.name, p.folder, *("",) * 7, _verdict(p), "")
        for p in sweep.points
    ]  # fmt: skip
    kinds = ["parent"] * len(sweep.parents) + ["chosen" if p.chosen else None for p in sweep.points]
    headings = ("", "build", "input", "mAP50-95", "p50 ms", "p90", "GMACs", "MB", "speed", "verdict", "front")
    return section(
        "points", "Every point",
        lead("Speed is the parent's best engine's time : the engine's, with its 99 % interval, in the final race."),
        table(f"{sweep.target}, one run", headings, rows, kinds=kinds),
    )  # fmt: skip


def _environment(sweep: Sweep) -> Markup | None:
    content = {**sweep.environment, **{f"{name}'s sha256": digest[:12] for name, digest in sweep.inputs.items()}}
    return section("environment", "Environment", facts(content)) if content else None
