"""On real images and real detectors, where ../shared is."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

import edgeprune
from edgeprune.errors import EdgepruneError
from edgeprune.export.engine import build_engine, engine_file
from edgeprune.export.onnx import export_onnx
from edgeprune.records import Goal, Recipe
from edgeprune.records.dataset import read_dataset
from edgeprune.runtime.predict import predict
from edgeprune.runtime.session import open_session
from edgeprune.train.evaluate import score
from edgeprune.yolo.data import make_view

#: mAP50-95 points (0.01) by which runtime and stock validator may differ: the issue's own bound is 0.3.
POINTS = 0.003


@pytest.mark.parametrize(
    ("weights", "data"), [("yolov8n-bccd.pt", "bccd/data.yaml"), ("yolov8n.pt", "coco-val177/data.yaml")]
)
def test_map_on_the_runtimes_is_the_stock_validators(shared: Path, tmp_path: Path, weights: str, data: str) -> None:
    from ultralytics import YOLO

    dataset = read_dataset(shared / "data" / data)
    view = make_view(dataset, tmp_path / "view")
    stock = YOLO(shared / "weights" / weights).val(
        data=str(view), imgsz=320, batch=1, rect=False, plots=False, verbose=False, workers=0, device="cpu",
        project=str(tmp_path),
    )  # fmt: skip
    export_onnx(shared / "weights" / weights, tmp_path / "m.onnx", 320, 320, {})
    for runtime in ("onnxruntime", "openvino"):
        folder = tmp_path / runtime
        folder.mkdir()
        session = open_session(runtime, engine_file(build_engine(runtime, tmp_path / "m.onnx", folder)), "fp32", 0)
        ours = score(runtime, dataset, predict(session, dataset.splits["val"], (1, 3, 320, 320)))
        assert abs(ours.map50_95 - stock.box.map) <= POINTS, (runtime, ours.map50_95, stock.box.map)


def test_short_build_on_blood_cells(shared: Path, tmp_path: Path) -> None:
    """The real thing, short: 3 epochs where 45 are asked for, so 6 points may be lost where 1 is agreed.

    Which of the two engines is faster is the verdict's own business; here both verdicts must follow from
    their figures.
    """
    recipe = Recipe(goal=Goal(macs_ratio=0.5, max_map_drop=0.06), epochs=3, importance_batches=6)
    for target in ("onnxruntime-x86", "openvino-x86"):
        report = edgeprune.build(
            model=shared / "weights/yolov8n-bccd.pt", data=shared / "data/bccd/data.yaml", target=target,
            recipe=recipe, out=tmp_path,
        )  # fmt: skip
        assert report is not None
        parent, pruned = (next(r for r in report.rows if r.variant == v) for v in ("parent", "pruned"))
        print(json.dumps(report.model_dump(include={"rows", "verdict"}, mode="json"), indent=1))
        assert parent.map50_95 == pytest.approx(0.617, abs=POINTS)
        assert pruned.macs <= 0.5 * parent.macs
        assert parent.map50_95 - pruned.map50_95 <= 0.06
        assert report.verdict.accepted == report.verdict.comparison.faster
        assert (tmp_path / target / "bundle").exists() == report.verdict.accepted


def test_coco_data_of_another_model_is_refused(shared: Path, tmp_path: Path) -> None:
    with pytest.raises(EdgepruneError, match="classes are not the model's"):
        edgeprune.build(
            model=shared / "weights/yolov8n-bccd.pt", data=shared / "data/coco-val177/data.yaml",
            target="openvino-x86", out=tmp_path,
        )  # fmt: skip
