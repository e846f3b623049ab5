"""TargetProfile: the hardware and the runtime that a build is for."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field, field_validator, model_validator

from edgeprune.records.address import FORM, LOCAL, NotAnAddressError, read_address
from edgeprune.records.base import InputShape, Record
from edgeprune.records.quantization import Scheme
from edgeprune.records.settings import CoreNumber, Hint, Optimization, Plugin, Rest, Settings, StreamCount, ThreadCount

Runtime = Literal["onnxruntime", "openvino", "tensorrt"]
Precision = Literal["fp32", "fp16", "bf16", "int8"]
#: Whether threads are held to cores: not at all, to cores that the device chooses (its fastest), or to these.
Affinity = Literal["free", "pinned"] | tuple[CoreNumber, ...]
#: stock: the engine that a stock install opens, alone; race: every form that its graph allows (records/form.py).
Forms = Literal["stock", "race"]

#: Precisions that each runtime can be asked for here.
PRECISIONS: dict[str, tuple[str, ...]] = {
    "onnxruntime": ("fp32", "fp16", "int8"),
    "openvino": ("fp32", "fp16", "bf16", "int8"),
    "tensorrt": ("fp16", "int8"),
}
#: Keys of a target that only one runtime has.
ONLY = {
    "spinning": "onnxruntime", "optimization": "onnxruntime", "arena": "onnxruntime", "plugin": "openvino",
    "hints": "openvino", "streams": "openvino", "cache": "openvino", "rest": "openvino", "dla": "tensorrt",
}  # fmt: skip
#: Keys whose values are raced, all with all; one value may stand without its brackets.
RACED = ("threads", "affinity", "spinning", "optimization", "arena", "hints", "streams")


class TargetProfile(Record):
    """A target: what the finished engine runs on, and how. One YAML file under targets/ each."""

    description: str
    """One line for `edgeprune targets`."""
    runtime: Runtime
    """The library that executes the engine."""
    device: str = LOCAL
    """Where it runs: `local` is this machine, `ssh://user@host` or `ssh://user@host:port` another one."""
    input_shape: InputShape
    """Batch (1), channels, height, width in pixels of the engine's static input."""
    precisions: tuple[Precision, ...] = ("fp32",)
    """Arithmetic to race on the target. What the hardware doesn't have is left out, and the report says so."""
    quantization: Scheme = Scheme()
    """What its kernels want of an INT8 graph."""
    channel_multiple: int = Field(default=8, ge=1, le=64)
    """Cut widths divide by it: odd widths are slower than the whole on most kernels."""
    threads: tuple[ThreadCount, ...] = Field(default=(0,), min_length=1)
    """Threads of one inference, to race; 0 = as many as the machine has cores."""
    affinity: tuple[Affinity, ...] = Field(default=("free",), min_length=1)
    """Whether threads are held to cores, to race: `free`, `pinned` (the device's fastest cores, one thread each; those
    that the system keeps apart, isolcpus, where there are any), or a list of core numbers."""
    spinning: tuple[bool, ...] = Field(default=(True,), min_length=1)
    """ONNX Runtime: whether idle threads wait in a loop, to race."""
    optimization: tuple[Optimization, ...] = Field(default=("all",), min_length=1)
    """ONNX Runtime: how far the graph is optimised at the start, to race."""
    arena: tuple[bool, ...] = Field(default=(True,), min_length=1)
    """ONNX Runtime: whether memory is kept between inferences, to race."""
    plugin: Plugin = "CPU"
    """OpenVINO: what computes: CPU, GPU (Intel's, integrated or not) or NPU."""
    hints: tuple[Hint, ...] = Field(default=("latency",), min_length=1)
    """OpenVINO: what it lays itself out for, to race."""
    streams: tuple[StreamCount, ...] = Field(default=(0,), min_length=1)
    """OpenVINO: inferences that may run side by side, to race; 0 = as many as the hint brings."""
    forms: Forms | None = None
    """Which forms of an engine are raced; none = `race` on CPUs, `stock` elsewhere."""
    cache: bool = False
    """OpenVINO: whether compiled models are kept on the device, so that the next start needn't compile."""
    rest: Rest = "fp32"
    """OpenVINO on a CPU: what an INT8 engine computes in where it isn't quantized; bf16 is FP32 on a CPU without it."""
    dla: int | None = Field(default=None, ge=0, le=3)
    """TensorRT: the DLA core that runs it, counted from 0; none = the GPU."""

    @field_validator(*RACED, mode="before")
    @classmethod
    def _alone(cls, value: Any) -> Any:
        return value if isinstance(value, (list, tuple)) else (value,)

    @field_validator("device")
    @classmethod
    def _addressed(cls, device: str) -> str:
        try:
            read_address(device)
        except NotAnAddressError as error:
            raise ValueError(f"{FORM} ({error})") from error
        return device

    @model_validator(mode="after")
    def _fits(self) -> TargetProfile:
        unknown = [p for p in self.precisions if p not in PRECISIONS[self.runtime]]
        if unknown or not self.precisions or len(set(self.precisions)) != len(self.precisions):
            raise ValueError(f"precisions of {self.runtime} are distinct ones of {', '.join(PRECISIONS[self.runtime])}")
        for key, runtime in ONLY.items():
            if runtime != self.runtime and getattr(self, key) != TargetProfile.model_fields[key].default:
                raise ValueError(f"{key} is for {runtime}; {self.runtime} has nothing of the kind")
        for key in RACED:
            if len(set(getattr(self, key))) != len(getattr(self, key)):
                raise ValueError(f"{key} to race are distinct")
        if self.plugin != "CPU" and (self.threads != (0,) or self.affinity != ("free",)):
            raise ValueError(f"threads and affinity are the CPU's; the plugin is {self.plugin}")
        if self.rest != "fp32" and (self.plugin != "CPU" or "int8" not in self.precisions):
            raise ValueError("rest is for int8 on the CPU; it says what an INT8 engine's other layers compute in there")
        if self.plugin == "NPU" and self.streams != (0,):
            raise ValueError("streams are the CPU's and the GPU's; the plugin is NPU")
        if self.runtime == "tensorrt" and self.forms == "race":
            raise ValueError("forms of tensorrt are stock: a board builds its engines of a kit, which has no other")
        if self.dla is not None and self.precisions != ("fp16",):
            raise ValueError("dla is for precisions: [fp16]; nothing tells what is INT8 there")
        if self.runtime == "tensorrt" and "int8" in self.precisions and self.quantization.activations != "symmetric":
            raise ValueError("tensorrt takes activations: symmetric alone")
        if any(edge % 32 for edge in self.input_shape[2:]):
            raise ValueError("height and width of input_shape are multiples of 32 (the detector's largest stride)")
        return self

    @property
    def floating(self) -> Precision:
        """The precision that the parent is scored in before anything is raced: FP32, where the target has it."""
        if self.runtime == "onnxruntime" or "fp32" in self.precisions:
            return "fp32"
        return next((p for p in self.precisions if p != "int8"), "fp32")

    @property
    def races_forms(self) -> bool:
        """Whether engines are raced in other forms than the stock one."""
        return (self.forms or ("race" if self.runtime != "tensorrt" and self.plugin == "CPU" else "stock")) == "race"

    @property
    def settings(self) -> Settings:
        """The first of what is raced: what an engine runs with until the race has decided."""
        held = self.affinity[0] if isinstance(self.affinity[0], tuple) else ()
        return Settings(
            threads=self.threads[0], cores=held, spinning=self.spinning[0], optimization=self.optimization[0],
            arena=self.arena[0], plugin=self.plugin, hint=self.hints[0], streams=self.streams[0], cache=self.cache,
            rest=self.rest,
        )  # fmt: skip


def own_file(runtime: str, precision: str) -> bool:
    """Whether a float precision needs an engine file of its own, rather than a word to the runtime."""
    return runtime == "onnxruntime" and precision == "fp16"
