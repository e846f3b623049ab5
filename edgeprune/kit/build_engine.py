#!/usr/bin/env python3
"""Build the engine of an edgeprune build kit on the board that will run it.

    python3 build_engine.py            # in the kit's folder, on the Jetson
    python3 build_engine.py --help

This file travels alone: Python 3.8 and later, the standard library, and the board's own `tensorrt`. It runs engines
through libcudart with ctypes, so nothing needs to be installed. That is why it is one long file.

What it does, in this order:
1. Checks every file of the kit against kit.json. Reads L4T, the board's model and TensorRT's version.
2. Builds both candidates, INT8 (with FP16 where the graph isn't quantized) and FP16, as this version wants to be told:
   8.5 to 10.x by flags, 11 by the types of the graph. The timing cache is kept.
3. Reads what each convolution became, from TensorRT's own layer information. One that should be INT8 and isn't: no
   engine.
4. Compares both with the golden outputs of the kit. Off by more than the kit tolerates: no engine.
5. Races them in interleaved blocks. INT8 must be faster beyond the 99 % interval, otherwise FP16, which is nearer to
   the float model, is taken.
6. Writes model.engine (Ultralytics' header and the plan), model.plan (what trtexec loads), layers-*.json and
   engine.json with every sample, under CACHE/board/JetPack/TensorRT/sha256 of the kit. A second run finds it there.

Exit codes: 0 built (or found), 1 refused by a gate, 2 wrong use, kit, machine or disk.

Sources: NVIDIA, TensorRT developer guide 8.5 to 11 ('Engine Inspector', 'Timing Cache', 'Working with DLA'), trtexec;
Ultralytics 8.4 `engine_header`: 4-byte little-endian length, JSON, plan.
"""

from __future__ import annotations

import argparse
import array
import ctypes
import errno
import hashlib
import importlib
import json
import math
import os
import platform
import random
import re
import shlex
import shutil
import statistics
import sys
import tempfile
import time
import traceback
from pathlib import Path
from typing import TYPE_CHECKING, Any, Dict, Iterable, Sequence, Tuple

Json = Dict[str, Any]
Version = Tuple[int, ...]
if TYPE_CHECKING:
    Floats = array.array[float]

REFUSED, WRONG = 1, 2
FORMAT = 1
#: L4T -> JetPack, most specific first. A release that isn't here is no obstacle: L4T is part of the cache's name too.
JETPACKS = (
    ((35,), "5.1.x"),
    ((36, 3), "6.0"),
    ((36, 4), "6.1-6.2"),
    ((36,), "6.x"),
    ((38,), "7.0-7.1"),
    ((39,), "7.2.2-or-later"),
)
#: TensorRT releases with DLA, where the chip has it: up to 10.7, and again from 11.4.1 (AGX Orin).
DLA_BEFORE, DLA_AGAIN = (10, 8), (11, 4, 1)
OLDEST = (8, 5)
#: Names of the CUDA runtime, newest first; the bare one belongs to the development package, which a board may lack.
CUDART = ("libcudart.so", "libcudart.so.13", "libcudart.so.12", "libcudart.so.11.0",
          "/usr/local/cuda/lib64/libcudart.so")  # fmt: skip
#: Layers that lie between kernels and bear their neighbours' names: never the convolution itself.
BETWEEN = frozenset({
    "kgen", "signal", "wait", "reformat", "noop", "constant", "shuffle", "quantize", "dequantize", "pointwise",
    "pointwisev2",
})  # fmt: skip
ROUNDS, WARM_UP_S, BLOCK_S, MIN_BLOCK = 40, 1.0, 0.15, 8
CONFIDENCE, RESAMPLES = 0.99, 2000
#: How a refusal for wrong outputs is worded, for who must tell it from others.
NOT_GOLDEN = "doesn't compute the golden outputs"
#: Convolutions that a message names at most; layers-int8.json has all.
NAMED = 8


class Stop(Exception):
    """An end with an exit code and a sentence: what, where, expected, got, next step."""

    def __init__(self, code: int, what: str, **details: object) -> None:
        self.code = code
        lines = ["  {}: {}".format(key.replace("_", " "), value) for key, value in details.items() if value is not None]
        super().__init__("\n".join([what, *lines]))


def main(arguments: Sequence[str] | None = None) -> int:
    options = read_options(arguments)
    try:
        return run(options)
    except Stop as stop:
        print(f"build_engine: {stop}", file=sys.stderr)
        return stop.code
    except KeyboardInterrupt:
        print("build_engine: interrupted; nothing half-made is left", file=sys.stderr)
        return 130
    except Exception:  # Python's own exit code for these is 1, which means 'refused' here
        traceback.print_exc()
        return WRONG


def read_options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Build the engine of an edgeprune build kit on this board.")
    own = Path(__file__).resolve().parent
    parser.add_argument("--kit", type=Path, default=own, help="folder with kit.json (default: this file's)")
    cache = Path("~/.cache/edgeprune/engines").expanduser()
    parser.add_argument("--cache", type=Path, default=cache, help="engines go here (default: %(default)s)")
    parser.add_argument("--out", type=Path, metavar="FOLDER", help="copy what was made into this folder too")
    parser.add_argument("--precision", choices=("race", "int8", "fp16"), default="race", help="build one only")
    parser.add_argument("--workspace", type=int, default=1024, metavar="MIB", help="memory that the builder may use")
    parser.add_argument("--dla", type=int, metavar="CORE", help="build for a DLA core, in FP16")
    parser.add_argument("--rounds", type=_at_least_2, default=ROUNDS, help="blocks of each candidate in the race")
    parser.add_argument("--warm-up", type=float, default=WARM_UP_S, help="seconds that each runs before the race")
    parser.add_argument("--again", action="store_true", help="build even if the engine is there")
    parser.add_argument("--parse-only", action="store_true", help="no build: does TensorRT take the graphs?")
    parser.add_argument("--build-only", action="store_true", help="don't run it: no golden outputs, no race")
    parser.add_argument("--elsewhere", action="store_true", help="this machine is no Jetson; build for it")
    parser.add_argument("--module", default="tensorrt", help="Python module to build with")
    parser.add_argument("--as", dest="version", metavar="VERSION", help="read the kit as for this TensorRT version")
    parser.add_argument("--cudart", metavar="FILE", help="the CUDA runtime library")
    parser.add_argument("--root", type=Path, default=Path("/"), help="where /etc and /proc of the board lie")
    return parser.parse_args(arguments)


def _at_least_2(text: str) -> int:
    number = int(text)
    if number < 2:
        raise argparse.ArgumentTypeError("2 at least: blocks are compared in pairs, and one pair has no interval")
    return number


def run(options: argparse.Namespace) -> int:
    kit, kit_sha256 = read_kit(options.kit)
    board = read_board(options.root)
    _require_board(board, options)
    trt = import_tensorrt(options.module)
    version = _version(trt, options)
    graphs = choose_graphs(kit, version, options)
    log = make_log(trt)
    if options.parse_only:
        for graph in graphs:
            parse(trt, make_builder(trt, log), options.kit, graph, log)
            print("{}: TensorRT {} takes it".format(graph["file"], trt.__version__))
        return 0
    cuda = None if options.build_only else Cuda(options.cudart)
    place = place_of(options.cache, board, trt, options.module, cuda)
    folder = place / (kit_sha256 + _request(options))
    if not options.again:
        found = read_engine(folder)
        if found is not None:
            print("{}: built before, {}".format(folder / "model.engine", found["chosen"]))
            print(found["trtexec"])
            _copy(folder.iterdir(), options.out)
            return 0
    timing = place / "timing.cache"
    with disk(place):
        place.mkdir(parents=True, exist_ok=True)
        _drop_abandoned(place)
        work = Path(tempfile.mkdtemp(dir=str(place), prefix=f".part-{os.getpid()}-"))
        try:
            record = make(trt, options, kit, graphs, log, cuda, timing, work)
            record.update(
                format=FORMAT, kit_sha256=kit_sha256, board=board, machine=platform.machine(), module=options.module,
                tensorrt=trt.__version__, python=platform.python_version(), raced=len(graphs) > 1 and cuda is not None,
            )  # fmt: skip
            plan = (work / "{}.plan".format(record["chosen"])).read_bytes()
            for graph in graphs:
                (work / "{}.plan".format(graph["precision"])).unlink()
            record["trtexec"] = trtexec_line(options, graphs, record["chosen"], timing, folder)
            write(work / "model.plan", plan)
            write(work / "model.engine", header(kit["metadata"], options.dla) + plan)
            record["sha256"] = {name: sha256(work / name) for name in ("model.plan", "model.engine")}
            write(work / "engine.json", _json(record))
            _replace(work, folder)
        except BaseException:
            _copy(work.glob("layers-*.json"), options.out)
            _keep_layers(work, folder)
            shutil.rmtree(str(work), ignore_errors=True)
            raise
    print("{}: {}".format(folder / "model.engine", record["chosen"]))
    print(record["trtexec"])
    _copy(folder.iterdir(), options.out)
    return 0


def place_of(cache: Path, board: dict[str, str], trt: Any, module: str, cuda: Cuda | None) -> Path:
    """The folder of a cache that holds what this board's GPU and TensorRT built."""
    return (
        cache / _slug(board["sku"] or "{}-{}".format(platform.machine(), cuda.chip() if cuda else "no-gpu"))
        / _slug("jetpack-{jetpack}-l4t-{l4t}".format(**board) if board["l4t"] else "no-jetpack")
        / _slug("{}-{}".format(module.replace("_", "-"), trt.__version__))
    )  # fmt: skip


def make(
    trt: Any, options: argparse.Namespace, kit: Json, graphs: list[Json], log: Any, cuda: Cuda | None,
    timing: Path, work: Path,
) -> Json:  # fmt: skip
    """Build every candidate, hold each against its gates, and choose. Returns what engine.json says of it."""
    candidates: list[Json] = []
    engines: list[Engine] = []
    for graph in graphs:
        started = time.perf_counter()
        plan, flags = build(trt, options, graph, log, timing)
        seconds = time.perf_counter() - started
        engine, layers, source = inspect(trt, plan, log, needed=cuda is not None)
        name = graph["precision"]
        write(work / f"{name}.plan", plan)
        write(work / f"layers-{name}.json", _json({"source": source, "layers": layers}))
        candidate = {"precision": name, "graph": graph["file"], "flags": flags, "build_s": round(seconds, 3),
                     "plan_bytes": len(plan), "warnings": log.warnings}  # fmt: skip
        if name == "int8":
            candidate["convolutions"] = {c: found_type(c, layers) for c in kit["int8_convolutions"]}
            require_int8(candidate["convolutions"], trt.__version__)
        print(f"{name}: built in {seconds:.1f} s, {len(plan) / 1e6:.1f} MB")
        if cuda is not None:
            engines.append(Engine(trt, cuda, engine, kit))
            candidate["golden"] = require_golden(engines[-1], kit, name, options.kit)
        candidates.append(candidate)
    record = {"candidates": candidates, "chosen": candidates[0]["precision"]}
    if len(engines) > 1:
        race(engines, candidates, record, options)
    return record


# The kit and the board


def read_kit(folder: Path) -> tuple[Json, str]:
    """kit.json, once every file that it names is there with its bytes; and kit.json's own hash."""
    file = folder / "kit.json"
    try:
        content = file.read_bytes()
        kit = json.loads(content.decode("utf-8"))
    except (OSError, ValueError) as error:
        raise Stop(WRONG, "The kit can't be read.", where=file, got=error,
                   next_step="run it in the kit's folder, or give --kit FOLDER") from error  # fmt: skip
    if not isinstance(kit, dict) or kit.get("format") != FORMAT:
        raise Stop(WRONG, "The kit is of another format.", where=file, expected=f"format {FORMAT}",
                   got=kit.get("format") if isinstance(kit, dict) else "no keys",
                   next_step="use the build_engine.py that lies in the kit")  # fmt: skip
    for entry in kit["files"]:
        path = folder / entry["path"]
        if not path.is_file():
            raise Stop(WRONG, "A file of the kit is missing.", where=path, next_step="copy the kit anew")
        found = sha256(path)
        if found != entry["sha256"]:
            raise Stop(WRONG, "A file of the kit was changed.", where=path, expected="sha256 " + entry["sha256"],
                       got="sha256 " + found, next_step="copy the kit anew")  # fmt: skip
    return kit, hashlib.sha256(content).hexdigest()


def read_board(root: Path) -> dict[str, str]:
    """What the board says of itself; nothing where there is no L4T.

    `compatible` of the device tree names the module's own number (p3767-0005: an 8 GB Orin Nano), which `model`, the
    name of the carrier's kit, doesn't.
    """
    release = _text(root / "etc/nv_tegra_release")
    found = re.match(r"# R(\d+) \(release\), REVISION: ([\d.]+)", release)
    l4t = "{}.{}".format(*found.groups()) if found else ""
    number = _numbers(l4t)
    eabi = re.search(r"EABI: (\w+)", release)
    compatible = _text(root / "proc/device-tree/compatible").split("\0")
    model = _text(root / "proc/device-tree/model").rstrip("\0")
    mode = re.search(r"pmode:(\w+)", _text(root / "var/lib/nvpmodel/status"))
    return {
        "l4t": l4t,
        "jetpack": next((name for start, name in JETPACKS if number[: len(start)] == start), "unknown"),
        "model": model,
        "sku": " ".join(part for part in (model, compatible[0]) if part) if l4t else "",
        "architecture": eabi.group(1) if eabi else "",
        "power_mode": mode.group(1) if mode else "not reported",
    }


def _require_board(board: dict[str, str], options: argparse.Namespace) -> None:
    if options.elsewhere or options.parse_only:
        return
    if not board["l4t"]:
        raise Stop(WRONG, "This is no Jetson.", where=options.root / "etc/nv_tegra_release",
                   expected="L4T's release, as '# R36 (release), REVISION: 4.0, …'", got="nothing",
                   next_step="an engine runs where it was built; --elsewhere builds one for this machine")  # fmt: skip
    if board["architecture"] not in ("", platform.machine()):
        raise Stop(WRONG, "The board is of another architecture than this machine.", where=options.root,
                   expected=board["architecture"], got=platform.machine(),
                   next_step="run it on the board; --elsewhere builds an engine for this machine")  # fmt: skip


def import_tensorrt(module: str) -> Any:
    try:
        return importlib.import_module(module)
    except (ImportError, OSError) as error:  # OSError: the module is there, and a library that it loads isn't
        raise Stop(WRONG, "TensorRT's Python module can't be imported.", where=module, got=error,
                   next_step="sudo apt install python3-libnvinfer, and use the board's own python3, no virtual "
                   "environment (or one with --system-site-packages)") from error  # fmt: skip


def _version(trt: Any, options: argparse.Namespace) -> Version:
    own = str(trt.__version__)
    if options.version is None and options.module.startswith("tensorrt_rtx"):
        raise Stop(WRONG, "TensorRT-RTX counts its versions by itself.", where="--module", got=own,
                   next_step="say which TensorRT it stands for, as --as 10.3")  # fmt: skip
    return require_version(options.version or own)


def require_version(stated: str) -> Version:
    """A version as numbers, once it is one that this can build with."""
    number = _numbers(stated)
    if number < OLDEST:
        raise Stop(WRONG, "TensorRT is too old.", expected="8.5 or later (JetPack 5.1)", got=stated,
                   next_step="update JetPack")  # fmt: skip
    return number


def choose_graphs(kit: Json, version: Version, options: argparse.Namespace) -> list[Json]:
    """The candidates for this version, INT8 first."""
    serving = [g for g in kit["graphs"] if _numbers(g["since"]) <= version < _numbers(g["before"])]
    if not serving:
        ranges = sorted({"{since} up to but without {before}".format(**g) for g in kit["graphs"]})
        raise Stop(WRONG, "No graph of the kit is for this TensorRT.", expected="; ".join(ranges),
                   got=".".join(map(str, version)), next_step="make the kit anew: edgeprune kit --oldest VERSION"
                   )  # fmt: skip
    if options.dla is not None:
        if DLA_BEFORE <= version < DLA_AGAIN:
            raise Stop(WRONG, "This TensorRT has no DLA.", where="--dla", expected="up to 10.7, or 11.4.1 and later",
                       got=".".join(map(str, version)), next_step="leave --dla out")  # fmt: skip
        if options.precision == "int8":
            why = ("TensorRT 8.x takes no Q/DQ there" if version < (9,)
                   else "what runs there shows no types, so nothing could tell whether it is INT8")  # fmt: skip
            raise Stop(WRONG, "INT8 can't be built for DLA.", where="--precision", expected="fp16", got=why)
    wanted = "fp16" if options.dla is not None else options.precision
    chosen = [g for g in serving if wanted in ("race", g["precision"])]
    if not chosen:
        raise Stop(WRONG, f"The kit has no {wanted} graph.", where="--precision",
                   expected=", ".join(sorted({g["precision"] for g in serving})), got=wanted)  # fmt: skip
    return sorted(chosen, key=lambda graph: graph["precision"] != "int8")


# TensorRT


def make_log(trt: Any) -> Any:
    """One logger a process: errors, warnings, and the layer information that TensorRT-RTX writes while it builds."""

    class Log(trt.ILogger):
        def __init__(self) -> None:
            trt.ILogger.__init__(self)
            self.kept: list[Any] = []
            self.clear()

        def clear(self) -> None:
            self.errors: list[str] = []
            self.warnings: list[str] = []
            self.layers: list[Json] = []

        def log(self, severity: Any, text: str) -> None:
            if severity in (trt.ILogger.Severity.ERROR, trt.ILogger.Severity.INTERNAL_ERROR):
                self.errors.append(str(text))
            elif severity == trt.ILogger.Severity.WARNING:
                self.warnings.append(str(text))
            elif "LayerType:" in text:
                self.layers += [layer for layer in map(_logged_layer, text.splitlines()) if layer]

    return Log()


def make_builder(trt: Any, log: Any) -> Any:
    log.clear()
    try:
        builder = trt.Builder(log)
    except Exception as error:  # pybind11 raises TypeError where the library returns nothing
        raise Stop(WRONG, "TensorRT can't start: it sees no GPU.", got=(log.errors or [error])[0],
                   next_step="check the driver: nvidia-smi, or on a Jetson tegrastats") from error  # fmt: skip
    return builder


def parse(trt: Any, builder: Any, kit: Path, graph: Json, log: Any) -> tuple[Any, Any]:
    """The network of a graph; its nodes keep their names."""
    flags = 0
    creation = trt.NetworkDefinitionCreationFlag
    if hasattr(creation, "EXPLICIT_BATCH"):  # 8.x needs it, 10 ignores it, later ones haven't it
        flags |= 1 << int(creation.EXPLICIT_BATCH)
    if graph["typed"] and hasattr(creation, "STRONGLY_TYPED"):  # where it is gone, there is nothing else
        flags |= 1 << int(creation.STRONGLY_TYPED)
    network = builder.create_network(flags)
    parser = trt.OnnxParser(network, log)
    file = kit / graph["file"]
    if not parser.parse(file.read_bytes()):
        said = [str(parser.get_error(index)) for index in range(parser.num_errors)] or log.errors
        raise Stop(REFUSED, "TensorRT can't parse the graph.", where=file, got=(said or ["no reason"])[0])
    return network, parser  # the parser owns the weights until the engine is built


def build(
    trt: Any, options: argparse.Namespace, graph: Json, log: Any, timing: Path
) -> tuple[bytes, list[str]]:  # fmt: skip
    """The plan, and the flags that it was built with. Writes the timing cache."""
    builder = make_builder(trt, log)
    network, _parser = parse(trt, builder, options.kit, graph, log)
    config = builder.create_builder_config()
    config.profiling_verbosity = trt.ProfilingVerbosity.DETAILED
    config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, options.workspace << 20)
    flags = [] if graph["typed"] else ["FP16"] + (["INT8"] if graph["precision"] == "int8" else [])
    if graph.get("sparse") and options.dla is None:
        flags.append("SPARSE_WEIGHTS")
    if options.dla is not None:
        if options.dla not in range(builder.num_DLA_cores):
            raise Stop(WRONG, "The board hasn't this DLA core.", where="--dla", got=options.dla,
                       expected=f"one of {builder.num_DLA_cores} (counted from 0)")  # fmt: skip
        config.default_device_type = trt.DeviceType.DLA
        config.DLA_core = options.dla
        flags.append("GPU_FALLBACK")
    set_flags = []
    for flag in flags:
        if hasattr(trt.BuilderFlag, flag):
            config.set_flag(getattr(trt.BuilderFlag, flag))
            set_flags.append(flag)
        elif not options.module.startswith("tensorrt_rtx"):  # which takes types from the graph alone, as 11 does
            raise Stop(WRONG, "This TensorRT lacks a flag that its version should have.", where=flag,
                       got=trt.__version__, next_step="say which version it is like: --as VERSION")  # fmt: skip
    known = timing.read_bytes() if timing.is_file() else b""
    cache = config.create_timing_cache(known)
    if not config.set_timing_cache(cache, False):
        print("timing.cache is another machine's; it begins anew")
        config.set_timing_cache(config.create_timing_cache(b""), False)
    plan = builder.build_serialized_network(network, config)
    if plan is None:
        raise Stop(REFUSED, "TensorRT can't build the graph.", where=options.kit / graph["file"],
                   got=(log.errors or ["no reason"])[-1],
                   next_step="out of memory? close what else runs, or give a smaller --workspace")  # fmt: skip
    kept = config.get_timing_cache()
    if kept is not None:
        write(timing, bytes(memoryview(kept.serialize())))
    return bytes(memoryview(plan)), set_flags


def inspect(trt: Any, plan: bytes, log: Any, needed: bool) -> tuple[Any, list[Json], str]:
    """The engine, its layers as plain data, and who told them. The engine is None where no GPU can load it."""
    runtime = trt.Runtime(log)
    engine = runtime.deserialize_cuda_engine(plan)
    log.kept.append(runtime)  # an engine of 8.x doesn't outlive its runtime
    if engine is not None:
        text = engine.create_engine_inspector().get_engine_information(trt.LayerInformationFormat.JSON)
        return engine, inspected_layers(text), "engine inspector"
    if needed:
        raise Stop(REFUSED, "TensorRT can't load the engine that it built.", got=(log.errors or ["no reason"])[-1])
    if not log.layers:
        raise Stop(WRONG, "TensorRT gives no layer information without a GPU.", where="--build-only",
                   next_step="build on a machine with a GPU")  # fmt: skip
    return None, log.layers, "build log"


def inspected_layers(text: str) -> list[Json]:
    """Layers of the engine inspector's JSON, which differs a little between 8.5 and 11."""
    layers = []
    for layer in json.loads(text)["Layers"]:
        if not isinstance(layer, dict):  # names only: not built with detailed verbosity
            continue
        stated = layer.get("Weights") or {}
        constants = layer.get("Constants") or []
        nodes = re.findall(r"\[ONNX Layer: (.*?)\](?=[\x1e\x1f]|$)", str(layer.get("Metadata") or ""))
        layers.append({
            "name": layer.get("Name", ""),
            "type": " ".join(str(layer.get(key, "")) for key in ("LayerType", "ParameterType")).strip(),
            # 8.5 has no metadata: its names are those of the nodes, joined
            "nodes": nodes or [part.strip() for part in re.split(r" \+ | \|\| ", layer.get("Name", ""))],
            "inputs": [_tensor_type(tensor) for tensor in layer.get("Inputs") or []],
            "weights": ([_type(stated.get("Type"))] if stated else []) + [_tensor_type(c) for c in constants],
        })  # fmt: skip
    return layers


_LINE = re.compile(r"^Name: (?P<name>.*?), LayerType: (?P<type>\w+), Inputs: (?P<rest>.*)$")


def _logged_layer(line: str) -> Json | None:
    """A layer from a line of TensorRT-RTX's builder; edgeprune/export/gate_worker.py reads the same."""
    found = _LINE.match(line)
    if found is None:
        return None
    rest, _, metadata = found.group("rest").partition(", Metadata: ")
    inputs, _, rest = rest.partition(", Constants: ")
    constants, _, _ = rest.partition(", Outputs: ")
    return {
        "name": found.group("name"),
        "type": found.group("type"),
        "nodes": re.findall(r"\[ONNX Layer: (.*?)\](?=[\x1e\x1f]|$)", metadata),
        "inputs": [_type(t) for t in re.findall(r"Datatype: (\w+)", inputs)],
        "weights": [_type(t) for t in re.findall(r"Datatype: (\w+)", constants)],
    }


def _tensor_type(tensor: Json) -> str:
    # 'Format/Datatype': 'Thirty-two wide channel vectorized row major Int8 format', or 'Datatype': 'Int8'
    return _type(tensor.get("Datatype") or tensor.get("Format/Datatype") or tensor.get("Format"))


def _type(stated: object) -> str:
    text = str(stated).lower()
    known = (("int8", "int8"), ("bf16", "bf16"), ("bfloat16", "bf16"), ("fp16", "half"), ("half", "half"),
             ("fp32", "float"), ("float", "float"))  # fmt: skip
    return next((name for word, name in known if word in text), text)


def found_type(convolution: str, layers: list[Json]) -> str:
    """int8 where the layer that computes a convolution takes INT8 values and INT8 weights; else what it takes."""
    own = [layer for layer in layers
           if convolution in layer["nodes"] and not BETWEEN & set(layer["type"].lower().split())]  # fmt: skip
    own.sort(key=lambda layer: not re.search("conv|correlation|gemm", layer["type"].lower()))
    if not own or not own[0]["inputs"]:
        return "no layer"
    taken, weights = own[0]["inputs"][0], own[0]["weights"]
    if taken == "int8" and weights and "int8" not in weights:
        return f"{weights[0]} weights"
    return taken


def require_int8(convolutions: dict[str, str], version: str) -> None:
    wrong = {name: found for name, found in convolutions.items() if found != "int8"}
    if wrong:
        names = sorted(wrong, key=list(convolutions).index)
        raise Stop(REFUSED, f"{len(wrong)} of {len(convolutions)} convolutions should be INT8 and aren't.",
                   where=", ".join(names[:NAMED]) + (", …" if len(names) > NAMED else ""), expected="int8",
                   got=", ".join(sorted(set(wrong.values()))),
                   next_step=f"report it with layers-int8.json and TensorRT {version}; --precision fp16 does without"
                   )  # fmt: skip


def header(metadata: Json, dla: int | None) -> bytes:
    """What Ultralytics reads in front of the plan."""
    stated = dict(metadata) if dla is None else dict(metadata, dla=str(dla))
    text = json.dumps(stated, sort_keys=True).encode("ascii")
    return len(text).to_bytes(4, "little", signed=True) + text


def trtexec_line(options: argparse.Namespace, graphs: list[Json], chosen: str, timing: Path, folder: Path) -> str:
    """How NVIDIA's own tool builds the same engine, for a second opinion."""
    graph = next(g for g in graphs if g["precision"] == chosen)
    words = ["trtexec", "--onnx={}".format((options.kit / graph["file"]).resolve())]
    if not graph["typed"]:  # 11 has neither
        words += ["--int8", "--fp16"] if chosen == "int8" else ["--fp16"]
    if options.dla is not None:
        words += [f"--useDLACore={options.dla}", "--allowGPUFallback"]
    words += [f"--memPoolSize=workspace:{options.workspace}", f"--timingCacheFile={timing.resolve()}",
              "--profilingVerbosity=detailed", "--exportLayerInfo={}".format(folder.resolve() / "trtexec-layers.json"),
              "--separateProfileRun", "--useCudaGraph", "--useSpinWait", "--noDataTransfers"]  # fmt: skip
    return " ".join(map(shlex.quote, words))


# Running


class Cuda:
    """The CUDA runtime through ctypes: a GPU, memory on it, a stream."""

    def __init__(self, file: str | None = None) -> None:
        names = (file,) if file else (*CUDART, *_packaged("nvidia/*/lib/libcudart.so*"))
        for name in names:
            try:
                self._library = ctypes.CDLL(str(name))
                break
            except OSError:
                continue
        else:
            raise Stop(WRONG, "The CUDA runtime isn't found.", expected=", ".join(map(str, names)),
                       next_step="--cudart FILE says where it is; --build-only does without")  # fmt: skip
        count = ctypes.c_int()
        code = self._library.cudaGetDeviceCount(ctypes.byref(count))
        if code or not count.value:
            raise Stop(WRONG, "There is no GPU.", expected="a CUDA device",
                       got="cudaGetDeviceCount: {}".format(self._reason(code) if code else "0 devices"),
                       next_step="is this user in the group video? sudo usermod -aG video USER, then log in anew; "
                       "--build-only and --parse-only need none")  # fmt: skip
        stream = ctypes.c_void_p()
        self.call("cudaStreamCreate", ctypes.byref(stream))
        self.stream = int(stream.value or 0)

    def call(self, name: str, *arguments: object) -> None:
        code = getattr(self._library, name)(*arguments)
        if code:
            raise Stop(WRONG, "CUDA reports an error.", where=name, got=self._reason(code),
                       next_step="out of memory? close what else runs on the GPU")  # fmt: skip

    def _reason(self, code: int) -> str:
        self._library.cudaGetErrorString.restype = ctypes.c_char_p
        return "{} (error {})".format((self._library.cudaGetErrorString(code) or b"?").decode(), code)

    def capability(self) -> tuple[int, ...]:
        """Compute capability of the GPU, as (8, 7)."""
        values = []
        for attribute in (75, 76):  # cudaDevAttrComputeCapabilityMajor, …Minor
            value = ctypes.c_int()
            self.call("cudaDeviceGetAttribute", ctypes.byref(value), ctypes.c_int(attribute), ctypes.c_int(0))
            values.append(value.value)
        return tuple(values)

    def chip(self) -> str:
        return "sm{}{}".format(*self.capability())

    def allocate(self, size: int) -> int:
        pointer = ctypes.c_void_p()
        self.call("cudaMalloc", ctypes.byref(pointer), ctypes.c_size_t(size))
        return int(pointer.value or 0)

    def free(self, pointer: int) -> None:
        self.call("cudaFree", ctypes.c_void_p(pointer))

    def upload(self, pointer: int, content: bytes) -> None:
        self.call("cudaMemcpy", ctypes.c_void_p(pointer), ctypes.c_char_p(content), ctypes.c_size_t(len(content)), 1)

    def download(self, pointer: int, size: int) -> bytes:
        content = ctypes.create_string_buffer(size)
        self.call("cudaMemcpy", content, ctypes.c_void_p(pointer), ctypes.c_size_t(size), 2)
        return content.raw

    def wait(self) -> None:
        self.call("cudaStreamSynchronize", ctypes.c_void_p(self.stream))


def _packaged(pattern: str) -> list[Path]:
    """Files of Python packages: where CUDA came with pip, no loader knows of it."""
    return sorted(path for folder in sys.path for path in Path(folder or ".").glob(pattern))


class Engine:
    """An engine with its buffers: float32 in, float32 out."""

    def __init__(self, trt: Any, cuda: Cuda, engine: Any, kit: Json) -> None:
        self._cuda, self._engine, self._context = cuda, engine, engine.create_execution_context()
        self._pointers: dict[str, int] = {}
        self.sizes: dict[str, int] = {}
        for spec in (kit["input"], kit["output"]):
            shape, kind = list(engine.get_tensor_shape(spec["name"])), engine.get_tensor_dtype(spec["name"])
            if shape != spec["shape"] or kind != trt.DataType.FLOAT:
                raise Stop(REFUSED, "The engine has another input or output than the kit.", where=spec["name"],
                           expected="float32 {}".format(spec["shape"]), got=f"{kind} {shape}")  # fmt: skip
            self.sizes[spec["name"]] = 4 * _product(shape)
            self._pointers[spec["name"]] = cuda.allocate(self.sizes[spec["name"]])
            self._context.set_tensor_address(spec["name"], self._pointers[spec["name"]])
        self._input, self._output = kit["input"]["name"], kit["output"]["name"]

    def load(self, image: bytes) -> None:
        self._cuda.upload(self._pointers[self._input], image)

    def infer(self) -> None:
        if not self._context.execute_async_v3(self._cuda.stream):
            raise Stop(REFUSED, "TensorRT can't run the engine that it built.")
        self._cuda.wait()

    def result(self) -> Floats:
        values = array.array("f")
        values.frombytes(self._cuda.download(self._pointers[self._output], self.sizes[self._output]))
        return values


def require_golden(engine: Engine, kit: Json, precision: str, folder: Path) -> dict[str, float]:
    """How far off the golden outputs it is, once that is within what the kit tolerates."""
    golden = kit["golden"]
    expected = next(e for e in golden["expected"] if e["precision"] == precision)
    size, rows, anchors = engine.sizes[kit["input"]["name"]], kit["output"]["shape"][1], kit["output"]["shape"][2]
    given, wanted = (folder / golden["input"]).read_bytes(), array.array("f")
    wanted.frombytes((folder / expected["file"]).read_bytes())
    sums = [0.0] * 8
    for index in range(golden["images"]):
        engine.load(given[index * size : (index + 1) * size])
        engine.infer()
        reference = wanted[index * rows * anchors : (index + 1) * rows * anchors]
        off = squares(reference, engine.result(), rows, anchors, golden["count_above"])
        sums = [total + own for total, own in zip(sums, off)]
    boxes, scores = differences(sums)
    found = {"boxes_rms_px": boxes, "scores_rms": scores, "boxes_rms_px_tolerated": expected["boxes_rms_px"],
             "scores_rms_tolerated": expected["scores_rms"]}  # fmt: skip
    if not (boxes <= expected["boxes_rms_px"] and scores <= expected["scores_rms"]):
        raise Stop(REFUSED, f"The {precision} engine {NOT_GOLDEN}.", where=expected["file"],
                   expected="boxes off by {boxes_rms_px} px at most, scores by {scores_rms}: {reason}"
                   .format(**expected), got=f"boxes off by {boxes:.4g} px, scores by {scores:.4g}",
                   next_step="report it with the kit and the board's versions; the engine can't be trusted"
                   )  # fmt: skip
    print(f"{precision}: golden outputs hold; boxes off by {boxes:.3g} px, scores by {scores:.3g}")
    return found


def squares(reference: Floats, got: Floats, rows: int, anchors: int, count_above: float) -> list[float]:
    """Of one image: sum of squared differences and their number, of boxes and scores that count, then of all."""
    square = [(a - b) ** 2 for a, b in zip(reference, got)]
    boxes, end = 4 * anchors, rows * anchors
    counted = [i for i in range(boxes, end) if reference[i] > count_above or got[i] > count_above]
    columns = {i % anchors for i in counted}
    own = [square[row * anchors + column] for row in range(4) for column in columns]
    scores = [square[i] for i in counted]
    return [sum(own), len(own), sum(scores), len(scores), sum(square[:boxes]), boxes, sum(square[boxes:]), end - boxes]


def differences(sums: list[float]) -> tuple[float, float]:
    """Root mean square differences of boxes and scores. NaN, which no comparison holds for, stays NaN."""
    boxes, boxes_n, scores, scores_n = sums[:4] if sums[1] else sums[4:]
    return math.sqrt(boxes / boxes_n), math.sqrt(scores / scores_n)


def race(engines: list[Engine], candidates: list[Json], record: Json, options: argparse.Namespace) -> None:
    """Time both in interleaved blocks, in an order shuffled by seed, and choose. Adds to `candidates` and `record`.

    Sample: one inference with its input on the GPU, enqueue to end, without a CUDA graph. Blocks are compared by their
    medians, paired by round; the bootstrap resamples rounds, since samples within a block aren't independent.
    """
    shuffle = random.Random(0)
    sizes = []
    for engine in engines:
        started, inferences = time.perf_counter(), 0
        while not inferences or time.perf_counter() - started < options.warm_up:
            engine.infer()
            inferences += 1
        sizes.append(max(MIN_BLOCK, round(inferences * BLOCK_S / (time.perf_counter() - started))))
    blocks: list[list[list[float]]] = [[] for _ in engines]
    order = []
    for _ in range(options.rounds):
        turn = list(range(len(engines)))
        shuffle.shuffle(turn)
        for index in turn:
            samples = []
            for _ in range(sizes[index]):
                started = time.perf_counter_ns()
                engines[index].infer()
                samples.append((time.perf_counter_ns() - started) / 1e6)
            blocks[index].append(samples)
            order.append(index)
    for candidate, own in zip(candidates, blocks):
        samples = sorted(s for block in own for s in block)
        latency = {f"p{p}": _percentile(samples, p) for p in (50, 90, 99)}
        mad = statistics.median(abs(sample - latency["p50"]) for sample in samples)
        candidate.update(blocks_ms=own, latency_ms=dict(latency, mad=mad, samples=len(samples)))
        print("{precision}: p50 {p50:.3f} ms, p90 {p90:.3f}, p99 {p99:.3f}".format(**dict(candidate, **latency)))
    ratios = [statistics.median(int8) / statistics.median(fp16) for int8, fp16 in zip(*blocks)]
    low, high = interval(ratios)
    record.update(
        chosen="int8" if high < 1 else "fp16", order=order,
        comparison={"build": "int8", "parent": "fp16", "ratio": statistics.median(ratios), "low": low, "high": high,
                    "confidence": CONFIDENCE, "pairs": len(ratios)},
    )  # fmt: skip
    print(f"INT8 takes {statistics.median(ratios):.3f} [{low:.3f}, {high:.3f}] of FP16's time")


def _percentile(ordered: list[float], percent: int) -> float:
    """Linear between neighbours, as numpy has it."""
    place = (len(ordered) - 1) * percent / 100
    low = ordered[int(place)]
    return low + (ordered[min(int(place) + 1, len(ordered) - 1)] - low) * (place - int(place))


def interval(ratios: list[float]) -> tuple[float, float]:
    """Bootstrap interval of the median."""
    pick = random.Random(0)
    medians = sorted(statistics.median(pick.choices(ratios, k=len(ratios))) for _ in range(RESAMPLES))
    tail = int(RESAMPLES * (1 - CONFIDENCE) / 2)
    return medians[tail], medians[-1 - tail]


# Files


def read_engine(folder: Path) -> Json | None:
    """engine.json of an engine that was built before and is whole; None otherwise."""
    try:
        record: Json = json.loads((folder / "engine.json").read_text(encoding="utf-8"))
        whole = all(sha256(folder / name) == digest for name, digest in record["sha256"].items())
    except (OSError, ValueError, KeyError):
        return None
    if whole and record["machine"] == platform.machine():
        return record
    print(f"{folder}: was changed, or is another machine's; it is built anew")
    return None


def write(path: Path, content: bytes) -> None:
    """Whole or not at all."""
    with disk(path):
        handle, temporary = tempfile.mkstemp(dir=str(path.parent), prefix=f".{path.name}.")
        try:
            with os.fdopen(handle, "wb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            os.chmod(temporary, 0o644)
            os.replace(temporary, str(path))
        except BaseException:
            Path(temporary).unlink()
            raise


class disk:
    """Turns a full or locked disk into words."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES):
            raise Stop(WRONG, "The disk is full." if error.errno in (errno.ENOSPC, errno.EDQUOT) else
                       "The folder can't be written.", where=self._path, got=error.strerror,
                       next_step="free some space, or give another folder with --cache") from error  # fmt: skip


def _replace(work: Path, folder: Path) -> None:
    """Put a finished folder in its place. Who looks sees the old one or the new one, or for a moment none."""
    os.chmod(str(work), 0o755)
    if folder.is_dir():
        doomed = Path(tempfile.mkdtemp(dir=str(folder.parent), prefix=".old-"))
        os.replace(str(folder), str(doomed))
        shutil.rmtree(str(doomed))
    os.replace(str(work), str(folder))
    handle = os.open(str(folder.parent), os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _drop_abandoned(place: Path) -> None:
    """What a build that was killed left behind: its folder bears the number of a process that is no more."""
    for left in place.glob(".part-*-*"):
        if not os.path.exists("/proc/{}".format(left.name.split("-")[1])):
            shutil.rmtree(str(left), ignore_errors=True)


def _copy(files: Iterable[Path], out: Path | None) -> None:
    """What was made, to where it was asked for as well; the bare plan stays, being the engine without its header."""
    if out is None:
        return
    with disk(out):
        out.mkdir(parents=True, exist_ok=True)
        for file in files:
            if file.name != "model.plan":
                shutil.copyfile(str(file), str(out / file.name))


def _keep_layers(work: Path, folder: Path) -> None:
    """Layer information of what was refused, for whoever asks why."""
    for file in work.glob("layers-*.json"):
        try:
            os.replace(str(file), str(folder.parent / f"refused-{folder.name[:12]}-{file.name}"))
        except OSError:  # a full disk is told already
            return


def sha256(path: Path) -> str:
    digest = hashlib.sha256()
    with open(str(path), "rb") as file:
        for block in iter(lambda: file.read(1 << 20), b""):
            digest.update(block)
    return digest.hexdigest()


def _request(options: argparse.Namespace) -> str:
    """What else the engine depends on, as an ending of its folder's name; none for what is usual."""
    parts = [] if options.precision == "race" else [options.precision]
    parts += [] if options.workspace == 1024 else [f"{options.workspace}mib"]
    parts += [] if options.dla is None else [f"dla{options.dla}"]
    parts += ["as-" + _slug(options.version)] if options.version else []
    parts += ["not-run"] if options.build_only else []
    return "".join("-" + part for part in parts)


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace").strip()
    except OSError:
        return ""


def _numbers(version: str) -> Version:
    return tuple(int(part) for part in re.findall(r"\d+", version.split("+")[0])[:4])


def _slug(text: str) -> str:
    return re.sub(r"[^A-Za-z0-9.]+", "-", text).strip("-.").lower()


def _product(numbers: Iterable[int]) -> int:
    result = 1
    for number in numbers:
        result *= number
    return result


def _json(content: Json) -> bytes:
    return (json.dumps(content, indent=1, sort_keys=True) + "\n").encode("utf-8")


if __name__ == "__main__":
    sys.exit(main())
