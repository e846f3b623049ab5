"""TensorRT on a board, with the face of every session (session.py): the board's own `tensorrt`, CUDA through ctypes.

Rules:
- What it loads is model.engine (Ultralytics' header, then the plan) or a bare plan. An engine runs on the chip and the
  exact version that built it; TensorRT itself judges whether this one does, and its words are passed on.
- An inference begins and ends in the host's memory, as for every other runtime: the copies to and from the GPU count.
  They go through page-locked memory, as an application that cares has them.
- The DLA core that an engine is for stands in its header; TensorRT wants to be told before it loads the engine.
- Layers to be timed come as graphs, hundreds of them. Their engines are built here, kept for a day under the user's
  cache, and timed on the GPU alone: copies of what one layer hands the next are no part of an engine.
- All of CUDA and of TensorRT that building needs too is build_engine.py's, which travels alone.

Sources: NVIDIA, TensorRT support matrix 8.6 ('Hardware and precision'), TensorRT API (Runtime, ICudaEngine,
IExecutionContext since 8.5), CUDA runtime API (cudaHostAlloc, cudaMemcpyAsync); Ultralytics 8.4 `engine_header`.
"""

from __future__ import annotations

import ctypes
import json
import os
import time
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from math import prod
from pathlib import Path
from typing import Any

import numpy as np

from edgeprune.errors import DeviceError
from edgeprune.kit import build_engine
from edgeprune.records.form import Input
from edgeprune.records.head import Head
from edgeprune.records.settings import Settings
from edgeprune.runtime.preprocess import Floats, Pixels
from edgeprune.runtime.rehearse import random_tensor

MODULE = "tensorrt"
_TO_GPU, _TO_HOST = 1, 2
#: Engines of graphs that were to be timed, and how long they are kept after their last use.
LAYERS, KEPT_S = Path("~/.cache/edgeprune/layers"), 86_400.0
#: GPUs before 7.0 that have a precision. TensorRT's builder could say so too, but takes as much memory as an engine.
_OLDER = {"fp16": ((5, 3), (6, 0), (6, 2)), "int8": ((6, 1),)}


class _Loaded:
    """An engine with its place on the GPU, which it gives back when it goes.

    Attributes:
        given, made: Names of its inputs and outputs, which are float32, of fixed shapes.
    """

    def __init__(self, engine: Path, dla: int | None = None) -> None:
        trt = import_tensorrt()
        metadata, plan = split_header(engine.read_bytes())
        core = metadata.get("dla", dla)
        with in_words():
            self.cuda = _cuda()
            self._log = _log()
            self._log.clear()
            self._loader = trt.Runtime(self._log)  # an engine of 8.x doesn't outlive it
            if core is not None:
                self._loader.DLA_core = int(core)
            self._engine = self._loader.deserialize_cuda_engine(plan)
            if self._engine is None:
                raise DeviceError(
                    "TensorRT can't load the engine: another version or another GPU built it, or it was damaged.",
                    where=engine, expected=f"an engine that TensorRT {trt.__version__} built on this machine",
                    got=_first(self._log.errors), next_step="build it on this board, from its kit",
                )  # fmt: skip
            self._context = self._engine.create_execution_context()
            if self._context is None:
                raise DeviceError(
                    "TensorRT can't make the engine ready to run.", where=engine, got=_first(self._log.errors),
                    next_step="out of memory? close what else runs on the GPU",
                )  # fmt: skip
            names = [self._engine.get_tensor_name(index) for index in range(self._engine.num_io_tensors)]
            self.shapes = {name: self._shape(trt, name, engine) for name in names}
            self.places = {name: self.cuda.allocate(4 * prod(shape)) for name, shape in self.shapes.items()}
            weakref.finalize(self, _give_back, self.cuda, list(self.places.values()))
            for name, place in self.places.items():
                self._context.set_tensor_address(name, place)
        self.given = tuple(n for n in names if self._engine.get_tensor_mode(n) == trt.TensorIOMode.INPUT)
        self.made = tuple(name for name in names if name not in self.given)
        self.runtime = f"{MODULE} {trt.__version__}"

    def infer(self) -> None:
        """Begin an inference; `cuda.wait` waits for its end."""
        if not self._context.execute_async_v3(self.cuda.stream):
            raise DeviceError("TensorRT can't run the engine.", got=_first(self._log.errors))

    def _shape(self, trt: Any, name: str, engine: Path) -> tuple[int, ...]:
        shape, kind = tuple(self._engine.get_tensor_shape(name)), self._engine.get_tensor_dtype(name)
        if kind != trt.DataType.FLOAT or min(shape) < 1:
            raise DeviceError(
                "The engine has an input or output that edgeprune's engines haven't.", where=f"{engine}, {name}",
                expected="float32 of a fixed shape", got=f"{kind} {shape}",
            )  # fmt: skip
        return shape


class TensorRtSession:
    """An engine of this machine's TensorRT on its GPU, or on a DLA core."""

    cache = "none"
    input: Input = "floats"
    head: Head | None = None

    def __init__(self, engine: Path, precision: str, settings: Settings) -> None:
        self._loaded = loaded = _Loaded(engine)
        if len(loaded.given) != 1:
            raise DeviceError("The engine hasn't one input.", where=engine, got=", ".join(loaded.given) or "none")
        self._input = loaded.given[0]
        self.runtime, self.output_names = loaded.runtime, loaded.made
        with in_words():
            self._host = {name: self._page_locked(shape) for name, shape in loaded.shapes.items()}

    def run(self, images: Floats | Pixels) -> list[Floats]:
        np.copyto(self._host[self._input], images)
        with in_words():
            self._copy(self._input, _TO_GPU)
            self._loaded.infer()
            for name in self.output_names:
                self._copy(name, _TO_HOST)
            self._loaded.cuda.wait()
        return [self._host[name].copy() for name in self.output_names]

    def _page_locked(self, shape: tuple[int, ...]) -> Floats:
        """Memory of this machine that copies to the GPU need not go around."""
        locked = ctypes.c_void_p()
        size, cuda = ctypes.c_size_t(4 * prod(shape)), self._loaded.cuda
        cuda.call("cudaHostAlloc", ctypes.byref(locked), size, ctypes.c_uint(0))
        memory: Any = (ctypes.c_float * prod(shape)).from_address(int(locked.value or 0))
        return np.frombuffer(memory, np.float32).reshape(shape)

    def _copy(self, name: str, direction: int) -> None:
        host, cuda = self._host[name], self._loaded.cuda
        here, there = ctypes.c_void_p(host.ctypes.data), ctypes.c_void_p(self._loaded.places[name])
        ends = (there, here) if direction == _TO_GPU else (here, there)
        stream = ctypes.c_void_p(cuda.stream)
        cuda.call("cudaMemcpyAsync", *ends, ctypes.c_size_t(host.nbytes), ctypes.c_int(direction), stream)


def open_graph(engine: Path, precision: str) -> Callable[[dict[str, Floats]], dict[str, Floats]]:
    """See session.open_graph; an engine has the inputs and outputs that it was built with, and no others."""
    session = TensorRtSession(engine, precision, Settings())

    def run(given: dict[str, Floats]) -> dict[str, Floats]:
        (image,) = given.values()
        return dict(zip(session.output_names, session.run(image), strict=True))

    return run


def layer_engine(graph: Path, precision: str, dla: int | None = None) -> Path:
    """The engine of a bare graph, with float32 inputs and outputs: built here, or found as it was built before.

    Args:
        graph: An .onnx file in this TensorRT's form (export/forms.py).
        precision: fp16 or int8.
        dla: Core of the DLA that it is for.

    Raises:
        DeviceError: TensorRT refuses it, in TensorRT's words; or no TensorRT, no GPU, no room on the disk.
    """
    trt = import_tensorrt()
    folder = LAYERS.expanduser()
    with in_words():
        core = [] if dla is None else ["--dla", str(dla)]
        options = build_engine.read_options(["--kit", str(graph.parent), "--cache", str(folder), *core])
        board = build_engine.read_board(Path("/"))
        place = build_engine.place_of(folder, board, trt, MODULE, _cuda())
        engine = place / "-".join([build_engine.sha256(graph), precision, *core[1:]])
        with build_engine.disk(place):
            if not engine.is_file():
                place.mkdir(parents=True, exist_ok=True)
                _drop_unused(folder)
                typed = build_engine.require_version(str(trt.__version__)) >= (11,)
                asked = {"file": graph.name, "precision": precision, "typed": typed}
                plan, _ = build_engine.build(trt, options, asked, _log(), place / "timing.cache")
                build_engine.write(engine, plan)
            os.utime(engine)
    return engine


def open_rehearsal(engine: Path, dla: int | None = None) -> Callable[[], object]:
    """A call that runs an engine on noise that lies on the GPU, and waits for its end."""
    loaded = _Loaded(engine, dla)
    with in_words():
        for name in loaded.given:
            loaded.cuda.upload(loaded.places[name], random_tensor(loaded.shapes[name], "float32").tobytes())

    def infer() -> None:
        loaded.infer()
        loaded.cuda.wait()

    return infer


def _drop_unused(folder: Path) -> None:
    before = time.time() - KEPT_S
    for engine in folder.glob("*/*/*/*-*"):
        if engine.stat().st_mtime < before:
            engine.unlink()


@cache
def _cuda() -> build_engine.Cuda:
    """This process' GPU and stream."""
    return build_engine.Cuda()


@cache
def _log() -> Any:
    """This process' logger: TensorRT keeps the first that it is given, and everything of it logs there."""
    return build_engine.make_log(import_tensorrt())


def _give_back(cuda: build_engine.Cuda, places: list[int]) -> None:
    for place in places:
        cuda.free(place)


def available(precision: str) -> str | None:
    """Why this machine can't run a precision; None if it can.

    Raises:
        DeviceError: No TensorRT, or no GPU that it sees.
    """
    import_tensorrt()
    with in_words():
        chip = _cuda().capability()
    if chip >= (7, 0) or chip in _OLDER[precision]:
        return None
    return f"this GPU has no {precision.upper()} (compute capability {chip[0]}.{chip[1]})"


def import_tensorrt() -> Any:
    """The board's own module.

    Raises:
        DeviceError: It isn't there, or is too old.
    """
    with in_words():
        trt = build_engine.import_tensorrt(MODULE)
        build_engine.require_version(str(trt.__version__))
    return trt


def split_header(content: bytes) -> tuple[dict[str, Any], bytes]:
    """What Ultralytics' header says, nothing for a bare plan; and the plan."""
    length = int.from_bytes(content[:4], "little", signed=True)
    if not 0 < length <= len(content) - 4 or content[4:5] != b"{":
        return {}, content
    try:
        metadata = json.loads(content[4 : 4 + length])
    except ValueError:
        return {}, content
    return metadata, content[4 + length :]


@contextmanager
def in_words() -> Iterator[None]:
    """What build_engine.py stops with, as an error of edgeprune's."""
    try:
        yield
    except build_engine.Stop as stop:
        raise DeviceError(str(stop)) from stop


def _first(said: list[str]) -> str:
    return said[0] if said else "no reason"
