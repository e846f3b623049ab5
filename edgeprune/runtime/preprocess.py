"""An image file as the engine's input: decoded, letterboxed, scaled to 0..1.

Rules (those of Ultralytics' validator on square batches, so that mAP on the runtime is the validator's):
- The long side is scaled to the input, up as well as down, bilinear with half-pixel centres, without
  antialiasing; the short side is rounded up.
- The rest is padded with 114 on both sides, the odd pixel below and to the right.
- Colour order RGB; EXIF orientation is applied.
- OpenCV resizes where it is installed (the extra `opencv`; a host has it through Ultralytics), NumPy where it isn't:
  640 x 480 to 320 px in 0.06 ms, or in 0.9 (x86-64, one thread). They differ by one grey level at most, here and there;
  which of them it was is said with every figure (`resizer`).
- Letterbox has two halves, so that an engine that takes pixels is spared the second.

Source: `BaseDataset.load_image` and `LetterBox` in ultralytics 8.4.190; OpenCV's INTER_LINEAR.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cache, lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageOps

from edgeprune.errors import DataError
from edgeprune.records.form import Input

#: Grey of the padding, as in Ultralytics' training.
PADDING = 114
#: Rows that NumPy resizes at a time: some hundred kilobytes of floats.
ROWS = 32

Pixels = npt.NDArray[np.uint8]
Floats = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Letterbox:
    """How an image lies in the input: input pixel = original pixel x gain + pad.

    Attributes:
        gain: (x, y) scale.
        pad: (left, top) in input pixels.
        size: (width, height) of the original in pixels.
    """

    gain: tuple[float, float]
    pad: tuple[int, int]
    size: tuple[int, int]


def read_image(path: Path, *, at_least: int | None = None) -> Pixels:
    """RGB pixels, shape (height, width, 3).

    Args:
        path: The image file.
        at_least: Edge in pixels that is enough: a JPEG is decoded at the smallest of its scales (1/8 to 1) whose
            edges are not shorter, several times as fast. Other formats come in full.

    Raises:
        DataError: Not an image that Pillow can read.
    """
    try:
        with Image.open(path) as image:
            if at_least is not None:
                image.draft(None, (at_least, at_least))
            return np.asarray(ImageOps.exif_transpose(image).convert("RGB"))
    except (OSError, ValueError, SyntaxError, ImportError, Image.DecompressionBombError) as error:
        # ImportError: where Ultralytics is loaded, its patch of Image.open looks for another decoder
        raise DataError("The image can't be read.", where=path, got=f"{type(error).__name__}: {error}") from error


def letterbox(image: Pixels, height: int, width: int) -> tuple[Floats, Letterbox]:
    """Fit an image into the input.

    Args:
        image: RGB, shape (h, w, 3).
        height, width: Of the input, in pixels.

    Returns:
        Float32 in 0..1 of shape (1, 3, height, width), and how the image lies in it.
    """
    canvas, placed = fit(image, height, width)
    return to_floats(canvas), placed


def fit(image: Pixels, height: int, width: int) -> tuple[Pixels, Letterbox]:
    """The first half of `letterbox`: RGB pixels of shape (height, width, 3), and how the image lies in them."""
    h0, w0 = image.shape[:2]
    ratio = min(height / h0, width / w0)
    h, w = min(math.ceil(h0 * ratio), height), min(math.ceil(w0 * ratio), width)
    left, top = round((width - w) / 2 - 0.1), round((height - h) / 2 - 0.1)
    canvas = np.empty((height, width, 3), np.uint8)
    canvas[:top], canvas[top + h :], canvas[:, :left], canvas[:, left + w :] = (PADDING,) * 4
    canvas[top : top + h, left : left + w] = resize(image, h, w)
    return canvas, Letterbox((w / w0, h / h0), (left, top), (w0, h0))


def to_floats(canvas: Pixels) -> Floats:
    """The second half: float32 in 0..1 of shape (1, 3, height, width)."""
    pixels = np.ascontiguousarray(canvas.transpose(2, 0, 1))[None]
    return np.divide(pixels, np.float32(255), dtype=np.float32)


def given(image: Pixels, height: int, width: int, kind: Input) -> tuple[Floats | Pixels, Letterbox]:
    """An image as an engine of that input wants it: `letterbox`'s floats, or pixels of shape (1, height, width, 3)."""
    canvas, placed = fit(image, height, width)
    return (canvas[None] if kind == "pixels" else to_floats(canvas)), placed


def resize(image: Pixels, height: int, width: int) -> Pixels:
    """Bilinear, half-pixel centres, edges clamped: OpenCV's INTER_LINEAR, or within one grey level of it.

    Args:
        image: RGB, shape (h, w, 3).
    """
    if image.shape[:2] == (height, width):
        return image
    opencv = _opencv()
    if opencv is None:
        return resize_by_numpy(image, height, width)
    made: Pixels = opencv.resize(image, (width, height), interpolation=opencv.INTER_LINEAR)
    return made


def resize_by_numpy(image: Pixels, height: int, width: int) -> Pixels:
    """The same without OpenCV; the same numbers on every machine.

    Takes the four pixels around each point before it computes with any, some rows at a time, so that what it computes
    with stays in the processor's cache.
    """
    top, bottom, fy = _taps(image.shape[0], height)
    left, right, fx = _taps(image.shape[1], width)
    across, down = np.repeat(fx, 3), fy[:, None]
    made = np.empty((height, 3 * width), np.uint8)
    for start in range(0, height, ROWS):
        rows = slice(start, start + ROWS)
        upper, lower = (
            _towards(_floats(source.take(left, 1)), _floats(source.take(right, 1)), across)
            for source in (image[top[rows]], image[bottom[rows]])
        )
        made[rows] = _towards(upper, lower, down[rows]) + np.float32(0.5)
    return made.reshape(height, width, 3)


def resizer() -> str:
    """What resizes images here, and its version: it goes with every figure."""
    opencv = _opencv()
    return f"numpy {np.__version__}" if opencv is None else f"opencv {opencv.__version__}"


def _floats(pixels: Pixels) -> Floats:
    """Float32, a row's channels side by side."""
    return pixels.reshape(len(pixels), -1).astype(np.float32)


def _towards(low: Floats, high: Floats, share: Floats) -> Floats:
    """low + (high - low) x share; both are used up."""
    high -= low
    high *= share
    high += low
    return high


@cache
def _opencv() -> Any:
    """The module where it is installed, without threads of its own: cores are the engine's."""
    try:
        import cv2
    except ImportError:
        return None
    cv2.setNumThreads(0)
    return cv2


@lru_cache(maxsize=32)
def _taps(source: int, target: int) -> tuple[npt.NDArray[np.intp], npt.NDArray[np.intp], Floats]:
    """Of each target pixel along an axis: the two source pixels that it lies between, and how far from the first."""
    position = (np.arange(target) + 0.5) * (source / target) - 0.5
    position = np.clip(position, 0, source - 1)
    low = np.floor(position).astype(np.intp)
    return low, np.minimum(low + 1, source - 1), (position - low).astype(np.float32)
