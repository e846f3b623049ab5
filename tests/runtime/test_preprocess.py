"""Letterbox and resize against OpenCV and Ultralytics' own."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from edgeprune.errors import DataError
from edgeprune.runtime import preprocess
from edgeprune.runtime.preprocess import given, letterbox, read_image, resize, resize_by_numpy, resizer

SIZES = [(480, 640), (640, 480), (333, 500), (64, 64), (31, 200), (1000, 17)]


@pytest.mark.parametrize("size", SIZES)
def test_resize_is_opencvs_within_one_level(size: tuple[int, int]) -> None:
    import cv2

    image = np.random.default_rng(0).integers(0, 256, (*size, 3), dtype=np.uint8)
    for height, width in ((240, 320), (320, 213), (7, 320), (640, 640)):
        expected = cv2.resize(image, (width, height), interpolation=cv2.INTER_LINEAR)
        for way in (resize, resize_by_numpy):
            difference = np.abs(way(image, height, width).astype(int) - expected)
            assert difference.max() <= 1, way


def test_without_opencv_numpy_resizes_and_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    image = np.random.default_rng(0).integers(0, 256, (48, 64, 3), dtype=np.uint8)
    assert resizer().startswith("opencv ")
    monkeypatch.setattr(preprocess, "_opencv", lambda: None)
    assert resizer() == f"numpy {np.__version__}"
    assert np.array_equal(resize(image, 31, 50), resize_by_numpy(image, 31, 50))


def test_pixels_are_the_floats_before_they_are_scaled() -> None:
    image = np.random.default_rng(0).integers(0, 256, (48, 64, 3), dtype=np.uint8)
    (pixels, placed), (floats, same) = (given(image, 32, 32, kind) for kind in ("pixels", "floats"))
    assert (pixels.shape, pixels.dtype) == ((1, 32, 32, 3), np.uint8)
    assert (floats.shape, floats.dtype) == ((1, 3, 32, 32), np.float32)
    assert placed == same
    assert np.array_equal(floats, pixels.transpose(0, 3, 1, 2) / np.float32(255))


@pytest.mark.parametrize("size", SIZES)
def test_letterbox_is_the_validators(size: tuple[int, int], tmp_path: Path) -> None:
    import cv2
    from ultralytics.data.dataset import YOLODataset

    file = tmp_path / "images" / "x.png"
    file.parent.mkdir()
    pixels = np.random.default_rng(1).integers(0, 256, (*size, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(file)
    (tmp_path / "labels").mkdir()
    (tmp_path / "labels" / "x.txt").write_text("0 .5 .5 .2 .2")
    data = {"names": {0: "a"}, "nc": 1, "channels": 3}
    dataset = YOLODataset(img_path=str(file.parent), data=data, imgsz=320, augment=False, rect=False, task="detect")
    expected = dataset[0]["img"].numpy()
    ours, placed = letterbox(read_image(file), 320, 320)
    assert np.abs(ours[0] * 255 - expected).max() <= 1.001
    assert placed.size == (size[1], size[0])
    assert cv2.imread(str(file)).shape[:2] == size


def test_exif_orientation_is_applied(tmp_path: Path) -> None:
    image = Image.new("RGB", (40, 20))
    exif = Image.Exif()
    exif[274] = 6
    image.save(tmp_path / "x.jpg", exif=exif)
    assert read_image(tmp_path / "x.jpg").shape == (40, 20, 3)


def test_unreadable_image_is_refused_by_name(tmp_path: Path) -> None:
    file = tmp_path / "x.jpg"
    file.write_bytes(b"\xff\xd8\xff not a jpeg")
    with pytest.raises(DataError, match=r"x\.jpg"):
        read_image(file)
