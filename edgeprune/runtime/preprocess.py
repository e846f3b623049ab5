"""An image file as the engine's input: decoded, letterboxed, scaled to 0..1.

Rules (those of Ultralytics' validator on square batches, so that mAP on the runtime is the validator's):
- The long side is scaled to the input, up as well as down, bilinear with half-pixel centres, without
  antialiasing; the short side is rounded up.
- The rest is padded with 114 on both sides, the odd pixel below and to the right.
- Colour order RGB; EXIF orientation is applied.

Source: `BaseDataset.load_image` and `LetterBox` in ultralytics 8.4.190; OpenCV's INTER_LINEAR.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageOps

from edgeprune.errors import DataError

#: Grey of the padding, as in Ultralytics' training.
PADDING = 114

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
    h0, w0 = image.shape[:2]
    ratio = min(height / h0, width / w0)
    h, w = min(math.ceil(h0 * ratio), height), min(math.ceil(w0 * ratio), width)
    resized = resize(image, h, w)
    left, top = round((width - w) / 2 - 0.1), round((height - h) / 2 - 0.1)
    canvas = np.full((height, width, 3), PADDING, np.uint8)
    canvas[top : top + h, left : left + w] = resized
    pixels = np.ascontiguousarray(canvas.transpose(2, 0, 1)[None], dtype=np.float32) / np.float32(255)
    return pixels, Letterbox((w / w0, h / h0), (left, top), (w0, h0))


def resize(image: Pixels, height: int, width: int) -> Pixels:
    """Bilinear, half-pixel centres, edges clamped; within one grey level of OpenCV's INTER_LINEAR."""
    if image.shape[:2] == (height, width):
        return image
    top, bottom, fy = _taps(image.shape[0], height)
    left, right, fx = _taps(image.shape[1], width)
    source = image.astype(np.float32)
    rows = source[top]
    rows += (source[bottom] - rows) * fy[:, None, None]
    columns = rows[:, left]
    columns += (rows[:, right] - columns) * fx[None, :, None]
    return (columns + np.float32(0.5)).astype(np.uint8)


def _taps(source: int, target: int) -> tuple[npt.NDArray[np.intp], npt.NDArray[np.intp], Floats]:
    position = (np.arange(target) + 0.5) * (source / target) - 0.5
    position = np.clip(position, 0, source - 1)
    low = np.floor(position).astype(np.intp)
    return low, np.minimum(low + 1, source - 1), (position - low).astype(np.float32)
