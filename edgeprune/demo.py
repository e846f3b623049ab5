"""The main job from nothing: a synthetic data set, a detector trained on it, two targets built.

Nothing is downloaded. The scenes are drawn by a seeded generator and are worth detecting: four kinds of
objects in many sizes, colours and rotations, overlapping one another, half hidden behind bars, among
clutter that is no object, under uneven light, shadow, blur and noise.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import yaml
from PIL import Image, ImageDraw, ImageFilter

from edgeprune.job import list_targets
from edgeprune.pipeline import build
from edgeprune.records import Goal, Recipe, Report
from edgeprune.records.files import write_bytes
from edgeprune.records.target import RACED
from edgeprune.workshop import Listener, Workshop

NAMES = ("disc", "square", "triangle", "star")
#: Edge of an image and of the engines' input in pixels: small, so that the demo is short.
SIZE = 128
#: Drawn larger and scaled down, for smooth edges.
OVERSAMPLE = 2
TRAIN_IMAGES, VAL_IMAGES = 288, 96
TRAIN_EPOCHS = 28
#: An object whose visible share is smaller has no label.
MIN_VISIBLE = 0.4
TARGETS = ("onnxruntime-x86", "openvino-x86")
#: Half of the multiply-accumulates, at most 2 points of mAP50-95: 96 images can't tell less.
RECIPE = Recipe(goal=Goal(macs_ratio=0.5, max_map_drop=0.02), epochs=10, importance_batches=8)


def run(out: Path, listener: Listener | None = None) -> dict[Path, Report]:
    """Draw, train, build both targets.

    Args:
        out: Folder for everything.
        listener: Told what happens.

    Returns:
        report.json -> report, one a target.
    """
    shop = Workshop(out / "detector", listener)
    with shop.open():
        shop.stage(
            "draw scenes", lambda work: draw_data_set(work / "data", seed=0),
            reads={"size": SIZE, "images": [TRAIN_IMAGES, VAL_IMAGES], "names": NAMES}, makes=("data",),
        )  # fmt: skip
        shop.stage(
            "train a detector", lambda work: _train(shop, work),
            reads={"data": shop / "data", "epochs": TRAIN_EPOCHS}, makes=("best.pt",),
        )  # fmt: skip
    reports = {}
    for name in TARGETS:
        report = build(
            model=shop / "best.pt", data=shop / "data" / "data.yaml", target=str(_small_target(name, out)),
            recipe=RECIPE, out=out, listener=listener,
        )  # fmt: skip
        assert report is not None
        reports[out / name / "report.json"] = report
    return reports


def draw_data_set(folder: Path, seed: int, train: int = TRAIN_IMAGES, val: int = VAL_IMAGES, size: int = SIZE) -> None:
    """Draw a data set in Ultralytics' format; the same seed draws the same images.

    Args:
        folder: Where images/, labels/ and data.yaml go.
        train, val: Images of each split.
        size: Edge of the square images in pixels.
    """
    for index, (split, count) in enumerate((("train", train), ("val", val))):
        images, labels = folder / "images" / split, folder / "labels" / split
        images.mkdir(parents=True, exist_ok=True)
        labels.mkdir(parents=True, exist_ok=True)
        for number in range(count):
            pixels, boxes = draw_scene(np.random.default_rng([seed, index, number]), size)
            Image.fromarray(pixels).save(images / f"{number:04d}.jpg", quality=92)
            rows = [f"{label} {' '.join(f'{v:.6f}' for v in box)}" for label, box in boxes]
            (labels / f"{number:04d}.txt").write_text("".join(f"{row}\n" for row in rows))
    content = {"train": "images/train", "val": "images/val", "names": dict(enumerate(NAMES))}
    write_bytes(folder / "data.yaml", yaml.safe_dump(content, sort_keys=False).encode())


def draw_scene(
    generator: np.random.Generator, size: int
) -> tuple[npt.NDArray[np.uint8], list[tuple[int, tuple[float, float, float, float]]]]:
    """One scene.

    Returns:
        RGB pixels of shape (size, size, 3), and (class, (x, y, w, h) in 0..1) of every object that shows.
    """
    edge = size * OVERSAMPLE
    canvas = _background(generator, edge)
    owner = np.full((edge, edge), -1)  # which object shows at a pixel
    whole: list[tuple[int, npt.NDArray[np.bool_]]] = []
    for index in range(int(generator.integers(2, 8))):
        label = int(generator.integers(len(NAMES)))
        mask = _shape_mask(generator, label, edge)
        _paint(canvas, mask, _colour(generator), generator)
        owner[mask] = index
        whole.append((label, mask))
    for _ in range(int(generator.integers(0, 3))):
        mask = _bar_mask(generator, edge)
        _paint(canvas, mask, _colour(generator), generator)
        owner[mask] = -1
    boxes = []
    for index, (label, mask) in enumerate(whole):
        visible = owner == index
        if visible.sum() >= MIN_VISIBLE * mask.sum() and visible.any():
            boxes.append((label, _box(mask, edge)))
    return _photograph(generator, canvas, size), boxes


def _background(generator: np.random.Generator, edge: int) -> npt.NDArray[np.float64]:
    coarse = generator.uniform(0.15, 0.75, (int(generator.integers(2, 7)),) * 2 + (3,))
    image = Image.fromarray((coarse * 255).astype(np.uint8)).resize((edge, edge), Image.Resampling.BICUBIC)
    draw = ImageDraw.Draw(image)
    for _ in range(int(generator.integers(4, 16))):  # clutter: lines, rings and specks of no class
        x, y = generator.uniform(0, edge, 2)
        reach = generator.uniform(0.03, 0.25) * edge
        angle = generator.uniform(0, math.tau)
        end = (x + reach * math.cos(angle), y + reach * math.sin(angle))
        fill = tuple(int(c * 255) for c in _colour(generator))
        kind = generator.integers(3)
        if kind == 0:
            draw.line(((x, y), end), fill=fill, width=int(generator.integers(1, 5)))
        elif kind == 1:
            draw.arc((x - reach / 2, y - reach / 2, x + reach / 2, y + reach / 2), 0, 300, fill=fill, width=2)
        else:
            draw.ellipse((x, y, x + 4, y + 4), fill=fill)
    return np.asarray(image, dtype=np.float64) / 255


def _shape_mask(generator: np.random.Generator, label: int, edge: int) -> npt.NDArray[np.bool_]:
    radius = edge * math.exp(generator.uniform(math.log(0.08), math.log(0.28)))
    x, y = generator.uniform(radius * 0.8, edge - radius * 0.8, 2)
    turn = generator.uniform(0, math.tau)
    corners = {1: 4, 2: 3, 3: 10}.get(label)
    image = Image.new("1", (edge, edge))
    draw = ImageDraw.Draw(image)
    if corners is None:
        stretch = generator.uniform(0.75, 1.0)
        draw.ellipse((x - radius, y - radius * stretch, x + radius, y + radius * stretch), fill=1)
    else:
        points = []
        for corner in range(corners):
            reach = radius * (0.45 if label == 3 and corner % 2 else 1.0)
            angle = turn + math.tau * corner / corners
            points.append((x + reach * math.cos(angle), y + reach * math.sin(angle)))
        draw.polygon(points, fill=1)
    return np.asarray(image)


def _bar_mask(generator: np.random.Generator, edge: int) -> npt.NDArray[np.bool_]:
    image = Image.new("1", (edge, edge))
    ends = [tuple(generator.uniform(-0.1, 1.1, 2) * edge) for _ in range(2)]
    ImageDraw.Draw(image).line(ends, fill=1, width=int(edge * generator.uniform(0.02, 0.06)))
    return np.asarray(image)


def _paint(
    canvas: npt.NDArray[np.float64],
    mask: npt.NDArray[np.bool_],
    colour: Sequence[float],
    generator: np.random.Generator,
) -> None:
    """Colour with a gradient across the image, so that no object is flat."""
    slope = np.linspace(-1, 1, canvas.shape[0]) * generator.uniform(-0.25, 0.25)
    shaded = np.clip(np.asarray(colour) + slope[:, None, None], 0, 1)
    canvas[mask] = np.broadcast_to(shaded, canvas.shape)[mask]


def _colour(generator: np.random.Generator) -> tuple[float, float, float]:
    red, green, blue = generator.uniform(0.05, 1.0, 3).tolist()
    return red, green, blue


def _box(mask: npt.NDArray[np.bool_], edge: int) -> tuple[float, float, float, float]:
    ys, xs = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    x0, x1, y0, y1 = xs[0] / edge, (xs[-1] + 1) / edge, ys[0] / edge, (ys[-1] + 1) / edge
    return float(x0 + x1) / 2, float(y0 + y1) / 2, float(x1 - x0), float(y1 - y0)


def _photograph(generator: np.random.Generator, canvas: npt.NDArray[np.float64], size: int) -> npt.NDArray[np.uint8]:
    """Light from one side, a shadow's edge, the lens' blur, the sensor's noise."""
    edge = canvas.shape[0]
    ys, xs = np.mgrid[0:edge, 0:edge] / edge - 0.5
    angle, edge_angle = generator.uniform(0, math.tau, 2)
    light = 1 + generator.uniform(0, 0.8) * (xs * math.cos(angle) + ys * math.sin(angle))
    if generator.random() < 0.5:
        light *= np.where(
            xs * math.cos(edge_angle) + ys * math.sin(edge_angle) > generator.uniform(-0.2, 0.3), 0.6, 1.0
        )
    lit = np.clip(canvas * light[..., None], 0, 1)
    image = Image.fromarray((lit * 255).astype(np.uint8)).resize((size, size), Image.Resampling.LANCZOS)
    image = image.filter(ImageFilter.GaussianBlur(generator.uniform(0, 0.8)))
    noisy = np.asarray(image) + generator.normal(0, generator.uniform(1, 9), (size, size, 3))
    pixels: npt.NDArray[np.uint8] = np.clip(noisy, 0, 255).astype(np.uint8)
    return pixels


def _train(shop: Workshop, work: Path) -> None:
    from edgeprune.records.dataset import read_dataset
    from edgeprune.yolo.checkpoint import pack
    from edgeprune.yolo.data import make_view
    from edgeprune.yolo.load import untrained
    from edgeprune.yolo.trainer import train

    view = make_view(read_dataset(shop / "data" / "data.yaml"), work / "view")
    start = work / "start.pt"
    write_bytes(start, pack(untrained("yolov8n.yaml", dict(enumerate(NAMES)), seed=0), {}, half=False))
    arguments: dict[str, Any] = {
        "data": str(view), "epochs": TRAIN_EPOCHS, "imgsz": SIZE, "batch": 16, "nbs": 16, "optimizer": "AdamW",
        "lr0": 0.002, "lrf": 0.02, "cos_lr": True, "warmup_epochs": 1.0, "warmup_bias_lr": 0.0, "close_mosaic": 8,
        "cache": "ram", "val": False,
    }  # fmt: skip
    model = train(
        start, work / "training", seed=0, arguments=arguments, log=shop / "logs" / "train.log",
        on_epoch=lambda done, total, fitness: shop.listener.progress("train a detector", done, total),
    )  # fmt: skip
    write_bytes(work / "best.pt", pack(model, {}, half=True))


def _small_target(name: str, out: Path) -> Path:
    """The target's YAML with the demo's small input, and only forms left to race: settings would take minutes."""
    content = yaml.safe_load(list_targets()[name].read_text())
    content = {key: value for key, value in content.items() if key not in RACED}
    content["input_shape"] = [1, 3, SIZE, SIZE]
    file = out / "targets" / f"{name}.yaml"
    write_bytes(file, yaml.safe_dump(content, sort_keys=False).encode())
    return file
