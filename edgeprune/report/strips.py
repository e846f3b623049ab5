"""What each entrant removed, layer by layer, under each other: one strip an entrant, one cell a layer.

Rules:
- A cell is as full as the share of the layer's weights that are gone, cut or zero: one measure for channels, blocks and
  single weights. Every cell carries its figures as a title.
- All strips have the parent's layers, in the parent's order, so that a column is a layer.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from edgeprune.records.arena import LayerShare
from edgeprune.report.axes import CHARACTER, svg
from edgeprune.report.charts import blocks
from edgeprune.report.markup import Markup, join, tag

#: Pixels: of a strip with its name, of the strip alone, and of the ticks under all.
ROW, STRIP, TICKS = 36.0, 14.0, 24.0


def strips(shares: Mapping[str, Sequence[LayerShare]], width: float) -> Markup:
    """The strips.

    Args:
        shares: Entrant -> its layers; at least one, all with the same layers.
        width: Of the picture in pixels.
    """
    layers = [share.layer for share in next(iter(shares.values()))]
    each = width / len(layers)
    rows = [_strip(name, found, n * ROW, each, width) for n, (name, found) in enumerate(shares.items())]
    bottom = len(shares) * ROW
    ticks, free = [], 0.0
    for text, first in blocks(layers):
        if first * each >= free and first * each + len(text) * CHARACTER <= width:
            ticks.append(tag("text", text, class_="tick", x=first * each, y=bottom + 12))
            free = first * each + len(text) * CHARACTER + 6
    said = "; ".join(f"{name}: {_gone(found):.0%} of the weights are gone" for name, found in shares.items())
    return svg(width, bottom + TICKS, f"Weights removed of {len(layers)} layers. {said}", rows, ticks)


def _strip(name: str, found: Sequence[LayerShare], top: float, each: float, width: float) -> Markup:
    down = top + ROW - STRIP - 4
    cells = [
        tag(
            "rect", tag("title", f"{name}, {s.layer}: {s.removed:.0%} gone, {s.build} of {s.parent} weights left"),
            class_="bar chosen cell", x=n * each, y=down, width=max(each - 0.6, 0.6), height=STRIP,
            fill_opacity=f"{s.removed:.2f}",
        )
        for n, s in enumerate(found)
    ]  # fmt: skip
    return join(
        (
            tag("text", f"{name} ({_gone(found):.0%})", class_="name", x=0, y=down - 5),
            tag("rect", class_="bar before", x=0, y=down, width=width, height=STRIP),
            *cells,
        )
    )


def _gone(found: Sequence[LayerShare]) -> float:
    return 1 - sum(s.build for s in found) / sum(s.parent for s in found)
