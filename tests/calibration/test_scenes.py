"""Descriptors tell scenes apart that differ, and hardly move when a picture is only stored otherwise."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from edgeprune.calibration.scenes import balanced, describe, describe_file
from edgeprune.errors import DataError

SIZE = 256


def scene(kind: str, seed: int) -> np.ndarray:
    """A picture of stripes, of a dark or of a bright plain, never the same twice."""
    generator = np.random.default_rng(seed)
    pixels = np.full((SIZE, SIZE, 3), {"dark": 30.0, "bright": 210.0, "stripes": 120.0}[kind])
    if kind == "stripes":
        pixels[:, (np.arange(SIZE) // 16 + seed) % 2 == 0] = 60
    return (pixels + generator.normal(0, 4, pixels.shape)).clip(0, 255).astype(np.uint8)


def test_pictures_of_one_kind_lie_closer_than_pictures_of_two() -> None:
    kinds = [kind for kind in ("dark", "bright", "stripes") for _ in range(3)]
    rows = balanced([describe(scene(kind, seed)) for seed, kind in enumerate(kinds)])
    distance = np.linalg.norm(rows[:, None] - rows[None], axis=2)
    same = np.array([[a == b for a in kinds] for b in kinds])
    assert distance[same].max() < distance[~same].min()


def test_every_descriptor_has_the_same_weight() -> None:
    generator = np.random.default_rng(0)
    rows = balanced([describe(generator.integers(0, 256, (40, 40, 3), dtype=np.uint8)) for _ in range(20)])
    shares = [(rows[:, part] ** 2).sum(axis=1).mean() for part in (slice(48), slice(48, 112), slice(112, 144))]
    np.testing.assert_allclose(shares, 1)


def test_a_jpeg_decoded_small_is_nearly_the_same_scene(tmp_path: Path) -> None:
    others = [describe(scene(kind, seed)) for seed, kind in enumerate(("dark", "bright", "stripes", "bright"))]
    Image.fromarray(scene("stripes", 2)).save(tmp_path / "x.jpg", quality=90)
    rows = balanced([*others, describe_file(tmp_path / "x.jpg")])
    distance = np.linalg.norm(rows - rows[-1], axis=1)
    assert distance[2] < 0.1 * np.delete(distance, [2, 4]).min()


def test_an_image_that_cant_be_decoded_is_named(tmp_path: Path) -> None:
    Image.fromarray(scene("dark", 0)).save(tmp_path / "x.jpg")
    (tmp_path / "x.jpg").write_bytes((tmp_path / "x.jpg").read_bytes()[:600])
    with pytest.raises(DataError, match=r"x\.jpg"):
        describe_file(tmp_path / "x.jpg")
