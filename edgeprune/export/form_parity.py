"""Does an engine find the same in another form? Boxes and scores against the stock form, on real images.

Rules:
- The stock form is compared with torch, tensor by tensor (parity.py, steps.py). Other forms have other tensors, so
  what they find is compared: from the image to the boxes in its pixels, as the device does it.
- Each detection with a score over `FLOOR` has one of its own in the other form, of the same class, whose score and
  edges are within tolerance; and the other way round. Under it lie thousands that nobody looks at, and that a score
  next to the validator's threshold brings or takes.
- Edges are set against the image's longer edge.
- Where two boxes overlap by the very threshold of the suppression, or two scores are equal but for rounding, the other
  one of them stays. Such detections may be without a partner: a share of all, which is what `share` allows.

Tolerances: FP32 as in parity.py, 1e-3: the same sums in another order. FP16 and BF16 as there for scores; pixels are
scaled in the engine's arithmetic, and edges are decoded from logits rounded to it: 1 % and 2.5 % of the longer edge, of
which parity.py measured 0.96 and 2.3. INT8: as BF16; a pixel on a tie of the input's rounding falls to the other side,
and that step goes through all layers (steps.py).
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from edgeprune.bench.ask import Bench, detections
from edgeprune.errors import ParityError
from edgeprune.export.parity import TOLERANCE
from edgeprune.records import Parity, TensorParity
from edgeprune.records.request import Engine
from edgeprune.runtime.predict import CocoResult
from edgeprune.runtime.preprocess import read_image

#: Score from which a detection is compared.
FLOOR = 0.05


@dataclass(frozen=True)
class Tolerance:
    """What may differ.

    Attributes:
        score: Of a detection, absolute.
        edge: Of a box's edges, in longer edges of the image.
        share: Detections without a partner, of all.
    """

    score: float
    edge: float
    share: float


TOLERANCES = {
    "fp32": Tolerance(TOLERANCE["fp32"], 1e-3, 0.005),
    "fp16": Tolerance(TOLERANCE["fp16"], 1e-2, 0.02),
    "bf16": Tolerance(TOLERANCE["bf16"], 2.5e-2, 0.05),
    "int8": Tolerance(TOLERANCE["bf16"], 2.5e-2, 0.05),
}


def check_form(
    stock: Engine, other: Engine, images: Sequence[Path], input_shape: tuple[int, int, int, int], bench: Bench
) -> Parity:
    """Compare an engine in another form with the same in its stock form.

    Args:
        stock: In the stock form.
        other: The same engine in another.
        images: Files.
        input_shape: Of the engine: batch (1), channels, height, width.
        bench: Where both run.

    Returns:
        The largest differences of scores and edges.

    Raises:
        ParityError: It finds something else.
    """
    expected, got = (detections(bench, engine, images, input_shape) for engine in (stock, other))
    edges = {number: float(max(read_image(path).shape[:2])) for number, path in enumerate(images, 1)}
    return compare_forms(other, expected, got, edges)


def compare_forms(
    other: Engine, expected: Sequence[CocoResult], got: Sequence[CocoResult], edges: dict[int, float]
) -> Parity:
    """Compare what two forms of an engine found.

    Args:
        other: The engine in its other form.
        expected, got: Of the stock form and of the other one.
        edges: Image id -> its longer edge in pixels.

    Raises:
        ParityError: They differ.
    """
    allowed = TOLERANCES[other.precision]
    pairs, alone = _partners(expected, got, edges, allowed)
    back, alone_there = _partners(got, expected, edges, allowed)
    lonely, all_of_them = [*alone, *alone_there], len(pairs) + len(alone) + len(back) + len(alone_there)
    name = f"{other.name}, {other.form.words()}"
    if len(lonely) > int(allowed.share * all_of_them):
        worst = max(lonely, key=lambda d: d["score"])
        raise ParityError(
            f"{name}: it doesn't find what the stock form finds.",
            where=f"image {worst['image_id']}, class {worst['category_id'] - 1}, score {worst['score']:.3f}, box "
            f"{' '.join(f'{v:.1f}' for v in worst['bbox'])}",
            expected=f"a partner in the other form within {allowed.score:g} of its score and {allowed.edge:g} of the "
            f"image's longer edge, for all but {allowed.share:.1%} of the detections with a score over {FLOOR}",
            got=f"none for {len(lonely)} of {all_of_them}",
            next_step="forms: stock in the target builds without other forms; report it with the graph",
        )  # fmt: skip
    found = [*pairs, *back]
    return Parity(
        engine=name, images=len(edges), first_drift=None,
        tensors=(
            TensorParity(
                tensor="detections scores", max_abs=max((p[0] for p in found), default=0.0), scale=1.0,
                tolerance=allowed.score,
            ),
            TensorParity(
                tensor="detections edges : longer edge", max_abs=max((p[1] for p in found), default=0.0), scale=1.0,
                tolerance=allowed.edge,
            ),
        ),
    )  # fmt: skip


def _partners(
    these: Sequence[CocoResult], those: Sequence[CocoResult], edges: dict[int, float], allowed: Tolerance
) -> tuple[list[tuple[float, float]], list[CocoResult]]:
    """For each detection over the floor, its nearest of the same class that nobody has taken: differences of score and
    of edges, and those that have none."""
    free: dict[tuple[int, int], list[CocoResult]] = defaultdict(list)
    for one in those:
        free[one["image_id"], one["category_id"]].append(one)
    pairs, alone = [], []
    for one in sorted(these, key=lambda d: -d["score"]):
        if one["score"] < FLOOR:
            break
        rivals = free[one["image_id"], one["category_id"]]
        apart = [
            (_edges(one, r, edges[one["image_id"]]), abs(one["score"] - r["score"]), n) for n, r in enumerate(rivals)
        ]
        within = [a for a in apart if a[0] <= allowed.edge and a[1] <= allowed.score]
        if not within:
            alone.append(one)
            continue
        edge, score, number = min(within)
        del rivals[number]
        pairs.append((score, edge))
    return pairs, alone


def _edges(one: CocoResult, other: CocoResult, longer: float) -> float:
    """The largest distance of two boxes' edges, in longer edges of the image."""
    (x, y, w, h), (a, b, c, d) = one["bbox"], other["bbox"]
    return float(np.abs(np.array([x, y, x + w, y + h]) - np.array([a, b, a + c, b + d])).max()) / longer
