"""A scene as a few numbers: cheap to compute, enough to tell night from day and field from street.

Rules:
- Three descriptors of a 32 px thumbnail (stretched to a square), each blind to what the others see: mean colours
  on a 4 x 4 grid (where it is bright), a joint RGB histogram of 4 x 4 x 4 bins (which colours, wherever they are),
  and edge directions in 8 bins for each quarter, weighted by strength (texture and contrast).
- The histogram enters by its square root: distances are then Hellinger's, and large plain areas don't drown
  everything else.
- Over a pool of images every descriptor is scaled to the same mean squared distance from its mean, so that none
  outvotes the others by its unit.

Nothing here is learnt: no weights to bring, the same numbers on every machine with the same Pillow.

Source: Oliva and Torralba, 'Modeling the Shape of the Scene' (2001), for grids of orientation energy; Dalal and
Triggs, 'Histograms of Oriented Gradients' (2005), section 6.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image

from edgeprune.runtime.preprocess import Pixels, read_image

#: Edge of the thumbnail in pixels.
EDGE = 32
#: Grid cells along an edge for colours, and for edge directions.
CELLS, QUARTERS = 4, 2
#: Bins a colour channel, and of edge directions over the full turn.
COLOURS, DIRECTIONS = 4, 8

Vector = npt.NDArray[np.float64]
Scene = tuple[Vector, Vector, Vector]


def describe_file(path: Path) -> Scene:
    """The scene of an image file.

    Raises:
        DataError: Not an image that Pillow can read.
    """
    return describe(read_image(path, at_least=2 * EDGE))


def describe(pixels: Pixels) -> Scene:
    """Colours on a grid (48 numbers), colour histogram (64), edge directions (32) of RGB pixels (h, w, 3)."""
    box = Image.Resampling.BOX
    small = np.asarray(Image.fromarray(pixels).resize((EDGE, EDGE), box), np.float64) / 255
    cell = EDGE // CELLS
    grid = small.reshape(CELLS, cell, CELLS, cell, 3).mean(axis=(1, 3)).ravel()
    bins = np.minimum((small * COLOURS).astype(np.intp), COLOURS - 1) @ np.array([COLOURS**2, COLOURS, 1])
    histogram = np.sqrt(np.bincount(bins.ravel(), minlength=COLOURS**3) / bins.size)
    return grid, histogram, _edges(small.mean(axis=2))


def balanced(scenes: Sequence[Scene]) -> npt.NDArray[np.float64]:
    """One row an image, shape (images, 144): the descriptors side by side, each with the same weight."""
    blocks = []
    for kind in range(3):
        block = np.stack([scene[kind] for scene in scenes])
        block -= block.mean(axis=0)
        spread = np.sqrt((block**2).sum(axis=1).mean())
        blocks.append(block / spread if spread > 0 else block)
    return np.concatenate(blocks, axis=1)


def _edges(grey: npt.NDArray[np.float64]) -> Vector:
    down, right = np.gradient(grey)
    strength = np.hypot(down, right)
    turn = np.floor((np.arctan2(down, right) / (2 * np.pi) + 1) * DIRECTIONS).astype(np.intp) % DIRECTIONS
    quarter = np.arange(EDGE) * QUARTERS // EDGE
    place = (quarter[:, None] * QUARTERS + quarter[None, :]) * DIRECTIONS + turn
    strengths = np.bincount(place.ravel(), strength.ravel(), minlength=QUARTERS**2 * DIRECTIONS)
    return strengths.astype(np.float64)
