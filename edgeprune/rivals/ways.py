"""How a rival is run: as it comes, and at its best.

Rules:
- As it comes is what its users get: the runtime's own settings, and the arithmetic that the runtime takes by itself:
  OpenVINO computes in BF16 on x86 CPUs that have it, in FP16 on ARM, GPU and NPU; ONNX Runtime in FP32.
- At its best is the fastest of all arithmetic that the device has for its file, with all settings that parent and build
  were raced with. Where that is how it comes, or no different as far as the race can tell, there is one row.

Sources: OpenVINO 2026.4, 'CPU Device', 'Floating Point Data Types Specifics'.
"""

from __future__ import annotations

from collections.abc import Container, Sequence
from itertools import product

from edgeprune.records.request import Engine
from edgeprune.records.rivals import Way
from edgeprune.records.settings import Settings
from edgeprune.records.target import Precision, TargetProfile
from edgeprune.rivals.roll import Rival

#: What OpenVINO may compute the float part of any model in.
FLOATS: tuple[Precision, ...] = ("fp32", "fp16", "bf16")


def as_it_comes(rival: Rival, profile: TargetProfile, lacking: Container[str], architecture: str) -> Way:
    """A rival with nothing said to the runtime.

    Args:
        lacking: Precisions that the device hasn't got.
        architecture: Of the device.
    """
    return Way(
        label="", precision=own_arithmetic(rival, profile, lacking, architecture),
        settings=Settings(plugin=profile.plugin),
    )  # fmt: skip


def own_arithmetic(rival: Rival, profile: TargetProfile, lacking: Container[str], architecture: str) -> Precision:
    """What the runtime computes a rival in when nothing is said; of an INT8 file, its float part."""
    if profile.runtime == "onnxruntime":
        return rival.precision
    half = profile.plugin != "CPU" or architecture == "aarch64"
    preferred: Precision = "fp16" if half else "bf16"
    return preferred if preferred not in lacking else _full(rival)


def ways(
    rival: Rival, profile: TargetProfile, lacking: Container[str], settings: Sequence[Settings], architecture: str
) -> tuple[Way, ...]:  # fmt: skip
    """All that is raced for a rival, how it comes first.

    Args:
        settings: That parent and build were raced with.
    """
    first = as_it_comes(rival, profile, lacking, architecture)
    kinds: tuple[Precision, ...] = (rival.precision,)
    if profile.runtime == "openvino":
        kinds = (_full(rival), *(p for p in ("fp16", "bf16") if p not in lacking))
    others = (Way(label="at its best", precision=p, settings=s.of("fp32")) for p, s in product(kinds, settings))
    return (first, *(way for way in others if (way.precision, way.settings) != (first.precision, first.settings)))


def arithmetic(rival: Rival, precision: str) -> str:
    """For people: what a file is computed in where the runtime is asked for a precision."""
    if rival.precision != "int8":
        return precision
    return f"int8, the rest in {'fp32' if precision == 'int8' else precision}"


def engine(rival: Rival, profile: TargetProfile, way: Way, file: str) -> Engine:
    """A rival to run."""
    name = f"{rival.name} {way.label}".strip()
    return Engine(
        name=name, runtime=profile.runtime, precision=way.precision, file=file, settings=way.settings,
        input_shape=profile.input_shape,
    )  # fmt: skip


def _full(rival: Rival) -> Precision:
    """A quantized file with its float part in FP32 is what `int8` means to a CPU; a float one is FP32."""
    return "int8" if rival.precision == "int8" else "fp32"
