"""Other people's tools at work: nothing calls home, what they can't do is said, an interrupted training goes on."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import onnx
import openvino
import pytest
import torch

from edgeprune.errors import ExportError
from edgeprune.export.engine import build_engine, engine_file
from edgeprune.machine import installed
from edgeprune.records.dataset import read_dataset
from edgeprune.rivals.make import unheard
from edgeprune.rivals.ptq import quantize
from edgeprune.runtime.preprocess import letterbox, read_image
from edgeprune.runtime.session import open_session
from edgeprune.yolo.data import make_view
from edgeprune.yolo.rivals import export, finetune
from tests.bench.test_measure import net


def test_openvino_and_nncf_have_no_consent_to_call_home(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Their telemetry asks this object; without `unheard`, and with nobody asked, it would send."""
    telemetry = pytest.importorskip("openvino_telemetry")
    monkeypatch.setenv("HOME", str(tmp_path))
    for name in ("CI", "TF_BUILD", "JENKINS_URL"):
        monkeypatch.delenv(name, raising=False)
    asked = {
        "app_name": "t", "app_version": "1", "tid": "none", "backend": "ga4", "enable_opt_in_dialog": False,
        "disable_in_ci": True,
    }  # fmt: skip
    asker = telemetry.Telemetry(**asked)
    asker.init(**asked)
    assert asker.consent
    with unheard():
        asker.init(**asked)
        assert not asker.consent
    assert "CI" not in os.environ


def test_what_the_exporter_cant_do_is_said_in_its_words(tiny: Path, tmp_path: Path) -> None:
    log = tmp_path / "log"
    with pytest.raises(ExportError, match=r"exporter failed(.|\n)*got: \w+Error: ") as error:
        export(tiny, "onnx", "int8", (64, 64), tmp_path / "made", calibration=tmp_path / "none.yaml", log=log)
    assert str(log) in str(error.value)


def test_nncf_quantizes_an_ir_with_either_preset(tmp_path: Path, scenes: Path) -> None:
    """Symmetric ranges of activations with the one, asymmetric ones with the other: other roundings."""
    graph = net(tmp_path / "n.onnx", 2)
    whole = engine_file(build_engine("openvino", graph, _empty(tmp_path / "whole")))
    images = read_dataset(scenes).splits["train"][:3]
    answers = []
    for preset in ("performance", "mixed"):
        made = engine_file(quantize(whole, images, preset, _empty(tmp_path / preset), tmp_path / "log"))
        operations = openvino.Core().read_model(made).get_ops()
        assert sum(op.get_type_name() == "FakeQuantize" for op in operations) >= 2
        image = letterbox(read_image(images[0]), 32, 32)[0]
        before, after = (open_session("openvino", file, "fp32").run(image)[0] for file in (whole, made))
        answers.append(after)
        assert 0 < np.abs(before - after).max() < 0.1 * np.abs(before).max()
    assert np.abs(answers[0] - answers[1]).max() > 0
    assert len((tmp_path / "log").read_text()) > 0


def test_an_interrupted_fine_tuning_goes_on_after_its_last_epoch(tiny: Path, scenes: Path, tmp_path: Path) -> None:
    """The stock trainer without fake-quantization, which needs a package of its own: the way through it is the same."""
    view, done = make_view(read_dataset(scenes), tmp_path / "view"), []

    def stop(epoch: int, epochs: int, fitness: float) -> None:
        done.append(epoch)
        if epoch == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        _train(tiny, tmp_path, view, done, on_epoch=stop)
    assert done == [1, 2]
    threads = torch.get_num_threads()
    best = _train(tiny, tmp_path, view, done)
    assert torch.get_num_threads() == threads
    assert done == [1, 2, 3]
    kept = best.read_bytes()
    assert _train(tiny, tmp_path, view, done).read_bytes() == kept
    made = export(best, "onnx", None, (64, 64), tmp_path / "made", log=tmp_path / "log")
    assert list((tmp_path / "made").iterdir()) == [made]


@pytest.mark.skipif(not installed("nvidia-modelopt"), reason="left out: quantize=8 trains with nvidia-modelopt")
def test_their_quantized_training_runs_goes_on_and_is_exported(tiny: Path, scenes: Path, tmp_path: Path) -> None:
    view, done = make_view(read_dataset(scenes), tmp_path / "view"), []

    def stop(epoch: int, epochs: int, fitness: float) -> None:
        done.append(epoch)
        if epoch == 1:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        _train(tiny, tmp_path, view, done, on_epoch=stop, quantize=8, epochs=2)
    best = _train(tiny, tmp_path, view, done, quantize=8, epochs=2)
    assert done == [1, 2]
    made = export(best, "onnx", None, (64, 64), tmp_path / "made", log=tmp_path / "log")
    operators = {node.op_type for node in onnx.load(made).graph.node}
    assert {"QuantizeLinear", "DequantizeLinear"} <= operators


def _empty(folder: Path) -> Path:
    folder.mkdir()
    return folder


def _train(checkpoint: Path, folder: Path, view: Path, done: list[int], **others: object) -> Path:
    asked = {"on_epoch": lambda epoch, epochs, fitness: done.append(epoch), "quantize": None, "epochs": 3}
    return finetune(
        checkpoint, view, folder / "work", image_size=64, batch=8, seed=0, torch_device="cpu",
        log=folder / "train.log", **asked | others,
    )  # type: ignore[arg-type]  # fmt: skip
