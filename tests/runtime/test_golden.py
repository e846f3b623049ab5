from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from edgeprune.records.golden import GoldenBox
from edgeprune.runtime.decode import Detections
from edgeprune.runtime.golden import CLEAR, MOVED, difference, golden


class Finds:
    """A detector that finds the same on every image."""

    def __init__(self, *found: tuple[int, tuple[float, ...], float]) -> None:
        self.found = Detections(
            np.array([box for _, box, _ in found], np.float32).reshape(-1, 4),
            np.array([score for *_, score in found], np.float32),
            np.array([label for label, *_ in found], np.intp),
        )

    def __call__(self, image: object) -> Detections:
        return self.found


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    Image.new("RGB", (64, 64)).save(tmp_path / "a.png")
    return tmp_path


KNOWN = golden(
    "a.png",
    [
        GoldenBox(label=0, corners=(0, 0, 10, 10), score=0.9),
        GoldenBox(label=1, corners=(20, 20, 40, 40), score=0.6),
        GoldenBox(label=1, corners=(50, 50, 60, 60), score=CLEAR - 0.01),
    ],
)
FIRST, SECOND = (0, (0.0, 0.0, 10.0, 10.0), 0.9), (1, (20.0, 20.0, 40.0, 40.0), 0.6)


def test_what_was_not_clear_is_not_asked_for() -> None:
    assert [box.score for box in KNOWN.found] == [0.9, 0.6]


@pytest.mark.parametrize(
    ("found", "differ"),
    [
        ([FIRST, SECOND], 0.0),
        ([FIRST, (1, (21.0, 20.0, 41.0, 40.0), 0.5)], 0.0),  # 19/21 of both, a score .1 away
        ([FIRST, (1, (28.0, 20.0, 48.0, 40.0), 0.6)], 2 / 3),  # 12/28: another box, so one missing and one extra
        ([FIRST, (0, SECOND[1], 0.6)], 2 / 3),  # of another class
        ([FIRST, (1, SECOND[1], 0.6 + MOVED + 0.01)], 2 / 3),
        ([FIRST], 1 / 2),
        ([], 1.0),
        ([FIRST, SECOND, (2, (0.0, 50.0, 9.0, 60.0), CLEAR + MOVED)], 0.0),  # near the line: it may come and go
        ([FIRST, SECOND, (2, (0.0, 50.0, 9.0, 60.0), 0.8)], 1 / 3),
        ([FIRST, SECOND, SECOND], 1 / 3),  # a double, as without suppression
    ],
)
def test_share_of_what_differs(folder: Path, found: list[tuple[int, tuple[float, ...], float]], differ: float) -> None:
    assert difference([KNOWN], folder, Finds(*found)) == pytest.approx(differ)  # type: ignore[arg-type]


def test_nothing_known_is_no_difference(folder: Path) -> None:
    assert difference([], folder, Finds(FIRST)) == 0.0  # type: ignore[arg-type]
