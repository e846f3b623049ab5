"""Quantization: which tensors of one model are INT8, and with which scales. Names and numbers, no weights."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from edgeprune.records.base import Record
from edgeprune.records.calibration import Sha256

Observer = Literal["minmax", "percentile", "mse", "entropy"]
Scale = Annotated[float, Field(gt=0, allow_inf_nan=False)]


class Scheme(Record):
    """What a target's kernels want of a quantized graph. Weights are always int8, per output channel, symmetric."""

    activations: Literal["symmetric", "asymmetric"] = "symmetric"
    """symmetric: zero point 0, which every runtime takes; asymmetric: all 256 levels where values have one sign."""
    placement: Literal["conv-inputs", "all"] = "conv-inputs"
    """conv-inputs: what convolutions read and nothing between (TensorRT and OpenVINO fuse activation functions and
    additions into the convolution); all: also the convolutions' results, SiLU's gate and both sides of an addition
    (ONNX Runtime has an integer kernel for each operator, and none for a convolution with a float result)."""


class Affine(Record):
    """real = scale x (q - zero_point), q in -128..127."""

    scale: Scale
    zero_point: int = Field(default=0, ge=-128, le=127)


class Mixed(Record):
    """mixed.json: which layers of the quantized graph went back to float, and why."""

    layers: tuple[str, ...]
    """All quantized convolutions, in execution order."""
    wanted: float
    """mAP50-95 on the runtime that was agreed: the parent's minus the allowed drop."""
    whole: float
    """mAP50-95 with all of them quantized."""
    reached: float
    """mAP50-95 of the graph that was written."""
    noise: dict[str, float] = Field(default_factory=dict)
    """Relative noise that each layer alone puts on the outputs; empty where nothing had to go back."""
    float_layers: tuple[str, ...] = ()
    """What went back to float, worst first."""
    stand_in: str | None = None
    """The library that the figures are of, where it isn't the target's: a board builds finished graphs alone."""

    def sentence(self) -> str:
        """What was decided, for the report."""
        return self._decided() + (f"; mAP50-95 of {self.stand_in} in its stead" if self.stand_in else "")

    def _decided(self) -> str:
        if self.float_layers:
            return (
                f"int8: {len(self.float_layers)} of {len(self.layers)} convolutions went back to float for the agreed "
                f"accuracy (mAP50-95 {self.whole:.4f} -> {self.reached:.4f}, wanted {self.wanted:.4f}): "
                f"{', '.join(self.float_layers)}"
            )
        if self.whole < self.wanted:
            return (
                f"int8: mAP50-95 {self.whole:.4f} where {self.wanted:.4f} is wanted, and no number of layers in float "
                "reaches it: it isn't the quantization that loses it"
            )
        return f"int8: all {len(self.layers)} convolutions but the head's last are INT8"


class Quantization(Record):
    """quantization.json: beside the checkpoint that it belongs to."""

    scheme: Scheme
    activations: dict[str, Affine]
    """Scale by the name of the first tensor that has it; tensors that move into one Concat share one."""
    points: dict[str, str]
    """Tensor (the convolution that made it, or an operator after that convolution) -> entry of `activations`."""
    weights: dict[str, tuple[Scale, ...]]
    """Convolution -> scale of every output channel. A convolution that isn't here is float."""
    float_layers: dict[str, str] = Field(default_factory=dict)
    """Convolution that stays float -> why."""
    calibration_sha256: Sha256
    """Of the calibration set's file."""
    observer: Observer
    notes: tuple[str, ...] = ()
    """What calibration found and handled: dead tensors and channels, outlier images."""

    @model_validator(mode="after")
    def _fits(self) -> Quantization:
        unknown = sorted(set(self.points.values()) - set(self.activations))
        if unknown:
            raise ValueError(f"points name a scale that isn't among the activations: {unknown[0]}")
        return self
