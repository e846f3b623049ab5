"""A form that finds something else than the stock form is refused; one that finds the same has figures."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from edgeprune.bench.local import LocalBench
from edgeprune.errors import ParityError
from edgeprune.export.form_parity import FLOOR, TOLERANCES, check_form, compare_forms
from edgeprune.records import Form, Settings
from edgeprune.records.dataset import read_dataset
from edgeprune.records.request import Engine
from edgeprune.records.target import Precision
from edgeprune.runtime.predict import CocoResult
from tests.bench.colours import detector
from tests.scenes import SIZE

SHAPE = (1, 3, SIZE, SIZE)


def engine(file: Path, form: Form = Form(), precision: Precision = "fp32") -> Engine:  # noqa: B008
    return Engine(
        name=f"pruned {precision}", runtime="onnxruntime", precision=precision, file=str(file), form=form,
        settings=Settings(threads=1),
    )  # fmt: skip


def tampered(file: Path, change: Callable[[dict[str, np.ndarray]], None]) -> Engine:
    """The detector with other constants."""
    model = onnx.load(detector(file))
    values = {t.name: numpy_helper.to_array(t).copy() for t in model.graph.initializer}
    change(values)
    for tensor in model.graph.initializer:
        tensor.CopyFrom(numpy_helper.from_array(values[tensor.name], tensor.name))
    onnx.save(model, file)
    return engine(file)


def moved(values: dict[str, np.ndarray]) -> None:
    values["boxes"][:, 0] += 0.5  # pixels, of an input of 64


def fainter(values: dict[str, np.ndarray]) -> None:
    values["k1"] *= 0.99


def blind(values: dict[str, np.ndarray]) -> None:
    values["k2"] *= 0


@pytest.fixture(scope="module")
def images(scenes: Path) -> list[Path]:
    return list(read_dataset(scenes).splits["val"][:3])


def test_the_same_engine_finds_the_same(tmp_path: Path, images: list[Path]) -> None:
    stock = engine(detector(tmp_path / "stock.onnx"))
    parity = check_form(stock, engine(detector(tmp_path / "other.onnx")), images, SHAPE, LocalBench())
    assert parity.holds
    assert parity.images == 3
    assert [t.max_abs for t in parity.tensors] == [0, 0]


@pytest.mark.parametrize("change", [moved, fainter, blind])
def test_a_form_that_gives_other_boxes_is_refused(
    tmp_path: Path, images: list[Path], change: Callable[[dict[str, np.ndarray]], None]
) -> None:
    stock, other = engine(detector(tmp_path / "stock.onnx")), tampered(tmp_path / "other.onnx", change)
    with pytest.raises(ParityError, match="doesn't find what the stock form finds"):
        check_form(stock, other, images, SHAPE, LocalBench())
    with pytest.raises(ParityError, match="doesn't find what the stock form finds"):  # the other way round
        check_form(other, stock, images, SHAPE, LocalBench())


def found(count: int, *, shift: float = 0.0, less: float = 0.0, label: int = 1) -> list[CocoResult]:
    """Detections far apart, with scores from 0.9 down."""
    return [
        {
            "image_id": 1, "category_id": label, "bbox": [20.0 * n + shift, 5.0, 10.0, 10.0],
            "score": 0.9 - 0.8 * n / count - less,
        }
        for n in range(count)
    ]  # fmt: skip


EDGES = {1: 1000.0}
OTHER = engine(Path("m.onnx"), Form(input="pixels", head="runtime"))


def test_differences_within_tolerance_are_told_and_beyond_it_refused() -> None:
    parity = compare_forms(OTHER, found(20), found(20, shift=0.5, less=5e-4), EDGES)
    assert parity.engine == "pruned fp32, pixels in, boxes decoded outside"
    score, edge = parity.tensors
    assert (score.max_abs, edge.max_abs) == (pytest.approx(5e-4), pytest.approx(5e-4))
    assert parity.holds
    for other in (found(20, shift=1.1), found(20, less=1.1e-3), found(20, label=2), found(19), []):
        with pytest.raises(ParityError):
            compare_forms(OTHER, found(20), other, EDGES)
    half = engine(Path("m.onnx"), OTHER.form, "fp16")
    assert compare_forms(half, found(20), found(20, shift=9, less=0.01), EDGES).holds


def test_a_partner_is_taken_once_and_what_lies_under_the_floor_is_nobodys() -> None:
    twice = [*found(1), *found(1)]
    with pytest.raises(ParityError, match="none for 1 of 3"):
        compare_forms(OTHER, twice, found(1), EDGES)
    faint: list[CocoResult] = [{**d, "score": FLOOR - 0.01} for d in found(5)]
    assert compare_forms(OTHER, [*found(3), *faint], found(3), EDGES).holds


def test_a_share_may_be_without_a_partner_in_few_bits_and_none_in_few_detections() -> None:
    """Suppression on a tie: the other one of two boxes stays."""
    low = engine(Path("m.onnx"), OTHER.form, "int8")
    assert compare_forms(low, found(41), found(40)[:39] + found(41)[39:], EDGES).holds
    lost = found(41)[1:]
    assert compare_forms(low, found(41), lost, EDGES).holds  # 1 of 81
    with pytest.raises(ParityError, match=r"score 0\.900"):
        compare_forms(OTHER, found(41), lost, EDGES)
    assert all(t.share <= 0.05 for t in TOLERANCES.values())
