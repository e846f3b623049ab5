"""A build beside everybody else's exports: on the terminal, and as compare.html on the sheet of a build's own page.

Rules:
- Every figure is compare.json's; nothing is computed here but ratios and differences of those.
- What could not be raced is listed with its reason, in the same table's place.
"""

from __future__ import annotations

from rich.console import Console
from rich.table import Table

from edgeprune.bench.measure import ROUNDS
from edgeprune.records.rivals import Compared, ComparedRow
from edgeprune.report import charts
from edgeprune.report.markup import Markup, tag
from edgeprune.report.quotable import emulated
from edgeprune.report.sheet import facts, figure, folded, lead, legend, section, sheet, table, themes, warning
from edgeprune.rivals.table import listed, sentences

#: Latencies farther apart than this are drawn on a logarithmic axis.
FAR_APART = 6.0


def show(found: Compared, console: Console) -> None:
    """Print the rows, what wasn't raced, and what came out."""
    shown = Table(
        title=f"{found.target}: everybody's exports on {found.runtime}, one race of {found.rounds} rounds",
        title_justify="left", box=None, pad_edge=False,
    )  # fmt: skip
    for heading in ("export", "computed in", "mAP50-95", "mAP50", "p50 ms", "p90", "p99", "ours is", "99 %", "MB"):
        shown.add_column(heading, justify="left" if heading in ("export", "computed in") else "right")
    for row in listed(found):
        q = row.latency_ms
        times, interval = _times(found, row)
        shown.add_row(
            row.name, row.arithmetic, f"{row.map50_95:.4f}", f"{row.map50:.4f}", f"{q.p50:.2f}", f"{q.p90:.2f}",
            f"{q.p99:.2f}", times, interval, f"{row.bytes / 1e6:.1f}", style="bold" if row.name == found.build else "",
        )  # fmt: skip
    console.print(shown)
    for left in found.left_out:
        console.print(f"  left out: {left.name}: {left.why}", markup=False)
    for note in found.notes:
        console.print(f"  {note}", markup=False)
    for sentence in sentences(found):
        console.print(f"  {sentence}", style="bold", markup=False)


def page(found: Compared) -> bytes:
    """The page as UTF-8; the same record gives the same bytes."""
    title = f"{found.target} against everybody else"
    return sheet(title, tag("main", _head(found, title), _plane(found), _rows(found), _left_out(found), _facts(found)))


def _head(found: Compared, title: str) -> Markup:
    spoiled = [*emulated(found.environment)]
    if found.rounds < ROUNDS:
        spoiled.append(f"quick: {found.rounds} rounds instead of {ROUNDS}, to see that all works")
    return tag(
        "header", tag("h1", title),
        tag(
            "p",
            f"{found.runtime} on {found.environment.get('cpu', 'an unknown processor')}, "
            f"{found.environment.get('cores', '?')} cores. {len(found.rows)} engines in one run of {found.rounds} "
            f"rounds, a process each, their blocks interleaved; mAP on the same {found.val_images} images, by the same "
            "code.",
            class_="about",
        ),
        tag("ul", [tag("li", sentence) for sentence in sentences(found)]),
        spoiled and warning("Not to be quoted", spoiled),
        themes(),
        class_="verdict none",
    )  # fmt: skip


def _plane(found: Compared) -> Markup:
    points = [
        charts.Point(
            row.name, _kind(found, row), row.latency_ms.p50, row.p50_interval_ms, row.map50_95,
            f"p50 {row.latency_ms.p50:.2f} ms, mAP50-95 {row.map50_95:.4f}, {row.arithmetic}, {row.settings.words()}",
        )
        for row in listed(found)
    ]  # fmt: skip
    times = [point.ms for point in points]
    log = max(times) > FAR_APART * min(times)
    words = {
        "chosen": "the build", "parent": "the parent, exported by edgeprune",
        "lost": "others' exports, and engines of ours that lost",
    }  # fmt: skip
    kinds = {point.kind for point in points}
    return section(
        "plane", "Latency and accuracy",
        figure(
            charts.both(lambda width: charts.pareto(points, found.reference - found.max_map_drop, width, log=log)),
            "p50 with its 99 % interval over rounds",
            legend=legend({text: kind for kind, text in words.items() if kind in kinds}),
        ),
    )  # fmt: skip


def _rows(found: Compared) -> Markup:
    ordered = listed(found)
    rows = [
        (
            (row.name, tag("small", f"{row.exporter}: {row.how}")), (row.arithmetic, tag("small", _told(row))),
            f"{row.map50_95:.4f}", f"{row.map50_95 - found.reference:+.4f}", f"{row.map50:.4f}",
            (
                f"{row.latency_ms.p50:.2f}",
                tag("small", f"{row.p50_interval_ms[0]:.2f} to {row.p50_interval_ms[1]:.2f}"),
            ),
            f"{row.latency_ms.p90:.2f}", f"{row.latency_ms.p99:.2f}", _ratio(found, row),
            (f"{row.bytes / 1e6:.1f}", tag("small", tag("code", row.artifact_sha256[:8]))),
        )
        for row in ordered
    ]  # fmt: skip
    headings = (
        "export", "computed in", "mAP50-95", "to FP32", "mAP50", "p50 ms", "p90", "p99", "ours is", "MB, artifact",
    )  # fmt: skip
    return section(
        "table", "Every engine",
        lead(
            "'At its best': the fastest of all settings and arithmetic that the device has, where that is faster than "
            "as it comes. 'Ours is': how many times the row's speed the build has, over paired blocks."
        ),
        table(
            f"Raced on {found.runtime}", headings, rows, kinds=[_kind(found, row) for row in ordered], words=(0, 1)
        ),
    )  # fmt: skip


def _left_out(found: Compared) -> Markup | None:
    if not found.left_out:
        return None
    rows = [(left.name, left.exporter, left.why) for left in found.left_out]
    return section("left-out", "Not in the race", table("And why", ("export", "tool", "why"), rows, words=(0, 1, 2)))


def _facts(found: Compared) -> Markup:
    return section(
        "facts", "How it was made",
        tag("ul", [tag("li", note) for note in found.notes]),
        found.settings_raced and folded("Settings that others' exports were tried with", _settings(found)),
        facts({**found.environment, **{f"{name}, sha256": sha256 for name, sha256 in found.inputs.items()}}),
    )  # fmt: skip


def _settings(found: Compared) -> Markup:
    return tag("dl", [(tag("dt", name), [tag("dd", line) for line in told]) for name, told in
                      found.settings_raced.items()])  # fmt: skip


def _kind(found: Compared, row: ComparedRow) -> str:
    if row.name == found.build:
        return "chosen"
    return "parent" if row.side == "parent" else "lost"


def _told(row: ComparedRow) -> str:
    return row.settings.words() if row.form.stock else f"{row.settings.words()}, {row.form.words()}"


def _ratio(found: Compared, row: ComparedRow) -> object:
    times, interval = _times(found, row)
    return (times, interval and tag("small", interval))


def _times(found: Compared, row: ComparedRow) -> tuple[str, str]:
    """How many times a row's speed ours has, and the interval of that."""
    if row.against is None:
        return ("", "")
    return f"{1 / row.against.ratio:.2f} x", f"{1 / row.against.high:.2f} to {1 / row.against.low:.2f}"
