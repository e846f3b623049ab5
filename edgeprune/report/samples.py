"""Sample images of a report: which, with which boxes, and small enough for a page.

Rules:
- Images are chosen by rule, never by hand: those with the most labelled objects, and those that parent and build differ
  most on. The same predictions choose the same images.
- Two detections are the same object if their classes are and they overlap by half; what finds no partner differs.
- Boxes are those of predictions/, in pixels of the original; a picture is never enlarged.
"""

from __future__ import annotations

import io
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from edgeprune.errors import EdgepruneError
from edgeprune.records import Box, Sample, files
from edgeprune.records.dataset import DataSet, read_boxes
from edgeprune.runtime.predict import CocoResult
from edgeprune.runtime.preprocess import read_image

#: Detections under it are not shown: the score that Ultralytics' own predictor shows boxes from.
SCORE = 0.25
#: Overlap from which two detections are one object.
SAME = 0.5
#: Images of each rule.
EACH = 3
#: Longest edge of a picture in pixels, and JPEG's quality: about 25 kB each.
EDGE, QUALITY = 440, 82

MOST = "among the {} images of val with the most labelled objects"
DIFFER = "among the {} images of val that parent and build differ most on"


def samples(data: DataSet, parent: Path, build: Path, work: Path) -> tuple[Sample, ...]:
    """Choose images, and write their small copies under `work`/samples.

    Args:
        data: Its val images are what the predictions are of.
        parent, build: Predictions in COCO's result format.

    Raises:
        EdgepruneError: Predictions that can't be read.
        DataError: An image or a label that can't be read.
    """
    found = [boxes_of(path) for path in (parent, build)]
    images = data.splits["val"]
    labels = [len(read_boxes(image, len(data.names))) for image in images]
    differences = [difference(*(boxes.get(number, ()) for boxes in found)) for number in range(1, len(images) + 1)]
    (work / "samples").mkdir(parents=True, exist_ok=True)
    made = []
    for number, why in chosen(labels, differences):
        image = images[number - 1]
        pixels = read_image(image)
        picture = f"samples/{number}.jpg"
        files.write_bytes(work / picture, jpeg(pixels))
        height, width = pixels.shape[:2]
        truth = tuple(
            Box(label=int(label), bbox=((x - w / 2) * width, (y - h / 2) * height, w * width, h * height))
            for label, x, y, w, h in read_boxes(image, len(data.names)).tolist()
        )
        made.append(
            Sample(
                image_id=number, file=image.name, size=(width, height), picture=picture, why=why, truth=truth,
                parent=found[0].get(number, ()), build=found[1].get(number, ()),
            )
        )  # fmt: skip
    return tuple(made)


def chosen(labels: Sequence[int], differences: Sequence[int], each: int = EACH) -> list[tuple[int, str]]:
    """(image id, why) of the images to show, from the labelled objects and the differences of every one."""
    ids = range(1, len(labels) + 1)
    most = sorted(ids, key=lambda i: (-labels[i - 1], i))[:each]
    rest = sorted((i for i in ids if i not in most and differences[i - 1]), key=lambda i: (-differences[i - 1], i))
    return [(i, MOST.format(each)) for i in most] + [(i, DIFFER.format(each)) for i in rest[:each]]


def boxes_of(predictions: Path, score: float = SCORE) -> dict[int, tuple[Box, ...]]:
    """Image id -> its detections with at least that score, best first."""
    try:
        results: list[CocoResult] = json.loads(predictions.read_text())
    except (OSError, json.JSONDecodeError) as error:
        raise EdgepruneError("The predictions can't be read.", where=predictions, got=str(error)) from error
    found: dict[int, list[Box]] = {}
    for result in sorted(results, key=lambda r: -r["score"]):
        if result["score"] >= score:
            x, y, width, height = result["bbox"]
            box = Box(label=result["category_id"] - 1, bbox=(x, y, width, height), score=result["score"])
            found.setdefault(result["image_id"], []).append(box)
    return {number: tuple(boxes) for number, boxes in found.items()}


def difference(some: Sequence[Box], others: Sequence[Box]) -> int:
    """Detections on either side that have no partner on the other."""
    left = list(others)
    alone = 0
    for box in some:
        partner = max((o for o in left if o.label == box.label), key=lambda o: overlap(box, o), default=None)
        if partner is None or overlap(box, partner) < SAME:
            alone += 1
        else:
            left.remove(partner)
    return alone + len(left)


def overlap(one: Box, other: Box) -> float:
    """Intersection over union."""
    edges = []
    for axis in (0, 1):
        low = max(one.bbox[axis], other.bbox[axis])
        high = min(one.bbox[axis] + one.bbox[axis + 2], other.bbox[axis] + other.bbox[axis + 2])
        edges.append(max(0.0, high - low))
    shared = edges[0] * edges[1]
    union = one.bbox[2] * one.bbox[3] + other.bbox[2] * other.bbox[3] - shared
    return shared / union if union > 0 else 0.0


def jpeg(pixels: np.ndarray) -> bytes:
    """A small copy as JPEG."""
    image = Image.fromarray(pixels)
    image.thumbnail((EDGE, EDGE), Image.Resampling.LANCZOS)
    written = io.BytesIO()
    image.save(written, "JPEG", quality=QUALITY, optimize=True)
    return written.getvalue()


def pictures(folder: Path, made: Sequence[Sample]) -> Mapping[str, bytes]:
    """Picture -> its bytes, of those that are there."""

    def read() -> Iterator[tuple[str, bytes]]:
        for sample in made:
            if (folder / sample.picture).is_file():
                yield sample.picture, (folder / sample.picture).read_bytes()

    return dict(read())
