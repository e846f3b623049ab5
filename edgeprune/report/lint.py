"""Lint's findings, the gate's answer and a build kit as tables.

Findings of one rule with one sentence are one row: the first node, and how many more. 57 convolutions with the same
fault have one cause.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from rich.markup import escape
from rich.table import Table

from edgeprune.export.lint import Finding
from edgeprune.records.gate import GateReport
from edgeprune.records.kit import Kit

_COLOURS = {"error": "red", "slow": "yellow", "coarse": "yellow"}


def findings_table(findings: Sequence[Finding]) -> Table:
    """One row a rule and sentence."""
    rows: dict[tuple[str, str, str], list[str]] = {}
    for finding in findings:
        rows.setdefault((finding.severity, finding.rule, finding.sentence), []).append(finding.node)
    table = Table(box=None)
    for heading in ("", "rule", "node", "what"):
        table.add_column(heading, overflow="fold")
    for (severity, rule, sentence), nodes in rows.items():
        more = f" (+{len(nodes) - 1})" if len(nodes) > 1 else ""
        table.add_row(f"[{_COLOURS[severity]}]{severity}[/]", rule, escape(nodes[0]) + more, escape(sentence))
    return table


def gate_table(report: GateReport) -> Table:
    """Convolutions by what they should be and what they became."""
    table = Table(box=None)
    for heading in (report.builder, "expected", "found"):
        table.add_column(heading)
    for (expected, found), number in Counter((c.expected, c.found) for c in report.convolutions).items():
        table.add_row(f"{number} convolutions", expected, found)
    return table


def kit_table(kit: Kit) -> Table:
    """What the board may build, and how far off it may be."""
    tolerated = {expected.precision: expected for expected in kit.golden.expected}
    table = Table(box=None)
    for heading in ("TensorRT", "candidate", "boxes off by px", "scores off by", "INT8 convolutions"):
        table.add_column(heading)
    for graph in kit.graphs:
        expected = tolerated[graph.precision]
        must = str(len(kit.int8_convolutions)) if graph.precision == "int8" else ""
        versions = f"{graph.since} up to, without {graph.before}"
        table.add_row(versions, graph.file, f"{expected.boxes_rms_px:g}", f"{expected.scores_rms:g}", must)
    return table
