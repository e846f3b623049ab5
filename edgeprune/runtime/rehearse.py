"""Inputs for engines that are timed and not listened to."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt


def random_tensor(shape: Sequence[int], kind: str, seed: int = 0) -> npt.NDArray[Any]:
    """A tensor of noise: 0..1 where `kind` (as numpy calls it) is a float, all of its levels where it is an integer."""
    generator = np.random.default_rng(seed)
    if np.issubdtype(np.dtype(kind), np.integer):
        ends = np.iinfo(kind)
        return generator.integers(ends.min, ends.max, tuple(shape), np.dtype(kind), endpoint=True)
    return generator.random(tuple(shape), np.float32).astype(kind)
