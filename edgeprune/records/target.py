"""TargetProfile: the hardware and the runtime that a build is for."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, field_validator, model_validator

from edgeprune.records.address import FORM, LOCAL, NotAnAddressError, read_address
from edgeprune.records.base import InputShape, Record
from edgeprune.records.quantization import Scheme

Runtime = Literal["onnxruntime", "openvino", "tensorrt"]
Precision = Literal["fp32", "bf16", "fp16", "int8"]

#: Precisions that each runtime can be asked for here.
PRECISIONS: dict[str, tuple[str, ...]] = {
    "onnxruntime": ("fp32", "int8"),
    "openvino": ("fp32", "bf16", "int8"),
    "tensorrt": ("fp16", "int8"),
}


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
    threads: int = Field(default=0, ge=0, le=256)
    """Threads of one inference; 0 = as many as the machine has cores."""
    dla: int | None = Field(default=None, ge=0, le=3)
    """tensorrt: the DLA core that runs it, counted from 0; none = the GPU."""

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
        if self.dla is not None and (self.runtime != "tensorrt" or self.precisions != ("fp16",)):
            raise ValueError("dla is for runtime: tensorrt with precisions: [fp16]; nothing tells what is INT8 there")
        if self.runtime == "tensorrt" and "int8" in self.precisions and self.quantization.activations != "symmetric":
            raise ValueError("tensorrt takes activations: symmetric alone")
        if any(edge % 32 for edge in self.input_shape[2:]):
            raise ValueError("height and width of input_shape are multiples of 32 (the detector's largest stride)")
        return self
