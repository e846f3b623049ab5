"""A latency table for people: a few lines on the terminal, and a page with a picture of every layer.

Rules:
- A picture shows points as they were measured, with the spread of their passes; lines join the points of one grid, and
  widths between two multiples are marked, so that steps and cliffs are seen.
- The picture of whole engines shows what was predicted against what was measured, those held out apart.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import get_args

from rich.console import Console
from rich.table import Table

from edgeprune.errors import DeviceError
from edgeprune.records import PrunePlan, read_json
from edgeprune.records.latency import LatencyTable, LayerTimes
from edgeprune.records.target import Precision
from edgeprune.report.axes import Scale, frame, svg
from edgeprune.report.charts import BOTTOM, LEFT, RIGHT, TOP, both
from edgeprune.report.markup import Markup, join, tag
from edgeprune.report.sheet import facts, figure, folded, lead, lines_legend, section, sheet, table, themes

#: Layers that the terminal shows.
SHOWN = 8
#: Lines of a layer's picture at most: one for each of so many inputs.
LINES = 5


def show(found: LatencyTable, console: Console) -> None:
    """The table in a few lines."""
    console.print(f"{found.target}, {found.precision}: {_where(found)}", markup=False)
    console.print(f"  {accuracy(found)}", markup=False)
    rows = Table("layer", "widest", "ms", "half as wide", "ms", "times", box=None, padding=(0, 2, 0, 0))
    for layer in sorted(found.layers, key=lambda one: -_widest(one)[1])[:SHOWN]:
        (wide, ms), (half, less) = _widest(layer), _half(layer)
        rows.add_row(layer.what, wide, f"{ms:.3f}", half, f"{less:.3f}", f"{less / ms:.2f}")
    console.print(rows)
    for sentence in (*steps(found), *found.notes):
        console.print(f"  {sentence}", markup=False)


def page(tables: Sequence[LatencyTable]) -> bytes:
    """One or several precisions of one target as a page."""
    first = tables[0]
    return sheet(
        f"{first.target}: latency table",
        tag("header", tag("p", "edgeprune latency table", class_="kicker"), tag("h1", first.target), themes()),
        tag("main", [table_section(found) for found in tables]),
    )


def accuracy(found: LatencyTable) -> str:
    """How well whole engines are predicted, in a sentence."""
    error = found.error
    return (
        f"whole engines are predicted within {error.median:.1%} (median), {error.p90:.1%} (90th percentile), "
        f"{error.worst:.1%} (worst) over {error.plans} random plans that it hasn't seen"
    )


def steps(found: LatencyTable) -> tuple[str, ...]:
    """Sentences on what widths between two multiples cost, where they are slower than the next multiple."""
    slower, of = 0, 0
    worst: tuple[float, str] = (0.0, "")
    for layer in found.layers:
        times = {(p.inputs, p.outputs): p.ms for p in layer.points}
        on_grid = {(i, o) for i in layer.rows for o in layer.columns}
        for inputs, outputs in set(times) - on_grid if layer.rows else ():
            above = [
                pair for pair in on_grid if (pair[0] == inputs and pair[1] > outputs)
                or (pair[1] == outputs and pair[0] > inputs)
            ]  # fmt: skip
            if not above:
                continue
            after = min(above)
            of += 1
            ratio = times[inputs, outputs] / times[after]
            slower += ratio > 1
            worst = max(worst, (ratio, f"{layer.what}: {inputs} to {outputs} channels take {ratio:.2f} times as long "
                                       f"as {after[0]} to {after[1]}"))  # fmt: skip
    if not of:
        return ()
    told = f"{slower} of {of} widths between two multiples are slower than the multiple above"
    return (f"{told}; {worst[1]}" if worst[0] > 1 else told,)


def tables_of(folder: Path) -> list[LatencyTable]:
    """The tables that a build's plan was made by, where it was made by any."""
    plan = folder / "plan.json"
    if not plan.is_file() or read_json(plan, PrunePlan, DeviceError).time is None:
        return []
    there = [folder / f"latency/{precision}.json" for precision in get_args(Precision)]
    return [read_json(file, LatencyTable, DeviceError) for file in there if file.is_file()]


def table_section(found: LatencyTable) -> Markup:
    """A precision's table as a part of a page: whole engines, then every layer."""
    layers = [layer for layer in found.layers if layer.kind == "convolution"]
    joints = [layer for layer in found.layers if layer.kind == "joint"]
    return section(
        f"latency-{found.precision}", f"Latency table, {found.precision}",
        lead(f"{_where(found)}: {accuracy(found)}. ", " ".join(f"{s}." for s in (*steps(found), *found.notes))),
        figure(
            both(lambda width: _engines(found, width)),
            "Whole engines: predicted over measured. Rings were held out; on the line, a prediction is right.",
        ),
        folded("Every convolution: latency over its width", [_pictured(layer) for layer in layers]),
        table(
            "What lies between convolutions", ("joint", "elements", "ms", "elements", "ms"),
            [(layer.what, *_ends(layer)) for layer in joints], words=(0,),
        ),
        facts(
            {
                "device": found.device, "board": found.board or "not said", "processor": found.soc or "not said",
                "power mode": found.power_mode or "none", **found.environment,
                "an empty engine": f"{found.empty_ms:.3f} ms",
                "correction": f"{found.correction.constant_ms:.3f} ms + {found.correction.convolutions:.3f} x "
                f"convolutions + {found.correction.joints:.3f} x joints",
                "spread of passes, 90th percentile": f"{found.spread:.1%}",
            }
        ),
    )  # fmt: skip


def _pictured(layer: LayerTimes) -> Markup:
    lines = [f"{inputs} in" for inputs in _inputs(layer)] if layer.rows else ["as many in"]
    names = ", ".join(layer.names)
    return figure(both(lambda width: _layer(layer, width)), f"{layer.what}: {names}", legend=lines_legend(lines))


def _where(found: LatencyTable) -> str:
    device = found.board or found.soc or found.device
    mode = f", power mode {found.power_mode}" if found.power_mode else ""
    return (
        f"{found.runtime} {found.version} in {found.precision} on {device}{mode}, {found.settings.words()}, "
        f"{found.input_shape[3]}x{found.input_shape[2]} px"
    )


def _widest(layer: LayerTimes) -> tuple[str, float]:
    point = max(layer.points, key=lambda p: (p.inputs * p.outputs, p.ms))
    return f"{point.inputs} to {point.outputs}", point.ms


def _half(layer: LayerTimes) -> tuple[str, float]:
    widest = max(layer.points, key=lambda p: p.inputs * p.outputs)
    near = min(
        layer.points, key=lambda p: abs(2 * p.inputs / widest.inputs - 1) + abs(2 * p.outputs / widest.outputs - 1)
    )
    return f"{near.inputs} to {near.outputs}", near.ms


def _ends(layer: LayerTimes) -> tuple[str, str, str, str]:
    low, high = (f(layer.points, key=lambda p: p.inputs + p.outputs) for f in (min, max))
    return (
        f"{high.inputs + high.outputs}", f"{high.ms:.3f}", f"{low.inputs + low.outputs}", f"{low.ms:.3f}",
    )  # fmt: skip


def _inputs(layer: LayerTimes) -> list[int]:
    """Inputs that get a line: evenly spread over the grid's."""
    rows = list(layer.rows) or [0]
    if len(rows) <= LINES:
        return rows
    return [rows[round(n * (len(rows) - 1) / (LINES - 1))] for n in range(LINES)]


def _layer(layer: LayerTimes, width: float) -> Markup:
    """Latency over output channels, one line for each number of input channels."""
    height = 260.0
    rows = _inputs(layer)
    points = [p for p in layer.points if not layer.rows or p.inputs in rows]
    x = Scale(0, max(p.outputs for p in points) * 1.05, LEFT, width - RIGHT)
    y = Scale(0, max(max(p.passes_ms) for p in points) * 1.1, height - BOTTOM, TOP)
    parts = []
    for number, inputs in enumerate(rows):
        own = sorted((p for p in points if not layer.rows or p.inputs == inputs), key=lambda p: p.outputs)
        path = "M" + "L".join(f"{x(p.outputs):.1f} {y(p.ms):.1f}" for p in own)
        parts.append(tag("path", class_=f"series s{number % 6}", d=path, fill="none"))
        for p in own:
            odd = layer.rows and p.outputs not in layer.columns
            said = f"{p.inputs} to {p.outputs} channels: {p.ms:.4f} ms, passes within {p.spread:.1%}"
            parts.append(
                tag(
                    "g", tag("title", said),
                    tag("line", class_=f"series s{number % 6}", x1=x(p.outputs), x2=x(p.outputs), y1=y(min(p.agreeing)),
                        y2=y(max(p.agreeing))),
                    tag("circle", class_="mark lost" if odd else f"mark dot s{number % 6}", cx=x(p.outputs), cy=y(p.ms),
                        r=3.5 if odd else 2),
                )
            )  # fmt: skip
    return svg(
        width, height, f"{layer.what}: latency over output channels", frame(x, y, "output channels", "ms"), join(parts)
    )


def _engines(found: LatencyTable, width: float) -> Markup:
    """Predicted over measured."""
    height = 330.0
    most = max(max(e.ms, e.predicted_ms) for e in found.engines) * 1.05
    x, y = Scale(0, most, LEFT, width - RIGHT), Scale(0, most, height - BOTTOM, TOP)
    marks = [
        tag(
            "g",
            tag("title", f"{e.channels:.0%} of the channels: measured {e.ms:.3f} ms, predicted {e.predicted_ms:.3f}"),
            tag("circle", class_="mark lost" if e.held_out else "mark chosen", cx=x(e.ms), cy=y(e.predicted_ms), r=4),
        )
        for e in found.engines
    ]
    return svg(
        width, height, f"Whole engines, predicted over measured: {accuracy(found)}",
        frame(x, y, "measured, ms", "predicted, ms"),
        tag("line", class_="agreed", x1=x(0), y1=y(0), x2=x(most), y2=y(most)), join(marks),
    )  # fmt: skip
