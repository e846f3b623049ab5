"""The build kit as it leaves the host: the same bytes twice, the reference's outputs, and what is refused."""

from __future__ import annotations

import array
import math
import shutil
import struct
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper
from pydantic import ValidationError

from edgeprune.errors import DataError, DeviceError, EdgepruneError, ExportError
from edgeprune.export.kit import FLOOR, MARGIN, differences, kit_sha256, write_kit
from edgeprune.export.lint import lint
from edgeprune.export.qdq import Graph, as_float
from edgeprune.export.view import View
from edgeprune.job import find_target
from edgeprune.kit import build_engine
from edgeprune.records import Kit, TargetProfile, read_json
from edgeprune.records.files import sha256_file
from edgeprune.runtime.preprocess import letterbox, read_image
from edgeprune.runtime.session import open_unoptimised
from tests.disk import small_disk
from tests.export.test_quantized import Built
from tests.test_cli import edgeprune


def read(folder: Path) -> Kit:
    return read_json(folder / "kit.json", Kit, ExportError)


def floats(file: Path) -> np.ndarray:
    """As a board without numpy reads it."""
    content = file.read_bytes()
    return np.array(struct.unpack(f"<{len(content) // 4}f", content), np.float32)


def test_the_same_inputs_give_the_same_bytes(small: Built, images: Path, kit: Path, tmp_path: Path) -> None:
    write_kit(small.file, small.float_file, images, tmp_path / "elsewhere" / "again")
    assert kit_sha256(tmp_path / "elsewhere" / "again") == kit_sha256(kit)
    assert sha256_file(tmp_path / "elsewhere" / "again") == sha256_file(kit)


def test_kit_json_names_every_file_with_its_hash(kit: Path) -> None:
    there = {p.relative_to(kit).as_posix() for p in kit.rglob("*") if p.is_file()} - {"kit.json"}
    assert {file.path for file in read(kit).files} == there
    assert all(sha256_file(kit / file.path) == file.sha256 for file in read(kit).files)
    assert all((kit / file.path).stat().st_size == file.bytes for file in read(kit).files)
    assert b"/tmp" not in (kit / "kit.json").read_bytes(), "no path of this machine"


def test_graphs_are_clean_for_every_version_that_they_claim(kit: Path) -> None:
    found = {(g.precision, g.typed): g for g in read(kit).graphs}
    assert set(found) == {(p, t) for p in ("int8", "fp16") for t in (False, True)}
    for (precision, typed), graph in found.items():
        model = onnx.load(kit / graph.file)
        assert (graph.since, graph.before) == (("11", "12") if typed else ("8.5", "11"))
        for version in ("11", "11.4") if typed else ("8.5", "8.6", "10.3", "10.13"):
            assert lint(model, "tensorrt", version) == ()
        assert View(model).opset == (19 if typed else 17)
        quantized = [n.name for n in model.graph.node if n.op_type == "Conv" and View(model).has_int8_weights(n)]
        assert quantized == (list(read(kit).int8_convolutions) if precision == "int8" else [])


def test_int8_convolutions_are_those_of_the_quantization(small: Built, kit: Path) -> None:
    convolutions = read(kit).int8_convolutions
    assert len(convolutions) == len(set(convolutions)) == len(small.record.weights)


def test_layers_that_went_back_to_float_need_not_be_int8(small: Built, images: Path, kit: Path, tmp_path: Path) -> None:
    """mixed.onnx: what the agreed accuracy left in INT8."""
    first = Graph(small.model).quantized_convolutions()[0]
    onnx.save(as_float(small.model, [first]), tmp_path / "mixed.onnx")
    made = write_kit(tmp_path / "mixed.onnx", small.float_file, images, tmp_path / "kit", count=1)
    assert made.int8_convolutions == read(kit).int8_convolutions[1:]


@pytest.mark.parametrize("board", ["orin-nano", "orin-nx", "agx-orin", "thor"])
def test_the_boards_targets_ask_for_what_tensorrt_takes(board: str) -> None:
    profile = find_target(f"jetson-{board}")
    assert (profile.runtime, profile.precisions, profile.dla) == ("tensorrt", ("fp16", "int8"), None)
    assert profile.device == f"ssh://{board}"
    assert (profile.quantization.activations, profile.quantization.placement) == ("symmetric", "conv-inputs")


def test_dla_is_asked_for_in_fp16_alone() -> None:
    profile = find_target("jetson-agx-orin-dla")
    assert (profile.precisions, profile.dla) == (("fp16",), 0)
    for changed, said in (
        ({"precisions": ("fp16", "int8")}, r"dla is for precisions: \[fp16\]"),
        ({"runtime": "openvino", "precisions": ("fp32",)}, "dla is for tensorrt"),
    ):
        with pytest.raises(ValidationError, match=said):
            TargetProfile.model_validate(profile.model_dump() | changed)
    asymmetric = {"precisions": ("int8",), "dla": None, "quantization": {"activations": "asymmetric"}}
    with pytest.raises(ValidationError, match="symmetric alone"):
        TargetProfile.model_validate(profile.model_dump() | asymmetric)


def test_a_float_kit_has_one_candidate(small: Built, images: Path, tmp_path: Path) -> None:
    made = write_kit(None, small.float_file, sorted(images.iterdir()), tmp_path / "kit", count=1)
    assert ({g.precision for g in made.graphs}, made.int8_convolutions) == ({"fp16"}, ())
    assert [e.precision for e in made.golden.expected] == ["fp16"]
    with pytest.raises(ValidationError, match="both or neither"):
        Kit.model_validate(made.model_dump() | {"int8_convolutions": ("conv",)})


@pytest.mark.parametrize("precision", ["int8", "fp16"])
def test_golden_outputs_are_the_references(small: Built, images: Path, kit: Path, precision: str) -> None:
    """Of the graphs that went in, not of the forms: these stand for the same numbers."""
    pixels = [letterbox(read_image(images / f"{index}.png"), 64, 64)[0] for index in (0, 1, 3, 4)]
    assert np.array_equal(floats(kit / "golden/input.f32"), np.concatenate(pixels).ravel())
    run = open_unoptimised((small.file if precision == "int8" else small.float_file).read_bytes())
    expected = np.concatenate([run({"images": image})["output0"] for image in pixels])
    assert np.array_equal(floats(kit / f"golden/{precision}.f32"), expected.ravel())
    (tolerated,) = (e for e in read(kit).golden.expected if e.precision == precision)
    typed = open_unoptimised((kit / f"graphs/{precision}-typed.onnx").read_bytes())
    boxes, scores = differences(expected, np.concatenate([typed({"images": image})["output0"] for image in pixels]))
    assert tolerated.boxes_rms_px == pytest.approx(max(MARGIN * boxes, FLOOR * 64), rel=0.01)
    assert tolerated.scores_rms == pytest.approx(max(MARGIN * scores, FLOOR), rel=0.01)
    assert "FP16" in tolerated.reason


@pytest.mark.parametrize("level", [0.0, 0.3], ids=["nothing counts, so all does", "some count"])
def test_board_computes_differences_as_the_host_does(level: float) -> None:
    random = np.random.default_rng(0)
    reference, got = (random.random((2, 7, 5), dtype=np.float32) * (level or 0.09) for _ in range(2))
    sums = [0.0] * 8
    for a, b in zip(reference, got, strict=True):
        own = build_engine.squares(array.array("f", a.ravel()), array.array("f", b.ravel()), 7, 5, 0.1)
        sums = [x + y for x, y in zip(sums, own, strict=True)]
    assert (sums[1] > 0) == (level > 0)
    assert build_engine.differences(sums) == pytest.approx(differences(reference, got), rel=1e-5)


def test_nan_is_never_within_a_tolerance() -> None:
    values = array.array("f", [1.0] * 5)
    off = build_engine.squares(values, array.array("f", [math.nan] * 5), 5, 1, 0.1)
    assert not build_engine.differences(off)[0] <= 1e9


def with_gelu(source: Path, destination: Path) -> Path:
    """An operator of opset 20 behind the output: no version of TensorRT before 10 takes it."""
    model = onnx.version_converter.convert_version(onnx.load(source), 20)
    last = next(n for n in model.graph.node if "output0" in n.output)
    last.output[:] = ["before"]
    model.graph.node.append(helper.make_node("Gelu", ["before"], ["output0"], name="gelu"))
    del model.graph.value_info[:]
    props = {p.key: p.value for p in onnx.load(source).metadata_props}
    helper.set_model_props(model, props)
    onnx.save(model, destination)
    return destination


def test_version_that_would_refuse_a_graph_isnt_claimed(small: Built, images: Path, tmp_path: Path) -> None:
    newer = with_gelu(small.float_file, tmp_path / "gelu.onnx")
    with pytest.raises(ExportError, match=r"TensorRT 8.5 would refuse[^§]*--oldest") as caught:
        write_kit(small.file, newer, images, tmp_path / "kit")
    assert "fp16 graph" in caught.value.what
    assert not (tmp_path / "kit").exists()
    made = write_kit(small.file, newer, images, tmp_path / "kit", oldest="10.3", count=1)
    assert {(g.since, g.before) for g in made.graphs} == {("10.3", "11"), ("11", "12")}


Change = Callable[[onnx.ModelProto], None]


def changed(source: Path, destination: Path, change: Change) -> Path:
    model = onnx.load(source)
    change(model)
    onnx.save(model, destination)
    return destination


def other_classes(model: onnx.ModelProto) -> None:
    next(p for p in model.metadata_props if p.key == "names").value = "{0: 'a', 1: 'c'}"


def two_outputs(model: onnx.ModelProto) -> None:
    inner = next(n for n in model.graph.node if n.op_type == "Conv").output[0]
    model.graph.output.append(helper.make_tensor_value_info(inner, TensorProto.FLOAT, None))


def test_what_is_no_pair_of_one_build_is_refused(small: Built, images: Path, tmp_path: Path) -> None:
    out = tmp_path / "kit"
    file = tmp_path / "changed.onnx"
    with pytest.raises(ExportError, match=r"aren't of one build[^§]*'c'"):
        write_kit(small.file, changed(small.float_file, file, other_classes), images, out)
    with pytest.raises(ExportError, match="aren't of one build"):
        write_kit(small.file, changed(small.float_file, file, two_outputs), images, out)
    with pytest.raises(ExportError, match="float file is quantized"):
        write_kit(small.file, small.file, images, out)
    with pytest.raises(ExportError, match="isn't the one quantized graph"):
        write_kit(small.float_file, small.float_file, images, out)
    with pytest.raises(ExportError, match="too old"):
        write_kit(small.file, small.float_file, images, out, oldest="8.4")
    assert not out.exists()


def test_images_that_arent_there_or_arent_the_models(small: Built, images: Path, scenes: Path, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="no images for the golden outputs"):
        write_kit(small.file, small.float_file, tmp_path / "empty", tmp_path / "kit")
    with pytest.raises(DataError, match="classes are not the model's"):
        write_kit(small.file, small.float_file, scenes, tmp_path / "kit")
    broken = shutil.copytree(images, tmp_path / "broken")
    (broken / "0.png").write_bytes(b"no image")
    with pytest.raises(DataError, match="can't be read"):
        write_kit(small.file, small.float_file, broken, tmp_path / "kit")


def test_a_folder_with_something_else_is_left_alone(small: Built, images: Path, kit: Path, tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_text("mine")
    with pytest.raises(ExportError, match="holds something else"):
        write_kit(small.file, small.float_file, images, tmp_path)
    assert [p.name for p in tmp_path.iterdir()] == ["mine.txt"]


def test_full_disk_leaves_nothing(small: Built, images: Path, tmp_path: Path) -> None:
    with small_disk(tmp_path / "disk", 8) as disk:
        with pytest.raises(DeviceError, match="No space left on device"):
            write_kit(small.file, small.float_file, images, disk / "kit")
        assert list(disk.iterdir()) == []


def test_command_line(small: Built, images: Path, kit: Path, tmp_path: Path) -> None:
    arguments = ("kit", small.file, "--float", small.float_file, "--images", images, "--out")
    done = edgeprune(*arguments, tmp_path / "kit")
    assert done.returncode == 0, done.stderr
    assert kit_sha256(kit) in done.stdout
    assert "python3 build_engine.py" in done.stdout


def test_record_refuses_a_kit_that_isnt_whole(kit: Path, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(kit, tmp_path / "kit")) / "kit.json"
    copy.write_text(copy.read_text().replace('"file": "graphs/int8.onnx"', '"file": "graphs/none.onnx"'))
    with pytest.raises(EdgepruneError, match=r"missing: graphs/none\.onnx"):
        read(copy.parent)
