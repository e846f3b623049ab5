"""What several stages need."""

from __future__ import annotations

from collections.abc import Container
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgeprune.errors import DeviceError
from edgeprune.job import Job
from edgeprune.machine import installed
from edgeprune.records.request import Engine
from edgeprune.records.target import own_file

if TYPE_CHECKING:
    from edgeprune.runtime.preprocess import Floats

#: Images that engines are timed on.
PROBE_IMAGES = 16
#: … and that parity is checked on: every tensor of each is compared.
PARITY_IMAGES = 4
#: Variant and precision class -> folder under engines/.
VARIANTS = ("parent", "pruned")
QUANTIZED = "quantized"


def reach(job: Job) -> None:
    """The device answers and has the target's runtime, its plugin and its cores: known before hours of training rather
    than after them.

    Raises:
        DeviceError: It doesn't, or hasn't.
    """
    job.bench.versions(job.profile.runtime)
    listed = {core for cores in job.profile.affinity if isinstance(cores, tuple) for core in cores}
    if job.profile.plugin != "CPU" or listed or "fp32" not in job.profile.precisions:
        from edgeprune.bench.ask import about

        profile = job.profile
        missing = about(job.bench, profile.runtime, profile.precisions, profile.plugin, sorted(listed)).lacking
        if not [p for p in profile.precisions if p != "int8" and p not in missing]:
            raise DeviceError(
                "The device has none of the target's float precisions, and the parent needs one.",
                where=job.bench.address, expected=", ".join(profile.precisions),
                got="; ".join(f"{precision}: {why}" for precision, why in missing.items()),
                next_step="precisions of the target",
            )  # fmt: skip


def folder_of(job: Job, variant: str, precision: str) -> str:
    """Folder under engines/ that holds an engine; arithmetic in floating point shares one file where it can."""
    if precision == "int8":
        return QUANTIZED
    return f"{variant}-{precision}" if own_file(job.profile.runtime, precision) else variant


def folders(job: Job) -> tuple[str, ...]:
    """The folders under engines/ that a job has."""
    own = [p for p in job.profile.precisions if own_file(job.profile.runtime, p)]
    more = [folder_of(job, variant, precision) for variant in VARIANTS for precision in own]
    return (*VARIANTS, *more, QUANTIZED) if job.int8 else (*VARIANTS, *more)


def artifact(folder: Path) -> Path:
    """The file or folder that a runtime loads, in an engine's folder."""
    return next(p for p in sorted(folder.iterdir()) if p.name.startswith("model"))


def engines(job: Job, lacking: Container[str]) -> list[Engine]:
    """Every engine to verify and to race: each variant in each precision but those that the device lacks."""
    from edgeprune.export.engine import engine_file

    found = []
    for variant in VARIANTS:
        for precision in job.profile.precisions:
            if precision in lacking or (variant == "parent" and precision == "int8"):
                continue  # the parent is float: INT8 is one of the things that the build brings
            made = artifact(job.shop / f"engines/{folder_of(job, variant, precision)}")
            found.append(Engine.of(job.profile, f"{variant} {precision}", precision, engine_file(made)))
    return found


def lacking(job: Job) -> dict[str, str]:
    """Precision -> why the device can't run it, of those that the target asks for."""
    from edgeprune.bench.ask import about

    return about(job.bench, job.profile.runtime, job.profile.precisions, job.profile.plugin).lacking


def engine_files(job: Job) -> dict[str, Any]:
    """What a stage that runs engines reads; settings, which only latency depends on, are for tune and bench to add."""
    profile = job.profile.model_dump(include={"runtime", "precisions", "plugin", "input_shape", "device"})
    there = job.bench.versions(job.profile.runtime)
    return {"profile": profile, "there": there, **{name: job.shop / f"engines/{name}" for name in folders(job)}}


def probe_images(job: Job) -> tuple[Path, ...]:
    """The first images of val: what engines are timed on, and parity is checked on."""
    return job.data.splits["val"][:PROBE_IMAGES]


def probes(job: Job, count: int) -> Floats:
    """Some of them as the engine's input, float32 of shape (count, 3, height, width)."""
    import numpy as np

    from edgeprune.runtime.preprocess import letterbox, read_image

    return np.concatenate([letterbox(read_image(path), *job.image_size)[0] for path in probe_images(job)[:count]])


def versions(*packages: str) -> dict[str, str]:
    """Installed versions, without importing anything."""
    return {**dict.fromkeys(packages, "not installed"), **installed(*packages)}
