"""Decoding and suppression against torchvision and Ultralytics."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from edgeprune.runtime.decode import Thresholds, decode, suppress
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
