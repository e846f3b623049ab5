"""What several stages need."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from edgeprune.job import Job
from edgeprune.machine import installed

#: Images that parity is probed with and engines are timed on.
PROBE_IMAGES = 16
#: Variant and precision class -> folder under engines/.
VARIANTS = ("parent", "pruned")
QUANTIZED = "quantized"


def folder_of(variant: str, precision: str) -> str:
    """Folder under engines/ that holds an engine; arithmetic in floating point shares one file."""
    return QUANTIZED if precision == "int8" else variant


def folders(job: Job) -> tuple[str, ...]:
    """The folders under engines/ that a job has."""
    return (*VARIANTS, QUANTIZED) if job.int8 else VARIANTS


def artifact(folder: Path) -> Path:
    """The file or folder that a runtime loads, in an engine's folder."""
    return next(p for p in sorted(folder.iterdir()) if p.name.startswith("model"))


def engines(job: Job) -> list[Any]:
    """Every engine to verify and to race: each variant in each precision that this machine has."""
    from edgeprune.bench.measure import Engine
    from edgeprune.export.engine import engine_file
    from edgeprune.runtime.session import available

    runtime = job.profile.runtime
    found = []
    for variant in VARIANTS:
        for precision in job.profile.precisions:
            if available(runtime, precision) is not None or (variant == "parent" and precision == "int8"):
                continue  # the parent is float: INT8 is one of the things that the build brings
            made = artifact(job.shop / f"engines/{folder_of(variant, precision)}")
            found.append(
                Engine(f"{variant} {precision}", runtime, precision, engine_file(made), made, job.profile.threads)
            )
    return found


def engine_files(job: Job) -> dict[str, Any]:
    """What a stage that runs engines reads."""
    profile = job.profile.model_dump(include={"runtime", "precisions", "threads", "input_shape"})
    return {"profile": profile, **{name: job.shop / f"engines/{name}" for name in folders(job)}}


def probe_images(job: Job) -> Any:
    """The first images of val as the engine's input, float32 of shape (n, 3, height, width)."""
    import numpy as np

    from edgeprune.runtime.preprocess import letterbox, read_image

    chosen = job.data.splits["val"][:PROBE_IMAGES]
    return np.concatenate([letterbox(read_image(path), *job.image_size)[0] for path in chosen])


def versions(*packages: str) -> dict[str, str]:
    """Installed versions, without importing anything."""
    return {**dict.fromkeys(packages, "not installed"), **installed(*packages)}
