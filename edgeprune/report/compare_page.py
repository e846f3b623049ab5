"""The comparison of runs as a page: the same sheet as a build's own."""

from __future__ import annotations

from collections.abc import Sequence

from edgeprune.report import charts
from edgeprune.report.build_page import KINDS
from edgeprune.report.compare import Run, quarrels, remarks, tables
from edgeprune.report.markup import Markup, tag
from edgeprune.report.sheet import figure, legend, section, sheet, table, themes, warning

#: Latencies farther apart than this are drawn on a logarithmic axis.
FAR_APART = 6.0


def page(runs: Sequence[Run]) -> bytes:
    """The page as UTF-8; the same runs give the same bytes."""
    spoiled = [f"{key}: {why}" for key, why in quarrels(runs)]
    devices = len({run.device for run in runs})
    title = f"{len(runs)} runs on {devices} device{'s' if devices > 1 else ''}"
    head = tag(
        "header", tag("h1", title), tag("ul", [tag("li", sentence) for sentence in remarks(runs)]),
        spoiled and warning("Not to be quoted", spoiled), themes(), class_="verdict none",
    )  # fmt: skip
    found = enumerate(tables(runs).items(), 1)
    return sheet(title, tag("main", head, [_table(n, *names, some) for n, (names, some) in found], _runs(runs)))


def _table(number: int, measures: str, data: str, runs: Sequence[Run]) -> Markup:
    entries = [(run, entry) for run in runs for entry in run.entries]
    points = [
        charts.Point(
            f"{run.key} {entry.engine}", entry.part, entry.latency_ms.p50, entry.interval, entry.map50_95,
            f"{run.target} on {run.device}, artifact {entry.artifact}: p50 {entry.latency_ms.p50:.2f} ms, "
            f"mAP50-95 {entry.map50_95:.4f}" + (" (not to be quoted)" if entry.doubts else ""),
        )
        for run, entry in entries
    ]  # fmt: skip
    times = [point.ms for point in points]
    log = max(times) > FAR_APART * min(times)
    rows = [
        (
            (f"{run.key} {entry.engine}", tag("small", f"{run.target}, {run.runtime}, {run.device}")),
            tag("code", entry.artifact), f"{entry.map50_95:.4f}",
            (
                f"{entry.latency_ms.p50:.2f}",
                entry.interval and tag("small", f"{entry.interval[0]:.2f} to {entry.interval[1]:.2f}"),
            ),
            f"{entry.latency_ms.p90:.2f}", f"{entry.latency_ms.p99:.2f}", entry.latency_ms.samples,
        )
        for run, entry in entries
    ]  # fmt: skip
    kinds = {point.kind for point in points}
    texts = {text: kind for kind, text in {**KINDS, "void": "not to be quoted"}.items() if kind in kinds}
    return section(
        f"table-{number}", f"{measures[0].upper()}{measures[1:]}",
        figure(
            charts.both(lambda width: charts.pareto(points, None, width, log=log)),
            "; ".join(run.name for run in runs), legend=legend(texts),
        ),
        table(
            f"mAP on {data}",
            ("run", "artifact", "mAP50-95", "p50 ms", "p90", "p99", "samples"), rows,
            kinds=[e.part for _, e in entries], words=(0, 1),
        ),
    )  # fmt: skip


def _runs(runs: Sequence[Run]) -> Markup:
    rows = [
        (run.key, run.target, str(run.file), tag("code", run.model, class_="hash") if run.model else "not written down")
        for run in runs
    ]
    return section("runs", "The runs", table("Where they come from", ("run", "target", "file", "parent's sha256"), rows,
                                             words=(1, 2, 3)))  # fmt: skip
