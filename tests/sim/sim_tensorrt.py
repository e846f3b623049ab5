"""A board's TensorRT as far as build_engine.py and runtime/tensorrt.py use it: `--module sim_tensorrt`, this folder on
PYTHONPATH; or as the `tensorrt` of a simulated board (board.py).

It has the interface of the version in SIM_TENSORRT as NVIDIA documents it, and refuses what that version refuses; an
engine of it is ONNX Runtime running the graph, through the addresses that it was given. It shows that the callers ask
in the right words and order; it shows nothing about NVIDIA's kernels, nor that the documents are right. A latency of it
is the host's processor's, or made up (SIM_…_MS): no figure of any board.

    SIM_TENSORRT  version (10.3.0)          SIM_FLOAT    a node that runs in float though it is quantized
    SIM_DLA       DLA cores (0)             SIM_WRONG    precision whose outputs are wrong: int8 or fp16
    SIM_INT8_MS, SIM_FP16_MS  least time of one inference (0)
    SIM_BUILD_S   least time of a build (0)
cudart.c has SIM_CUDA_…
"""

from __future__ import annotations

import ctypes
import enum
import json
import os
import time
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import onnx

__version__ = os.environ.get("SIM_TENSORRT", "10.3.0")
NUMBER = tuple(int(part) for part in __version__.split("."))
FLAGGED = NUMBER < (11,)


class ILogger:
    Severity = enum.IntEnum("Severity", ["INTERNAL_ERROR", "ERROR", "WARNING", "INFO", "VERBOSE"], start=0)


NetworkDefinitionCreationFlag = enum.IntEnum(
    "NetworkDefinitionCreationFlag",
    ({"EXPLICIT_BATCH": 0} if FLAGGED else {}) | ({"STRONGLY_TYPED": 1} if NUMBER >= (10,) else {}),
)
BuilderFlag = enum.IntEnum(
    "BuilderFlag", (["FP16", "INT8"] if FLAGGED else []) + ["GPU_FALLBACK", "SPARSE_WEIGHTS"], start=0
)
ProfilingVerbosity = enum.IntEnum("ProfilingVerbosity", ["LAYER_NAMES_ONLY", "NONE", "DETAILED"], start=0)
MemoryPoolType = enum.IntEnum("MemoryPoolType", ["WORKSPACE"], start=0)
DeviceType = enum.IntEnum("DeviceType", ["GPU", "DLA"], start=0)
DataType = enum.IntEnum("DataType", ["FLOAT", "HALF", "INT8"], start=0)
TensorIOMode = enum.IntEnum("TensorIOMode", ["NONE", "INPUT", "OUTPUT"], start=0)
LayerInformationFormat = enum.IntEnum("LayerInformationFormat", ["ONELINE", "JSON"], start=0)


class TimingCache:
    def __init__(self, blob: bytes) -> None:
        self.blob = blob

    def serialize(self) -> bytes:
        return self.blob


class Config:
    profiling_verbosity = ProfilingVerbosity.LAYER_NAMES_ONLY
    default_device_type, DLA_core = DeviceType.GPU, -1

    def __init__(self) -> None:
        self.flags: set[str] = set()
        self.cache = TimingCache(b"")

    def set_memory_pool_limit(self, pool: MemoryPoolType, size: int) -> None:
        assert pool == MemoryPoolType.WORKSPACE
        assert size >= 1 << 20

    def set_flag(self, flag: BuilderFlag) -> None:
        self.flags.add(flag.name)

    def create_timing_cache(self, blob: bytes) -> TimingCache:
        return TimingCache(blob)

    def set_timing_cache(self, cache: TimingCache, ignore_mismatch: bool) -> bool:
        if cache.blob and not cache.blob.startswith(__version__.encode()):
            return False
        self.cache = cache
        return True

    def get_timing_cache(self) -> TimingCache:
        return self.cache


class Network:
    model: onnx.ModelProto

    def __init__(self, flags: int) -> None:
        self.explicit = not FLAGGED or NUMBER >= (10,) or bool(flags & 1)
        self.typed = not FLAGGED or bool(flags & 2)


class Builder:
    num_DLA_cores = int(os.environ.get("SIM_DLA", "0"))

    def __init__(self, log: ILogger) -> None:
        self.log = log

    def create_network(self, flags: int) -> Network:
        return Network(flags)

    def create_builder_config(self) -> Config:
        return Config()

    def build_serialized_network(self, network: Network, config: Config) -> bytes | None:
        quantized = any(node.op_type == "QuantizeLinear" for node in network.model.graph.node)
        if quantized and FLAGGED and "INT8" not in config.flags:
            self.log.log(ILogger.Severity.ERROR, "Int8 precision has been set for a layer, but int8 is not configured")
            return None
        on_dla = config.default_device_type == DeviceType.DLA
        if on_dla and (quantized or config.DLA_core >= self.num_DLA_cores or "GPU_FALLBACK" not in config.flags):
            self.log.log(ILogger.Severity.ERROR, "DLA can't run the network")
            return None
        time.sleep(float(os.environ.get("SIM_BUILD_S", "0")))
        config.cache.blob = (config.cache.blob or __version__.encode()) + b"+"
        about = {
            "detailed": config.profiling_verbosity == ProfilingVerbosity.DETAILED, "flags": sorted(config.flags),
            "version": __version__, "dla": config.DLA_core,
        }  # fmt: skip
        return json.dumps(about).encode() + b"\n" + network.model.SerializeToString()


class ParserError(str):
    __slots__ = ()


class OnnxParser:
    def __init__(self, network: Network, log: ILogger) -> None:
        self.network, self.errors = network, list[str]()

    @property
    def num_errors(self) -> int:
        return len(self.errors)

    def get_error(self, index: int) -> ParserError:
        return ParserError(self.errors[index])

    def parse(self, content: bytes) -> bool:
        import onnx

        from edgeprune.export.view import View

        self.network.model = onnx.load_from_string(content)
        if not self.network.explicit:
            self.errors.append("this version only supports networks with an explicit batch dimension")
        if View(self.network.model).opset > 17 and NUMBER < (10,):
            self.errors.append("unsupported opset")
        return not self.errors


class Runtime:
    DLA_core = -1

    def __init__(self, log: ILogger) -> None:
        self.log = log

    def deserialize_cuda_engine(self, plan: bytes) -> Engine | None:
        import onnx

        about, _, content = plan.partition(b"\n")
        try:
            stated = json.loads(about)
        except ValueError:
            self.log.log(ILogger.Severity.ERROR, "magicTag does not match")
            return None
        if stated["version"] != __version__:
            self.log.log(ILogger.Severity.ERROR, "Version tag does not match")
            return None
        return Engine(stated, onnx.load_from_string(content))


class Engine:
    def __init__(self, about: dict[str, object], model: onnx.ModelProto) -> None:
        from edgeprune.export.view import View

        self.about, self.model, self.view = about, model, View(model)
        self.quantized = any(node.op_type == "QuantizeLinear" for node in model.graph.node)

    def get_tensor_shape(self, name: str) -> tuple[int, ...]:
        (value,) = (v for v in (*self.model.graph.input, *self.model.graph.output) if v.name == name)
        return tuple(d.dim_value for d in value.type.tensor_type.shape.dim)

    @property
    def num_io_tensors(self) -> int:
        return len(self.model.graph.input) + len(self.model.graph.output)

    def get_tensor_name(self, index: int) -> str:
        return str([*self.model.graph.input, *self.model.graph.output][index].name)

    def get_tensor_mode(self, name: str) -> TensorIOMode:
        given = name in {value.name for value in self.model.graph.input}
        return TensorIOMode.INPUT if given else TensorIOMode.OUTPUT

    def get_tensor_dtype(self, name: str) -> DataType:
        (value,) = (v for v in (*self.model.graph.input, *self.model.graph.output) if v.name == name)
        return {1: DataType.FLOAT, 3: DataType.INT8, 10: DataType.HALF}[value.type.tensor_type.elem_type]

    def create_engine_inspector(self) -> Engine:
        return self

    def get_engine_information(self, kind: LayerInformationFormat) -> str:
        assert kind == LayerInformationFormat.JSON
        layers = [self._layer(node) for node in self.view.nodes if node.op_type == "Conv"]
        return json.dumps({"Layers": layers if self.about["detailed"] else [layer["Name"] for layer in layers]})

    def _layer(self, node: onnx.NodeProto) -> dict[str, object]:
        int8 = self.view.has_int8_weights(node) and node.name != os.environ.get("SIM_FLOAT")
        name = f"{node.input[1]} + {node.name} + PWN({node.name}/act)"
        if NUMBER >= (11,):  # as TensorRT-RTX 1.7 writes it
            tensor = {"Datatype": "Int8" if int8 else "Half", "Format": "(NHWC) Channel major format"}
            more: dict[str, object] = {"LayerType": "correlation", "Constants": [tensor]}
        else:
            words = (
                "Thirty-two wide channel vectorized row major Int8 format" if int8 else "Row major linear FP16 format"
            )
            tensor = {"Location": "Device", "Format/Datatype": f"{words} format"}
            more = {"LayerType": "CaskConvolution", "ParameterType": "Convolution",
                    "Weights": {"Type": "Int8" if int8 else "Half", "Count": 1}}  # fmt: skip
        if NUMBER >= (8, 6):
            name = f"{node.name}_myl0"
            more["Metadata"] = f"[ONNX Layer: {node.name}]\x1e[ONNX Layer: {node.name}/act]"
        return {"Name": name, "Inputs": [tensor], "Outputs": [tensor], **more}

    def create_execution_context(self) -> Context:
        return Context(self)


class Context:
    def __init__(self, engine: Engine) -> None:
        self.engine, self.addresses = engine, dict[str, int]()
        import onnxruntime

        self.session: Any = onnxruntime.InferenceSession(
            engine.model.SerializeToString(), providers=["CPUExecutionProvider"]
        )
        self.precision = "int8" if engine.quantized else "fp16"

    def set_tensor_address(self, name: str, address: int) -> bool:
        self.addresses[name] = address
        return True

    def execute_async_v3(self, stream: int) -> bool:
        import numpy as np

        assert stream
        started = time.perf_counter()
        given = {}
        for one in self.session.get_inputs():
            content = ctypes.string_at(self.addresses[one.name], 4 * int(np.prod(one.shape)))
            given[one.name] = np.frombuffer(content, np.float32).reshape(one.shape)
        for made, output in zip(self.session.get_outputs(), self.session.run(None, given), strict=True):
            if os.environ.get("SIM_WRONG") == self.precision:
                output = output[:, :, ::-1]
            content = np.ascontiguousarray(output).tobytes()
            ctypes.memmove(self.addresses[made.name], content, len(content))
        least = float(os.environ.get(f"SIM_{self.precision.upper()}_MS", "0")) / 1000
        while time.perf_counter() - started < least:
            pass
        return True
