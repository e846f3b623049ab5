"""Form: what goes into an engine and what comes out. The same detector, cut at other places.

Rules:
- A form changes where work is done, never what is computed: pixels to boxes is the same in each.
- The default is what a stock Ultralytics install opens.
"""

from __future__ import annotations

from typing import Literal

from edgeprune.records.base import Record

#: floats: (1, 3, height, width) float32 in 0..1. pixels: (1, height, width, 3) uint8, RGB.
Input = Literal["floats", "pixels"]
#: graph: boxes and scores are decoded by the engine. runtime: the engine ends with its last convolutions, and boxes are
#: decoded outside, of the anchors over the threshold alone.
Head = Literal["graph", "runtime"]


class Form(Record):
    """Where an engine begins and ends."""

    input: Input = "floats"
    head: Head = "graph"

    @property
    def stock(self) -> bool:
        """Whether a stock Ultralytics install opens it."""
        return self == Form()

    def words(self) -> str:
        """For people: what differs from the stock form."""
        told = ["pixels in"] if self.input == "pixels" else []
        told += ["boxes decoded outside"] if self.head == "runtime" else []
        return ", ".join(told) or "stock form"
