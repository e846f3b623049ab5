"""Data sets in Ultralytics' format, good and bad."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from edgeprune.errors import DataError
from edgeprune.records.dataset import fingerprint, label_file, read_boxes, read_dataset, require_classes


def make(
    folder: Path, yaml: str = "train: images/train\nval: images/val\nnames: [a, b]\n", label: str = "0 .5 .5 .2 .2"
) -> Path:
    for split in ("train", "val"):
        for kind in ("images", "labels"):
            (folder / kind / split).mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (20, 10)).save(folder / "images" / split / "x.jpg")
        (folder / "labels" / split / "x.txt").write_text(label)
    file = folder / "data.yaml"
    file.write_text(yaml)
    return file


def test_reads_names_images_and_boxes(tmp_path: Path) -> None:
    data = read_dataset(make(tmp_path))
    assert data.names == {0: "a", 1: "b"}
    assert [p.name for p in data.splits["val"]] == ["x.jpg"]
    np.testing.assert_allclose(read_boxes(data.splits["val"][0], 2), [[0, 0.5, 0.5, 0.2, 0.2]])


def test_segments_become_boxes_and_doubled_rows_count_once(tmp_path: Path) -> None:
    row = "1 .1 .2 .5 .2 .5 .6 .1 .6"
    data = read_dataset(make(tmp_path, label=f"{row}\n{row}\n"))
    np.testing.assert_allclose(read_boxes(data.splits["val"][0], 2), [[1, 0.3, 0.4, 0.4, 0.4]], rtol=1e-6)


def test_labels_lie_under_the_last_images_folder() -> None:
    assert label_file(Path("/images/set/images/val/a.b.jpg")) == Path("/images/set/labels/val/a.b.txt")


def test_list_files_and_several_folders_are_read(tmp_path: Path) -> None:
    make(tmp_path)
    (tmp_path / "val.txt").write_text("images/val/x.jpg\n")
    yaml = f"path: {tmp_path}\ntrain: [images/train, images/val]\nval: val.txt\nnames: {{0: a, 1: b}}\n"
    data = read_dataset(make(tmp_path, yaml))
    assert len(data.splits["train"]) == 2
    assert len(data.splits["val"]) == 1


@pytest.mark.parametrize(
    ("yaml", "what"),
    [
        ("train: images/train\nval: images/val\n", "class names are missing"),
        ("train: images/train\nval: images/val\nnames: {1: a, 2: b}\n", "not numbered from 0"),
        ("train: images/train\nnames: [a]\n", "no split 'val'"),
        ("train: images/nope\nval: images/val\nnames: [a]\n", "images don't exist"),
        ("path: /nowhere/at/all\ntrain: images/train\nval: images/val\nnames: [a]\n", "folder doesn't exist"),
        ("names: [a\n", "can't be read"),
        ("- 1\n", "holds no keys"),
    ],
)
def test_malformed_yaml_is_refused(tmp_path: Path, yaml: str, what: str) -> None:
    with pytest.raises(DataError, match=what):
        read_dataset(make(tmp_path, yaml))


def test_split_without_labels_is_refused(tmp_path: Path) -> None:
    file = make(tmp_path)
    (tmp_path / "labels" / "val" / "x.txt").unlink()
    with pytest.raises(DataError, match="split 'val' has no labels"):
        read_dataset(file)


@pytest.mark.parametrize("label", ["0 .5 .5", "zero .5 .5 .1 .1", "0 5 5 1 1", "7 .5 .5 .1 .1", "-1 .5 .5 .1 .1"])
def test_bad_label_is_refused_with_file_and_line(tmp_path: Path, label: str) -> None:
    data = read_dataset(make(tmp_path, label=f"0 .5 .5 .2 .2\n{label}\n"))
    with pytest.raises(DataError, match=r"x\.txt:2"):
        read_boxes(data.splits["val"][0], 2)


def test_classes_that_dont_match_are_refused_by_name(tmp_path: Path) -> None:
    data = read_dataset(make(tmp_path))
    require_classes(data, {0: "a", 1: "b"}, Path("m.pt"))
    with pytest.raises(DataError, match=r"1: c[\s\S]*1: b"):
        require_classes(data, {0: "a", 1: "c"}, Path("m.pt"))
    with pytest.raises(DataError, match="3 classes"):
        require_classes(data, {0: "a", 1: "b", 2: "c"}, Path("m.pt"))


def test_fingerprint_follows_contents(tmp_path: Path) -> None:
    file = make(tmp_path)
    before = fingerprint(read_dataset(file), {})
    assert fingerprint(read_dataset(file), {}) == before
    cache: dict[str, str] = {}
    fingerprint(read_dataset(file), cache)
    (tmp_path / "labels" / "train" / "x.txt").write_text("1 .5 .5 .2 .21")
    assert fingerprint(read_dataset(file), cache) != before
