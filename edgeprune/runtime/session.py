"""An engine, loaded: `run(images) -> outputs`, one class a runtime, all with the same face.

Rules:
- A session does what it was asked: the precision is set explicitly, and what the runtime or the hardware
  doesn't have is refused, never replaced.
- Telemetry is off before a runtime is imported (edgeprune/__init__.py).

Sources: onnxruntime.SessionOptions; OpenVINO `hint.inference_precision` ('f32', 'bf16'), CPU plugin.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from edgeprune.errors import DeviceError, EdgepruneError, missing_package
from edgeprune.machine import cores
from edgeprune.runtime import tensorrt
from edgeprune.runtime.preprocess import Floats

#: Precision -> what OpenVINO is told to compute in; what is float in a quantized graph computes in FP32.
_OPENVINO_PRECISIONS = {"fp32": "f32", "bf16": "bf16", "int8": "f32"}


class Session(Protocol):
    """What every runtime offers.

    Attributes:
        runtime: Library and version.
        output_names: In the order in which `run` returns them.
    """

    runtime: str
    output_names: tuple[str, ...]

    def run(self, images: Floats) -> list[Floats]:
        """Infer. `images`: float32 in 0..1 of the engine's input shape. Returns every output as float32."""
        ...


def open_session(runtime: str, engine: Path, precision: str, threads: int) -> Session:
    """Load an engine.

    Args:
        runtime: onnxruntime, openvino or tensorrt.
        engine: The .onnx, .xml or .engine file.
        precision: What to compute in: fp32, bf16, fp16, or int8 (a quantized graph; what is float in it computes in
            FP32). A TensorRT engine was built in its own.
        threads: Threads of one inference; 0 = one a core.

    Raises:
        DeviceError: The runtime isn't installed, can't load the file, or hasn't the precision.
    """
    openers: dict[str, Callable[[Path, str, int], Session]] = {
        "onnxruntime": OnnxRuntimeSession,
        "openvino": OpenVinoSession,
        "tensorrt": tensorrt.TensorRtSession,
    }
    if not engine.is_file():
        raise DeviceError("The engine's file doesn't exist.", where=engine)
    try:
        return openers[runtime](engine, precision, threads or cores())
    except EdgepruneError:
        raise
    except Exception as error:  # each runtime has its own tree of errors, ONNX Runtime's under Exception alone
        raise DeviceError(f"{runtime} can't load the engine.", where=engine, got=str(error).splitlines()[0]) from error


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


def open_graph(runtime: str, engine: Path, precision: str) -> Callable[[dict[str, Floats]], dict[str, Floats]]:
    """A graph with any inputs and outputs, optimised as an engine is.

    Returns:
        Inputs by name -> outputs by name.

    Raises:
        DeviceError: The runtime isn't installed, or can't load the file.
    """
    if runtime == "onnxruntime":
        ort = _import_onnxruntime()
        session = ort.InferenceSession(str(engine), _quiet(ort), providers=["CPUExecutionProvider"])
        names = [output.name for output in session.get_outputs()]
        return lambda given: dict(zip(names, session.run(None, given), strict=True))
    if runtime == "tensorrt":
        return tensorrt.open_graph(engine, precision)
    hint = {"INFERENCE_PRECISION_HINT": _OPENVINO_PRECISIONS[precision]}
    compiled = _import_openvino().Core().compile_model(str(engine), "CPU", hint)

    def run(given: dict[str, Floats]) -> dict[str, Floats]:
        found = compiled(given)
        return {name: found[port] for port in compiled.outputs for name in port.get_names()}

    return run


def available(runtime: str, precision: str) -> str | None:
    """Why this machine can't run a precision of a runtime; None if it can.

    Raises:
        DeviceError: The runtime isn't installed.
    """
    if runtime == "onnxruntime":
        _import_onnxruntime()
        return None
    if runtime == "tensorrt":
        return tensorrt.available(precision)
    core = _import_openvino().Core()
    capabilities = core.get_property("CPU", "OPTIMIZATION_CAPABILITIES")
    name = {"fp32": "FP32", "bf16": "BF16", "int8": "INT8"}[precision]
    return None if name in capabilities else f"this CPU has no {name} (OpenVINO reports {', '.join(capabilities)})"


def _quiet(ort: Any) -> Any:
    options = ort.SessionOptions()
    options.log_severity_level = 3
    return options


class OnnxRuntimeSession:
    """ONNX Runtime on the CPU."""

    def __init__(self, engine: Path, precision: str, threads: int) -> None:
        ort = _import_onnxruntime()
        options = _quiet(ort)
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
        self._session = ort.InferenceSession(str(engine), options, providers=["CPUExecutionProvider"])
        self._input = self._session.get_inputs()[0].name
        self.runtime = f"onnxruntime {ort.__version__}"
        self.output_names = tuple(output.name for output in self._session.get_outputs())

    def run(self, images: Floats) -> list[Floats]:
        return list(self._session.run(None, {self._input: images}))


class OpenVinoSession:
    """OpenVINO on the CPU, one inference at a time."""

    def __init__(self, engine: Path, precision: str, threads: int) -> None:
        ov = _import_openvino()
        settings = {
            "PERFORMANCE_HINT": "LATENCY",
            "INFERENCE_PRECISION_HINT": _OPENVINO_PRECISIONS[precision],
            "INFERENCE_NUM_THREADS": threads,
        }
        why = available("openvino", precision)
        if why:
            raise DeviceError("The precision can't be had.", where=engine, expected=precision, got=why)
        self._compiled = ov.Core().compile_model(str(engine), "CPU", settings)
        self._request = self._compiled.create_infer_request()
        self.runtime = f"openvino {ov.__version__.split('-')[0]}"
        self.output_names = tuple(
            output.get_any_name() if output.get_names() else output.node.friendly_name
            for output in self._compiled.outputs
        )

    def run(self, images: Floats) -> list[Floats]:
        results = self._request.infer(images, share_inputs=True)
        return [np.array(results[i], dtype=np.float32) for i in range(len(self.output_names))]


def _import_onnxruntime():  # type: ignore[no-untyped-def]
    try:
        import onnxruntime
    except ImportError as error:
        raise missing_package("onnxruntime", "onnxruntime") from error
    onnxruntime.disable_telemetry_events()
    return onnxruntime


def _import_openvino():  # type: ignore[no-untyped-def]
    try:
        import openvino
    except ImportError as error:
        raise missing_package("openvino", "openvino") from error
    return openvino
