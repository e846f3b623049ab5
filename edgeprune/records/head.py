"""Head: what a detector's last convolutions say, for whoever decodes them outside of the engine.

Rules:
- It stands in the engine's own file, under `KEY` (ONNX metadata; run-time information of OpenVINO's IR), so that it
  can't be lost on the way or come from another engine.
- Outputs are in the order of `levels`, the boxes of all levels first, then the scores of all.

Source: `Detect` and `DFL` in ultralytics 8.4.190; Li et al. 2020, 'Generalized Focal Loss' (a distance as the expected
value of a distribution over bins).
"""

from __future__ import annotations

import json
from pathlib import Path

from pydantic import Field

from edgeprune.errors import DeviceError
from edgeprune.records.base import Record, parse

#: Where an engine's file holds it: the two parts are OpenVINO's path, joined by a dot they are ONNX's key.
KEY = ("edgeprune", "head")


class Level(Record):
    """One of the head's grids. Its cells are anchors, in reading order; an anchor's centre is the cell's."""

    stride: int = Field(ge=1)
    """Edge of a cell, pixels of the input."""
    boxes: str
    """Output (1, 4 x bins, rows, columns): distances from the anchor to the left, upper, right and lower edge."""
    scores: str
    """Output (1, classes, rows, columns): logits."""


class Head(Record):
    """How boxes and scores are read from the outputs."""

    levels: tuple[Level, ...] = Field(min_length=1)
    """In ascending order of stride, which is the order of anchors in the engine's own decode."""
    bins: int = Field(ge=1)
    """Logits of a distance, over 0, 1, 2 … strides; 1: the distance itself, in strides."""
    classes: int = Field(ge=1)

    @property
    def outputs(self) -> tuple[str, ...]:
        """Names of the outputs in their order."""
        return (*(level.boxes for level in self.levels), *(level.scores for level in self.levels))


def read_head(said: str | None, engine: Path) -> Head | None:
    """The head that an engine's file speaks of, if it does.

    Raises:
        DeviceError: It speaks of one that this version doesn't know.
    """
    if said is None:
        return None
    try:
        content = json.loads(said)
    except ValueError:
        content = said
    return parse(Head, content, DeviceError, where=f"{engine}, {'.'.join(KEY)}")
