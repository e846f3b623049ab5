"""mAP of predictions, by pycocotools.

Rules:
- 300 detections an image count, as in Ultralytics' validator (COCO's own summary stops at 100).
- COCO's average is taken over 101 recalls, the last one reached counted; Ultralytics interpolates between
  them and drops to 0 at the end. With five boxes or fewer in a class this makes half a point a class:
  YOLOv8n on 177 COCO images scores .3507 here and .3471 in its validator, the same predictions scored the
  validator's way .3475. On blood cells with hundreds of boxes a class both say .617.
- Boxes of the data set are never 'crowd'; areas don't matter.
"""

from __future__ import annotations

import contextlib
import io
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from PIL import Image

from edgeprune.errors import missing_package
from edgeprune.records import Accuracy
from edgeprune.records.dataset import DataSet, read_boxes
from edgeprune.runtime.decode import Thresholds
from edgeprune.runtime.predict import CocoResult


def score(engine: str, data: DataSet, results: Sequence[CocoResult], split: str = "val") -> Accuracy:
    """Mean average precision over a split.

    Args:
        engine: For the record.
        results: From `edgeprune.runtime.predict.predict` over the split's images in order.

    Raises:
        DataError: A label that is no box.
    """
    map50_95, map50 = means(_truth(data, split), results)
    return Accuracy(engine=engine, map50_95=map50_95, map50=map50, images=len(data.splits[split]))


def means(dataset: dict[str, Any], results: Sequence[CocoResult]) -> tuple[float, float]:
    """mAP50-95 and mAP50 over the classes that the data set has."""
    try:
        from pycocotools.coco import COCO
        from pycocotools.cocoeval import COCOeval
    except ImportError as error:
        raise missing_package("pycocotools", "build") from error
    limit = Thresholds().max_detections
    with contextlib.redirect_stdout(io.StringIO()):
        truth = COCO()
        truth.dataset = dataset
        truth.createIndex()
        if not results:
            return 0.0, 0.0
        evaluation = COCOeval(truth, truth.loadRes(list(results)), "bbox")
        evaluation.params.maxDets = [1, 100, limit]
        evaluation.params.areaRng = [[0, 1e10]]
        evaluation.params.areaRngLbl = ["all"]
        evaluation.evaluate()
        evaluation.accumulate()
    precision = evaluation.eval["precision"][:, :, :, 0, 2]  # IoU, recall, class
    return _mean(precision), _mean(precision[0])


def _mean(precision: Any) -> float:
    """Mean over what is defined: a class without a box in the split has precision -1 and doesn't count."""
    defined = precision[precision > -1]
    return float(np.mean(defined)) if defined.size else 0.0


def _truth(data: DataSet, split: str) -> dict[str, Any]:
    images: list[dict[str, Any]] = []
    boxes: list[tuple[int, int, list[float]]] = []
    for number, path in enumerate(data.splits[split], 1):
        with Image.open(path) as image:
            rotated = image.getexif().get(274, 1) >= 5  # EXIF orientations that swap the axes
            width, height = image.size[::-1] if rotated else image.size
        images.append({"id": number, "width": width, "height": height, "file_name": path.name})
        for label, x, y, w, h in read_boxes(path, len(data.names)).astype(float).tolist():
            boxes.append((number, int(label), [(x - w / 2) * width, (y - h / 2) * height, w * width, h * height]))
    return coco(images, boxes, data.names)


def coco(
    images: list[dict[str, Any]], boxes: Sequence[tuple[int, int, list[float]]], names: Mapping[int, str]
) -> dict[str, Any]:
    """COCO's format, of boxes as (image id, class index, [x, y, width, height] in pixels)."""
    annotations = [
        {
            "id": number, "image_id": image, "category_id": label + 1, "bbox": box, "area": box[2] * box[3],
            "iscrowd": 0,
        }
        for number, (image, label, box) in enumerate(boxes, 1)
    ]  # fmt: skip
    categories = [{"id": index + 1, "name": name} for index, name in sorted(names.items())]
    return {"images": images, "annotations": annotations, "categories": categories}
