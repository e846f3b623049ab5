"""An engine, loaded: `run(images) -> outputs`, one class a runtime, all with the same face.

Rules:
- A session does what it was asked: the precision is set explicitly, and what the runtime or the hardware
  doesn't have is refused, never replaced.
- Settings are honoured or refused (runtime/pinning.py for cores, runtime/openvino.py for OpenVINO).
- Telemetry is off before a runtime is imported (edgeprune/__init__.py).
- ONNX Runtime computes an FP16 file in FP16 where its kernels have it: on ARM CPUs with ARMv8.2's half precision
  (`asimdhp`). Elsewhere it casts to FP32 and back, which is slower than FP32, so that FP16 is left out there.

Sources: onnxruntime.SessionOptions; ONNX Runtime docs, 'Thread management' (affinities count processors from 1, and
leave the calling thread alone); MLAS' MlasFp16AccelerationSupported; Linux Documentation/arch/arm64/elf_hwcaps.
"""

from __future__ import annotations

import platform
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol

from edgeprune.errors import DeviceError, EdgepruneError, missing_package
from edgeprune.machine import cores, text
from edgeprune.records.form import Form, Input
from edgeprune.records.head import KEY, Head, read_head
from edgeprune.records.settings import Settings
from edgeprune.runtime import tensorrt
from edgeprune.runtime.openvino import OpenVinoSession, lacks, open_openvino_graph
from edgeprune.runtime.pinning import first_core_for_me, pin
from edgeprune.runtime.preprocess import Floats, Pixels
from edgeprune.runtime.rehearse import random_tensor


class Session(Protocol):
    """What every runtime offers.

    Attributes:
        runtime: Library and version.
        output_names: In the order in which `run` returns them.
        cache: Whether a cache of compiled models was used at the start: none, empty, warm.
        input: What the engine takes.
        head: How its outputs are decoded outside; None where it decodes them itself.
    """

    runtime: str
    cache: str
    output_names: tuple[str, ...]
    input: Input
    head: Head | None

    def run(self, images: Floats | Pixels) -> list[Floats]:
        """Infer. `images`: float32 in 0..1 of shape (1, 3, height, width), or uint8 pixels (1, height, width, 3) where
        the engine takes these. Returns every output as float32."""
        ...


def open_session(
    runtime: str,
    engine: Path,
    precision: str,
    settings: Settings = Settings(),  # noqa: B008
    form: Form | None = None,
) -> Session:
    """Load an engine. Where its settings hold it to cores, this process is held to them from here on.

    Args:
        runtime: onnxruntime, openvino or tensorrt.
        engine: The .onnx, .xml or .engine file.
        precision: What to compute in: fp32, fp16, bf16, or int8 (a quantized graph; what is float in it computes in
            FP32 on a CPU, in FP16 on GPU and NPU). A TensorRT engine was built in its own.
        form: The form that it is said to have; None: whichever it has.

    Raises:
        DeviceError: The runtime isn't installed, can't load the file, or hasn't the precision or the settings; or the
            engine has another form.
    """
    openers: dict[str, Callable[[Path, str, Settings], Session]] = {
        "onnxruntime": OnnxRuntimeSession,
        "openvino": OpenVinoSession,
        "tensorrt": tensorrt.TensorRtSession,
    }
    if not engine.is_file():
        raise DeviceError("The engine's file doesn't exist.", where=engine)
    try:
        pin(settings.cores)
        session = openers[runtime](engine, precision, settings)
    except EdgepruneError:
        raise
    except Exception as error:  # each runtime has its own tree of errors, ONNX Runtime's under Exception alone
        raise DeviceError(f"{runtime} can't load the engine.", where=engine, got=str(error).splitlines()[0]) from error
    has = Form(input=session.input, head="graph" if session.head is None else "runtime")
    if form not in (None, has):
        raise DeviceError("The engine has another form.", where=engine, expected=form.words(), got=has.words())
    return session


def open_rehearsal(
    runtime: str, graph: Path, precision: str, settings: Settings, dla: int | None = None
) -> Callable[[], object]:
    """A call that infers noise, always the same, whatever a graph's inputs and outputs are; for timing alone.

    Args:
        runtime, precision, settings: As `open_session`'s.
        graph: What the runtime loads; for TensorRT an .onnx file, which an engine is built of unless there is one.
        dla: Core of a board's DLA.

    Raises:
        DeviceError: As `open_session`; or TensorRT can't build it.
    """
    if runtime == "tensorrt":
        return tensorrt.open_rehearsal(tensorrt.layer_engine(graph, precision, dla), dla)
    session = open_session(runtime, graph, precision, settings)
    assert isinstance(session, OnnxRuntimeSession | OpenVinoSession)
    return session.rehearsal()


def open_unoptimised(model: bytes) -> Callable[[dict[str, Floats]], dict[str, Floats]]:
    """An ONNX model run operator by operator as it is written: ONNX Runtime without any optimisation.

    Returns:
        Inputs by name -> outputs by name.

    Raises:
        DeviceError: ONNX Runtime isn't installed.
    """
    ort = _import_onnxruntime()
    options = _quiet(ort)
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = ort.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]
    return lambda given: dict(zip(names, session.run(None, given), strict=True))


def open_graph(
    runtime: str,
    engine: Path,
    precision: str,
    settings: Settings = Settings(),  # noqa: B008
) -> Callable[[dict[str, Floats]], dict[str, Floats]]:
    """A graph with any inputs and outputs, optimised as an engine is; of the settings, only those count that numbers
    may depend on (`Settings.numbers`).

    Returns:
        Inputs by name -> outputs by name.

    Raises:
        DeviceError: The runtime isn't installed, or can't load the file.
    """
    if runtime == "openvino":
        return open_openvino_graph(engine, precision, Settings(plugin=settings.plugin))
    if runtime == "tensorrt":
        return tensorrt.open_graph(engine, precision)
    ort = _import_onnxruntime()
    options = _quiet(ort)
    options.graph_optimization_level = _level(ort, settings)
    session = ort.InferenceSession(str(engine), options, providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]
    return lambda given: dict(zip(names, session.run(None, given), strict=True))


def available(runtime: str, precision: str, plugin: str = "CPU") -> str | None:
    """Why this machine can't run a precision of a runtime; None if it can. Imports the runtime.

    Raises:
        DeviceError: The runtime isn't installed, or the plugin of OpenVINO's isn't there.
    """
    if runtime == "openvino":
        return lacks(precision, plugin)
    if runtime == "tensorrt":
        return tensorrt.available(precision)
    _import_onnxruntime()
    return no_fp16(platform.machine(), text(Path("/proc/cpuinfo")) or "") if precision == "fp16" else None


def no_fp16(machine: str, cpuinfo: str) -> str | None:
    """Why ONNX Runtime can't compute in FP16 on a processor; None if it can.

    Args:
        machine: As platform.machine() says it.
        cpuinfo: The text of /proc/cpuinfo.
    """
    if machine != "aarch64":
        return f"ONNX Runtime has FP16 kernels for ARM CPUs only; on {machine} it would compute in FP32 all the same"
    flags = {flag for line in cpuinfo.splitlines() if line.startswith("Features") for flag in line.split()}
    if "asimdhp" not in flags:
        return "this CPU has no FP16 arithmetic (no asimdhp in /proc/cpuinfo; ARMv8.2 brought it)"
    return None


def _quiet(ort: Any) -> Any:
    options = ort.SessionOptions()
    options.log_severity_level = 3
    return options


def _level(ort: Any, settings: Settings) -> Any:
    return getattr(ort.GraphOptimizationLevel, f"ORT_ENABLE_{settings.optimization.upper()}")


def session_options(ort: Any, settings: Settings) -> Any:
    """onnxruntime.SessionOptions as settings have them.

    Args:
        ort: The module.
    """
    options = _quiet(ort)
    threads = settings.threads or len(settings.cores) or cores()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.graph_optimization_level = _level(ort, settings)
    options.enable_cpu_mem_arena = settings.arena
    options.enable_mem_pattern = settings.arena  # a plan of the arena's memory: without the arena there is none
    options.add_session_config_entry("session.intra_op.allow_spinning", "1" if settings.spinning else "0")
    if settings.cores and threads > 1:  # the calling thread, the first of them, isn't in the list
        others = ";".join(str(core + 1) for core in settings.cores[1:threads])
        options.add_session_config_entry("session.intra_op_thread_affinities", others)
    return options


class OnnxRuntimeSession:
    """ONNX Runtime on the CPU."""

    cache = "none"

    def __init__(self, engine: Path, precision: str, settings: Settings) -> None:
        ort = _import_onnxruntime()
        options = session_options(ort, settings)
        self._session = ort.InferenceSession(str(engine), options, providers=["CPUExecutionProvider"])
        first_core_for_me(settings.cores)
        self._input = self._session.get_inputs()[0].name
        self.runtime = f"onnxruntime {ort.__version__}"
        self.output_names = tuple(output.name for output in self._session.get_outputs())
        self.input: Input = "pixels" if self._session.get_inputs()[0].type == "tensor(uint8)" else "floats"
        self.head = read_head(self._session.get_modelmeta().custom_metadata_map.get(".".join(KEY)), engine)

    def run(self, images: Floats | Pixels) -> list[Floats]:
        return list(self._session.run(None, {self._input: images}))

    def rehearsal(self) -> Callable[[], object]:
        """See `open_rehearsal`."""
        given = {
            one.name: random_tensor(one.shape, {"float": "float32", "float16": "float16"}.get(kind, kind))
            for one in self._session.get_inputs()
            for kind in (one.type.removeprefix("tensor(").removesuffix(")"),)
        }
        return lambda: self._session.run(None, given)


def _import_onnxruntime():  # type: ignore[no-untyped-def]
    try:
        import onnxruntime
    except ImportError as error:
        raise missing_package("onnxruntime", "onnxruntime") from error
    onnxruntime.disable_telemetry_events()
    return onnxruntime
