"""What an engine is held against where it is to run: golden outputs of a kit, golden detections of a bundle."""

from __future__ import annotations

from pydantic import Field

from edgeprune.records.base import Record


class GoldenDifference(Record):
    """How near an engine on a board came to its kit's golden outputs: root mean square differences, and what was
    tolerated."""

    boxes_rms_px: float = Field(ge=0)
    scores_rms: float = Field(ge=0)
    boxes_rms_px_tolerated: float = Field(gt=0)
    scores_rms_tolerated: float = Field(gt=0)


class GoldenBox(Record):
    """One detection."""

    label: int = Field(ge=0)
    """Index of its class."""
    corners: tuple[float, float, float, float]
    """x0, y0, x1, y1 in the image's pixels."""
    score: float = Field(ge=0, le=1)


class GoldenImage(Record):
    """An image that a bundle carries, and what its engine found there when it was measured, on that device."""

    file: str
    """Among the bundle's files."""
    found: tuple[GoldenBox, ...]
