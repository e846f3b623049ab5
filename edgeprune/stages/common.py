"""What several stages need."""

from __future__ import annotations

import itertools
from collections.abc import Container, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgeprune.errors import DeviceError
from edgeprune.job import Job
from edgeprune.machine import installed
from edgeprune.records import BenchRun, Choice, Form, Tune, read_json
from edgeprune.records.request import Engine
from edgeprune.records.target import Precision, own_file

if TYPE_CHECKING:
    from edgeprune.runtime.preprocess import Floats

#: Images that engines are timed on.
PROBE_IMAGES = 16
#: … and that parity is checked on: every tensor of each is compared.
PARITY_IMAGES = 4
#: Variant and precision class -> folder under engines/.
VARIANTS = ("parent", "pruned")
QUANTIZED = "quantized"


def reach(job: Job, *, kits: bool = False) -> None:
    """The device answers and has the target's runtime, its plugin and its cores: known before hours of training rather
    than after them.

    Args:
        kits: Whether the build ends before engines; where these are built of kits, it needs no device.

    Raises:
        DeviceError: It doesn't, or hasn't; or a board that is to build its engines has no GPU for them.
    """
    if job.on_board and kits and not job.recipe.goal.in_time:
        return
    job.bench.versions(job.profile.runtime)
    profile = job.profile
    listed = {core for cores in profile.affinity if isinstance(cores, tuple) for core in cores}
    if not job.on_board and profile.plugin == "CPU" and not listed and "fp32" in profile.precisions:
        return
    from edgeprune.bench.ask import about

    missing = about(job.bench, profile.runtime, profile.precisions, profile.plugin, sorted(listed)).lacking
    if job.on_board and missing:
        precision, why = next(iter(missing.items()))
        raise DeviceError(
            "The board can't build what the target asks for.", where=profile.device, expected=precision, got=why,
            next_step=f"take {precision} out of the target's precisions",
        )  # fmt: skip
    if not [p for p in profile.precisions if p != "int8" and p not in missing]:
        raise DeviceError(
            "The device has none of the target's float precisions, and the parent needs one.",
            where=job.bench.address, expected=", ".join(profile.precisions),
            got="; ".join(f"{precision}: {why}" for precision, why in missing.items()),
            next_step="precisions of the target",
        )  # fmt: skip


def folder_of(job: Job, variant: str, precision: str) -> str:
    """Folder under engines/ that holds an engine; floating point shares one file where it can, never on boards."""
    if job.on_board or own_file(job.profile.runtime, precision):
        return f"{variant}-{precision}"
    return QUANTIZED if precision == "int8" else variant


def asked(job: Job, variants: Sequence[str] = VARIANTS) -> list[tuple[str, Precision]]:
    """Variant and precision of every engine. The parent is float: INT8 is one of the things that the build brings."""
    pairs = itertools.product(variants, job.profile.precisions)
    return [pair for pair in pairs if pair != ("parent", "int8")]


def folders(job: Job, variants: Sequence[str] = VARIANTS) -> tuple[str, ...]:
    """The folders under engines/ that a job has."""
    own = (folder_of(job, *pair) for pair in asked(job, variants))
    return tuple(dict.fromkeys([*(() if job.on_board else variants), *own]))


def forms_folder(name: str) -> str:
    """Folder that holds the forms of engines/NAME that aren't the stock one, a folder each."""
    return f"engines/{name}@forms"


def form_name(form: Form) -> str:
    """Folder of a form, in that one: 'pixels-runtime'."""
    return f"{form.input}-{form.head}"


def forms_of(job: Job, variant: str, precision: str) -> dict[Form, Path]:
    """The forms that an engine was exported in, and where each is; the stock one first."""
    name = folder_of(job, variant, precision)
    found = {Form(): job.shop / f"engines/{name}"}
    if job.profile.races_forms:
        for folder in sorted((job.shop / forms_folder(name)).iterdir()):
            given, head = folder.name.split("-")
            found[Form.model_validate({"input": given, "head": head})] = folder
    return found


def artifact(folder: Path) -> Path:
    """The file or folder that a runtime loads, in an engine's folder."""
    return next(p for p in sorted(folder.iterdir()) if p.name.startswith("model"))


def loaded_bytes(made: Path) -> int:
    """Bytes that the runtime loads of a file or folder: the model's own files, not what describes them."""
    there = [made] if made.is_file() else made.rglob("*")
    return sum(p.stat().st_size for p in there if p.suffix in {".onnx", ".xml", ".bin", ".engine"})


def engines(job: Job, lacking: Container[str], variants: Sequence[str] = VARIANTS) -> list[Engine]:
    """Every engine to verify and to race, in its stock form: each variant in each precision but those that the device
    lacks."""
    from edgeprune.export.engine import engine_file

    found = []
    for variant, precision in asked(job, variants):
        if precision not in lacking:
            made = artifact(job.shop / f"engines/{folder_of(job, variant, precision)}")
            engine = Engine.of(job.profile, f"{variant} {precision}", precision, engine_file(made))
            shape = job.shape_of(variant) if job.resized else None
            found.append(engine.model_copy(update={"input_shape": shape}))
    return found


def run_as(job: Job, engine: Engine, choice: Choice) -> Engine:
    """An engine in another form, with other settings."""
    from edgeprune.export.engine import engine_file

    variant, precision = engine.name.split()
    file = engine_file(artifact(forms_of(job, variant, precision)[choice.form]))
    return engine.run_with(choice.settings).model_copy(update={"form": choice.form, "file": str(file)})


def choices(job: Job, file: str = "tune.json") -> dict[str, Choice]:
    """Engine -> the form and the settings that won."""
    return read_json(job.shop / file, Tune, DeviceError).chosen


def tuned(job: Job, found: Sequence[Engine], file: str = "tune.json") -> list[Engine]:
    """Engines in the form and with the settings that won."""
    chosen = choices(job, file)
    return [run_as(job, engine, chosen[engine.name]) for engine in found]


def lacking(job: Job) -> dict[str, str]:
    """Precision -> why the device can't run it, of those that the target asks for."""
    from edgeprune.bench.ask import about

    return about(job.bench, job.profile.runtime, job.profile.precisions, job.profile.plugin).lacking


def engine_files(job: Job, variants: Sequence[str] = VARIANTS) -> dict[str, Any]:
    """What a stage that runs engines reads; settings, which only latency depends on, are for tune and bench to add."""
    profile = job.profile.model_dump(include={"runtime", "precisions", "plugin", "input_shape", "device"})
    there = job.bench.versions(job.profile.runtime)
    names = folders(job, variants)
    forms = [forms_folder(name) for name in names] if job.profile.races_forms else []
    own = {"parent's input": job.own_shape} if job.resized else {}
    return {
        "profile": profile, "there": there, **own, **{name: job.shop / f"engines/{name}" for name in names},
        **{name: job.shop / name for name in forms},
    }  # fmt: skip


def race(job: Job, raced: Sequence[Engine], stage: str, rounds: int) -> BenchRun:
    """Engines of a job against each other in one run, image in to boxes out, as a stage's progress."""
    from edgeprune.bench.ask import race as ask

    return ask(
        job.bench, raced, probe_images(job), job.profile.input_shape, seed=job.recipe.seed, rounds=rounds,
        on_round=lambda done, total: job.shop.listener.progress(stage, done, total),
    )  # fmt: skip


def probe_images(job: Job) -> tuple[Path, ...]:
    """The first images of val: what engines are timed on, and parity is checked on."""
    return job.data.splits["val"][:PROBE_IMAGES]


def probes(job: Job, count: int, variant: str = "pruned") -> Floats:
    """Some of them as a variant's input, float32 of shape (count, 3, height, width)."""
    import numpy as np

    from edgeprune.runtime.preprocess import letterbox, read_image

    size = job.shape_of(variant)[2:]
    return np.concatenate([letterbox(read_image(path), *size)[0] for path in probe_images(job)[:count]])


def versions(*packages: str) -> dict[str, str]:
    """Installed versions, without importing anything."""
    return {**dict.fromkeys(packages, "not installed"), **installed(*packages)}
