"""The one quantized graph, its forms, and that runtimes compute it as it is written."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from onnx.reference import ReferenceEvaluator

from edgeprune.errors import ExportError, ModelError, ParityError
from edgeprune.export.engine import build_engine, engine_file
from edgeprune.export.forms import form
from edgeprune.export.lint import RUNTIMES, errors, lint
from edgeprune.export.onnx import export_onnx
from edgeprune.export.qdq import Graph, as_float, export_qdq
from edgeprune.export.steps import check_steps
from edgeprune.quant.calibrate import calibrate
from edgeprune.records import Quantization, Scheme, Settings, write_json
from edgeprune.runtime.session import open_session, open_unoptimised
from edgeprune.yolo.blocks import float_layers
from edgeprune.yolo.checkpoint import pack
from edgeprune.yolo.load import load_detector, untrained
from tests.export.graphs import Net
from tests.mute import give_life
from tests.quant.test_calibrate import SHA, pictures

PIXELS = np.concatenate([image.pixels for image in pictures(2)])


class Built:
    """A small detector, calibrated and exported; `bring` gives its weights values."""

    def __init__(self, folder: Path, bring: Callable[[Any], object] = give_life, **scheme: str) -> None:
        self.checkpoint, self.record_file = folder / "model.pt", folder / "quantization.json"
        self.float_file, self.file = folder / "float.onnx", folder / "quantized.onnx"
        model = untrained("yolov8n.yaml", {0: "a", 1: "b"}, seed=0)
        bring(model)
        self.checkpoint.write_bytes(pack(model, {}, half=False))
        model = load_detector(self.checkpoint).model
        self.record = calibrate(model, pictures(), Scheme(**scheme), float_layers(model), "percentile", SHA)
        write_json(self.record_file, self.record)
        export_onnx(self.checkpoint, self.float_file, 64, 64, {})
        export_qdq(self.checkpoint, self.record, self.file, 64, 64, {"variant": "quantized"}, like=self.float_file)
        self.model = onnx.load(self.file)


@pytest.fixture(scope="module")
def portable(small: Built) -> Built:
    return small


@pytest.fixture(scope="module")
def every(tmp_path_factory: pytest.TempPathFactory) -> Built:
    return Built(tmp_path_factory.mktemp("every"), activations="asymmetric", placement="all")


def run(model: onnx.ModelProto) -> np.ndarray:
    return open_unoptimised(model.SerializeToString())({"images": PIXELS[:1]})["output0"]


def test_every_point_is_a_pair_and_every_quantized_weight_too(portable: Built) -> None:
    graph = Graph(portable.model)
    assert {q.name.removesuffix("/Q") for q, _ in graph.pairs()} == {
        point.replace(">batch_norm.0", "") for point in portable.record.points
    }
    assert set(graph.quantized_convolutions()) == set(portable.record.weights)
    for q, _ in graph.pairs():
        point = q.name.removesuffix("/Q")
        entry = portable.record.activations[portable.record.points[point]]
        scale, zero_point = graph.values(q.input[1]), graph.values(q.input[2])
        assert np.isclose(scale, entry.scale, rtol=1e-6)
        assert zero_point == entry.zero_point
    props = {p.key: p.value for p in portable.model.metadata_props}
    assert props["edgeprune.variant"] == "quantized"
    assert props["names"] == "{0: 'a', 1: 'b'}"


def test_the_same_checkpoint_and_scales_give_the_same_bytes(portable: Built, tmp_path: Path) -> None:
    again = tmp_path / "again.onnx"
    export_qdq(portable.checkpoint, portable.record, again, 64, 64, {"variant": "quantized"}, like=portable.float_file)
    assert again.read_bytes() == portable.file.read_bytes()


@pytest.mark.parametrize("runtime", RUNTIMES)
def test_every_form_stands_for_the_same_numbers(portable: Built, runtime: str) -> None:
    formed = form(portable.model, runtime, "10.3" if runtime == "tensorrt" else "")
    assert np.array_equal(run(formed), run(portable.model))
    assert not errors(lint(formed, runtime, "10.3" if runtime == "tensorrt" else ""))


@pytest.mark.parametrize("runtime", ["onnxruntime-x86-64", "onnxruntime-aarch64", "openvino"])
def test_asymmetric_forms_stand_for_the_same_numbers(every: Built, runtime: str) -> None:
    formed = form(every.model, runtime)
    assert np.array_equal(run(formed), run(every.model))
    kinds = {Graph(formed).values(dq.input[2]).dtype.name for _, dq in Graph(formed).pairs()}
    assert kinds == {"int8" if "aarch64" in runtime else "uint8"}


def test_int8_files_are_a_quarter_of_fp32(portable: Built, every: Built) -> None:
    whole = portable.float_file.stat().st_size
    for built in (portable, every):
        assert form(built.model, "onnxruntime-x86-64").ByteSize() < 0.3 * whole


def test_onnx_runtime_computes_the_integer_kernels(every: Built, tmp_path: Path) -> None:
    """Q/DQ that aren't merged would make the net slower than float."""
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.optimized_model_filepath = str(tmp_path / "optimised.onnx")
    options.log_severity_level = 3
    ort.InferenceSession(form(every.model, "onnxruntime-x86-64").SerializeToString(), options, ["CPUExecutionProvider"])
    kinds = [node.op_type for node in onnx.load(tmp_path / "optimised.onnx").graph.node]
    assert kinds.count("QLinearConv") == len(every.record.weights)
    assert kinds.count("QLinearConcat") == 13  # all but the head's
    assert kinds.count("Conv") + kinds.count("FusedConv") == 7  # the head's last six, and DFL


def test_the_unoptimised_runtime_is_onnx_reference_evaluator_to_the_bit() -> None:
    """What steps.py takes for the truth, held against ONNX's own, on a net that it can do in a second."""
    net = Net(opset=19)
    a = net.block(net.qdq("images", "in", 0.03), "a", 16, 8)
    b = net.block(a, "b", 16)
    both = net.node("Concat", [a, b], "both", axis=1)
    model = net.model(net.qdq(net.conv(both, "c", 8, 32), "c"))
    image = np.random.default_rng(0).normal(size=(1, 8, 16, 16)).astype(np.float32)
    expected = ReferenceEvaluator(model).run(None, {"images": image})[0]
    got = next(iter(open_unoptimised(model.SerializeToString())({"images": image}).values()))
    steps = np.abs(got - expected) / np.float32(0.02)
    # sums in another order may put a value on the other side of a tie; nothing else may differ
    assert steps.max() < 1.001
    assert (steps > 0.5).mean() < 1e-3


def test_openvino_s_form_spells_out_nothing_that_is_zero(every: Built) -> None:
    graph = Graph(form(every.model, "openvino"))
    weights = [node for node in graph.nodes if node.output[0].endswith(".weight_dequantized")]
    assert len(weights) == len(every.record.weights)
    assert {len(node.input) for node in weights} == {2}
    assert {len(node.input) for node in graph.nodes if node.op_type == "Conv"} == {2}


@pytest.mark.parametrize("runtime", ["onnxruntime", "openvino"])
@pytest.mark.parametrize("scheme", ["portable", "every"])
def test_runtimes_and_torch_compute_the_graph_within_a_step(
    request: pytest.FixtureRequest, scheme: str, runtime: str
) -> None:
    built: Built = request.getfixturevalue(scheme)
    parity = check_steps("it", built.checkpoint, built.record_file, built.file, runtime, PIXELS)
    assert parity.holds
    assert len(parity.tensors) == 2 * (len(built.record.points) + 2)  # runtime and torch; boxes and scores


def test_another_scale_is_found_out_and_named(portable: Built, tmp_path: Path) -> None:
    entry = portable.record.activations["model.3.conv>act.0"]
    activations = {
        **portable.record.activations,
        "model.3.conv>act.0": entry.model_copy(update={"scale": 5 * entry.scale}),
    }
    write_json(tmp_path / "other.json", portable.record.model_copy(update={"activations": activations}))
    with pytest.raises(ParityError, match=r"model\.3\.conv>act\.0"):
        check_steps("it", portable.checkpoint, tmp_path / "other.json", portable.file, "onnxruntime", PIXELS)


def test_all_layers_in_float_are_the_float_model(portable: Built) -> None:
    whole = as_float(portable.model, Graph(portable.model).quantized_convolutions())
    assert not [node for node in whole.graph.node if "Linear" in node.op_type]
    expected = open_unoptimised(portable.float_file.read_bytes())({"images": PIXELS[:1]})["output0"]
    assert np.allclose(run(whole), expected, atol=2e-3 * np.abs(expected).max())


def test_one_layer_in_float_leaves_the_others_quantized(every: Built) -> None:
    layer = "model.4.cv2.conv"
    part = as_float(every.model, [layer])
    assert set(Graph(part).quantized_convolutions()) == set(every.record.weights) - {layer}
    points = {q.name.removesuffix("/Q") for q, _ in Graph(part).pairs()}
    assert layer not in points  # its result is float …
    assert "model.4.cv1.conv>act.0" in points  # … and what others read still isn't
    onnx.checker.check_model(part)
    assert np.isfinite(run(part)).all()


def test_forms_are_made_from_the_quantized_graph_alone(portable: Built) -> None:
    for wrong in (onnx.load(portable.float_file), form(portable.model, "openvino")):
        with pytest.raises(ExportError, match="isn't the one quantized graph"):
            form(wrong, "openvino")
    with pytest.raises(ExportError, match="Unknown runtime"):
        form(portable.model, "onnxruntime")


def concat_errors(folder: Path) -> dict[str, float]:
    """How far OpenVINO is off behind a Concat of int8 and of uint8 tensors, of the result's largest value."""
    import openvino

    image = np.random.default_rng(1).normal(size=(1, 8, 16, 16)).astype(np.float32)
    error = {}
    for kind, zero in (("int8", np.int8(0)), ("uint8", np.uint8(128))):
        net = Net()
        x = net.qdq("images", "in", zero=zero)
        branches = [net.qdq(net.silu(net.conv(x, name, 16, 8), f"{name}/act"), name, zero=zero) for name in "ab"]
        model = net.model(net.conv(net.node("Concat", branches, "cat", axis=1), "c", 16, 32))
        expected = next(iter(open_unoptimised(model.SerializeToString())({"images": image}).values()))
        onnx.save(model, folder / f"{kind}.onnx")
        settings = {"INFERENCE_PRECISION_HINT": "f32"}
        got = openvino.Core().compile_model(folder / f"{kind}.onnx", "CPU", settings)(image)[0]
        error[kind] = float(np.abs(got - expected).max() / np.abs(expected).max())
        assert bool([f for f in lint(model, "openvino") if f.rule == "signed-concat"]) == (kind == "int8")
    return error


def test_openvino_computes_a_concat_of_int8_wrong_and_of_uint8_right(tmp_path: Path) -> None:
    """Why its form is uint8. If this fails, OpenVINO was mended: the form and the lint rule can go.

    Kernels of processors with AMX compute both right, so those of VNNI are asked for.
    """
    pytest.importorskip("openvino")
    if "avx512_vnni" not in Path("/proc/cpuinfo").read_text():
        pytest.skip("this processor has no AVX512-VNNI")
    ask = f"import json, pathlib; print(json.dumps({__name__}.concat_errors(pathlib.Path({str(tmp_path)!r}))))"
    done = subprocess.run(
        [sys.executable, "-c", f"import {__name__}; {ask}"], capture_output=True, text=True, timeout=120, check=True,
        env={**os.environ, "ONEDNN_MAX_CPU_ISA": "AVX512_CORE_VNNI"}, cwd=Path(__file__).parents[2],
    )  # fmt: skip
    error = json.loads(done.stdout.splitlines()[-1])
    assert error["uint8"] < 1e-5
    assert error["int8"] > 0.05


def test_engines_open_and_agree(every: Built, tmp_path: Path) -> None:
    outputs = []
    for runtime in ("onnxruntime", "openvino"):
        (tmp_path / runtime).mkdir()
        made = build_engine(runtime, every.file, tmp_path / runtime, quantized=True)
        outputs.append(open_session(runtime, engine_file(made), "int8", Settings(threads=1)).run(PIXELS[:1])[0])
    noise = np.abs(run(every.model) - run(onnx.load(every.float_file))).mean()
    assert np.abs(outputs[0] - outputs[1]).mean() < noise  # one graph: closer to each other than it is to float


def test_a_record_for_another_model_is_refused(portable: Built, tmp_path: Path) -> None:
    missing: Quantization = portable.record.model_copy(
        update={"weights": {**portable.record.weights, "model.99.conv": (0.1,)}}
    )
    with torch.no_grad(), pytest.raises(ModelError, match=r"model\.99\.conv"):
        export_qdq(portable.checkpoint, missing, tmp_path / "x.onnx", 64, 64, {}, like=portable.float_file)
    assert not (tmp_path / "x.onnx").exists()
