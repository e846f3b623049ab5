"""build_engine.py as a board runs it: a process, its words and its exit code.

NVIDIA's own parser and builder (TensorRT-RTX) run here without a GPU; what needs one runs against tests/sim, and for
real where there is a GPU and TensorRT (`make test-gpu`).
"""

from __future__ import annotations

import ast
import hashlib
import importlib.util
import json
import os
import platform
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import nn

from edgeprune.bench.measure import summarise
from edgeprune.errors import DeviceError
from edgeprune.export.gate import MODULES
from edgeprune.export.kit import write_kit
from edgeprune.kit import build_engine
from edgeprune.prune.sparse import best_of
from edgeprune.records import BoardEngine, read_json
from tests.conftest import ROOT
from tests.disk import small_disk
from tests.export.test_quantized import Built
from tests.mute import give_life
from tests.sim.board import SIM, cuda

SCRIPT = Path(build_engine.__file__)
BUILDER = all(importlib.util.find_spec(module) for module in MODULES)
needs_builder = pytest.mark.skipif(not BUILDER, reason="the extra tensorrt-rtx is not installed")
RTX = ("--module", MODULES[0], "--elsewhere")

Run = subprocess.CompletedProcess[str]


def build(kit: Path, cache: Path, *arguments: object, **environment: str) -> Run:
    return subprocess.run(
        [sys.executable, kit / "build_engine.py", "--cache", cache, *map(str, arguments)],
        capture_output=True, text=True, timeout=100, check=False,
        env=os.environ | {"PYTHONPATH": f"{ROOT}:{SIM}", "PYTHONWARNINGS": "ignore"} | environment,
    )  # fmt: skip


def said(done: Run, code: int) -> str:
    assert done.returncode == code, done.stdout + done.stderr
    assert "Traceback" not in done.stderr
    return done.stdout + done.stderr


def record(cache: Path) -> tuple[Path, BoardEngine]:
    (file,) = cache.rglob("engine.json")
    return file.parent, read_json(file, BoardEngine, DeviceError)


def rewritten(kit: Path, folder: Path, change: Callable[[Path], None]) -> Path:
    """A kit that was made so: its hashes hold."""
    copy = Path(shutil.copytree(kit, folder / "kit"))
    change(copy)
    content = json.loads((copy / "kit.json").read_text())
    for entry in content["files"]:
        entry["sha256"] = hashlib.sha256((copy / entry["path"]).read_bytes()).hexdigest()
    (copy / "kit.json").write_text(json.dumps(content))
    return copy


# The file by itself


def test_python_3_8_can_read_it_and_it_imports_the_standard_library_alone() -> None:
    tree = ast.parse(SCRIPT.read_text(), feature_version=(3, 8))
    imported = {
        name.split(".")[0]
        for node in ast.walk(tree)
        if isinstance(node, ast.Import | ast.ImportFrom)
        for name in ([a.name for a in node.names] if isinstance(node, ast.Import) else [node.module or ""])
    }
    assert imported <= sys.stdlib_module_names


def old_python() -> str | None:
    """A Python 3.8 on this machine, if there is one that runs."""
    roots = (Path.home() / ".pyenv" / "versions").glob("3.8*/bin/python3.8")
    return next((str(p) for p in (*roots, shutil.which("python3.8")) if p), None)


@pytest.mark.skipif(old_python() is None, reason="no Python 3.8 here")
def test_on_python_3_8_it_reads_the_kit_and_computes(kit: Path, tmp_path: Path) -> None:
    code = (
        "import sys, array; sys.path.insert(0, sys.argv[1]); import build_engine as b\n"
        "sums = b.squares(array.array('f', [1, 2, 3, 4, .5]), array.array('f', [1, 2, 3, 6, .7]), 5, 1, .1)\n"
        "print(b.differences(sums), b.interval([.5, .6, .7]), b.header({'a': 1}, 0), b._numbers('10.3.0.26'))\n"
    )
    python = old_python()
    assert python
    done = subprocess.run([python, "-IB", "-c", code, kit], capture_output=True, text=True, check=True)
    assert done.stdout.split(") ")[0].startswith("(1.0, 0.19999")
    command = [python, "-I", kit / "build_engine.py", "--elsewhere", "--cache", tmp_path]
    text = said(subprocess.run(command, capture_output=True, text=True, check=False), 2)
    assert "TensorRT's Python module can't be imported" in text
    assert "python3-libnvinfer" in text


# NVIDIA's parser and builder


@needs_builder
@pytest.mark.parametrize(("version", "suffix"), [("8.6", ""), ("11.4", "-typed")])
def test_build_by_nvidias_builder(kit: Path, tmp_path: Path, version: str, suffix: str) -> None:
    from ultralytics.nn.backends.base import BaseBackend

    arguments = (*RTX, "--as", version, "--build-only")
    text = said(build(kit, tmp_path, *arguments), 0)
    folder, made = record(tmp_path)
    assert (made.chosen, made.raced) == ("int8", False)
    assert [c.graph for c in made.candidates] == [f"graphs/int8{suffix}.onnx", f"graphs/fp16{suffix}.onnx"]
    stated = json.loads((kit / "kit.json").read_text())
    assert made.candidates[0].convolutions == dict.fromkeys(stated["int8_convolutions"], "int8")
    assert {"build log"} == {json.loads(p.read_text())["source"] for p in folder.glob("layers-*.json")}
    assert any(
        layer["inputs"][:1] == ["int8"] for layer in json.loads((folder / "layers-int8.json").read_text())["layers"]
    )
    offset, header = BaseBackend.engine_header(folder / "model.engine")
    assert header["names"] == {"0": "a", "1": "b"}
    assert (header["task"], header["imgsz"], header["stride"]) == ("detect", [64, 64], 32)
    assert (folder / "model.engine").read_bytes()[offset:] == (folder / "model.plan").read_bytes()
    assert (folder.parent / "timing.cache").stat().st_size > 0
    assert sorted(p.name for p in folder.parent.iterdir()) == sorted([folder.name, "timing.cache"]), "no leftovers"
    assert "trtexec --onnx=" in text
    assert ("--int8 --fp16" in text) == (version == "8.6"), "11 has no such flags"
    assert made.kit_sha256 == hashlib.sha256((kit / "kit.json").read_bytes()).hexdigest()
    assert folder.name.startswith(made.kit_sha256)

    before = (folder / "model.plan").stat().st_mtime_ns
    assert "built before, int8" in said(build(kit, tmp_path, *arguments), 0)
    assert (folder / "model.plan").stat().st_mtime_ns == before


@needs_builder
def test_convolution_that_runs_in_float_is_refused_by_name(small: Built, kit: Path, tmp_path: Path) -> None:
    """The graph before `tensorrt_form`: without Q/DQ behind Resize, the two convolutions there run in float."""
    broken = rewritten(kit, tmp_path, lambda folder: shutil.copyfile(small.file, folder / "graphs/int8.onnx"))
    text = said(build(broken, tmp_path / "cache", *RTX, "--as", "10.3", "--build-only"), 1)
    assert "2 of 57 convolutions should be INT8 and aren't." in text
    assert "where: /model.12/cv1/conv/Conv, /model.15/cv1/conv/Conv" in text
    assert "got: float" in text
    left = {p.name.split("-")[0] for p in (tmp_path / "cache").rglob("*") if p.is_file()}
    assert left == {"timing.cache", "refused"}, "no engine, but the layers for whoever asks why"


@needs_builder
def test_parse_only_builds_nothing(kit: Path, tmp_path: Path) -> None:
    text = said(build(kit, tmp_path / "cache", "--module", MODULES[0], "--as", "11", "--parse-only"), 0)
    assert text.count("takes it") == 2
    assert not (tmp_path / "cache").exists()

    def spoil(folder: Path) -> None:
        (folder / "graphs/int8-typed.onnx").write_bytes(b"no graph")

    broken = rewritten(kit, tmp_path, spoil)
    text = said(build(broken, tmp_path, "--module", MODULES[0], "--as", "11", "--parse-only"), 1)
    assert "can't parse the graph" in text
    assert "int8-typed.onnx" in text


@needs_builder
def test_full_disk_is_told_and_leaves_nothing(kit: Path, tmp_path: Path) -> None:
    with small_disk(tmp_path / "small", 4) as small:
        text = said(build(kit, small, *RTX, "--as", "10.3", "--build-only"), 2)
        assert "The disk is full." in text
        assert "another folder with --cache" in text
        assert [p.name for p in small.rglob("*") if p.is_file()] == ["timing.cache"]


def test_a_layer_between_kernels_isnt_the_convolution_and_weights_count() -> None:
    layer = {"nodes": ["c"], "type": "CaskConvolution Convolution", "inputs": ["int8"], "weights": ["int8", "float"]}
    between = layer | {"type": "Reformat Reformat", "inputs": ["float"], "weights": []}
    assert build_engine.found_type("c", [between, layer]) == "int8"
    assert build_engine.found_type("c", [between]) == "no layer"
    other = layer | {"type": "Myelin", "inputs": ["half"], "weights": []}
    assert build_engine.found_type("c", [other, layer]) == "int8", "its own layer goes before others that bear its name"
    assert build_engine.found_type("c", [layer | {"weights": ["half"]}]) == "half weights"
    assert build_engine.found_type("c", [layer | {"weights": []}]) == "int8", "8.5 states none for some kernels"


# The kit, the machine, the version


def test_kit_that_was_changed_is_refused_before_anything_else(kit: Path, tmp_path: Path) -> None:
    def refused(change: Callable[[Path], object]) -> str:
        shutil.rmtree(tmp_path / "kit", ignore_errors=True)
        copy = Path(shutil.copytree(kit, tmp_path / "kit"))
        change(copy)
        return said(build(kit, tmp_path / "cache", "--kit", copy, "--module", "no_such_module"), 2)

    graph = (kit / "graphs/int8.onnx").read_bytes()
    text = refused(lambda copy: (copy / "graphs/int8.onnx").write_bytes(graph[:-1] + bytes([graph[-1] ^ 1])))
    assert "A file of the kit was changed." in text
    assert "int8.onnx" in text
    assert "was changed" in refused(lambda copy: (copy / "build_engine.py").write_text("print('mine')"))
    assert "is missing" in refused(lambda copy: (copy / "golden/input.f32").unlink())
    assert "The kit can't be read" in refused(lambda copy: (copy / "kit.json").unlink())
    assert "The kit can't be read" in refused(lambda copy: (copy / "kit.json").write_text("{"))
    assert "format 1" in refused(lambda copy: (copy / "kit.json").write_text('{"format": 2}'))


RELEASE = "# R36 (release), REVISION: 4.0, GCID: 37537400, BOARD: generic, EABI: {}, DATE: Fri Sep 13 04:36:44 UTC"


ORIN_NANO = "NVIDIA Jetson Orin Nano Developer Kit"


def board(root: Path, release: str, model: str, compatible: str) -> Path:
    """What L4T says of itself, where it says so."""
    for name, text in {
        "etc/nv_tegra_release": release,
        "proc/device-tree/model": model + "\0",
        "proc/device-tree/compatible": compatible.replace(" ", "\0") + "\0",
        "var/lib/nvpmodel/status": "pmode:0002",
    }.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    return root


@pytest.mark.parametrize(
    ("release", "jetpack", "l4t"),
    [
        ("# R35 (release), REVISION: 4.1, GCID: 33958178, BOARD: t186ref, EABI: aarch64, DATE: …", "5.1.x", "35.4.1"),
        ("# R36 (release), REVISION: 3.0, GCID: 1, BOARD: generic, EABI: aarch64, DATE: …", "6.0", "36.3.0"),
        (RELEASE.format("aarch64"), "6.1-6.2", "36.4.0"),
        ("# R38 (release), REVISION: 2.0, GCID: 1, BOARD: generic, EABI: aarch64, DATE: …", "7.0-7.1", "38.2.0"),
        ("# R39 (release), REVISION: 1, GCID: 1, BOARD: generic, EABI: aarch64, DATE: …", "7.2.2-or-later", "39.1"),
        ("# R52 (release), REVISION: 1.0, GCID: 1, BOARD: generic, EABI: aarch64, DATE: …", "unknown", "52.1.0"),
    ],
)
def test_board_is_read_from_l4t_and_the_device_tree(tmp_path: Path, release: str, jetpack: str, l4t: str) -> None:
    root = board(
        tmp_path, release, "NVIDIA Jetson Orin Nano Developer Kit", "nvidia,p3768-0000+p3767-0005 nvidia,p3767"
    )
    assert build_engine.read_board(root) == {
        "l4t": l4t, "jetpack": jetpack, "model": ORIN_NANO, "power_mode": "0002",
        "sku": f"{ORIN_NANO} nvidia,p3768-0000+p3767-0005", "architecture": "aarch64",
    }  # fmt: skip


def test_machine_that_isnt_the_board_is_refused(kit: Path, tmp_path: Path) -> None:
    other = "riscv64" if platform.machine() == "aarch64" else "aarch64"
    root = board(tmp_path / "root", RELEASE.format(other), "NVIDIA Jetson AGX Orin Developer Kit", "nvidia,p3737 x")
    arguments = ("--module", "sim_tensorrt")
    assert "This is no Jetson." in said(build(kit, tmp_path, *arguments, "--root", tmp_path / "none"), 2)
    text = said(build(kit, tmp_path, *arguments, "--root", root), 2)
    assert "another architecture" in text
    assert f"expected: {other}" in text


@pytest.mark.parametrize(
    ("version", "arguments", "says"),
    [
        ("8.4.1", (), "TensorRT is too old."),
        ("12.0.0", (), "No graph of the kit is for this TensorRT."),
        ("10.3.0", ("--as", "8.4"), "TensorRT is too old."),
        ("10.13.0", ("--dla", 0), "This TensorRT has no DLA."),
        ("11.4.0", ("--dla", 0), "This TensorRT has no DLA."),
        ("8.6.2", ("--dla", 0, "--precision", "int8"), "8.x takes no Q/DQ there"),
        ("11.4.1", ("--dla", 0, "--precision", "int8"), "shows no types"),
        ("10.3.0", ("--cudart", "/none/libcudart.so"), "The CUDA runtime isn't found."),
    ],
)  # fmt: skip
def test_what_cant_be_built_here_is_said(
    kit: Path, tmp_path: Path, version: str, arguments: tuple[object, ...], says: str
) -> None:
    done = build(kit, tmp_path / "cache", "--elsewhere", "--module", "sim_tensorrt", *arguments, SIM_TENSORRT=version)
    text = said(done, 2)
    assert says in text
    assert not (tmp_path / "cache").exists()


@needs_builder
def test_tensorrt_rtx_doesnt_pass_for_a_version_by_itself(kit: Path, tmp_path: Path) -> None:
    assert "--as 10.3" in said(build(kit, tmp_path, *RTX), 2)


@pytest.mark.skipif(shutil.which("nvidia-smi") is not None, reason="there is a GPU")
def test_no_gpu_is_told_by_the_cuda_runtime_itself(kit: Path, tmp_path: Path) -> None:
    found = [p for folder in sys.path for p in Path(folder).glob("nvidia/*/lib/libcudart.so*")]
    if not found:
        pytest.skip("left out: no CUDA runtime among the packages")
    text = said(build(kit, tmp_path, "--elsewhere", "--module", "sim_tensorrt", "--cudart", found[0]), 2)
    assert "There is no GPU." in text
    assert "--build-only" in text


def test_float_kit_has_no_int8_and_says_so(small: Built, images: Path, tmp_path: Path) -> None:
    write_kit(None, small.float_file, images, tmp_path / "kit", count=1)
    options = ("--elsewhere", "--module", "sim_tensorrt", "--precision", "int8")
    text = said(build(tmp_path / "kit", tmp_path / "cache", *options), 2)
    assert "The kit has no int8 graph." in text
    assert "expected: fp16" in text


# Behind the GPU, simulated


@pytest.fixture(scope="module")
def sim(tmp_path_factory: pytest.TempPathFactory) -> tuple[object, ...]:
    library = cuda(tmp_path_factory.mktemp("sim"))
    return ("--module", "sim_tensorrt", "--elsewhere", "--cudart", library, "--warm-up", 0, "--rounds", 2)


def with_zeros(model: nn.Module) -> None:
    """Two of every four weights along the input channels."""
    give_life(model)
    for name, module in model.named_modules():
        if isinstance(module, nn.Conv2d) and module.groups == 1 and module.in_channels % 4 == 0 and ".dfl" not in name:
            with torch.no_grad():
                module.weight.mul_(best_of(module.weight.abs(), 2, 4))


@pytest.mark.parametrize("version", ["8.5.2", "11.4.0"])
def test_weights_of_two_in_four_are_built_with_sparse_kernels(
    images: Path, tmp_path: Path, sim: tuple[object, ...], version: str
) -> None:
    """All graphs: the pattern is looked for in what the board gets, integers or floats."""
    sparse = Built(tmp_path, with_zeros)
    made = write_kit(sparse.file, sparse.float_file, images, tmp_path / "kit", count=1)
    assert all(graph.sparse for graph in made.graphs)
    root = board(
        tmp_path / "root", RELEASE.format("aarch64"), "NVIDIA Jetson Orin Nano Developer Kit", "nvidia,p3767-5 x"
    )
    said(build(tmp_path / "kit", tmp_path / "cache", *sim, "--root", root, SIM_TENSORRT=version), 0)
    _, engine = record(tmp_path / "cache")
    assert [candidate.flags[-1] for candidate in engine.candidates] == ["SPARSE_WEIGHTS"] * 2


@pytest.mark.parametrize(
    ("version", "flags"),
    [
        ("8.5.2", (["FP16", "INT8"], ["FP16"])),
        ("8.6.2", (["FP16", "INT8"], ["FP16"])),
        ("10.3.0", (["FP16", "INT8"], ["FP16"])),
        ("11.4.0", ([], [])),
    ],
)
def test_race_keeps_every_sample_and_takes_the_faster(
    kit: Path, tmp_path: Path, sim: tuple[object, ...], version: str, flags: tuple[list[str], list[str]]
) -> None:
    root = board(
        tmp_path / "root", RELEASE.format("aarch64"), "NVIDIA Jetson Orin Nano Developer Kit", "nvidia,p3767-5 x"
    )
    slow = "SIM_FP16_MS" if version != "8.6.2" else "SIM_INT8_MS"
    done = build(kit, tmp_path / "cache", *sim, "--root", root, SIM_TENSORRT=version, **{slow: "60"})
    text = said(done, 0)
    folder, made = record(tmp_path / "cache")
    assert made.chosen == ("fp16" if version == "8.6.2" else "int8")
    assert made.comparison.faster == (made.chosen == "int8")
    assert tuple(list(c.flags) for c in made.candidates) == flags
    for index, candidate in enumerate(made.candidates):
        assert made.order.count(index) == len(candidate.blocks_ms) == 2
        assert sum(map(len, candidate.blocks_ms)) == candidate.latency_ms.samples >= 16
        samples = [sample for block in candidate.blocks_ms for sample in block]
        assert candidate.latency_ms.model_dump() == pytest.approx(summarise(samples).model_dump(), rel=1e-6)
        assert candidate.golden.boxes_rms_px <= candidate.golden.boxes_rms_px_tolerated
        assert candidate.golden.scores_rms <= candidate.golden.scores_rms_tolerated
    assert set(made.candidates[0].convolutions.values()) == {"int8"}
    assert json.loads((folder / "layers-int8.json").read_text())["source"] == "engine inspector"
    assert "p50" in text
    assert "[" in text
    place = folder.relative_to(tmp_path / "cache").parts
    assert place[:3] == (
        "nvidia-jetson-orin-nano-developer-kit-nvidia-p3767-5", "jetpack-6.1-6.2-l4t-36.4.0", f"sim-tensorrt-{version}",
    )  # fmt: skip
    assert place[3] == made.kit_sha256
    assert made.board.power_mode == "0002"


@pytest.mark.parametrize("version", ["8.5.2", "10.3.0", "11.4.0"])
def test_every_form_of_the_inspectors_json_shows_float(
    kit: Path, tmp_path: Path, sim: tuple[object, ...], version: str
) -> None:
    name = "/model.2/cv1/conv/Conv"
    done = build(kit, tmp_path, *sim, "--precision", "int8", SIM_TENSORRT=version, SIM_FLOAT=name)
    text = said(done, 1)
    assert "1 of 57 convolutions" in text
    assert f"where: {name}\n" in text
    assert "got: half" in text


def test_engine_that_computes_something_else_is_refused(kit: Path, tmp_path: Path, sim: tuple[object, ...]) -> None:
    text = said(build(kit, tmp_path, *sim, SIM_WRONG="fp16"), 1)
    assert "The fp16 engine doesn't compute the golden outputs." in text
    assert "golden/fp16.f32" in text
    assert not list(tmp_path.rglob("engine.json"))


def test_gpu_without_memory_is_told(kit: Path, tmp_path: Path, sim: tuple[object, ...]) -> None:
    text = said(build(kit, tmp_path, *sim, "--precision", "int8", SIM_CUDA_FULL="1"), 2)
    assert "cudaMalloc" in text
    assert "out of memory (error 2)" in text


def test_what_was_made_is_copied_where_it_was_asked_for(kit: Path, tmp_path: Path, sim: tuple[object, ...]) -> None:
    arguments = (*sim, "--precision", "fp16", "--out", tmp_path / "out")
    said(build(kit, tmp_path / "cache", *arguments), 0)
    folder, _ = record(tmp_path / "cache")
    names = ["engine.json", "layers-fp16.json", "model.engine"]
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == names
    assert all((tmp_path / "out" / name).read_bytes() == (folder / name).read_bytes() for name in names)
    shutil.rmtree(tmp_path / "out")
    assert "built before" in said(build(kit, tmp_path / "cache", *arguments), 0)
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == names


def test_what_a_killed_build_left_goes_and_what_a_running_one_has_stays(
    kit: Path, tmp_path: Path, sim: tuple[object, ...]
) -> None:
    arguments = (*sim, "--precision", "fp16")
    said(build(kit, tmp_path, *arguments), 0)
    folder, _ = record(tmp_path)
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    for pid in (ended.pid, os.getpid()):
        (folder.parent / f".part-{pid}-x").mkdir()
    said(build(kit, tmp_path, *arguments, "--again"), 0)
    assert [p.name for p in folder.parent.glob(".part-*")] == [f".part-{os.getpid()}-x"]


def test_dla_takes_fp16_and_ultralytics_is_told_the_core(kit: Path, tmp_path: Path, sim: tuple[object, ...]) -> None:
    assert "one of 2" in said(build(kit, tmp_path, *sim, "--dla", 2, SIM_DLA="2"), 2)
    text = said(build(kit, tmp_path, *sim, "--dla", 1, SIM_DLA="2"), 0)
    folder, made = record(tmp_path)
    assert made.candidates[0].flags == ("FP16", "GPU_FALLBACK")
    assert "--useDLACore=1 --allowGPUFallback" in text
    content = (folder / "model.engine").read_bytes()
    assert json.loads(content[4 : 4 + int.from_bytes(content[:4], "little")])["dla"] == "1"


def test_cache_that_was_changed_is_built_anew(kit: Path, tmp_path: Path, sim: tuple[object, ...]) -> None:
    arguments = (*sim, "--precision", "fp16")
    said(build(kit, tmp_path, *arguments), 0)
    folder, _ = record(tmp_path)
    good = (folder / "model.plan").read_bytes()
    (folder / "model.plan").write_bytes(good + b"!")
    (folder.parent / "timing.cache").write_bytes(b"another machine's")
    text = said(build(kit, tmp_path, *arguments), 0)
    assert "was changed, or is another machine's; it is built anew" in text
    assert "timing.cache is another machine's" in text
    assert (folder / "model.plan").read_bytes() == good
    assert (folder.parent / "timing.cache").read_bytes() == b"10.3.0+"


# For real


@pytest.mark.gpu
@pytest.mark.skipif(importlib.util.find_spec("tensorrt") is None, reason="TensorRT is not installed")
def test_whole_path_on_a_gpu(kit: Path, tmp_path: Path) -> None:
    said(build(kit, tmp_path, "--elsewhere", "--rounds", 10), 0)
    _, made = record(tmp_path)
    assert made.raced
    assert set(made.candidates[0].convolutions.values()) == {"int8"}
    assert "built before" in said(build(kit, tmp_path, "--elsewhere", "--rounds", 10), 0)
