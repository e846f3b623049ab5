"""A detector as an application has it: an image's pixels in, boxes in that image's pixels out.

Rules:
- Three parts, each timed on its own: letterbox into what the engine takes, the engine, decoding with suppression.
- An engine's form decides who does what; what comes out is the same.
"""

from __future__ import annotations

import time
from typing import NamedTuple

from edgeprune.runtime.decode import Detections, Thresholds, decode, decode_raw
from edgeprune.runtime.preprocess import Floats, Letterbox, Pixels, given
from edgeprune.runtime.session import Session


class Spent(NamedTuple):
    """Nanoseconds of each part."""

    preprocess: int
    inference: int
    postprocess: int


class Detector:
    """An engine with what belongs around it.

    Attributes:
        session: The engine.
    """

    def __init__(
        self,
        session: Session,
        height: int,
        width: int,
        thresholds: Thresholds = Thresholds(),  # noqa: B008
    ) -> None:
        self.session = session
        self._size, self._thresholds = (height, width), thresholds
        head = session.head
        self._order = [session.output_names.index(name) for name in head.outputs] if head else []

    def __call__(self, image: Pixels) -> Detections:
        """What is on an image: RGB, shape (h, w, 3)."""
        return self.timed(image)[0]

    def timed(self, image: Pixels) -> tuple[Detections, Spent]:
        """The same, and the time that it took."""
        start = time.perf_counter_ns()
        pixels, placed = self.prepare(image)
        ready = time.perf_counter_ns()
        outputs = self.session.run(pixels)
        inferred = time.perf_counter_ns()
        found = self.finish(outputs, placed)
        return found, Spent(ready - start, inferred - ready, time.perf_counter_ns() - inferred)

    def prepare(self, image: Pixels) -> tuple[Floats | Pixels, Letterbox]:
        """What the engine is given of an image, and how the image lies in it."""
        return given(image, *self._size, self.session.input)

    def finish(self, outputs: list[Floats], placed: Letterbox) -> Detections:
        """What the engine's outputs say."""
        head = self.session.head
        if head is None:
            return decode(outputs[0], placed, self._thresholds)
        return decode_raw([outputs[index] for index in self._order], head, placed, self._thresholds)
