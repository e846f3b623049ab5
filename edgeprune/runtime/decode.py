"""The engine's output as detections: threshold, non-maximum suppression, back to the image's pixels.

Rules (those of Ultralytics' validator): a box may carry several classes; suppression is per class, greedy
by score; a box is suppressed where its IoU with a kept one of its class is over the threshold.
End-to-end heads, which output (1, n, 6) boxes that need no suppression, are only filtered by score.

Where the engine ends with its last convolutions (records/head.py), boxes are made here, and only of anchors with a
score over the threshold: scores are compared as logits, and of a thousand anchors a handful is left. The rest of the
way, and the order in which equal scores come (by anchor, then by class), are the same.

Sources: `non_max_suppression`, `Detect.decode_bboxes`, `DFL` and `dist2bbox` in ultralytics 8.4.190.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from edgeprune.records.head import Head, Level
from edgeprune.runtime.preprocess import Floats, Letterbox

#: Boxes that enter the suppression at most, best first.
MAX_CANDIDATES = 30_000
#: Boxes that suppression looks at together: their overlaps are one small matrix.
TOGETHER = 128
#: Of two of them, whether the second is the weaker.
_WEAKER = np.triu(np.ones((TOGETHER, TOGETHER), np.bool_), 1)
#: Logits are compared with so much less than the threshold's, and the scores that come of them with the threshold: both
#: ways agree on what lies upon it.
MARGIN = 1e-3


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
        return Detections(_to_image(boxes[chosen], placed), scores[chosen], classes[chosen])
    flat, count = output[0, 4:].ravel(), output.shape[2]
    over = np.flatnonzero(flat > np.float32(thresholds.score))
    (classes, anchors), scores = np.divmod(over, count), flat[over]
    best = np.lexsort((classes, anchors, -scores))[:MAX_CANDIDATES]
    boxes = _corners(output[0, :4].take(anchors[best], 1))
    return _chosen(boxes, scores[best], classes[best], placed, thresholds)


def decode_raw(
    outputs: Sequence[Floats], head: Head, placed: Letterbox, thresholds: Thresholds = Thresholds()
) -> Detections:
    """Decode one image's output where the engine ends with its last convolutions.

    Args:
        outputs: In the head's order.
        placed: How the image lay in the input.

    Returns:
        The detections, those that `decode` makes of the same engine's boxes and scores.
    """
    lowest = np.float32(logit(thresholds.score) - MARGIN)
    found, first = [], 0
    for level, boxes, logits in _levels(outputs, head):
        flat, rows, columns = logits.ravel(), *logits.shape[2:]
        over = np.flatnonzero(flat > lowest)
        if len(over):
            classes, cells = np.divmod(over, rows * columns)
            raw = boxes.reshape(4 * head.bins, -1).take(cells, 1)
            found.append((raw, _grid(cells, columns, level.stride), flat[over], classes, first + cells))
        first += rows * columns
    if not found:
        return Detections(np.zeros((0, 4), np.float32), np.zeros(0, np.float32), np.zeros(0, np.intp))
    raw, grid, logits, classes, anchors = (np.concatenate(parts, -1) for parts in zip(*found, strict=True))
    scores = sigmoid(logits)
    best = np.lexsort((classes, anchors, -scores))
    best = best[scores[best] > thresholds.score][:MAX_CANDIDATES]
    boxes = _corners(_boxes(raw.take(best, 1), grid.take(best, 1), head.bins))
    return _chosen(boxes, scores[best], classes[best], placed, thresholds)


def every_anchor(outputs: Sequence[Floats], head: Head) -> Floats:
    """What the engine's own decode makes of a head's outputs: shape (1, 4 + classes, anchors)."""
    made = []
    for level, boxes, logits in _levels(outputs, head):
        raw, scores = boxes.reshape(4 * head.bins, -1), sigmoid(logits.reshape(head.classes, -1))
        grid = _grid(np.arange(raw.shape[1]), logits.shape[-1], level.stride)
        made.append(np.concatenate((_boxes(raw, grid, head.bins), scores)))
    return np.concatenate(made, 1)[None].astype(np.float32)


def logit(probability: float) -> float:
    """What the sigmoid makes the probability of; infinite at 0 and 1."""
    if not 0 < probability < 1:
        return -math.inf if probability <= 0 else math.inf
    return math.log(probability / (1 - probability))


def sigmoid(logits: Floats) -> Floats:
    """Shape and type of `logits`."""
    with np.errstate(over="ignore"):  # exp of what is far below 0: the score is 0
        return np.float32(1) / (np.float32(1) + np.exp(-logits))


def suppress(boxes: Floats, classes: npt.NDArray[np.intp], iou: float, limit: int) -> npt.NDArray[np.intp]:
    """Greedy non-maximum suppression per class, some boxes at a time: against those that were kept, then among
    themselves.

    Args:
        boxes: Corners, shape (n, 4), in descending order of score.
        classes: Shape (n,).
        iou: Overlap over which a box is dropped.
        limit: Boxes to keep at most.

    Returns:
        Indices kept, in order.
    """
    known = np.concatenate((with_areas(boxes), classes[None].astype(np.float32)))
    kept = np.empty(0, np.intp)
    for start in range(0, len(boxes), TOGETHER):
        left = np.arange(start, min(start + TOGETHER, len(boxes)))
        if len(kept):
            left = left[~_overlap(known[:, kept], known[:, left], iou).any(0)]
        among = _overlap(known[:, left], known[:, left], iou)
        among &= _WEAKER[: len(left), : len(left)]
        stays = np.ones(len(left), np.bool_)
        for index in np.flatnonzero(among.any(1)).tolist():
            if stays[index]:
                stays &= ~among[index]
        kept = np.concatenate((kept, left[stays]))
        if len(kept) >= limit:
            break
    return kept[:limit]


def _overlap(one: Floats, other: Floats, iou: float) -> npt.NDArray[np.bool_]:
    """Which boxes of the same class overlap too much, shape (one, other), of corners, area and class, shape (6, n)."""
    found: npt.NDArray[np.bool_] = intersection_over_union(one, other) > iou
    found &= one[5, :, None] == other[5, None]
    return found


def with_areas(boxes: Floats) -> Floats:
    """Corners and area, shape (5, n), of corners, shape (n, 4)."""
    return np.concatenate((boxes.T, _area(boxes)[None]))


def intersection_over_union(one: Floats, other: Floats) -> Floats:
    """Shape (one, other), of corners and area, shape (5, n); what comes after these is not looked at."""
    a, b = one[:, :, None], other[:, None]
    shared, high = np.minimum(a[2], b[2]), np.minimum(a[3], b[3])
    shared -= np.maximum(a[0], b[0])
    high -= np.maximum(a[1], b[1])
    np.maximum(shared, 0, out=shared)
    shared *= np.maximum(high, 0, out=high)
    union = a[4] + b[4]
    union -= shared
    shared /= np.maximum(union, 1e-9, out=union)
    return shared


def _area(boxes: Floats) -> Floats:
    """Shape (n,), of corners, shape (n, 4)."""
    made: Floats = (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])
    return made


def _levels(outputs: Sequence[Floats], head: Head) -> Iterator[tuple[Level, Floats, Floats]]:
    count = len(head.levels)
    return zip(head.levels, outputs[:count], outputs[count:], strict=True)


def _grid(cells: npt.NDArray[np.intp], columns: int, stride: int) -> Floats:
    """Where anchors of a level are, in its cells, and its stride: x, y, stride; shape (3, anchors)."""
    grid = np.empty((3, len(cells)), np.float32)
    grid[1], grid[0] = np.divmod(cells, columns)
    grid[:2] += np.float32(0.5)
    grid[2] = stride
    return grid


def _boxes(raw: Floats, grid: Floats, bins: int) -> Floats:
    """Centre x, centre y, width, height in input pixels, shape (4, anchors), of raw outputs (4 x bins, anchors)."""
    distances = raw
    if bins > 1:
        logits = raw.reshape(4, bins, -1)
        weights = np.exp(logits - logits.max(1, keepdims=True))
        distances = np.einsum("dba,b->da", weights, np.arange(bins, dtype=np.float32)) / weights.sum(1)
    low, high = grid[:2] - distances[:2], grid[:2] + distances[2:]
    made: Floats = np.concatenate(((low + high) / 2, high - low)) * grid[2]
    return made


def _chosen(
    boxes: Floats, scores: Floats, classes: npt.NDArray[np.intp], placed: Letterbox, thresholds: Thresholds
) -> Detections:
    chosen = suppress(boxes, classes, thresholds.iou, thresholds.max_detections)
    return Detections(_to_image(boxes[chosen], placed), scores[chosen], classes[chosen])


def _corners(boxes: Floats) -> Floats:
    """x0, y0, x1, y1, shape (n, 4), of centres and sizes, shape (4, n)."""
    half = boxes[2:] * np.float32(0.5)
    corners: Floats = np.concatenate((boxes[:2] - half, boxes[:2] + half)).T
    return corners


def _to_image(boxes: Floats, placed: Letterbox) -> Floats:
    shifted = (boxes - np.array(placed.pad * 2, np.float32)) / np.array(placed.gain * 2, np.float32)
    width, height = placed.size
    return np.clip(shifted, 0, np.array((width, height) * 2, np.float32)).astype(np.float32)
