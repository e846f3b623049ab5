"""Decoding and suppression against torchvision and Ultralytics."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from edgeprune.records.head import Head, Level
from edgeprune.runtime.decode import TOGETHER, Thresholds, decode, decode_raw, every_anchor, suppress
from edgeprune.runtime.preprocess import Letterbox

IDENTITY = Letterbox((1.0, 1.0), (0, 0), (320, 320))


def random_output(seed: int, anchors: int = 200, classes: int = 3) -> np.ndarray:
    generator = np.random.default_rng(seed)
    centres = generator.uniform(40, 280, (2, anchors))
    sizes = generator.uniform(10, 80, (2, anchors))
    scores = generator.uniform(0, 1, (classes, anchors)) ** 3
    return np.concatenate((centres, sizes, scores))[None].astype(np.float32)


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 1000), iou=st.floats(0.2, 0.9))
def test_suppression_is_torchvisions(seed: int, iou: float) -> None:
    from torchvision.ops import batched_nms

    generator = np.random.default_rng(seed)
    corners = generator.uniform(0, 100, (60, 2))
    boxes = np.concatenate((corners, corners + generator.uniform(5, 50, (60, 2))), 1).astype(np.float32)
    scores = np.sort(generator.uniform(0, 1, 60).astype(np.float32))[::-1].copy()
    classes = generator.integers(0, 2, 60)
    expected = batched_nms(torch.from_numpy(boxes), torch.from_numpy(scores), torch.from_numpy(classes), iou)
    assert suppress(boxes, classes, iou, 60).tolist() == expected.tolist()


def one_by_one(boxes: np.ndarray, classes: np.ndarray, iou: float, limit: int) -> list[int]:
    """Greedy suppression as it is defined, in the arithmetic of `suppress`."""
    kept: list[int] = []
    for index, box in enumerate(boxes):
        for other in kept:
            wide = min(boxes[other, 2], box[2]) - max(boxes[other, 0], box[0])
            high = min(boxes[other, 3], box[3]) - max(boxes[other, 1], box[1])
            shared = max(wide, np.float32(0)) * max(high, np.float32(0))
            areas = np.float32((boxes[other, 2] - boxes[other, 0]) * (boxes[other, 3] - boxes[other, 1]))
            areas += np.float32((box[2] - box[0]) * (box[3] - box[1]))
            if classes[other] == classes[index] and shared / max(areas - shared, np.float32(1e-9)) > iou:
                break
        else:
            kept.append(index)
    return kept[:limit]


@settings(max_examples=40, deadline=None)
@given(
    seed=st.integers(0, 1000), count=st.sampled_from([0, 1, 5, TOGETHER - 1, TOGETHER, TOGETHER + 1, 3 * TOGETHER]),
    iou=st.floats(0.05, 0.95), limit=st.sampled_from([1, 20, 300]), grid=st.booleans(),
)  # fmt: skip
def test_suppression_of_many_together_is_that_of_one_after_another(
    seed: int, count: int, iou: float, limit: int, grid: bool
) -> None:
    generator = np.random.default_rng(seed)
    corners = generator.uniform(0, 60, (count, 2))
    boxes = np.concatenate((corners, corners + generator.uniform(0, 50, (count, 2))), 1).astype(np.float32)
    if grid:  # many that touch, that are the same, that have no area
        boxes = np.round(boxes / 10) * 10
    classes = generator.integers(0, 2, count)
    assert suppress(boxes, classes, iou, limit).tolist() == one_by_one(boxes, classes, iou, limit)


def raw_head(seed: int, bins: int, classes: int) -> tuple[Head, list[np.ndarray]]:
    """A head of two levels over 64 x 96 px, and outputs of it."""
    generator = np.random.default_rng(seed)
    head = Head(
        levels=(Level(stride=8, boxes="b8", scores="s8"), Level(stride=16, boxes="b16", scores="s16")),
        bins=bins, classes=classes,
    )  # fmt: skip
    sizes = [(8, 12), (4, 6)]
    boxes = [generator.normal(2, 1.5, (1, 4 * bins, *size)).astype(np.float32) for size in sizes]
    return head, boxes + [generator.normal(-3, 2.5, (1, classes, *size)).astype(np.float32) for size in sizes]


@settings(max_examples=40, deadline=None)
@given(
    seed=st.integers(0, 1000), bins=st.sampled_from([1, 16]), classes=st.sampled_from([1, 3, 80]),
    score=st.sampled_from([0.001, 0.25, 0.9999]),
)  # fmt: skip
def test_boxes_of_raw_outputs_are_those_of_all_anchors_decoded(
    seed: int, bins: int, classes: int, score: float
) -> None:
    head, outputs = raw_head(seed, bins, classes)
    placed, thresholds = Letterbox((0.5, 0.5), (0, 8), (192, 96)), Thresholds(score=score)
    found, expected = (
        decode_raw(outputs, head, placed, thresholds),
        decode(every_anchor(outputs, head), placed, thresholds),
    )
    assert found.classes.tolist() == expected.classes.tolist()
    assert found.scores.tolist() == expected.scores.tolist()
    np.testing.assert_allclose(found.boxes, expected.boxes, atol=1e-3)


@pytest.mark.parametrize("bins", [1, 16])
def test_every_anchor_is_decoded_as_ultralytics_does(bins: int) -> None:
    from ultralytics.nn.modules.head import Detect

    head, outputs = raw_head(0, bins, 3)
    theirs = Detect(nc=3, reg_max=bins, ch=(16, 16)).eval()
    theirs.stride = torch.tensor([8.0, 16.0])
    tensors = [torch.from_numpy(output) for output in outputs]
    given = {
        "boxes": torch.cat([t.flatten(2) for t in tensors[:2]], 2),
        "scores": torch.cat([t.flatten(2) for t in tensors[2:]], 2),
        "feats": tensors[:2],
    }
    with torch.no_grad():
        expected = theirs._inference(given).numpy()
    np.testing.assert_allclose(every_anchor(outputs, head), expected, rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize("seed", range(5))
def test_detections_are_ultralytics(seed: int) -> None:
    from ultralytics.utils.nms import non_max_suppression

    output = random_output(seed)
    thresholds = Thresholds(score=0.05, iou=0.6, max_detections=50)
    expected = non_max_suppression(torch.from_numpy(output), 0.05, 0.6, multi_label=True, max_det=50)[0].numpy()
    found = decode(output, IDENTITY, thresholds)
    np.testing.assert_allclose(found.scores, expected[:, 4], atol=1e-6)
    assert found.classes.tolist() == expected[:, 5].astype(int).tolist()
    np.testing.assert_allclose(found.boxes, np.clip(expected[:, :4], 0, 320), atol=1e-3)


def test_boxes_go_back_to_the_images_pixels() -> None:
    output = np.array([[160, 120, 20, 40, 0.9]], np.float32).T[None]
    found = decode(output, Letterbox((0.5, 0.5), (0, 40), (640, 480)))
    np.testing.assert_allclose(found.boxes, [[300, 120, 340, 200]])


def test_end_to_end_output_is_only_filtered() -> None:
    rows = np.array([[[10, 10, 50, 50, 0.9, 2], [10, 10, 50, 50, 0.8, 2], [0, 0, 5, 5, 0.0, 1]]], np.float32)
    found = decode(rows, IDENTITY)
    assert found.classes.tolist() == [2, 2]


def test_nothing_found_is_empty() -> None:
    found = decode(np.zeros((1, 7, 100), np.float32), IDENTITY)
    assert found.boxes.shape == (0, 4)
    assert found.scores.shape == found.classes.shape == (0,)
