"""Golden detections: whether a detector finds on a bundle's own images what the measured engine found there.

Rules:
- Image in to boxes out, as an application sees it, so that one rule holds for every form of an engine.
- Another processor rounds otherwise: a score may move and a box by a little. So what counts is what was found clearly,
  by at least `CLEAR`; it is found again if a box of its class overlaps it by `OVERLAP` with a score `MOVED` away at
  most, and what is found now that clearly (over `CLEAR` + `MOVED`) and wasn't then counts as much as what is missing.
- Up to `TOLERATED` of them may differ. Measured with YOLOv8n on 87 images of blood cells, OpenVINO: BF16 for FP32 of
  the same model 0 %, INT8 for FP32 0.2 % (2.2 % in the worst four images), the parent for its pruned build 26 %.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from edgeprune.records.golden import GoldenBox, GoldenImage
from edgeprune.runtime.decode import Detections, intersection_over_union, with_areas
from edgeprune.runtime.detector import Detector
from edgeprune.runtime.preprocess import read_image

CLEAR, MOVED, OVERLAP, TOLERATED = 0.4, 0.15, 0.7, 0.1


def golden(file: str, found: Sequence[GoldenBox]) -> GoldenImage:
    """What is kept of an image's detections: what was found clearly."""
    return GoldenImage(file=file, found=tuple(box for box in found if box.score >= CLEAR))


def difference(images: Sequence[GoldenImage], folder: Path, detector: Detector) -> float:
    """Share of all that was found clearly, then or now, that isn't in both; 0 where nothing was.

    Args:
        images: A bundle's; their files lie in `folder`.

    Raises:
        DataError: An image that can't be read.
    """
    differ = total = 0
    for image in images:
        missing, extra, both = _compare(image.found, detector(read_image(folder / image.file)))
        differ += missing + extra
        total += missing + extra + both
    return differ / total if total else 0.0


def _compare(wanted: Sequence[GoldenBox], found: Detections) -> tuple[int, int, int]:
    """Missing, extra and in both, of one image; each of what is found answers for one of what is wanted."""
    free = np.ones(len(found.scores), np.bool_)
    missing = 0
    corners = np.array([box.corners for box in wanted], np.float32).reshape(-1, 4)
    overlaps = intersection_over_union(with_areas(corners), with_areas(found.boxes))
    for box, row in zip(wanted, overlaps, strict=True):
        near = free & (found.classes == box.label) & (np.abs(found.scores - box.score) <= MOVED)
        overlap = np.where(near, row, 0.0)
        best = int(overlap.argmax()) if len(overlap) else -1
        if best < 0 or overlap[best] < OVERLAP:
            missing += 1
        else:
            free[best] = False
    extra = int((free & (found.scores > CLEAR + MOVED)).sum())
    return missing, extra, len(wanted) - missing
