"""The engine's output as detections: threshold, non-maximum suppression, back to the image's pixels.

Rules (those of Ultralytics' validator): a box may carry several classes; suppression is per class, greedy
by score; a box is suppressed where its IoU with a kept one of its class is over the threshold.
End-to-end heads, which output (1, n, 6) boxes that need no suppression, are only filtered by score.

Source: `non_max_suppression` in ultralytics 8.4.190.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from edgeprune.runtime.preprocess import Floats, Letterbox

#: Boxes that enter the suppression at most, best first.
MAX_CANDIDATES = 30_000


@dataclass(frozen=True)
class Thresholds:
    """Of one run. The defaults are those of Ultralytics' validator.

    Attributes:
        score: Detections at or under it are dropped.
        iou: Overlap over which the weaker box of a class is dropped.
        max_detections: Kept per image, best first.
    """

    score: float = 0.001
    iou: float = 0.7
    max_detections: int = 300


@dataclass(frozen=True)
class Detections:
    """Of one image, best first.

    Attributes:
        boxes: x0, y0, x1, y1 in pixels of the original image, shape (n, 4).
        scores: 0..1, shape (n,).
        classes: Shape (n,).
    """

    boxes: Floats
    scores: Floats
    classes: npt.NDArray[np.intp]


def scores_over(threshold: float, *outputs: Floats) -> npt.NDArray[np.bool_]:
    """Which scores of outputs (n, 4 + classes, anchors) are over a threshold in any of them, shape (n, classes,
    anchors); all, if none is."""
    over: npt.NDArray[np.bool_] = np.maximum.reduce([output[:, 4:] for output in outputs]) > threshold
    return over if over.any() else np.ones_like(over)


def decode(output: Floats, placed: Letterbox, thresholds: Thresholds = Thresholds()) -> Detections:
    """Decode one image's output.

    Args:
        output: Shape (1, 4 + classes, anchors): centre x, centre y, width, height in input pixels, then one
            score a class; or (1, n, 6): x0, y0, x1, y1, score, class of an end-to-end head.
        placed: How the image lay in the input.

    Returns:
        The detections.
    """
    if output.shape[-1] == 6:
        boxes, scores, classes = output[0, :, :4], output[0, :, 4], output[0, :, 5].astype(np.intp)
        chosen = np.flatnonzero(scores > thresholds.score)[: thresholds.max_detections]
    else:
        anchors, classes = np.nonzero(thresholds.score < output[0, 4:].T)
        scores = output[0, 4:].T[anchors, classes]
        best = np.argsort(-scores, kind="stable")[:MAX_CANDIDATES]
        anchors, classes, scores = anchors[best], classes[best], scores[best]
        boxes = _corners(output[0, :4].T[anchors])
        chosen = suppress(boxes, classes, thresholds.iou, thresholds.max_detections)
    return Detections(_to_image(boxes[chosen], placed), scores[chosen], classes[chosen])


def suppress(boxes: Floats, classes: npt.NDArray[np.intp], iou: float, limit: int) -> npt.NDArray[np.intp]:
    """Greedy non-maximum suppression per class.

    Args:
        boxes: Corners, shape (n, 4), in descending order of score.
        classes: Shape (n,).
        iou: Overlap over which a box is dropped.
        limit: Boxes to keep at most.

    Returns:
        Indices kept, in order.
    """
    area = (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])
    left = np.arange(len(boxes))
    kept: list[int] = []
    while left.size and len(kept) < limit:
        first, left = left[0], left[1:]
        kept.append(int(first))
        low = np.maximum(boxes[left, :2], boxes[first, :2])
        high = np.minimum(boxes[left, 2:], boxes[first, 2:])
        shared = np.clip(high - low, 0, None).prod(1)
        overlap = shared / np.maximum(area[left] + area[first] - shared, 1e-9)
        left = left[(overlap <= iou) | (classes[left] != classes[first])]
    return np.array(kept, np.intp)


def _corners(boxes: Floats) -> Floats:
    half = boxes[:, 2:] / 2
    return np.concatenate((boxes[:, :2] - half, boxes[:, :2] + half), 1)


def _to_image(boxes: Floats, placed: Letterbox) -> Floats:
    shifted = (boxes - np.array(placed.pad * 2, np.float32)) / np.array(placed.gain * 2, np.float32)
    width, height = placed.size
    return np.clip(shifted, 0, np.array((width, height) * 2, np.float32)).astype(np.float32)
