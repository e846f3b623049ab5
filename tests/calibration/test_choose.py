"""The choice as numbers: classes by their rarity, then scenes."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgeprune.calibration.choose import choose, quota


@given(st.integers(1, 12), st.integers(1, 60), st.integers(0, 2**32), st.data())
def test_every_class_gets_its_quota_wherever_it_can(classes: int, images: int, seed: int, drawn: st.DataObject) -> None:
    generator = np.random.default_rng(seed)
    shows = generator.random((images, classes)) < generator.random(classes) ** 2
    size = drawn.draw(st.integers(1, images))
    picks = choose(shows, generator.random((images, 5)), size, seed)
    assert len(picks) == len(set(picks)) == size
    occurs = shows.sum(axis=0)
    present = int((occurs > 0).sum())
    if size >= present:
        assert (shows[picks].sum(axis=0) >= np.minimum(occurs, quota(size, present))).all()


def test_one_image_that_shows_all_rare_classes_serves_them_all() -> None:
    shows = np.eye(6, dtype=bool)[[0, 1, 2, 3, 4, 5, 0, 0]]
    shows[7, 1:] = True
    assert choose(shows, np.zeros((8, 2)), 2, 0)[0] == 7


def test_rarest_classes_come_first_where_the_set_is_too_small_for_all() -> None:
    shows = np.zeros((10, 3), dtype=bool)
    shows[:6, 0], shows[6:9, 1], shows[9, 2] = True, True, True
    picks = choose(shows, np.arange(10.0)[:, None], 2, 0)
    assert shows[picks].any(axis=0).tolist() == [False, True, True]


def test_a_rare_scene_is_met_that_a_plain_draw_would_miss() -> None:
    """98 images of one scene and 2 of another far away: among 4 images it is there with nearly every seed."""
    scenes = np.random.default_rng(0).normal(0, 0.1, (100, 3))
    scenes[[40, 80]] += 10
    met = [bool({40, 80} & set(choose(np.ones((100, 1), dtype=bool), scenes, 4, seed))) for seed in range(50)]
    assert sum(met) >= 48  # by a plain draw: 8 % of the seeds


def test_images_that_all_look_the_same_are_still_chosen() -> None:
    assert sorted(choose(np.zeros((5, 1), dtype=bool), np.zeros((5, 3)), 5, 0)) == [0, 1, 2, 3, 4]


@pytest.mark.parametrize("size", [0, 6])
def test_a_size_that_makes_no_sense_is_a_programmers_mistake(size: int) -> None:
    with pytest.raises(ValueError):
        choose(np.zeros((5, 1), dtype=bool), np.zeros((5, 3)), size, 0)
