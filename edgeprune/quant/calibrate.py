"""Ranges of activations from a calibration set, and the first scales.

Rules:
- Two passes over the images: the first finds every tensor's ends, the second counts its values in
  `BINS` bins between them. The observer chooses the range from the counts; 0 is always inside.
- minmax: the ends. percentile: all but `TAIL` of the values at each end. mse: the range with the least mean
  squared error after rounding. entropy: the range whose rounded distribution has the least Kullback-Leibler
  divergence from the clipped one (Migacz, '8-bit Inference with TensorRT', GTC 2017).
- SiLU's gate lies in 0..1 and the image in 0..1 whatever was seen. Asymmetric, the image's scale is then 1/255 and its
  integers are the pixels.
- Weights: largest magnitude of every output channel.
- A value that is no number is refused with the tensor and the image. A tensor that is always zero, a channel whose
  weights are all zero, and an image that stretches many tensors far beyond what the others need are named in the
  record's notes and handled: such a scale is set to 1/127, such an image is for the observer to clip.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from edgeprune.errors import DataError
from edgeprune.quant.affine import HIGH, LIMIT, asymmetric, symmetric
from edgeprune.quant.place import Placement, operators, place
from edgeprune.quant.watch import IMAGE, Watch
from edgeprune.records.quantization import Affine, Observer, Quantization, Scheme

Counts = npt.NDArray[np.float64]

#: Bins of a tensor's histogram; 8 a level, so that a clipped range is still counted finely.
BINS = 2048
#: Share of values that percentile leaves outside at each end.
TAIL = 1e-4
#: Ranges that mse and entropy try: this many shares of the whole.
CANDIDATES = 64
#: An image is an outlier where it reaches this many times as far as any other …
OUTLIER_FACTOR = 3.0
#: … in more than this share of the tensors.
OUTLIER_SHARE = 0.1
#: Scale of what is always zero.
DEAD_SCALE = 1 / HIGH


@dataclass(frozen=True)
class Image:
    """One calibration image: its name for messages, and float32 pixels (1, channels, height, width) in 0..1."""

    name: str
    pixels: npt.NDArray[np.float32]


def calibrate(
    model: nn.Module,
    images: Sequence[Image],
    scheme: Scheme,
    float_layers: Mapping[str, str],
    observer: Observer,
    calibration_sha256: str,
    on_image: Callable[[int, int], None] = lambda done, total: None,
) -> Quantization:
    """Choose what to quantize and the scales to start with.

    Args:
        model: In eval mode; not changed.
        images: At least one.
        float_layers: Convolution -> why it stays float.
        calibration_sha256: Of the calibration set's file, for the record.
        on_image: Called with passes done and passes in all.

    Raises:
        DataError: No image, or an image that makes a tensor infinite or no number.
    """
    if not images:
        raise DataError("The calibration set is empty.", expected="at least one image", got=0)
    device = next(model.parameters()).device
    pixels = [torch.from_numpy(image.pixels).to(device) for image in images]
    placement = place(operators(model, pixels[0]), scheme, float_layers)
    ends = _Ends(model, placement, len(images))
    for number, (image, given) in enumerate(zip(images, pixels, strict=True)):
        ends.begin(number, image.name)
        ends.run(given)
        on_image(number + 1, 2 * len(images))
    counts = _Counts(model, placement, ends)
    for number, given in enumerate(pixels):
        counts.run(given)
        on_image(len(images) + number + 1, 2 * len(images))
    notes = [*ends.outliers([image.name for image in images])]
    activations = {}
    for name in dict.fromkeys(placement.points.values()):
        low, high = _range(name, ends, counts, scheme, observer)
        if low == high:
            notes.append(f"tensor {name} is zero for every image: its scale is {DEAD_SCALE:.4g}")
        activations[name] = _affine(low, high, scheme)
    weights, dead = _weights(model, placement.convolutions)
    return Quantization(
        scheme=scheme, activations=activations, points=placement.points, weights=weights,
        float_layers=dict(float_layers), calibration_sha256=calibration_sha256, observer=observer,
        notes=(*notes, *dead),
    )  # fmt: skip


def choose_range(
    counts: Counts, low: float, high: float, observer: Observer, *, symmetric: bool
) -> tuple[float, float]:
    """The range that an observer makes of a histogram.

    Args:
        counts: Values in equal bins from `low` to `high`.
        symmetric: Whether the range will be -x..x.

    Returns:
        Low and high, low <= 0 <= high.
    """
    low, high = min(low, 0.0), max(high, 0.0)
    if observer == "minmax" or low == high:
        return low, high
    edges = np.linspace(low, high, len(counts) + 1)
    if observer == "percentile":
        share = counts.cumsum() / counts.sum()
        return min(float(edges[np.searchsorted(share, TAIL)]), 0.0), max(
            float(edges[np.searchsorted(share, 1 - TAIL) + 1]), 0.0
        )
    largest = max(-low, high)
    loss = _squared_error if observer == "mse" else _divergence
    limits = largest * np.arange(1, CANDIDATES + 1) / CANDIDATES
    tried = [(max(low, -limit), min(high, limit)) for limit in limits]
    grids = [(-limit, limit) for limit in limits] if symmetric else tried
    return tried[int(np.argmin([loss(counts, edges, ends) for ends in grids]))]


def _squared_error(counts: Counts, edges: Counts, ends: tuple[float, float]) -> float:
    middle = (edges[1:] + edges[:-1]) / 2
    step = (ends[1] - ends[0]) / 255
    # inside, the error of rounding is uniform; outside, it is the distance to the end
    outside = np.maximum(ends[0] - middle, 0) + np.maximum(middle - ends[1], 0)
    return float((counts * (outside**2 + np.where(outside == 0, step**2 / 12, 0))).sum())


def _divergence(counts: Counts, edges: Counts, ends: tuple[float, float]) -> float:
    middle = (edges[1:] + edges[:-1]) / 2
    inside = (middle >= ends[0]) & (middle <= ends[1])
    values = np.where(inside, counts, 0.0)
    if values.sum() == 0:
        return float("inf")
    clipped = values.copy()
    first, last = np.flatnonzero(inside)[[0, -1]]
    clipped[first] += counts[middle < ends[0]].sum()
    clipped[last] += counts[middle > ends[1]].sum()
    level = np.clip(((middle - ends[0]) / (ends[1] - ends[0]) * 255).round().astype(int), 0, 255)
    filled = inside & (clipped > 0)
    totals = np.bincount(level[inside], values[inside], 256)
    members = np.bincount(level[filled], minlength=256)
    spread = np.where(filled, totals[level] / np.maximum(members[level], 1), 0.0)
    p, q = clipped[filled] / clipped.sum(), spread[filled] / max(spread.sum(), 1e-30)
    return float((p * np.log(p / np.maximum(q, 1e-12))).sum())


def _affine(low: float, high: float, scheme: Scheme) -> Affine:
    if low == high:
        return Affine(scale=DEAD_SCALE)
    scale, zero_point = symmetric(max(-low, high)) if scheme.activations == "symmetric" else asymmetric(low, high)
    return Affine(scale=scale, zero_point=zero_point)


def _weights(model: nn.Module, convolutions: Iterable[str]) -> tuple[dict[str, tuple[float, ...]], list[str]]:
    scales, notes = {}, []
    modules = dict(model.named_modules())
    for name in convolutions:
        weight = modules[name].weight.detach().float()
        largest = weight.abs().flatten(1).amax(1).double().cpu()
        dead = int((largest == 0).sum())
        if dead:
            notes.append(f"{name}: {dead} of {len(largest)} output channels have no weight but zero")
        scales[name] = tuple(torch.where(largest > 0, largest / LIMIT, DEAD_SCALE).tolist())
    return scales, notes


def _range(name: str, ends: _Ends, counts: _Counts, scheme: Scheme, observer: Observer) -> tuple[float, float]:
    if name == IMAGE or name.endswith(":gate"):
        return 0.0, 1.0
    low, high = ends.of(name)
    return choose_range(counts.of[name], low, high, observer, symmetric=scheme.activations == "symmetric")


class _Watched(Watch):
    """Shows every tensor of a placement's points to `see`, under the name of its class."""

    def __init__(self, model: nn.Module, placement: Placement) -> None:
        super().__init__(model)
        self._points = placement.points

    def made(self, name: str, kind: str, value: object, inputs: object) -> object:
        if name in self._points and isinstance(value, torch.Tensor):
            self.see(self._points[name], value.float())
        return value

    def see(self, name: str, value: torch.Tensor) -> None:
        raise NotImplementedError


class _Ends(_Watched):
    """The ends of every class, image by image."""

    def __init__(self, model: nn.Module, placement: Placement, images: int) -> None:
        super().__init__(model, placement)
        self._ends = {name: np.zeros((images, 2)) for name in placement.points.values()}
        self._number, self._image = 0, ""

    def begin(self, number: int, image: str) -> None:
        self._number, self._image = number, image

    def see(self, name: str, value: torch.Tensor) -> None:
        low, high = (end.item() for end in torch.aminmax(value))
        if not (np.isfinite(low) and np.isfinite(high)):
            raise DataError(
                "A calibration image makes the model overflow.",
                where=f"image {self._image}, tensor {name}", expected="finite values", got=f"{low} to {high}",
                next_step="look at the image and at the checkpoint: its weights may hold NaN",
            )  # fmt: skip
        row = self._ends[name][self._number]
        row[:] = min(row[0], low), max(row[1], high)

    def of(self, name: str) -> tuple[float, float]:
        rows = self._ends[name]
        return float(rows[:, 0].min()), float(rows[:, 1].max())

    def outliers(self, names: Sequence[str]) -> list[str]:
        """Sentences that name the images which reach far beyond all others."""
        reach = np.stack([np.abs(rows).max(1) for rows in self._ends.values()])  # tensor, image
        if reach.shape[1] < 3:
            return []
        ordered = np.sort(reach, axis=1)
        beyond = (reach == ordered[:, -1:]) & (ordered[:, -1:] > OUTLIER_FACTOR * ordered[:, -2:-1])
        return [
            f"image {names[i]} reaches over {OUTLIER_FACTOR:g} times as far as any other in {count} of {len(reach)} "
            "tensors"
            for i, count in enumerate(beyond.sum(0).tolist())
            if count > OUTLIER_SHARE * len(reach)
        ]


class _Counts(_Watched):
    """Histograms of every class between its ends."""

    def __init__(self, model: nn.Module, placement: Placement, ends: _Ends) -> None:
        super().__init__(model, placement)
        self._ends = ends
        self.of = {name: np.zeros(BINS) for name in placement.points.values()}

    def see(self, name: str, value: torch.Tensor) -> None:
        low, high = self._ends.of(name)
        if low < high:
            self.of[name] += torch.histc(value, BINS, low, high).double().cpu().numpy()
