"""mAP of a detector in torch on a few batches: what a search goes by where papers have accuracy."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from torch import nn

from edgeprune.runtime.decode import decode
from edgeprune.runtime.predict import CocoResult, coco_results
from edgeprune.runtime.preprocess import Letterbox
from edgeprune.train.evaluate import coco, means
from edgeprune.yolo.load import boxes_and_scores


def map_lost(model: nn.Module, batches: Sequence[Mapping[str, Any]]) -> float:
    """1 - mAP50-95 of a detector in torch on batches in memory (`edgeprune.yolo.data.batches`), in input pixels."""
    model.eval()
    images: list[dict[str, Any]] = []
    boxes: list[tuple[int, int, list[float]]] = []
    results: list[CocoResult] = []
    for batch in batches:
        height, width = batch["img"].shape[2:]
        scale = np.array([width, height, width, height])
        whole = Letterbox((1.0, 1.0), (0, 0), (width, height))
        found = boxes_and_scores(model, batch["img"]).float().cpu().numpy()
        for index in range(len(found)):
            images.append({"id": len(images) + 1, "width": width, "height": height})
            here = (batch["batch_idx"] == index).cpu()
            truths = zip(batch["cls"].cpu()[here].flatten().int().tolist(), batch["bboxes"].cpu()[here], strict=True)
            for label, box in truths:
                x, y, w, h = (box.numpy() * scale).tolist()
                boxes.append((len(images), label, [x - w / 2, y - h / 2, w, h]))
            results += coco_results(len(images), decode(found[index : index + 1], whole))
    classes = {label for _, label, _ in boxes} | {result["category_id"] - 1 for result in results}
    return 1.0 - means(coco(images, boxes, {label: str(label) for label in classes}), results)[0]
