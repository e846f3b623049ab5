"""The FP16 file: half as large, close to the float one, float32 at both ends, its boxes made in FP32."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, numpy_helper

from edgeprune.errors import ExportError
from edgeprune.export.engine import build_engine
from edgeprune.export.half import decoding, to_half
from edgeprune.export.onnx import export_onnx
from edgeprune.export.parity import TOLERANCE, check_parity
from edgeprune.records.request import Engine
from edgeprune.runtime.session import open_session
from edgeprune.yolo.load import load_detector
from tests.bench.test_measure import IMAGES, net


@pytest.fixture(scope="module")
def graph(tmp_path_factory: pytest.TempPathFactory, tiny: Path) -> Path:
    file = tmp_path_factory.mktemp("half") / "tiny.onnx"
    export_onnx(tiny, file, 64, 64, {})
    return file


def test_half_is_half_as_large_and_computes_the_same_within_tolerance(tmp_path: Path, tiny: Path, graph: Path) -> None:
    """ONNX Runtime may cast to FP32 around its operators: weights and what lies between them are FP16 all the same."""
    file = build_engine("onnxruntime", graph, tmp_path, half=True)
    assert file.stat().st_size < 0.55 * graph.stat().st_size
    images = np.random.default_rng(0).random((2, 3, 64, 64), np.float32)
    engine = Engine(name="half", runtime="onnxruntime", precision="fp16", file=str(file))
    parity = check_parity(engine, load_detector(tiny).model, graph, images)
    assert all(tensor.tolerance == TOLERANCE["fp16"] for tensor in parity.tensors)
    assert max(tensor.max_abs / tensor.scale for tensor in parity.tensors) > 1e-6  # it is FP16


def test_boxes_are_made_in_fp32_and_both_ends_are_float32(graph: Path) -> None:
    made = to_half(onnx.load(graph))
    assert [value.type.tensor_type.elem_type for value in (*made.graph.input, *made.graph.output)] == [1, 1]
    halves = {w.name for w in made.graph.initializer if w.data_type == TensorProto.FLOAT16}
    last = {made.graph.node[index].name for index in decoding(made.graph)}
    wide = [node for node in made.graph.node if node.op_type == "Conv" and node.name not in last]
    assert len(wide) > 50
    assert all(node.input[1] in halves for node in wide)
    (softmax,) = (node for node in made.graph.node if node.op_type == "Softmax")
    assert softmax.name in last
    assert not {name for node in made.graph.node if node.name in last for name in node.input} & halves


def test_the_same_graph_gives_the_same_bytes(graph: Path) -> None:
    assert len({to_half(onnx.load(graph)).SerializeToString(deterministic=True) for _ in range(2)}) == 1


def test_a_net_that_ends_in_a_convolution_is_converted_to_its_end(tmp_path: Path) -> None:
    file = net(tmp_path / "n.onnx", 3)
    (tmp_path / "half").mkdir()
    half = build_engine("onnxruntime", file, tmp_path / "half", half=True)
    full, got = (open_session("onnxruntime", f, "fp32").run(IMAGES[:1])[0] for f in (file, half))
    assert 0 < np.abs(full - got).max() < 1e-2 * np.abs(full).max()


def test_a_weight_that_fp16_cant_hold_is_refused_by_name(tmp_path: Path) -> None:
    model = onnx.load(net(tmp_path / "n.onnx", 2))
    weight = numpy_helper.to_array(model.graph.initializer[1]).copy()
    weight[0, 0, 0, 0] = -1e5
    model.graph.initializer[1].CopyFrom(numpy_helper.from_array(weight, "w1"))
    with pytest.raises(ExportError, match=r"too large for FP16(.|\n)*w1(.|\n)*100000"):
        to_half(model)
