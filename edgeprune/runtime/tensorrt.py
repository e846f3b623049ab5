"""TensorRT on a board, with the face of every session (session.py): the board's own `tensorrt`, CUDA through ctypes.

Rules:
- What it loads is model.engine (Ultralytics' header, then the plan) or a bare plan. An engine runs on the chip and the
  exact version that built it; TensorRT itself judges whether this one does, and its words are passed on.
- An inference begins and ends in the host's memory, as for every other runtime: the copies to and from the GPU count.
  They go through page-locked memory, as an application that cares has them.
- The DLA core that an engine is for stands in its header; TensorRT wants to be told before it loads the engine.
- All of CUDA and of TensorRT that building needs too is build_engine.py's, which travels alone.

Sources: NVIDIA, TensorRT support matrix 8.6 ('Hardware and precision'), TensorRT API (Runtime, ICudaEngine,
IExecutionContext since 8.5), CUDA runtime API (cudaHostAlloc, cudaMemcpyAsync); Ultralytics 8.4 `engine_header`.
"""

from __future__ import annotations

import ctypes
import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
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
#: GPUs before 7.0 that have a precision. TensorRT's builder could say so too, but takes as much memory as an engine.
_OLDER = {"fp16": ((5, 3), (6, 0), (6, 2)), "int8": ((6, 1),)}


class TensorRtSession:
    """An engine of this machine's TensorRT on its GPU, or on a DLA core."""

    cache = "none"
    input: Input = "floats"
    head: Head | None = None

    def __init__(self, engine: Path, precision: str, settings: Settings) -> None:
        trt = import_tensorrt()
        metadata, plan = split_header(engine.read_bytes())
        with in_words():
            self._cuda = build_engine.Cuda()
            self._log = build_engine.make_log(trt)
            self._loader = trt.Runtime(self._log)  # an engine of 8.x doesn't outlive it
            if "dla" in metadata:
                self._loader.DLA_core = int(metadata["dla"])
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
            self._tensors = {name: self._tensor(trt, name, engine) for name in names}
        given = [name for name in names if self._engine.get_tensor_mode(name) == trt.TensorIOMode.INPUT]
        if len(given) != 1:
            raise DeviceError("The engine hasn't one input.", where=engine, got=", ".join(given) or "none")
        self._input = given[0]
        self.runtime = f"{MODULE} {trt.__version__}"
        self.output_names = tuple(name for name in names if name not in given)

    def run(self, images: Floats | Pixels) -> list[Floats]:
        gpu, host = self._tensors[self._input]
        np.copyto(host, images)
        with in_words():
            self._copy(gpu, host, _TO_GPU)
            if not self._context.execute_async_v3(self._cuda.stream):
                raise DeviceError("TensorRT can't run the engine.", got=_first(self._log.errors))
            for name in self.output_names:
                self._copy(*self._tensors[name], _TO_HOST)
            self._cuda.wait()
        return [self._tensors[name][1].copy() for name in self.output_names]

    def rehearsal(self) -> Callable[[], object]:
        """See `Session.rehearsal`."""
        image = random_tensor(self._tensors[self._input][1].shape, "float32")
        return lambda: self.run(image)

    def _tensor(self, trt: Any, name: str, engine: Path) -> tuple[int, Floats]:
        """A tensor's place on the GPU, and its page-locked memory here."""
        shape, kind = tuple(self._engine.get_tensor_shape(name)), self._engine.get_tensor_dtype(name)
        if kind != trt.DataType.FLOAT or min(shape) < 1:
            raise DeviceError(
                "The engine has an input or output that edgeprune's engines haven't.", where=f"{engine}, {name}",
                expected="float32 of a fixed shape", got=f"{kind} {shape}",
            )  # fmt: skip
        size = 4 * prod(shape)
        gpu, locked = self._cuda.allocate(size), ctypes.c_void_p()
        self._cuda.call("cudaHostAlloc", ctypes.byref(locked), ctypes.c_size_t(size), ctypes.c_uint(0))
        self._context.set_tensor_address(name, gpu)
        memory = (ctypes.c_float * prod(shape)).from_address(int(locked.value or 0))
        return gpu, np.frombuffer(memory, np.float32).reshape(shape)

    def _copy(self, gpu: int, host: Floats, direction: int) -> None:
        here, there = ctypes.c_void_p(host.ctypes.data), ctypes.c_void_p(gpu)
        ends = (there, here) if direction == _TO_GPU else (here, there)
        stream = ctypes.c_void_p(self._cuda.stream)
        self._cuda.call("cudaMemcpyAsync", *ends, ctypes.c_size_t(host.nbytes), ctypes.c_int(direction), stream)


def open_graph(engine: Path, precision: str) -> Callable[[dict[str, Floats]], dict[str, Floats]]:
    """See session.open_graph; an engine has the inputs and outputs that it was built with, and no others."""
    session = TensorRtSession(engine, precision, Settings())

    def run(given: dict[str, Floats]) -> dict[str, Floats]:
        (image,) = given.values()
        return dict(zip(session.output_names, session.run(image), strict=True))

    return run


def available(precision: str) -> str | None:
    """Why this machine can't run a precision; None if it can.

    Raises:
        DeviceError: No TensorRT, or no GPU that it sees.
    """
    import_tensorrt()
    with in_words():
        chip = build_engine.Cuda().capability()
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
