"""Calibration sets of real images, where ../shared is."""

from __future__ import annotations

import random
from pathlib import Path

import numpy as np
import pytest

from edgeprune.calibration.scenes import balanced, describe_file
from edgeprune.calibration.select import find_licence, select
from edgeprune.calibration.sets import resolve
from edgeprune.records.dataset import DataSet, read_dataset

SHAPE = (1, 3, 320, 320)


def picks(data: DataSet, size: int, seed: int) -> list[Path]:
    chosen = select(data, size, seed, name="real", licence="as the data set's", input_shape=SHAPE)
    return resolve(chosen.calibration, data)


def test_blood_cells_have_a_licence_and_every_class(shared: Path) -> None:
    data = read_dataset(shared / "data" / "bccd" / "data.yaml")
    assert find_licence(data) == "MIT License (LICENSE)"
    selection = select(data, 64, 0, name="real", licence="MIT", input_shape=SHAPE)
    assert min(selection.chosen.values()) >= 40
    assert len(resolve(selection.calibration, data)) == 64


def test_32_images_of_coco_show_more_classes_than_a_plain_draw(shared: Path) -> None:
    data = read_dataset(shared / "data" / "coco-train128" / "data.yaml")
    selection = select(data, 32, 0, name="real", licence="CC BY 4.0", input_shape=SHAPE)
    assert len(selection.occurs) == 71
    assert sum(count > 0 for count in selection.chosen.values()) >= 65  # plain draws: 47 on the mean of 8


@pytest.mark.parametrize("size", [16, 64])
def test_no_scene_is_left_as_far_away_as_by_plain_draws(shared: Path, size: int) -> None:
    """Means over 8 seeds: the train image furthest from the set is nearer, and the mean image not further."""
    data = read_dataset(shared / "data" / "bccd" / "data.yaml")
    train = data.splits["train"]
    rows = balanced([describe_file(image) for image in train])
    far: dict[str, list[np.ndarray]] = {"rule": [], "plain": []}
    for seed in range(8):
        chosen = set(picks(data, size, seed))
        for name, indices in (
            ("rule", [i for i, image in enumerate(train) if image in chosen]),
            ("plain", random.Random(seed).sample(range(len(train)), size)),
        ):
            distance = np.linalg.norm(rows[:, None] - rows[None, indices], axis=2).min(axis=1)
            far[name].append(np.array([distance.max(), distance.mean()]))
    rule, plain = np.mean(far["rule"], axis=0), np.mean(far["plain"], axis=0)
    assert rule[0] < 0.85 * plain[0]
    assert rule[1] < 1.02 * plain[1]
