"""An engine's forms: the same detections from each, what they say of themselves, and who can't have them."""

from __future__ import annotations

import itertools
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import yaml

from edgeprune.bench import ask
from edgeprune.bench.local import LocalBench
from edgeprune.errors import DeviceError, ExportError
from edgeprune.export.cuts import forms_of, head_of, tensor_specs_of, with_pixels
from edgeprune.export.engine import build_engine, engine_file
from edgeprune.export.forms import form as coded
from edgeprune.export.lint import ARM, X86
from edgeprune.export.onnx import export_onnx
from edgeprune.export.qdq import export_qdq
from edgeprune.quant.calibrate import Image, calibrate
from edgeprune.records import BenchRequest, Load, Scheme, Settings
from edgeprune.records.dataset import read_dataset
from edgeprune.records.form import Form
from edgeprune.records.request import Engine
from edgeprune.runtime.decode import Detections, Thresholds, every_anchor
from edgeprune.runtime.detector import Detector
from edgeprune.runtime.predict import CocoResult
from edgeprune.runtime.preprocess import Floats, Pixels, given, letterbox, read_image, resizer
from edgeprune.runtime.session import Session, available, open_session
from edgeprune.yolo.blocks import float_layers
from edgeprune.yolo.checkpoint import pack
from edgeprune.yolo.load import load_detector, untrained
from tests.export.test_quantized import Built
from tests.mute import give_life

ALL = tuple(
    Form.model_validate({"input": given, "head": head})
    for given, head in itertools.product(("floats", "pixels"), ("graph", "runtime"))
)


@pytest.fixture(scope="module")
def every(tmp_path_factory: pytest.TempPathFactory) -> Built:
    """With asymmetric activations, so that pixels are the input's integers."""
    return Built(tmp_path_factory.mktemp("asymmetric"), activations="asymmetric")


@pytest.fixture(scope="module")
def pictures() -> list[Pixels]:
    generator = np.random.default_rng(3)
    return [generator.integers(0, 256, (*size, 3), dtype=np.uint8) for size in ((48, 64), (64, 64), (100, 30))]


def opened(graph: Path, folder: Path, runtime: str, precision: str, form: Form, name: str = "") -> Session:
    work = folder / (name or f"{runtime}-{precision}-{form.input}-{form.head}")
    work.mkdir()
    made = build_engine(
        runtime, graph, work, quantized=precision == "int8", half=(runtime, precision) == ("onnxruntime", "fp16"),
        form=form,
    )  # fmt: skip
    return open_session(runtime, engine_file(made), precision, Settings(threads=1), form=form)


def test_a_detect_head_has_all_forms_and_the_stock_one_is_first(every: Built) -> None:
    for file, runtime in itertools.product((every.float_file, every.file), ("onnxruntime", "openvino")):
        assert forms_of(file, runtime) == ALL
    assert forms_of(every.file, "tensorrt") == (Form(),)
    head = head_of(every.model)
    assert head is not None
    assert (head.bins, head.classes, [level.stride for level in head.levels]) == (16, 2, [8, 16, 32])


@pytest.mark.parametrize("name", ["yolov10n", "yolo26n", "yolov8n-seg", "yolov8n-pose"])
def test_other_heads_keep_their_decode(name: str, tmp_path: Path) -> None:
    """Two that end end-to-end, two that have more than boxes, as the stock exporter writes them."""
    from ultralytics import YOLO

    checkpoint = tmp_path / "m.pt"
    YOLO(f"{name}.yaml").save(checkpoint)
    end_to_end = {} if "-" in name else {"nms": False}
    file = Path(YOLO(checkpoint).export(format="onnx", imgsz=64, device="cpu", simplify=False, **end_to_end))
    (output, *_) = onnx.load(file).graph.output
    assert ([d.dim_value for d in output.type.tensor_type.shape.dim][-1] == 6) == bool(end_to_end)
    assert [form.head for form in forms_of(file, "onnxruntime")] == ["graph", "graph"]
    with pytest.raises(ExportError, match="decoded outside"):
        build_engine("onnxruntime", file, tmp_path, form=Form(head="runtime"))


@pytest.mark.parametrize(
    "name",
    [
        "yolo11n.yaml",
        "yolov9t.yaml",
        "yolov5n.yaml",
        "yolo12n.yaml",
        "yolov3-tiny.yaml",
        "yolov10n.yaml",
        "yolo26n.yaml",
    ],
)
def test_other_families_with_that_head_have_all_forms(name: str, tmp_path: Path) -> None:
    model = untrained(name, {0: "a"}, seed=0)
    give_life(model)
    (tmp_path / "m.pt").write_bytes(pack(model, {}, half=False))
    export_onnx(tmp_path / "m.pt", tmp_path / "m.onnx", 64, 96, {})
    assert forms_of(tmp_path / "m.onnx", "openvino") == ALL


def test_as_many_classes_as_box_channels_are_told_apart(tmp_path: Path) -> None:
    model = untrained("yolov8n.yaml", {index: str(index) for index in range(64)}, seed=0)
    give_life(model)
    (tmp_path / "m.pt").write_bytes(pack(model, {}, half=False))
    export_onnx(tmp_path / "m.pt", tmp_path / "m.onnx", 64, 64, {})
    head = head_of(onnx.load(tmp_path / "m.onnx"))
    assert head is not None
    assert all("cv2" in level.boxes and "cv3" in level.scores for level in head.levels)


@pytest.mark.parametrize(
    ("runtime", "precision"),
    [("onnxruntime", "fp32"), ("onnxruntime", "fp16"), ("onnxruntime", "int8"), ("openvino", "fp32")],
)
def test_every_form_finds_the_same_in_a_tiny_net(
    every: Built, pictures: list[Pixels], tmp_path: Path, runtime: str, precision: str
) -> None:
    graph = every.file if precision == "int8" else every.float_file
    stock, *others = (opened(graph, tmp_path, runtime, precision, form) for form in ALL)
    for picture in pictures:
        expected = dense(stock, picture)
        for other in others:
            found = dense(other, picture)
            tolerance = 2e-3 if precision == "fp16" else 1e-5
            np.testing.assert_allclose(found[:, :4], expected[:, :4], atol=tolerance * 64)
            np.testing.assert_allclose(found[:, 4:], expected[:, 4:], atol=tolerance)


def dense(session: Session, picture: Pixels) -> Floats:
    """Boxes and scores of every anchor, wherever they are decoded."""
    outputs = session.run(given(picture, 64, 64, session.input)[0])
    if session.head is None:
        return outputs[0]
    named = dict(zip(session.output_names, outputs, strict=True))
    return every_anchor([named[name] for name in session.head.outputs], session.head)


def lost(found: Detections, expected: Detections, *, scores: float, boxes: float) -> int:
    """How many detections that are surely over a half have no counterpart."""
    return sum(
        not any(
            label == other and abs(score - its_score) <= scores and np.abs(box - its_box).max() <= boxes
            for its_box, its_score, other in zip(found.boxes, found.scores, found.classes, strict=True)
        )
        for box, score, label in zip(expected.boxes, expected.scores, expected.classes, strict=True)
        if score > 0.5 + scores
    )


def test_pixels_are_the_integers_of_an_asymmetric_graph_coded_as_uint8(every: Built, small: Built) -> None:
    def quantizers_of_the_input(model: onnx.ModelProto) -> int:
        given = {"images", "images/floats"}
        return sum(node.op_type == "QuantizeLinear" and node.input[0] in given for node in model.graph.node)

    plain = coded(every.model, X86)
    assert quantizers_of_the_input(plain) == 1
    cut = with_pixels(plain, "onnxruntime")
    assert quantizers_of_the_input(cut) == 0
    assert [node.op_type for node in cut.graph.node][:2] == ["Transpose", "DequantizeLinear"]
    assert quantizers_of_the_input(with_pixels(plain, "openvino")) == 1
    # int8 on ARM, and another scale: the pair stays behind the cast
    for other in (coded(every.model, ARM), coded(small.model, X86)):
        assert quantizers_of_the_input(with_pixels(other, "onnxruntime")) == 1


def test_onnx_runtime_takes_pixels_straight_into_an_integer_convolution(every: Built, tmp_path: Path) -> None:
    """What the input costs: nothing but moved axes, in the graph that ONNX Runtime makes of it."""

    def optimised(form: Form) -> list[onnx.NodeProto]:
        made = build_engine("onnxruntime", every.file, _folder(tmp_path / form.input), quantized=True, form=form)
        options = onnxruntime.SessionOptions()
        options.optimized_model_filepath = str(tmp_path / f"{form.input}.onnx")
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_ALL
        options.log_severity_level = 3
        onnxruntime.InferenceSession(str(made), options, providers=["CPUExecutionProvider"])
        return list(onnx.load(options.optimized_model_filepath).graph.node)

    floats, pixels = optimised(Form()), optimised(Form(input="pixels"))
    until = {name: next(i for i, n in enumerate(nodes) if "Conv" in n.op_type) for name, nodes in
             (("floats", floats), ("pixels", pixels))}  # fmt: skip
    assert "QuantizeLinear" in {node.op_type for node in floats[: until["floats"]]}
    assert not {"QuantizeLinear", "Cast", "Div"} & {node.op_type for node in pixels[: until["pixels"]]}
    assert len(pixels) <= len(floats)


def test_openvino_takes_pixels_straight_into_an_integer_convolution(every: Built, tmp_path: Path) -> None:
    """Without a quantizer behind the pixels its first convolution is float, and what carries its input to it."""
    import openvino

    form = Form(input="pixels")
    made = build_engine("openvino", every.file, _folder(tmp_path / "pixels"), quantized=True, form=form)
    compiled = openvino.Core().compile_model(engine_file(made), "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    told = [node.get_rt_info() for node in compiled.get_runtime_model().get_ordered_ops()]
    ran = [(str(one["layerType"].value), str(one["primitiveType"].value)) for one in told]
    ran = [(kind, kernel) for kind, kernel in ran if kind not in ("Const", "Reshape")]
    until = next(number for number, (kind, _) in enumerate(ran) if kind == "Convolution")
    assert ran[until][1].endswith("I8"), ran[: until + 3]
    assert {kind for kind, _ in ran[:until]} <= {"Input", "Reorder", "Transpose"}


def test_engine_files_say_what_they_are(every: Built, tmp_path: Path) -> None:
    form = Form(input="pixels", head="runtime")
    for runtime, precision in (("onnxruntime", "int8"), ("openvino", "fp32"), ("onnxruntime", "fp16")):
        graph = every.file if precision == "int8" else every.float_file
        session = opened(graph, tmp_path, runtime, precision, form)
        assert session.head is not None
        assert session.head.outputs == ("boxes_8", "boxes_16", "boxes_32", "scores_8", "scores_16", "scores_32")
        assert set(session.output_names) == set(session.head.outputs)
        outputs = session.run(np.zeros((1, 64, 64, 3), np.uint8))
        shapes = dict(zip(session.output_names, (output.shape for output in outputs), strict=True))
        assert shapes["boxes_16"] == (1, 64, 4, 4)
        assert shapes["scores_8"] == (1, 2, 8, 8)
        assert {output.dtype for output in outputs} == {np.dtype(np.float32)}
    said = yaml.safe_load((tmp_path / "openvino-fp32-pixels-runtime/model_openvino_model/metadata.yaml").read_text())
    assert said["names"] == {0: "a", 1: "b"}


def test_an_engine_of_another_form_than_it_is_said_to_have_is_refused(every: Built, tmp_path: Path) -> None:
    made = build_engine("onnxruntime", every.float_file, tmp_path, form=Form(input="pixels"))
    with pytest.raises(DeviceError, match="another form"):
        open_session("onnxruntime", made, "fp32", form=Form())
    assert open_session("onnxruntime", made, "fp32").input == "pixels"


def test_a_bundle_says_what_goes_in_and_comes_out(every: Built, tmp_path: Path) -> None:
    for form in ALL:
        session = opened(every.file, tmp_path, "onnxruntime", "int8", form, f"{form.input}{form.head}")
        given, outputs = tensor_specs_of(every.file, form)
        found = session.run(np.zeros(given.shape, given.dtype))
        said = {spec.name: spec.shape for spec in outputs}
        assert said == {name: value.shape for name, value in zip(session.output_names, found, strict=True)}


class Cells:
    """Blood cells: the trained YOLOv8n as float and as quantized graph, and some val images."""

    def __init__(self, shared: Path, folder: Path) -> None:
        checkpoint, data = shared / "weights/yolov8n-bccd.pt", read_dataset(shared / "data/bccd/data.yaml")
        self.plain, self.quantized = folder / "float.onnx", folder / "quantized.onnx"
        export_onnx(checkpoint, self.plain, 320, 320, {})
        model = load_detector(checkpoint).model
        images = [Image(p.name, letterbox(read_image(p), 320, 320)[0]) for p in data.splits["train"][:4]]
        scheme = Scheme(activations="asymmetric")
        record = calibrate(model, images, scheme, float_layers(model), "percentile", "0" * 64)
        export_qdq(checkpoint, record, self.quantized, 320, 320, {}, like=self.plain)
        self.paths = data.splits["val"][:4]
        self.images = [read_image(path) for path in data.splits["val"][:4]]


@pytest.fixture(scope="module")
def cells(shared: Path, tmp_path_factory: pytest.TempPathFactory) -> Cells:
    return Cells(shared, tmp_path_factory.mktemp("cells"))


@pytest.mark.parametrize(
    ("runtime", "precision", "scores", "boxes"),
    [
        ("onnxruntime", "fp32", 1e-5, 1e-2),
        ("onnxruntime", "int8", 1e-5, 1e-2),
        ("openvino", "fp32", 1e-5, 1e-2),
        # what is merged with the input's axes may round a tie elsewhere: a level of a quantized tensor here and there
        ("openvino", "int8", 2e-2, 3.0),
        # decoded in BF16 inside, in FP32 outside: 8 bits of mantissa, 2 pixels of 640
        ("openvino", "bf16", 5e-2, 6.0),
    ],
)
def test_every_form_finds_the_same_cells(
    cells: Cells, tmp_path: Path, runtime: str, precision: str, scores: float, boxes: float
) -> None:
    if why := available(runtime, precision):
        pytest.skip(why)
    graph = cells.quantized if precision == "int8" else cells.plain
    sure = Thresholds(score=0.5, iou=0.7)
    stock, *others = (Detector(opened(graph, tmp_path, runtime, precision, form), 320, 320, sure) for form in ALL)
    for image in cells.images:
        expected = stock(image)
        assert sum(expected.scores > 0.5 + scores) >= 6
        for other in others:
            found = other(image)
            assert lost(found, expected, scores=scores, boxes=boxes) == 0
            assert lost(expected, found, scores=scores, boxes=boxes) == 0


def test_requests_honour_an_engine_s_form(cells: Cells, tmp_path: Path) -> None:
    """A race, detections and a load, as every stage asks for them."""
    engines = []
    for form in (Form(), Form(input="pixels", head="runtime")):
        made = build_engine("onnxruntime", cells.plain, _folder(tmp_path / form.head), form=form)
        engines.append(
            Engine(
                name=form.words(), runtime="onnxruntime", precision="fp32", file=str(made), form=form,
                settings=Settings(threads=1),
            )
        )  # fmt: skip
    bench, shape = LocalBench(), (1, 3, 320, 320)
    run = ask.race(bench, engines, cells.paths, shape, seed=0, rounds=2, on_round=lambda done, total: None)
    assert [m.form for m in run.measurements] == [engine.form for engine in engines]
    assert all(m.parts is not None for m in run.measurements)

    stock, other = (ask.detections(bench, engine, cells.paths, shape) for engine in engines)
    assert len(stock) > 200
    assert alike(stock, other)

    load = Load(min_duration_s=0.2, min_queries=4, quick=True)
    request = BenchRequest(
        engine=engines[1].file, runtime="onnxruntime", precision="fp32", settings=Settings(threads=1),
        form=engines[1].form, input_shape=shape, images=tuple(map(str, cells.paths)), load=load,
    )  # fmt: skip
    answer = ask.load(bench, request)
    assert ask.coco(answer.predictions) == other
    assert answer.run.environment["resize"] == resizer()
    with pytest.raises(DeviceError, match="another form"):
        ask.load(bench, request.model_copy(update={"form": Form()}))


def alike(one: list[CocoResult], other: list[CocoResult]) -> bool:
    """The same detections, whatever the order of scores that differ in their last digits."""
    if len(one) != len(other):
        return False
    key = ("image_id", "category_id")
    rows = [
        sorted((*(r[k] for k in key), *np.round(r["bbox"], 1), r["score"]) for r in found) for found in (one, other)
    ]
    return np.allclose(*map(np.array, rows), atol=0.11)


def _folder(path: Path) -> Path:
    path.mkdir()
    return path
