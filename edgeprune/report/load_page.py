"""The part of a build's page that shows its bundle under load: benchmark.json, drawn.

Rules:
- Figures that don't count are crossed out, under a box that says why, and none of their pictures stands without it.
- What the device doesn't report is said, never drawn as zero.
"""

from __future__ import annotations

from collections.abc import Sequence

from edgeprune.records import Benchmark, Report
from edgeprune.records.benchmark import Reading
from edgeprune.report import charts
from edgeprune.report.benchmark import PARTS, sentences
from edgeprune.report.markup import Markup, join, tag
from edgeprune.report.quotable import doubts
from edgeprune.report.sheet import figure, lead, lines_legend, section, table, warning

HOW = "edgeprune bench {} --bundle … --data …"


def under_load(found: Benchmark | None, report: Report, why_not: str | None) -> Markup:
    """Sections 'Under load' and 'Energy'.

    Args:
        found: The benchmark of the build's bundle, if there is one.
        report: Of the build.
        why_not: Why one that is there isn't shown.
    """
    if found is None:
        if not report.verdict.accepted:
            text = lead("A rejected build has no bundle: latency over time, heat and energy are measured of bundles.")
            return section("load", "Under load, and energy", text)
        how = tag("code", HOW.format(report.target))
        text = lead(
            why_not or "Not measured yet.",
            " ",
            how,
            " measures the bundle under load: latency over time, heat, energy.",
        )
        return section("load", "Under load, and energy", text)
    return join((_load(found), _energy(found)))


def _load(found: Benchmark) -> Markup:
    run, result, spoiled = found.run, found.run.result, doubts(found)
    size = result.samples_per_query
    rows = [
        (name, *(f"{v:.2f}" for v in (q.p50, q.p90, q.p99, q.mad)), q.samples)
        for name, q in (
            (f"query of {size} image{'s' if size > 1 else ''}", result.latency_ms),
            *((part, result.parts_ms[part]) for part in PARTS),
        )
    ]
    windows = result.over_time
    pictures: list[object] = []
    after = ", not to be quoted" if spoiled else ""
    if len(windows) > 1:
        series = {
            "p50": [(w.start_s, w.p50_ms) for w in windows], "p90": [(w.start_s, w.p90_ms) for w in windows],
        }  # fmt: skip
        pictures.append(_over_time("Latency over time", series, "ms of a query" + after))
    for heading, field, unit in (
        ("Temperature", "temperature_c", "°C"), ("Clock", "frequency_mhz", "MHz"),
    ):  # fmt: skip
        series = _by_name(run.readings, field)
        if series:
            pictures.append(_over_time(heading, series, unit, zero=field == "frequency_mhz"))
        else:
            pictures.append(tag("p", f"{heading}: this device doesn't report it.", class_="soft"))
    kind = "void" if spoiled else None
    return section(
        "load", "Under load",
        lead(
            f"The bundle in a fresh process, {result.scenario}, {found.request.precision}, {run.threads} threads, "
            f"{run.runtime}; pixels in memory to boxes, letterbox and decoding included. Engine ",
            tag("code", run.engine_sha256[:12]), ", bundle ", tag("code", found.bundle_sha256[:12]), ".",
        ),
        spoiled and warning("Not to be quoted", spoiled),
        table("Milliseconds", ("", "p50", "p90", "p99", "MAD", "samples"), rows, kinds=[kind] * len(rows)),
        tag("ul", [tag("li", text) for text in sentences(found)], class_=f"soft {kind or ''}"),
        tag("ul", [tag("li", text) for text in (*found.notes, *run.notes)], class_="soft"),
        pictures,
    )  # fmt: skip


def _energy(found: Benchmark) -> Markup:
    energy = found.run.energy
    if energy is None:
        why = next((note for note in found.run.notes if note.startswith("energy: ")), None)
        return section(
            "energy", "Energy", lead(f"Not measured: {why.removeprefix('energy: ')}." if why else "Not measured.")
        )
    spoiled = doubts(found)
    watts = energy.joules / energy.duration_s
    power = [(t, mw / 1e3) for t, mw in energy.power_mw]
    rows = [
        (
            energy.source,
            f"{energy.joules_per_image * 1e3:.1f}",
            f"{watts:.2f}",
            energy.images,
            f"{energy.duration_s:.0f}",
        )
    ]
    return section(
        "energy", "Energy",
        lead("A pass of its own, since reading power costs time; the idle share is in it."),
        spoiled and warning("Not to be quoted", spoiled),
        table(
            "Whole board or rails", ("sensor", "mJ an image", "W on average", "images", "seconds"), rows,
            kinds=["void" if spoiled else None],
        ),
        len(energy.power_mw) > 1
        and _over_time("Power", {energy.source: power}, "W, not to be quoted" if spoiled else "W"),
    )  # fmt: skip


def _over_time(heading: str, series: dict[str, list[tuple[float, float]]], unit: str, zero: bool = True) -> Markup:
    picture = charts.both(lambda width: charts.lines(series, "seconds", unit, width, zero=zero))
    return join((tag("h3", heading), figure(picture, legend=lines_legend(series))))


def _by_name(readings: Sequence[Reading], field: str) -> dict[str, list[tuple[float, float]]]:
    names = sorted({name for reading in readings for name in getattr(reading, field)})
    return {
        name: [(r.at_s, getattr(r, field)[name]) for r in readings if name in getattr(r, field)] for name in names
    }  # fmt: skip
