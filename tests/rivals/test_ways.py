"""How a rival is run: as it comes is what the runtime does by itself, and nothing that the device lacks is raced."""

from __future__ import annotations

from pathlib import Path

import openvino
import pytest

from edgeprune.records import Settings, TargetProfile
from edgeprune.records.rivals import Way
from edgeprune.records.target import PRECISIONS
from edgeprune.rivals.roll import KEYS, TRAINS_WITH, Rival, lacks, rivals
from edgeprune.rivals.ways import arithmetic, engine, own_arithmetic, ways
from edgeprune.runtime.session import available
from tests.bench.test_measure import net


def profile(runtime: str, **keys: object) -> TargetProfile:
    base = {"description": "d", "runtime": runtime, "input_shape": (1, 3, 64, 64)}
    return TargetProfile.model_validate(base | keys)


OPENVINO, ONNXRUNTIME = profile("openvino"), profile("onnxruntime")


def rival(key: str, target: TargetProfile = OPENVINO) -> Rival:
    return next(r for r in rivals(target, 12) if r.key == key)


def test_as_it_comes_is_what_openvino_takes_by_itself_on_this_machine(tmp_path: Path) -> None:
    import platform

    core = openvino.Core()
    compiled = core.compile_model(core.read_model(str(net(tmp_path / "n.onnx", 2))), "CPU")
    taken = {"f32": "fp32", "float": "fp32", "bf16": "bf16", "bfloat16": "bf16", "f16": "fp16", "float16": "fp16"}
    by_itself = taken[compiled.get_property("INFERENCE_PRECISION_HINT").to_string()]
    lacking = {p: why for p in PRECISIONS["openvino"] if (why := available("openvino", p))}
    assert own_arithmetic(rival("fp32"), OPENVINO, lacking, platform.machine()) == by_itself


@pytest.mark.parametrize(
    ("key", "target", "lacking", "machine", "expected"),
    [
        ("fp32", OPENVINO, (), "x86_64", "bf16"),
        ("fp32", OPENVINO, ("bf16",), "x86_64", "fp32"),
        ("fp32", OPENVINO, ("bf16",), "aarch64", "fp16"),
        ("int8", OPENVINO, ("bf16",), "x86_64", "int8"),
        ("int8", OPENVINO, (), "x86_64", "bf16"),
        ("fp32", profile("openvino", plugin="GPU"), ("bf16",), "x86_64", "fp16"),
        ("fp32", ONNXRUNTIME, (), "x86_64", "fp32"),
        ("int8", ONNXRUNTIME, (), "x86_64", "int8"),
    ],
)
def test_what_a_file_is_computed_in_when_nothing_is_said(
    key: str, target: TargetProfile, lacking: tuple[str, ...], machine: str, expected: str
) -> None:
    assert own_arithmetic(rival(key, target), target, lacking, machine) == expected


def test_all_arithmetic_of_the_device_is_raced_with_all_settings_each_once() -> None:
    settings = (Settings(), Settings(threads=1))
    found = ways(rival("int8"), OPENVINO, {"fp16": "none"}, settings, "x86_64")
    assert found[0].label == ""
    told = [(way.precision, way.settings.threads) for way in found]
    assert told == [("bf16", 0), ("int8", 0), ("int8", 1), ("bf16", 1)]
    alone = ways(rival("fp32", ONNXRUNTIME), ONNXRUNTIME, {}, (Settings(),), "x86_64")
    assert [(way.label, way.precision) for way in alone] == [("", "fp32")]
    assert arithmetic(rival("int8"), "int8") == "int8, the rest in fp32"


def test_the_roll_has_every_key_and_the_epochs_of_the_build() -> None:
    assert tuple(r.key for r in rivals(OPENVINO, 12)) == KEYS
    assert tuple(r.key for r in rivals(ONNXRUNTIME, 12)) == KEYS[:4]
    assert "epochs=12 quantize=8" in rival("qat").how
    assert len({r.slug for r in rivals(OPENVINO, 12)}) == len(KEYS)


def test_training_asks_for_what_ultralytics_asks_for() -> None:
    from ultralytics.utils.torch_utils import MODELOPT_REQUIREMENTS

    assert tuple(MODELOPT_REQUIREMENTS) == TRAINS_WITH
    hub = {"huggingface_hub": "1.0"}
    assert "pip install 'nvidia-modelopt>=0.44'" in str(lacks(rival("qat"), hub))
    assert lacks(rival("qat"), hub | {"nvidia-modelopt": "0.47"}) is None
    assert lacks(rival("int8"), {}) is None


def test_a_rival_is_run_with_its_profiles_input_whatever_the_race_has() -> None:
    own = profile("openvino", input_shape=(1, 3, 320, 320))
    rival = next(r for r in rivals(own, 1) if r.precision == "fp32")
    way = Way(label="", precision="fp32", settings=Settings())
    assert engine(rival, own, way, "model.xml").input_shape == (1, 3, 320, 320)
