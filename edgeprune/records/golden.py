"""GoldenDifference: how near an engine on a board came to its kit's golden outputs."""

from __future__ import annotations

from pydantic import Field

from edgeprune.records.base import Record


class GoldenDifference(Record):
    """Root mean square differences from the golden outputs, and what was tolerated."""

    boxes_rms_px: float = Field(ge=0)
    scores_rms: float = Field(ge=0)
    boxes_rms_px_tolerated: float = Field(gt=0)
    scores_rms_tolerated: float = Field(gt=0)
