"""Finding a set again: every image with its bytes, none of them an evaluation image."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from edgeprune.calibration.sets import (
    SameBytes,
    find_calibration,
    list_calibration_sets,
    read_calibration,
    resolve,
    write_calibration,
)
from edgeprune.errors import DataError
from edgeprune.records.calibration import CalibrationSet
from edgeprune.records.dataset import DataSet, read_dataset
from edgeprune.records.files import sha256_file
from tests.calibration.conftest import SHAPE, chosen


def by_hand(data: DataSet, *paths: str) -> CalibrationSet:
    return CalibrationSet.model_validate({
        "name": "mine", "data": "set/data.yaml", "licence": "CC0", "rule": "by hand", "seed": 0, "input_shape": SHAPE,
        "images": [{"path": path, "sha256": sha256_file(data.root / path)} for path in paths],
    })  # fmt: skip


def test_a_written_set_is_read_again_by_its_path(tmp_path: Path, data: DataSet) -> None:
    calibration = chosen(data).calibration
    file = write_calibration(calibration, tmp_path / "calibration")
    again, paths = read_calibration(str(file), data)
    assert again == calibration
    assert [path.relative_to(data.root).as_posix() for path in paths] == [image.path for image in again.images]
    assert file.read_text().startswith("#")


def test_a_set_is_found_by_its_name(tmp_path: Path, data: DataSet, monkeypatch: pytest.MonkeyPatch) -> None:
    write_calibration(chosen(data).calibration, tmp_path / "calibration")
    monkeypatch.chdir(tmp_path)
    assert "some" in list_calibration_sets()
    assert len(read_calibration("some", data)[1]) == 8
    with pytest.raises(DataError, match=r"no calibration set 'sone'[\s\S]*did you mean 'some'"):
        find_calibration("sone")


def test_an_unknown_name_says_how_to_choose_a_set(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(DataError, match="edgeprune calibrate select"):
        find_calibration("nothing-like-it")


def test_another_set_isnt_overwritten_unless_asked(tmp_path: Path, data: DataSet) -> None:
    file = write_calibration(chosen(data).calibration, tmp_path)
    before = file.read_bytes()
    write_calibration(chosen(data).calibration, tmp_path)
    other = chosen(data, 9).calibration
    with pytest.raises(DataError, match="--force"):
        write_calibration(other, tmp_path)
    assert file.read_bytes() == before
    write_calibration(other, tmp_path, force=True)
    assert find_calibration(str(file)) == other


def test_changed_bytes_are_refused_with_the_images_name(data: DataSet) -> None:
    calibration = chosen(data).calibration
    victim = calibration.images[3].path
    with (data.root / victim).open("ab") as file:
        file.write(b"\0")
    with pytest.raises(DataError, match=rf"not those that were chosen[\s\S]*1 of 8 have others: {victim}"):
        resolve(calibration, data)


def test_a_missing_image_is_refused_by_name(data: DataSet) -> None:
    calibration = chosen(data).calibration
    victim = calibration.images[0].path
    (data.root / victim).unlink()
    with pytest.raises(DataError, match=rf"are missing[\s\S]*set/data\.yaml[\s\S]*1 of 8 are not there: {victim}"):
        resolve(calibration, data)


def test_an_evaluation_image_named_by_hand_is_refused(data: DataSet) -> None:
    with pytest.raises(DataError, match=r"holds evaluation images[\s\S]*1 of 2: images/val/01\.png"):
        resolve(by_hand(data, "images/train/00.png", "images/val/01.png"), data)


@pytest.mark.parametrize("split", ["val", "test"])
def test_an_evaluation_image_under_another_name_is_refused_by_its_content(data: DataSet, split: str) -> None:
    shutil.copytree(data.root / "images/val", data.root / "images/test")
    (data.root / "images/test/02.png").write_bytes((data.root / "images/train/05.png").read_bytes())
    data.file.write_text(data.file.read_text() + "test: images/test\n")
    if split == "val":
        shutil.copy(data.root / "images/val/01.png", data.root / "images/train/holiday.png")
    image = {"val": "images/train/holiday.png", "test": "images/train/05.png"}[split]
    twin = {"val": "images/val/01.png", "test": "images/test/02.png"}[split]
    again = read_dataset(data.file)
    with pytest.raises(DataError) as caught:
        resolve(by_hand(again, "images/train/00.png", image), again)
    assert f"1 of 2: {image} (is {twin})" in str(caught.value)


def test_images_outside_the_data_sets_folder_are_found(tmp_path: Path, data: DataSet) -> None:
    shutil.copytree(data.root / "images/train", tmp_path / "more" / "images" / "x")
    shutil.copytree(data.root / "labels/train", tmp_path / "more" / "labels" / "x")
    data.file.write_text(data.file.read_text().replace("images/train", "../more/images/x"))
    again = read_dataset(data.file)
    calibration = chosen(again).calibration
    assert all(image.path.startswith("../more/images/x/") for image in calibration.images)
    assert all(path.is_file() for path in resolve(calibration, again))


@pytest.mark.parametrize("images", ["images: []", "images:", ""])
def test_an_empty_set_is_refused_by_name(tmp_path: Path, images: str) -> None:
    file = tmp_path / "hollow.yaml"
    head = "name: hollow\ndata: d/data.yaml\nlicence: CC0\nrule: by hand\nseed: 0\ninput_shape: [1, 3, 64, 64]\n"
    file.write_text(f"{head}{images}\n")
    with pytest.raises(DataError, match=r"'hollow' is empty[\s\S]*hollow\.yaml[\s\S]*calibrate select"):
        find_calibration(str(file))
    file.write_text("")
    with pytest.raises(DataError, match="'hollow' is empty"):
        find_calibration(str(file))


@pytest.mark.parametrize(
    ("text", "what"), [("{", "not valid YAML"), ("images: [{path: a.png}]\n", "is not right"), ("- 1\n", "no keys")]
)
def test_a_malformed_file_is_refused_as_every_record_is(tmp_path: Path, text: str, what: str) -> None:
    file = tmp_path / "odd.yaml"
    file.write_text(text)
    with pytest.raises(DataError, match=what):
        find_calibration(str(file))
    with pytest.raises(DataError, match="can't be read"):
        find_calibration(str(tmp_path / "none.yaml"))


def test_the_same_bytes_are_found_whatever_the_name(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"same")
    (tmp_path / "b").write_bytes(b"emas")
    (tmp_path / "long").write_bytes(b"longer")
    files = SameBytes(tmp_path / name for name in ("a", "b", "long", "gone"))
    assert files.find(4, sha256_file(tmp_path / "b")) == tmp_path / "b"
    assert files.find(4, "0" * 64) is None
    assert files.find(5, "0" * 64) is None
