"""A data set in Ultralytics' format, read without Ultralytics: class names, images and boxes by split.

Rules:
- `path` is taken relative to the data.yaml's own folder, then to the working directory; a split is a
  folder, a .txt list of images, or a list of those. Labels lie where Ultralytics looks for them: the last
  `/images/` of the path turned into `/labels/`, with the suffix .txt.
- An image without a label file is a background image. A split without a single box is refused.
- Nothing is written beside the data.

Source: https://docs.ultralytics.com/datasets/detect/ ; `img2label_paths` in ultralytics 8.4.190.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import yaml

from edgeprune.errors import DataError
from edgeprune.records import files

#: What Ultralytics takes for an image and Pillow opens everywhere.
IMAGE_SUFFIXES = frozenset({".bmp", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp"})


@dataclass(frozen=True)
class DataSet:
    """A data set on this machine.

    Attributes:
        file: The data.yaml.
        root: The folder that its splits are relative to.
        names: Class names by index, 0 to n-1.
        splits: Split name ('train', 'val') -> image files in sorted order.
        test: Image files of the split 'test', where there is one on this machine. No stage reads it; it is known
            so that nothing else takes images from it.
    """

    file: Path
    root: Path
    names: dict[int, str]
    splits: dict[str, tuple[Path, ...]]
    test: tuple[Path, ...] = ()

    @property
    def evaluation(self) -> tuple[Path, ...]:
        """Images that accuracy is told on: val and test."""
        return (*self.splits["val"], *self.test)


def read_dataset(file: Path) -> DataSet:
    """Read a data.yaml and list its train and val images.

    Raises:
        DataError: The file is missing or malformed, a split has no images, or no boxes at all.
    """
    try:
        content = yaml.safe_load(file.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise DataError(
            "The data set's YAML can't be read.", where=file, got=str(error).splitlines()[0],
            next_step="give DATA=path/to/data.yaml in Ultralytics' format",
        ) from error  # fmt: skip
    if not isinstance(content, dict):
        raise DataError("The data set's YAML holds no keys.", where=file, expected="train, val, names")
    names = _names(file, content)
    root = _root(file, content)
    splits = {}
    for split in ("train", "val"):
        if not content.get(split):
            raise DataError(f"The data set has no split '{split}'.", where=file, expected="train and val")
        splits[split] = tuple(sorted(dict.fromkeys(_images(file, root, content[split]))))
        if not splits[split]:
            raise DataError(f"The split '{split}' has no images.", where=f"{file}: {content[split]}")
    data = DataSet(file, root, names, splits, _test_images(file, root, content.get("test")))
    for split, images in splits.items():
        if not any(label_file(image).is_file() and label_file(image).stat().st_size for image in images):
            raise DataError(
                f"The split '{split}' has no labels.",
                where=label_file(images[0]).parent,
                expected="a .txt file beside each image's folder, /images/ turned into /labels/",
                got=f"none for {len(images)} images",
            )
    return data


def label_file(image: Path) -> Path:
    """Where the boxes of an image stand."""
    parts = list(image.parts)
    for i in range(len(parts) - 2, -1, -1):
        if parts[i] == "images":
            parts[i] = "labels"
            break
    return Path(*parts).with_suffix(".txt")


def read_boxes(image: Path, classes: int) -> npt.NDArray[np.float32]:
    """Boxes of one image: shape (n, 5), columns class, centre x, centre y, width, height in 0..1 of the image.

    Segments are turned into their boxes. Doubled rows count once, as in Ultralytics.

    Raises:
        DataError: A row that is no box, or a class outside 0..classes-1; with file and line.
    """
    file = label_file(image)
    if not file.is_file():
        return np.zeros((0, 5), np.float32)
    boxes = []
    for number, line in enumerate(file.read_text().splitlines(), 1):
        if not line.strip():
            continue
        try:
            values = [float(v) for v in line.split()]
            box = values if len(values) == 5 else _segment_box(values)
            if not (0 <= box[0] < classes and box[0] == int(box[0])):
                raise DataError(
                    "A label's class is not one of the data set's.",
                    where=f"{file}:{number}", expected=f"0 to {classes - 1}", got=values[0],
                )  # fmt: skip
            if min(box[1:]) < 0 or max(box[1:]) > 1.01:
                raise ValueError("coordinates outside 0..1")
        except ValueError as error:
            raise DataError(
                "A label's row is no box.", where=f"{file}:{number}",
                expected="class x y width height, in 0..1 of the image", got=f"{line[:60]!r}: {error}",
            ) from error  # fmt: skip
        boxes.append(box)
    return np.unique(np.array(boxes, np.float32).reshape(-1, 5), axis=0)


def require_classes(data: DataSet, names: Mapping[int, str], model: Path) -> None:
    """Refuse a data set whose classes are not the model's.

    Raises:
        DataError: Another number of classes, or other names.
    """
    if data.names != dict(names):
        differing = [i for i in sorted({*data.names, *names}) if data.names.get(i) != names.get(i)][:3]
        raise DataError(
            "The data set's classes are not the model's.",
            where=data.file,
            expected=f"{len(names)} classes: {', '.join(f'{i}: {names.get(i)}' for i in differing)} … ({model})",
            got=f"{len(data.names)} classes: {', '.join(f'{i}: {data.names.get(i)}' for i in differing)} …",
            next_step="give the data set that the model was trained on",
        )


def fingerprint(data: DataSet, cache: dict[str, str]) -> str:
    """Hash of names, images and labels by content.

    Args:
        data: The data set.
        cache: 'path|size|mtime' -> sha256 of files hashed before; filled here. A file that changed has
            another size or time, so a stale entry is never found.
    """
    digest = hashlib.sha256(repr(sorted(data.names.items())).encode())
    for split, images in sorted(data.splits.items()):
        for image in images:
            for file in (image, label_file(image)):
                if not file.is_file():
                    continue
                state = file.stat()
                key = f"{file}|{state.st_size}|{state.st_mtime_ns}"
                if key not in cache:
                    cache[key] = files.sha256_file(file)
                digest.update(f"{split}|{file.name}|{cache[key]}\n".encode())
    return digest.hexdigest()


def _names(file: Path, content: dict[str, Any]) -> dict[int, str]:
    names = content.get("names")
    if isinstance(names, list):
        names = dict(enumerate(names))
    if not isinstance(names, dict) or not names or sorted(names) != list(range(len(names))):
        raise DataError(
            "The data set's class names are missing or not numbered from 0.",
            where=f"{file}: names", expected="a list, or a mapping 0: name, 1: name, …", got=repr(names)[:80],
        )  # fmt: skip
    return {int(i): str(name) for i, name in names.items()}


def _root(file: Path, content: dict[str, Any]) -> Path:
    if not content.get("path"):
        return file.parent.resolve()
    path = Path(content["path"])
    candidates = [path] if path.is_absolute() else [file.parent / path, Path.cwd() / path]
    found = next((c for c in candidates if c.exists()), None)
    if found is None:
        raise DataError(
            "The data set's folder doesn't exist.", where=f"{file}: path",
            expected=" or ".join(str(c) for c in candidates), got="neither",
            next_step="leave 'path' out: it then is the YAML's own folder",
        )  # fmt: skip
    return found.resolve()


def _images(file: Path, root: Path, entry: Any) -> list[Path]:
    if isinstance(entry, list):
        return [image for e in entry for image in _images(file, root, e)]
    place = root / str(entry)
    if place.is_dir():
        return [p for p in place.rglob("*") if p.suffix.lower() in IMAGE_SUFFIXES]
    if place.is_file() and place.suffix == ".txt":
        lines = [line.strip() for line in place.read_text().splitlines() if line.strip()]
        return [Path(line) if Path(line).is_absolute() else place.parent / line for line in lines]
    raise DataError(
        "The data set's images don't exist.", where=file, expected=f"a folder or a .txt list at {place}", got="nothing"
    )


def _test_images(file: Path, root: Path, entry: Any) -> tuple[Path, ...]:
    """The test split's images; what isn't on this machine is left out: many a data.yaml names a test split that
    is seldom had, and no stage reads it."""
    found: set[Path] = set()
    for place in entry if isinstance(entry, list) else [entry] if entry else []:
        with suppress(DataError):
            found.update(_images(file, root, place))
    return tuple(sorted(found))


def _segment_box(values: list[float]) -> list[float]:
    if len(values) < 7 or len(values) % 2 == 0:
        raise ValueError(f"{len(values)} numbers")
    x, y = values[1::2], values[2::2]
    return [values[0], (min(x) + max(x)) / 2, (min(y) + max(y)) / 2, max(x) - min(x), max(y) - min(y)]
