"""One data set of 24 train images, and the call that most tests make."""

from __future__ import annotations

from pathlib import Path

import pytest

from edgeprune.calibration.select import Selection, select
from edgeprune.records.dataset import DataSet, read_dataset
from tests.scenes import pictures

#: Class 0 nearly everywhere, class 1 in some, class 2 in one image alone, and two background images.
TRAIN = [[0, 1] if n % 4 == 0 else [] if n in {5, 6} else [2] if n == 17 else [0] for n in range(24)]
SHAPE = (1, 3, 64, 64)


@pytest.fixture
def data(tmp_path: Path) -> DataSet:
    return read_dataset(pictures(tmp_path / "set", TRAIN))


def chosen(data: DataSet, size: int = 8, seed: int = 0) -> Selection:
    return select(data, size, seed, name="some", licence="CC0", input_shape=SHAPE)
