"""Choosing a set: the same one for a seed, classes covered, copies and evaluation images left out."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from edgeprune.calibration.select import find_licence, select, suggest_name
from edgeprune.errors import DataError
from edgeprune.records.calibration import to_yaml
from edgeprune.records.dataset import DataSet, read_dataset
from edgeprune.records.files import sha256_file
from tests.calibration.conftest import SHAPE, TRAIN, chosen
from tests.scenes import pictures


def paths(data: DataSet, size: int = 8, seed: int = 0) -> list[str]:
    return [image.path for image in chosen(data, size, seed).calibration.images]


def test_same_seed_same_bytes_wherever_the_data_set_lies(tmp_path: Path, data: DataSet) -> None:
    first = to_yaml(chosen(data).calibration)
    shutil.copytree(data.root, tmp_path / "elsewhere" / "set")
    assert to_yaml(chosen(read_dataset(tmp_path / "elsewhere" / "set" / "data.yaml")).calibration) == first
    assert str(tmp_path).encode() not in first


def test_other_seeds_choose_other_images(data: DataSet) -> None:
    assert len({tuple(paths(data, seed=seed)) for seed in range(6)}) > 3


def test_the_set_holds_distinct_train_images_with_their_hashes(data: DataSet) -> None:
    calibration = chosen(data, 10).calibration
    assert len({image.path for image in calibration.images}) == 10
    for image in calibration.images:
        assert image.path.startswith("images/train/")
        assert sha256_file(data.root / image.path) == image.sha256


@pytest.mark.parametrize("seed", range(4))
def test_a_class_that_one_image_shows_is_covered(data: DataSet, seed: int) -> None:
    selection = chosen(data, 4, seed)
    assert "images/train/17.png" in {image.path for image in selection.calibration.images}
    assert selection.occurs == {"flat": 21, "tall": 6, "wide": 1}
    assert min(selection.chosen.values()) == 1


def test_a_class_that_never_occurs_is_no_matter(tmp_path: Path) -> None:
    selection = chosen(read_dataset(pictures(tmp_path, [[0], [1], [0], [0]])), 2)
    assert selection.chosen.keys() == {"flat", "tall"}


def test_copies_are_left_out_and_named(data: DataSet) -> None:
    shutil.copy(data.root / "images/train/03.png", data.root / "images/train/99.png")
    selection = chosen(read_dataset(data.file), 24)
    (copy,) = selection.left_out.copies.items()
    assert set(copy) == {"images/train/03.png", "images/train/99.png"}
    assert len({image.sha256 for image in selection.calibration.images}) == 24


@pytest.mark.parametrize("split", ["val", "test"])
def test_an_evaluation_image_under_another_name_in_train_is_never_chosen(data: DataSet, split: str) -> None:
    data.file.write_text(data.file.read_text() + "test: images/test\n")
    shutil.copytree(data.root / "images/val", data.root / "images/test")
    if split == "test":
        shutil.copy(data.root / "images/train/00.png", data.root / "images/test/own.png")
    else:
        shutil.copy(data.root / "images/val/01.png", data.root / "images/train/holiday.png")
    again = read_dataset(data.file)
    most = len(again.splits["train"]) - 1
    for seed in range(3):
        selection = chosen(again, most, seed)
        assert len(selection.left_out.evaluation) == 1
        assert not {"images/train/holiday.png", ("images/train/00.png" if split == "test" else "")} & {
            image.path for image in selection.calibration.images
        }


def test_a_test_split_that_isnt_here_is_no_matter(data: DataSet) -> None:
    data.file.write_text(data.file.read_text() + "test: images/never-downloaded\n")
    assert read_dataset(data.file).test == ()


def test_images_that_cant_be_read_are_left_out_and_named(data: DataSet) -> None:
    (data.root / "images/train/02.png").write_bytes(b"no picture")
    (data.root / "images/train/17.png").write_bytes((data.root / "images/train/17.png").read_bytes()[:60])
    selection = chosen(data, 22)
    assert selection.left_out.unreadable.keys() == {"images/train/02.png", "images/train/17.png"}
    assert all(selection.left_out.unreadable.values())
    assert selection.chosen["wide"] == 0


def test_too_few_images_are_refused_with_what_there_is(data: DataSet) -> None:
    shutil.copy(data.root / "images/train/03.png", data.root / "images/train/99.png")
    with pytest.raises(DataError, match=r"25 images[\s\S]*24 of 25[\s\S]*1 copies[\s\S]*--size 24"):
        chosen(read_dataset(data.file), 25)


def test_a_data_set_that_is_evaluated_on_its_train_images_has_none_to_choose(data: DataSet) -> None:
    data.file.write_text(data.file.read_text().replace("images/val", "images/train"))
    with pytest.raises(DataError, match="24 evaluation images"):
        chosen(read_dataset(data.file), 1)


def test_a_large_split_is_looked_at_in_part_and_still_covers_its_classes(tmp_path: Path) -> None:
    data = read_dataset(pictures(tmp_path, [*TRAIN, *[[0]] * 40]))
    for seed in range(4):
        selection = select(data, 3, seed, name="x", licence="CC0", input_shape=SHAPE, pool_size=6)
        assert 24 <= selection.pool < 30 < selection.train
        assert min(selection.chosen.values()) == 1
        assert "of large splits 24 images" in selection.calibration.rule


def test_a_bad_label_is_refused_with_file_and_line(data: DataSet) -> None:
    (data.root / "labels/train/04.txt").write_text("0 .5 .5 .2 .2\n9 .5 .5 .2 .2\n")
    with pytest.raises(DataError, match=r"04\.txt:2"):
        chosen(data)


@pytest.mark.parametrize("name", ["", "Ca ts", "../x", "-x", "a.yaml", "x\n"])
def test_a_name_that_is_no_file_name_is_refused(data: DataSet, name: str) -> None:
    with pytest.raises(DataError, match="can't have this name"):
        select(data, 2, 0, name=name, licence="CC0", input_shape=SHAPE)


def test_progress_is_told(data: DataSet) -> None:
    told: list[tuple[str, int, int]] = []
    select(data, 2, 0, name="x", licence="CC0", input_shape=SHAPE, progress=lambda *said: told.append(said))
    assert ("reading labels", 24, 24) in told
    assert ("looking at images", 24, 24) in told


def test_the_licence_is_the_data_sets_own(data: DataSet) -> None:
    assert find_licence(data) == "CC0"
    data.file.write_text(data.file.read_text().replace("license: CC0", "roboflow: {license: CC BY 4.0}"))
    assert find_licence(data) == "CC BY 4.0"
    data.file.write_text(data.file.read_text().replace("roboflow", "something"))
    assert find_licence(data) is None
    (data.root / "LICENSE.md").write_text("\n# MIT License\n\nCopyright\n")
    assert find_licence(data) == "MIT License (LICENSE.md)"


def test_a_name_is_suggested_from_the_folder(data: DataSet) -> None:
    assert suggest_name(data, 8) == "set-8"
