"""Axes of a picture: where a value lies in pixels, which values get a tick, and how labels stay off each other."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from edgeprune.report.markup import Markup, join, tag

#: Width of a character and height of a line at the pictures' 12 px: of a bold one of the widest common system font.
CHARACTER, LINE = 7.6, 15.0


@dataclass(frozen=True)
class Scale:
    """Values low to high on pixels start to end."""

    low: float
    high: float
    start: float
    end: float
    log: bool = False

    def __call__(self, value: float) -> float:
        if self.log:
            share = math.log(max(value, 1e-12) / self.low) / math.log(self.high / self.low)
        else:
            share = (value - self.low) / (self.high - self.low)
        return self.start + share * (self.end - self.start)

    def ticks(self, apart: float = 60.0) -> list[float]:
        """Round values, about `apart` pixels from one another or more."""
        room = max(2, int(abs(self.end - self.start) / apart))
        if self.log:
            decades = range(math.floor(math.log10(self.low)), math.ceil(math.log10(self.high)) + 1)
            for digits in ((1, 1.5, 2, 3, 4, 5, 6, 8), (1, 2, 3, 5), (1, 2, 5), (1, 3), (1,)):
                found = [d * 10.0**e for e in decades for d in digits if self._holds(d * 10.0**e)]
                if 2 <= len(found) <= room:
                    return found
        raw = (self.high - self.low) / room
        power = 10.0 ** math.floor(math.log10(raw))
        step = next(d * power for d in (1, 2, 2.5, 5, 10) if d * power >= raw * (1 - 1e-9))
        first = math.ceil(self.low / step - 1e-9)
        return [round(n * step, 12) for n in range(first, math.floor(self.high / step + 1e-9) + 1)]

    def _holds(self, value: float) -> bool:
        return self.low * (1 - 1e-9) <= value <= self.high * (1 + 1e-9)


def padded(values: Sequence[float], share: float, least: float = 0.0) -> tuple[float, float]:
    """Range of values with room on both sides; at least so wide."""
    low, high = min(values), max(values)
    room = max((high - low) * share, (least - (high - low)) / 2, 1e-9)
    return low - room, high + room


def frame(x: Scale, y: Scale, x_label: str, y_label: str, *, x_ticks: bool = True) -> Markup:
    """Grid lines, ticks and what the axes are; the picture's corner is (x.start, y.start)."""
    parts = [
        join(
            (
                tag("line", class_="grid", x1=x.start, x2=x.end, y1=y(v), y2=y(v)),
                tag("text", f"{v:g}", class_="tick", x=x.start - 7, y=y(v) + 4, text_anchor="end"),
            )
        )
        for v in y.ticks(30)
    ]
    parts += [
        join(
            (
                tag("line", class_="grid", x1=x(v), x2=x(v), y1=y.start, y2=y.end),
                tag("text", f"{v:g}", class_="tick", x=x(v), y=y.start + 17, text_anchor="middle"),
            )
        )
        for v in (x.ticks() if x_ticks else ())
    ]
    return join(
        (
            *parts,
            tag("line", class_="axis", x1=x.start, x2=x.end, y1=y.start, y2=y.start),
            tag("text", x_label, class_="label", x=(x.start + x.end) / 2, y=y.start + 35, text_anchor="middle"),
            tag("text", y_label, class_="label", x=2, y=y.end - 12),
        )
    )


def svg(width: float, height: float, said: str, *children: object) -> Markup:
    """A picture with its words for who can't see it."""
    return tag(
        "svg", tag("title", said), children, viewBox=f"0 0 {width:g} {height:g}", width=width, height=height,
        role="img", aria_label=said,
    )  # fmt: skip


@dataclass(frozen=True)
class Rectangle:
    """In pixels."""

    left: float
    top: float
    right: float
    bottom: float

    def meets(self, other: Rectangle) -> bool:
        return (
            self.left < other.right and other.left < self.right and self.top < other.bottom and other.top < self.bottom
        )

    def outside(self, other: Rectangle) -> float:
        """Pixels by which it sticks out of another one."""
        return (
            max(0.0, other.left - self.left) + max(0.0, self.right - other.right)
            + max(0.0, other.top - self.top) + max(0.0, self.bottom - other.bottom)
        )  # fmt: skip


def place(
    points: Sequence[tuple[float, float]], texts: Sequence[str], field: Rectangle, taken: Sequence[Rectangle] = ()
) -> list[Rectangle]:
    """Boxes for the labels of points: beside them, inside the field, off each other and off all points.

    Args:
        points: Centres of the marks in pixels.
        texts: Their labels.
        field: Where labels may be.
        taken: Where they may not be.
    """
    marks = [Rectangle(x - 7, y - 7, x + 7, y + 7) for x, y in points]
    placed: list[Rectangle] = []
    for (x, y), text in zip(points, texts, strict=True):
        width = len(text) * CHARACTER
        best, least = None, math.inf
        for reach in (11.0, 24.0, 40.0, 60.0, 84.0, 112.0, 144.0):
            for turn, (across, down) in enumerate(
                ((1, 0), (1, -0.7), (1, 0.7), (-1, 0), (-1, -0.7), (-1, 0.7), (0, -1), (0, 1))
            ):
                left = x + across * reach - (width if across < 0 else 0 if across > 0 else width / 2)
                if across == 0:  # above and below, a label may slide along
                    left = min(max(left, field.left), max(field.left, field.right - width))
                middle = y + down * (reach + (4 if across == 0 else 0))
                box = Rectangle(left, middle - LINE / 2, left + width, middle + LINE / 2)
                hits = sum(box.meets(other) for other in (*placed, *marks, *taken))
                cost = 1000 * hits + 50 * box.outside(field) + reach + turn
                if cost < least:
                    best, least = box, cost
        assert best is not None
        placed.append(best)
    return placed
