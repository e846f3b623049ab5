"""`edgeprune calibrate select` as a user meets it."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from edgeprune.calibration.sets import read_calibration
from edgeprune.records.dataset import read_dataset
from tests.scenes import pictures
from tests.test_cli import edgeprune, refused


@pytest.fixture
def data(tmp_path: Path) -> Path:
    return pictures(tmp_path / "My Set", [[n % 2] for n in range(11)] + [[2]])


def test_a_set_is_written_told_and_read_again(tmp_path: Path, data: Path) -> None:
    shutil.copy(data.parent / "images/val/00.png", data.parent / "images/train/zz.png")
    (data.parent / "images/train/00.png").write_bytes(b"broken")
    arguments = ("calibrate", "select", "--data", data, "--size", 6, "--input-size", 64, "--out", tmp_path / "out")
    done = edgeprune(*arguments)
    assert done.returncode == 0, done.stderr
    assert "6 of 13 train images, seed 0, licence: CC0" in done.stdout
    assert "classes covered: 3 of the 3" in done.stdout
    assert "0 copies, 1 evaluation images, 1 that can't be read" in done.stdout
    assert "images/train/zz.png is images/val/00.png" in done.stdout
    assert "images/train/00.png can't be read: " in done.stdout
    file = tmp_path / "out" / "my-set-6.yaml"
    calibration, images = read_calibration(str(file), read_dataset(data))
    assert calibration.input_shape == (1, 3, 64, 64)
    assert len(images) == 6
    before = file.read_bytes()
    assert edgeprune(*arguments).returncode == 0
    assert file.read_bytes() == before
    assert "There is another calibration set" in refused(*arguments, "--seed", 1)
    assert edgeprune(*arguments, "--seed", 1, "--force").returncode == 0
    assert file.read_bytes() != before


def test_without_a_licence_it_says_how_to_give_one(tmp_path: Path, data: Path) -> None:
    data.write_text(data.read_text().replace("license: CC0", ""))
    arguments = ("calibrate", "select", "--data", data, "--size", 2, "--out", tmp_path / "out")
    assert "--licence TEXT" in refused(*arguments)
    assert not (tmp_path / "out").exists()
    done = edgeprune(*arguments, "--licence", "Our own; not to be passed on", "--name", "ours")
    assert done.returncode == 0, done.stderr
    assert "licence: Our own; not to be passed on" in (tmp_path / "out" / "ours.yaml").read_text()


def test_bad_input_ends_in_words(tmp_path: Path, data: Path) -> None:
    select = ("calibrate", "select", "--out", tmp_path / "out", "--data")
    assert "can't be read" in refused(*select, tmp_path / "none.yaml")
    assert "--size 12" in refused(*select, data, "--size", 13)
    assert "can't have this name" in refused(*select, data, "--size", 2, "--name", "../x")
    assert "--size" in refused(*select, data, "--size", 0)
    assert not (tmp_path / "out").exists()


def test_classes_that_find_no_place_are_named(tmp_path: Path, data: Path) -> None:
    said = edgeprune("calibrate", "select", "--data", data, "--size", 2, "--out", tmp_path).stdout
    assert "classes covered: 2 of the 3" in said
    assert "not covered: flat; a larger --size covers more" in said
