"""Detections of many images in COCO's result format.

Source: https://cocodataset.org/#format-results (bbox = [x, y, width, height] in pixels).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TypedDict

from edgeprune.runtime.decode import Detections, Thresholds
from edgeprune.runtime.detector import Detector
from edgeprune.runtime.preprocess import read_image
from edgeprune.runtime.session import Session


class CocoResult(TypedDict):
    """One detection. Image ids count from 1 in the order given; categories are the class index plus 1."""

    image_id: int
    category_id: int
    bbox: list[float]
    score: float


def predict(
    session: Session,
    images: Sequence[Path],
    input_shape: tuple[int, int, int, int],
    thresholds: Thresholds = Thresholds(),  # noqa: B008
    on_image: Callable[[int], None] = lambda _: None,
) -> list[CocoResult]:
    """Run the engine over image files.

    Args:
        session: A detector's engine.
        images: Files.
        input_shape: Of the model: batch (1), channels, height, width.
        on_image: Called with the number of images done.

    Raises:
        DataError: An image that can't be read.
    """
    detector = Detector(session, *input_shape[2:], thresholds)
    results: list[CocoResult] = []
    for number, path in enumerate(images, 1):
        results += coco_results(number, detector(read_image(path)))
        on_image(number)
    return results


def coco_results(image_id: int, found: Detections) -> list[CocoResult]:
    """One image's detections in COCO's format."""
    rows = zip(found.boxes.tolist(), found.scores.tolist(), found.classes.tolist(), strict=True)
    return [
        {"image_id": image_id, "category_id": label + 1, "bbox": [x0, y0, x1 - x0, y1 - y0], "score": score}
        for (x0, y0, x1, y1), score, label in rows
    ]
