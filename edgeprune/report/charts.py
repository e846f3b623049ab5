"""The pictures of a report as SVG, drawn for a width: once for a page, once for a phone.

Rules:
- Pure, from numbers to markup. Every mark carries its figures as a title.
- Parent, chosen build and the others differ by shape as well as by colour; colours are the page's own variables.
- Latency axes start at zero or are logarithmic; nothing makes a small difference look large.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from edgeprune.records import Block, LatencyPicture, LayerWidth
from edgeprune.records.measurement import Latency
from edgeprune.report.axes import CHARACTER, Rectangle, Scale, frame, padded, place, svg
from edgeprune.report.markup import Markup, join, tag

#: Pixels: the text column of the page, and of a phone that is 375 wide.
WIDE, NARROW = 860.0, 325.0
#: Room left of the y axis, right of the field, above it and below it.
LEFT, RIGHT, TOP, BOTTOM = 46.0, 12.0, 30.0, 42.0


@dataclass(frozen=True)
class Point:
    """One engine in the plane of latency and accuracy.

    Attributes:
        kind: parent, chosen, lost, void or other (not of the same run).
        ms: p50 with the ends of its interval; None where there is none.
        said: The label's long form.
    """

    label: str
    kind: str
    ms: float
    interval: tuple[float, float] | None
    map50_95: float
    said: str


def both(draw: Callable[[float], Markup]) -> Markup:
    """A picture for a page and for a phone; the style sheet shows one of them."""
    return join((tag("div", draw(WIDE), class_="wide"), tag("div", draw(NARROW), class_="narrow")))


def pareto(
    points: Sequence[Point], agreed: float | None, width: float, *, log: bool = False,
    front: Sequence[tuple[float, float]] = (),
) -> Markup:  # fmt: skip
    """Latency across, accuracy up: left and up is better.

    Args:
        points: What was measured.
        agreed: mAP that the build may not fall under; None where nothing was agreed.
        width: Of the picture in pixels.
        log: Whether latency is on a logarithmic axis, for devices that are far apart.
        front: (ms, mAP) of the points that no other one beats; drawn as the steps that they reach.
    """
    height = 330.0 if width > 500 else 300.0
    times = [ms for p in points for ms in (p.ms, *(p.interval or ()))]
    maps = [p.map50_95 for p in points] + ([agreed] if agreed is not None else [])
    right, bottom = width - RIGHT, height - BOTTOM
    x = (
        Scale(min(times) / 1.3, max(times) * 1.4, LEFT, right, log=True)
        if log
        else Scale(0, max(times) * 1.15, LEFT, right)
    )
    y = Scale(*padded(maps, 0.25, 0.02), bottom, TOP)
    at = [(x(p.ms), y(p.map50_95)) for p in points]
    line = Markup()
    taken: list[Rectangle] = []
    if agreed is not None:
        text, level = "agreed: no build under this", y(agreed)
        line = join(
            (
                tag("rect", class_="refused", x=LEFT, y=level, width=right - LEFT, height=bottom - level),
                tag("line", class_="agreed", x1=LEFT, x2=right, y1=level, y2=level),
                tag("text", text, class_="small", x=LEFT + 6, y=level + 13),
            )
        )
        taken = [Rectangle(LEFT, level - 1, LEFT + 6 + len(text) * CHARACTER, level + 17)]
    taken += [
        Rectangle(x(p.interval[0]) - 3, up - 6, x(p.interval[1]) + 3, up + 6)
        for p, (_, up) in zip(points, at, strict=True)
        if p.interval
    ]
    labels = place(at, [p.label for p in points], Rectangle(LEFT, TOP, right, bottom), taken)
    drawn = [_mark(p, x, spot, box) for p, spot, box in zip(points, at, labels, strict=True)]
    said = "; ".join(f"{p.label}: {p.said}" for p in points)
    return svg(
        width, height, f"mAP50-95 over latency. {said}",
        frame(x, y, "p50 latency, ms", "mAP50-95 (up and left is better)"), line,
        front and _steps([(x(ms), y(value)) for ms, value in front], right), drawn,
    )  # fmt: skip


def _steps(front: Sequence[tuple[float, float]], right: float) -> Markup:
    """What is reached with so much time: level until the next point of the front, then up to it."""
    path = ""
    for across, up in sorted(front):
        path += f"H{across:.1f}V{up:.1f}" if path else f"M{across:.1f} {up:.1f}"
    return tag("path", class_="front", d=f"{path}H{right:.1f}")


def _mark(point: Point, x: Scale, spot: tuple[float, float], box: Rectangle) -> Markup:
    across, up = spot
    whisker = []
    if point.interval:
        low, high = (x(ms) for ms in point.interval)
        whisker = [
            tag("line", class_=f"whisker {point.kind}", x1=low, x2=high, y1=up, y2=up),
            *(tag("line", class_=f"whisker {point.kind}", x1=end, x2=end, y1=up - 5, y2=up + 5) for end in (low, high)),
        ]
    near = (min(max(across, box.left), box.right), min(max(up, box.top), box.bottom))
    leader = math.hypot(near[0] - across, near[1] - up) > 16
    return tag(
        "g", tag("title", f"{point.label}: {point.said}"), whisker,
        leader and tag("line", class_="leader", x1=across, y1=up, x2=near[0], y2=near[1]),
        shape(point.kind, across, up), tag("text", point.label, class_="name", x=box.left, y=box.top + 11.5),
        class_="point",
    )  # fmt: skip


def shape(kind: str, x: float, y: float) -> Markup:
    """The mark of an engine: parent a square, chosen a disc, lost a ring, void a cross, other a diamond."""
    if kind == "parent":
        return tag("rect", class_="mark parent", x=x - 5.5, y=y - 5.5, width=11, height=11)
    if kind == "void":
        return tag("path", class_="mark void", d=f"M{x - 5:.1f} {y - 5:.1f}l10 10m0 -10l-10 10")
    if kind == "other":
        return tag("path", class_="mark other", d=f"M{x:.1f} {y - 6.5:.1f}l6.5 6.5l-6.5 6.5l-6.5 -6.5z")
    return tag("circle", class_=f"mark {kind}", cx=x, cy=y, r=6.5 if kind == "chosen" else 5)


def histogram(picture: LatencyPicture, shown: Mapping[str, tuple[str, Latency]], width: float) -> Markup:
    """Inferences by latency, both axes logarithmic, one panel an engine.

    Args:
        picture: The counts.
        shown: Engine -> its kind and its percentiles, top down.
        width: Of the picture in pixels.
    """
    panel, words = 92.0, 66.0  # bars; above them the name, and a line for each percentile
    height = 12 + len(shown) * (panel + words) + BOTTOM
    edges = picture.edges_ms
    used = [i for i in range(len(edges) - 1) if any(picture.counts[e][i] for e in shown)]
    x = Scale(edges[used[0]] / 1.03, edges[used[-1] + 1] * 1.03, LEFT, width - RIGHT, log=True)
    most = max(max(picture.counts[e]) for e in shown)
    parts = []
    for row, (engine, (kind, latency)) in enumerate(shown.items()):
        base = 12 + (row + 1) * (panel + words)
        y = Scale(0.7, most * 1.2, base, base - panel, log=True)
        bars = [
            tag(
                "rect", tag("title", f"{engine}: {count} of {latency.samples} in {low:.2f} to {high:.2f} ms"),
                class_=f"bar {kind}", x=x(low), width=max(x(high) - x(low) - 0.7, 0.8), y=y(count),
                height=base - y(count),
            )
            for low, high, count in zip(edges, edges[1:], picture.counts[engine], strict=False)
            if count
        ]  # fmt: skip
        ticks = [
            join(
                (
                    tag("line", class_="grid", x1=LEFT, x2=width - RIGHT, y1=y(10**n), y2=y(10**n)),
                    tag("text", f"{10**n}", class_="tick", x=LEFT - 7, y=y(10**n) + 4, text_anchor="end"),
                )
            )
            for n in range(int(math.log10(most)) + 1)
        ]
        marks = [
            _percentile(name, ms, x, base, base - panel - words + 29 + 12 * line, width)
            for line, (name, ms) in enumerate((("p99", latency.p99), ("p90", latency.p90), ("p50", latency.p50)))
        ]
        title = tag("text", engine, class_="name", x=LEFT, y=base - panel - words + 17)
        axis = tag("line", class_="axis", x1=LEFT, x2=width - RIGHT, y1=base, y2=base)
        parts.append(join((ticks, bars, axis, marks, title)))
    bottom = 12 + len(shown) * (panel + words)
    below = [
        join(
            (
                tag("line", class_="grid", x1=x(v), x2=x(v), y1=bottom, y2=bottom + 4),
                tag("text", f"{v:g}", class_="tick", x=x(v), y=bottom + 17, text_anchor="middle"),
            )
        )
        for v in x.ticks(48)
    ]
    said = "; ".join(f"{e}: p50 {q.p50:.2f}, p90 {q.p90:.2f}, p99 {q.p99:.2f} ms" for e, (_, q) in shown.items())
    return svg(
        width, height, f"Inferences by latency. {said}", parts, below,
        tag("text", "samples", class_="label", x=2, y=12),
        tag("text", "latency, ms", class_="label", x=(LEFT + width - RIGHT) / 2, y=bottom + 35, text_anchor="middle"),
    )  # fmt: skip


def _percentile(name: str, ms: float, x: Scale, base: float, top: float, width: float) -> Markup:
    text, at = f"{name} {ms:.2f}", x(ms)
    fits = at + 5 + len(text) * CHARACTER < width
    return join(
        (
            tag("line", class_="percentile", x1=at, x2=at, y1=top - 6, y2=base),
            tag(
                "text", text, class_="small", x=at + (4 if fits else -4), y=top + 3, text_anchor=None if fits else "end"
            ),
        )
    )


def race(blocks: Sequence[Block], kinds: Mapping[str, str], width: float) -> Markup:
    """Every block of the race in the order they ran: its p50, with a line up to its p90."""
    height = 250.0
    x = Scale(0, len(blocks) + 1, LEFT, width - RIGHT)
    y = Scale(0, max(b.p90_ms for b in blocks) * 1.05, height - BOTTOM, TOP)
    drawn = [
        tag(
            "g", tag("title", f"block {n}, {b.engine}: p50 {b.p50_ms:.2f} ms, p90 {b.p90_ms:.2f} ms"),
            tag("line", class_=f"whisker {kinds[b.engine]}", x1=x(n), x2=x(n), y1=y(b.p50_ms), y2=y(b.p90_ms)),
            tag("circle", class_=f"dot {kinds[b.engine]}", cx=x(n), cy=y(b.p50_ms), r=2.6 if width > 500 else 1.8),
        )
        for n, b in enumerate(blocks, 1)
    ]  # fmt: skip
    said = f"p50 of each of the {len(blocks)} blocks in the order they ran"
    return svg(width, height, said, frame(x, y, "block, in the order they ran", "ms"), drawn)


def silhouette(widths: Sequence[LayerWidth], width: float) -> Markup:
    """Output channels of every layer, before and after."""
    height = 250.0
    x = Scale(0, len(widths), LEFT, width - RIGHT)
    y = Scale(0, max(w.parent for w in widths) * 1.04, height - BOTTOM, TOP)
    thick = max((x.end - x.start) / len(widths) * 0.8, 0.6)
    bars = [
        tag(
            "g", tag("title", f"{w.layer}: {w.parent} → {w.build} channels"),
            tag("rect", class_="bar before", x=x(n), width=thick, y=y(w.parent), height=y.start - y(w.parent)),
            tag("rect", class_="bar chosen", x=x(n), width=thick, y=y(w.build), height=y.start - y(w.build)),
        )
        for n, w in enumerate(widths)
    ]  # fmt: skip
    ticks, free = [], 0.0
    for n, (name, first) in enumerate(blocks([w.layer for w in widths])):
        text = f"{name}"
        if n == 0 or x(first) >= free:
            ticks.append(tag("text", text, class_="tick", x=x(first), y=y.start + 17))
            free = x(first) + len(text) * CHARACTER + 6
    kept = sum(w.build for w in widths) / sum(w.parent for w in widths)
    said = f"Output channels of {len(widths)} layers before and after: {kept:.0%} of them all stay"
    return svg(
        width, height, said, frame(x, y, "layer, by the model's block", "channels", x_ticks=False), ticks, bars
    )  # fmt: skip


def blocks(layers: Sequence[str]) -> list[tuple[str, int]]:
    """The model's blocks ('4' of model.4.cv1.conv) and where each begins."""
    found: list[tuple[str, int]] = []
    for n, layer in enumerate(layers):
        parts = layer.split(".")
        name = parts[1] if len(parts) > 1 and parts[1].isdigit() else parts[0]
        if not found or found[-1][0] != name:
            found.append((name, n))
    return found


def lines(
    series: Mapping[str, Sequence[tuple[float, float]]], x_label: str, y_label: str, width: float, *, zero: bool = True
) -> Markup:
    """Values over time, one line a name.

    Args:
        series: Name -> (second, value); at least one with a value.
        zero: Whether the y axis starts at zero.
    """
    height = 220.0
    values = [v for points in series.values() for _, v in points]
    end = max(t for points in series.values() for t, _ in points)
    low, high = padded(values, 0.12, 1.0)
    x = Scale(0, max(end, 1e-3), LEFT, width - RIGHT)
    y = Scale(0 if zero else low, max(values) * 1.08 if zero and max(values) > 0 else high, height - BOTTOM, TOP)
    drawn = [
        tag(
            "g", tag("title", name),
            tag("polyline", class_=f"series s{n % 6}", points=" ".join(f"{x(t):.1f},{y(v):.1f}" for t, v in points)),
            len(points) < 40 and [tag("circle", class_=f"spot s{n % 6}", cx=x(t), cy=y(v), r=2.2) for t, v in points],
        )
        for n, (name, points) in enumerate(series.items())
    ]  # fmt: skip
    said = "; ".join(f"{n}: {p[0][1]:g} to {p[-1][1]:g}" for n, p in series.items())
    return svg(width, height, f"{y_label} over {x_label}. {said}", frame(x, y, x_label, y_label), drawn)
