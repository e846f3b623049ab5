"""The bundles that fleets are tested with are bundles: they open, run on ONNX Runtime and detect."""

from __future__ import annotations

from pathlib import Path

from edgeprune.errors import EdgepruneError
from edgeprune.records import Report, Settings, read_json
from edgeprune.runtime.bundle import open_bundle
from edgeprune.runtime.detector import Detector
from edgeprune.runtime.session import open_session
from tests.fleet.bundles import make_bundle, scene


def test_a_bundle_opens_runs_and_detects(tmp_path: Path) -> None:
    folder = make_bundle(tmp_path, "jetson", seed=3, pad_bytes=1000)
    bundle = open_bundle(folder)
    assert bundle.target == "jetson"
    assert read_json(tmp_path / "report.json", Report, EdgepruneError).verdict.accepted
    session = open_session("onnxruntime", folder / bundle.engine, bundle.precision, Settings(threads=1))
    found = Detector(session, *bundle.input.shape[2:])(scene())
    assert found.classes[0] == 0
    assert found.scores[0] > 0.9
    assert abs(found.boxes[0] - (20, 20, 44, 44)).max() <= 2


def test_seeds_differ_and_are_repeatable(tmp_path: Path) -> None:
    read = [(make_bundle(tmp_path / str(n), seed=seed) / "model.onnx").read_bytes() for n, seed in enumerate((1, 1, 2))]
    assert read[0] == read[1] != read[2]
