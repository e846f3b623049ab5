"""The report on the terminal."""

from __future__ import annotations

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from edgeprune.records import Report
from edgeprune.records.goals import kind_and_value, words


def show(report: Report, console: Console) -> None:
    """Print rows and verdict."""
    runtime = ", ".join(sorted({row.runtime for row in report.rows}))
    table = Table(title=f"{report.target} on {runtime}", title_justify="left", box=None, pad_edge=False)
    for heading in ("variant", "arithmetic"):
        table.add_column(heading)
    for heading in ("mAP50-95", "mAP50", "p50 ms", "p90", "p99", "GMACs", "Mparam", "MB"):
        table.add_column(heading, justify="right")
    for row in report.rows:
        latency = row.latency_ms
        table.add_row(
            row.variant, row.precision, f"{row.map50_95:.4f}", f"{row.map50:.4f}",
            f"{latency.p50:.2f}", f"{latency.p90:.2f}", f"{latency.p99:.2f}",
            f"{row.macs / 1e9:.3f}", f"{row.parameters / 1e6:.2f}", f"{row.bytes / 1e6:.1f}",
        )  # fmt: skip
    console.print(table)
    for comparison in report.comparisons:
        console.print(
            f"  {comparison.build} : {comparison.parent} = {comparison.ratio:.3f} "
            f"[{comparison.low:.3f}, {comparison.high:.3f}] of the time, {comparison.pairs} pairs of blocks"
        )
    for sentence in report.left_out:
        console.print(f"  left out: {sentence}")
    for sentence in report.notes:
        console.print(f"  {sentence}")
    verdict = report.verdict
    console.print("[bold green]accepted[/]" if verdict.accepted else "[bold red]rejected[/]")
    for reason in verdict.reasons:
        console.print(f"  {reason}")
    if verdict.offer:
        offer, q = verdict.offer, verdict.offer.row.latency_ms
        console.print(
            f"  what does hold: [bold]{escape(offer.folder)}[/] ({words(*kind_and_value(offer.goal))}), mAP50-95 "
            f"{offer.row.map50_95:.4f}, p50 {q.p50:.2f} ms: {escape(offer.why)}"
        )
    if verdict.try_next:
        console.print(f"  what to try: {escape(verdict.try_next)}")
