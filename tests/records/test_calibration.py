"""The record of a calibration set: what it refuses, and how it is written."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from edgeprune.errors import DataError
from edgeprune.records import CalibrationSet, read_yaml
from edgeprune.records.calibration import to_yaml

GOOD: dict[str, Any] = {
    "name": "cells", "data": "cells/data.yaml", "licence": "MIT", "rule": "by hand", "seed": 0,
    "input_shape": [1, 3, 320, 320], "images": [{"path": "images/train/a é.jpg", "sha256": "0" * 64}],
}  # fmt: skip


@pytest.mark.parametrize(
    "change",
    [
        {"licence": ""},
        {"rule": ""},
        {"name": "Cells"},
        {"name": "../cells"},
        {"seed": -1},
        {"preprocessing": "stretch"},
        {"input_shape": [8, 3, 320, 320]},
        {"input_shape": [1, 3, 0, 320]},
        {"images": []},
        {"images": [{"path": "a.jpg", "sha256": "beef"}]},
        {"images": [{"path": "/abs/a.jpg", "sha256": "0" * 64}]},
        {"images": [{"path": "a\\b.jpg", "sha256": "0" * 64}]},
        {"images": GOOD["images"] * 2},
    ],
)
def test_what_makes_no_sense_is_refused(change: dict[str, Any]) -> None:
    CalibrationSet.model_validate(GOOD)
    with pytest.raises(ValueError):
        CalibrationSet.model_validate(GOOD | change)


@pytest.mark.parametrize("key", ["licence", "rule", "images"])
def test_what_a_set_must_say_is_asked_for(tmp_path: Path, key: str) -> None:
    file = tmp_path / "some.yaml"
    file.write_bytes(to_yaml(CalibrationSet.model_validate(GOOD)).replace(f"{key}:".encode(), f"x{key}:".encode()))
    with pytest.raises(DataError, match=f"'{key}'"):
        read_yaml(file, CalibrationSet, DataError)


def test_yaml_gives_the_same_record_and_the_same_bytes_again(tmp_path: Path) -> None:
    calibration = CalibrationSet.model_validate(GOOD)
    written = to_yaml(calibration, ("Cells.", "Two lines."))
    (tmp_path / "cells.yaml").write_bytes(written)
    again = read_yaml(tmp_path / "cells.yaml", CalibrationSet, DataError)
    assert again == calibration
    assert to_yaml(again, ("Cells.", "Two lines.")) == written
    assert written.startswith(b"# Cells.\n# Two lines.\nname: cells\n")
