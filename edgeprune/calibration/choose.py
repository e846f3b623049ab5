"""The choice itself, a function of numbers to numbers: which images cover the classes, then the scenes.

Rules:
- Classes first: until every class that occurs has its quota, the image with the largest gain is taken, where a
  class that still lacks images counts 1 / (images that show it). Rare classes are so served first, and an image
  that shows many of them at once counts for all. Of equal gains the one furthest from what is chosen is taken.
- The quota is size / (2 x classes), at least 1 and at most what there is: classes take half of the set at most,
  unless there are so many that one image each needs more. With size >= classes every class gets its image.
- Then scenes: an image is drawn with a chance in proportion to its squared distance from the nearest chosen one.
  Rare scenes are met without the set filling up with freaks, as it does when the furthest image is taken each time.
- Same numbers and seed, same choice: draws come from Python's `random`, whose sequence is promised to stay.

Source: greedy set cover: Chvatal (1979); squared-distance draws: Arthur and Vassilvitskii, 'k-means++: The
Advantages of Careful Seeding' (2007), section 2.2.
"""

from __future__ import annotations

import random

import numpy as np
import numpy.typing as npt


def quota(size: int, classes: int) -> int:
    """Images that every one of `classes` classes is to have in a set of `size`."""
    return max(1, size // (2 * max(1, classes)))


def choose(shows: npt.NDArray[np.bool_], scenes: npt.NDArray[np.float64], size: int, seed: int) -> list[int]:
    """Choose `size` images; indices in the order of the choice.

    Args:
        shows: Shape (images, classes): the image holds a box of the class.
        scenes: Shape (images, n): descriptors between which a distance means something.
        size: 1 to the number of images.
        seed: Of the draws.
    """
    if not 1 <= size <= len(shows):
        raise ValueError(f"size {size} of {len(shows)} images")
    generator = random.Random(seed)
    occurs = shows.sum(axis=0)
    wanted = np.minimum(occurs, quota(size, int((occurs > 0).sum())))
    weight = 1 / np.maximum(occurs, 1)
    has = np.zeros_like(occurs)
    free = np.ones(len(shows), dtype=bool)
    distance = np.full(len(shows), np.inf)  # squared, to the nearest chosen image
    chosen: list[int] = []
    while len(chosen) < size:
        if (has < wanted).any():
            gain = np.where(free, (shows * np.where(has < wanted, weight, 0)).sum(axis=1), -1)
            best = np.flatnonzero(gain == gain.max())
            pick = int(best[distance[best].argmax()])
        else:
            pick = _draw(np.where(free, distance, 0), free, generator)
        chosen.append(pick)
        free[pick] = False
        has += shows[pick]
        distance = np.minimum(distance, ((scenes - scenes[pick]) ** 2).sum(axis=1))
    return chosen


def _draw(chance: npt.NDArray[np.float64], free: npt.NDArray[np.bool_], generator: random.Random) -> int:
    """An index drawn in proportion to `chance`; the first that is free where nothing is far from anything."""
    total = np.cumsum(chance)
    if not total[-1] > 0 or not np.isfinite(total[-1]):
        return int(np.flatnonzero(free)[0])
    pick = int(np.searchsorted(total, generator.random() * total[-1], side="right"))
    return min(pick, int(np.flatnonzero(chance > 0)[-1]))
