"""Small synthetic data sets in the format of each of Ultralytics' tasks: rectangles on noise."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import yaml
from PIL import Image

NAMES = ("flat", "tall", "wide")
SIZE = 64


def draw(folder: Path, task: str, train: int = 8, val: int = 4) -> Path:
    """Draw images with the labels of `task`; returns what `data=` takes."""
    for split, count in (("train", train), ("val", val)):
        for number in range(count):
            _image(folder, task, split, number, np.random.default_rng([split == "val", number]))
    if task == "classify":
        return folder
    content: dict[str, object] = {"path": str(folder), "train": "images/train", "val": "images/val"}
    content["names"] = {0: "depth"} if task == "depth" else dict(enumerate(NAMES))
    extra = {
        "pose": {"kpt_shape": [17, 3]},
        "semantic": {"masks_dir": "masks"},
        "depth": {"nc": 1, "channels": 3, "depth_scale": 1000},
    }
    file = folder / "data.yaml"
    file.write_text(yaml.safe_dump({**content, **extra.get(task, {})}))
    return file


def pictures(folder: Path, train: Sequence[Sequence[int]], val: int = 3) -> Path:
    """A detection set of pictures that differ in colour and texture; returns its data.yaml.

    Args:
        folder: Where it goes.
        train: Classes that each train image shows; none: a background image.
        val: Number of val images, of class 0.
    """
    for split, shown in (("train", train), ("val", [[0]] * val)):
        for number, classes in enumerate(shown):
            generator = np.random.default_rng([split == "val", number])
            pixels = generator.integers(0, 256, 3) * 0.7 + generator.integers(0, 1 + 9 * (number % 8), (30, 40, 3))
            _save(pixels.clip(0, 255).astype(np.uint8), folder / "images" / split / f"{number:02}.png")
            labels = folder / "labels" / split / f"{number:02}.txt"
            labels.parent.mkdir(parents=True, exist_ok=True)
            labels.write_text("".join(f"{label} 0.5 0.5 0.2 0.3\n" for label in classes))
    file = folder / "data.yaml"
    content = {"train": "images/train", "val": "images/val", "names": dict(enumerate(NAMES)), "license": "CC0"}
    file.write_text(yaml.safe_dump(content))
    return file


def _image(folder: Path, task: str, split: str, number: int, generator: np.random.Generator) -> None:
    pixels = generator.integers(0, 60, (SIZE, SIZE, 3), dtype=np.uint8)
    mask = np.full((SIZE, SIZE), 255, dtype=np.uint8)
    rows = []
    label = number % len(NAMES)
    for _ in range(1 if task == "classify" else 3):
        width, height = ((24, 24), (12, 32), (32, 12))[label]
        x, y = (int(generator.integers(0, SIZE - edge)) for edge in (width, height))
        pixels[y : y + height, x : x + width, label] = 220
        mask[y : y + height, x : x + width] = label
        rows.append(_row(task, label, x / SIZE, y / SIZE, width / SIZE, height / SIZE))
        label = int(generator.integers(len(NAMES)))
    if task == "classify":
        _save(pixels, folder / split / NAMES[number % len(NAMES)] / f"{number}.png")
        return
    _save(pixels, folder / "images" / split / f"{number}.png")
    if task == "semantic":
        _save(mask, folder / "masks" / split / f"{number}.png")
    elif task == "depth":
        _save(1000 + 10 * mask.astype(np.uint16), folder / "depth" / split / f"{number}.png")
    else:
        labels = folder / "labels" / split / f"{number}.txt"
        labels.parent.mkdir(parents=True, exist_ok=True)
        labels.write_text("".join(f"{row}\n" for row in rows))


def _row(task: str, label: int, x: float, y: float, width: float, height: float) -> str:
    corners = [(x, y), (x + width, y), (x + width, y + height), (x, y + height)]
    values = [x + width / 2, y + height / 2, width, height]
    if task in {"segment", "obb"}:
        values = [v for corner in corners for v in corner]
    elif task == "pose":
        for point in range(17):
            px, py = corners[point % 4]
            values += [min(px, 0.99), min(py, 0.99), 2]
    return " ".join([str(label), *(f"{v:.5f}" for v in values)])


def _save(pixels: np.ndarray, file: Path) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(file)
