"""The synthetic data set: the same for a seed, in the right format, its boxes on its objects."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from edgeprune.demo import NAMES, draw_data_set, draw_scene
from edgeprune.records.dataset import read_boxes, read_dataset


def test_same_seed_draws_the_same_bytes(tmp_path: Path) -> None:
    from edgeprune.records.files import sha256_file

    for name in "ab":
        draw_data_set(tmp_path / name, seed=5, train=3, val=2, size=64)
    draw_data_set(tmp_path / "c", seed=6, train=3, val=2, size=64)
    a, b, c = (sha256_file(tmp_path / name) for name in "abc")
    assert a == b != c


def test_splits_share_no_image(scenes: Path) -> None:
    data = read_dataset(scenes)
    contents = {split: {p.read_bytes() for p in images} for split, images in data.splits.items()}
    assert not contents["train"] & contents["val"]


def test_scenes_hold_every_class_in_several_sizes_and_counts() -> None:
    boxes = [draw_scene(np.random.default_rng([1, i]), 96)[1] for i in range(60)]
    every = [b for scene in boxes for b in scene]
    assert {label for label, _ in every} == set(range(len(NAMES)))
    areas = np.array([w * h for _, (_, _, w, h) in every])
    assert areas.max() / areas.min() > 8
    assert len({len(scene) for scene in boxes}) >= 4
    for _, (x, y, w, h) in every:
        assert x - w / 2 + 1e-6 >= 0
        assert x + w / 2 <= 1 + 1e-6
        assert y - h / 2 + 1e-6 >= 0
        assert y + h / 2 <= 1 + 1e-6


def test_labels_are_read_back(scenes: Path) -> None:
    data = read_dataset(scenes)
    assert sum(len(read_boxes(image, len(NAMES))) for image in data.splits["train"]) > 24
