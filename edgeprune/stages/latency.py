"""The stages that tell how long inference will take on a target before there is an engine: tables by layer, and whole
engines in each precision. For goals in time (pace.py), and for who wants to see (`edgeprune latency-table`).

Rules:
- What is timed is the structure, not the weights: a table belongs to the user's model file, the activation function,
  the target's runtime, its device and its power mode; every goal and every schedule takes it over.
- The precision that a plan is made for is the one that has to be cut least for the goal, by whole engines on the
  device. In INT8, SiLU and narrow layers often lose to float.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgeprune.bench.ask import Bench, about
from edgeprune.errors import DeviceError, ProfileError
from edgeprune.job import Job
from edgeprune.records import Quantization, TargetProfile, read_json, write_json
from edgeprune.records.latency import LatencyTable, Precisions, PrecisionTimes
from edgeprune.records.model import ModelFiles
from edgeprune.stages.common import versions
from edgeprune.workshop import Workshop

if TYPE_CHECKING:
    from edgeprune.latency.subject import Subject


@dataclass(frozen=True)
class Target:
    """What a model is timed on, and where that is kept.

    Attributes:
        name: The target's.
        model_sha256: Of the user's checkpoint.
        activation: The recipe's, since a swap changes times.
        seed: Of random plans and of orders; not the recipe's, so that builds of every seed share what was measured.
    """

    name: str
    profile: TargetProfile
    bench: Bench
    shop: Workshop
    model_sha256: str
    activation: str = "keep"
    seed: int = 0

    @classmethod
    def of(cls, job: Job) -> Target:
        """A build's."""
        return cls(job.target, job.profile, job.bench, job.shop, job.sha256["model"], job.recipe.activation)

    def subject(self, precision: str, model: ModelFiles) -> Subject:
        """A checkpoint in a precision."""
        from edgeprune.latency.subject import Subject

        return Subject.of(model.checkpoint, self.profile, precision, self.bench, scales_of(model))

    @property
    def reads(self) -> dict[str, Any]:
        """What times depend on."""
        profile = self.profile
        return {
            "model": self.model_sha256, "activation": self.activation, "runtime": profile.runtime,
            "settings": profile.settings.model_dump(mode="json"), "shape": profile.input_shape,
            "forms": profile.races_forms, "scheme": profile.quantization.model_dump(), "device": self.bench.address,
            "there": self.bench.versions(profile.runtime), "power mode": self.bench.info.power_mode,
            "seed": self.seed, **versions("ultralytics", "torch", "onnx", "onnxslim"),
            **({} if profile.dla is None else {"dla": profile.dla}),
        }  # fmt: skip

    def on_step(self, stage: str) -> Callable[[str, int, int], None]:
        return lambda what, done, total: self.shop.listener.progress(stage, done, total, what)


def latency_table(target: Target, precision: str, model: ModelFiles) -> LatencyTable:
    """latency/PRECISION.json.

    Args:
        model: The checkpoint that is to be cut, with its scales if it has any.

    Raises:
        DeviceError: The device can't be asked, lacks the precision, or is too noisy.
    """
    stage = f"latency table {precision}"

    def act(work: Path) -> None:
        from edgeprune.latency.table import make_table

        subject = target.subject(precision, model)
        table = make_table(
            subject, target.bench, target.profile.settings.of(precision), work, target=target.name,
            multiple=target.profile.channel_multiple, seed=target.seed, on_step=target.on_step(stage),
        )  # fmt: skip
        write_json(work / f"latency/{precision}.json", table)

    target.shop.stage(
        stage, act,
        reads={**target.reads, "precision": precision, "multiple": target.profile.channel_multiple},
        makes=(f"latency/{precision}.json",),
    )  # fmt: skip
    return read_json(target.shop / f"latency/{precision}.json", LatencyTable, DeviceError)


def given_table(target: Target, file: Path) -> LatencyTable:
    """A table that the recipe names, once it is known to be one of this target's on this device.

    Raises:
        ProfileError: It can't be read, or was made for something else: says what.
    """
    table = read_json(file, LatencyTable, ProfileError)
    profile, info, runtime = target.profile, target.bench.info, target.profile.runtime
    here = {
        "runtime": runtime, "version": target.bench.versions(runtime)[runtime], "input_shape": profile.input_shape,
        "settings": profile.settings.of(table.precision), "board": info.board, "soc": info.soc,
        "architecture": info.architecture, "power_mode": info.power_mode,
    }  # fmt: skip
    for what, expected in here.items():
        if getattr(table, what) != expected:
            raise ProfileError(
                "The latency table was made for something else.", where=f"{file}, {what}", expected=expected,
                got=getattr(table, what),
                next_step="leave latency_table out of the recipe: the build makes its own; or make one there with "
                "edgeprune latency-table",
            )  # fmt: skip
    if table.precision not in profile.precisions:
        raise ProfileError(
            "The latency table is of a precision that the target doesn't race.", where=file,
            expected=", ".join(profile.precisions), got=table.precision,
        )  # fmt: skip
    return table


def precisions(target: Target, model: ModelFiles) -> Precisions:
    """latency/precisions-ACTIVATION.json: whole engines in every precision that the target races, evenly cut.

    Args:
        model: What is to be cut, with its scales if it has any.
    """
    asked, plugin = target.profile.precisions, target.profile.plugin
    file = f"latency/precisions-{target.activation}.json"

    def act(work: Path) -> None:
        from edgeprune.latency.plans import at_level
        from edgeprune.latency.table import LEVELS, time_whole

        lacking = about(target.bench, target.profile.runtime, asked, plugin).lacking
        found = []
        for precision in [p for p in asked if p not in lacking]:
            subject = target.subject(precision, model)
            plans = [at_level(subject.graph, target.profile.channel_multiple, level) for level in LEVELS]
            timed = time_whole(
                subject, target.bench, target.profile.settings.of(precision), work / precision, plans,
                target.seed, on_step=target.on_step(f"precisions: {precision}"),
            )  # fmt: skip
            found.append(PrecisionTimes(precision=precision, levels=LEVELS, engines=tuple(timed)))
        write_json(work / file, Precisions(model=tuple(found), lacking=lacking))

    target.shop.stage(
        f"precisions, activation {target.activation}", act,
        reads={**target.reads, "precisions": asked, "multiple": target.profile.channel_multiple},
        makes=(file,),
    )  # fmt: skip
    return read_json(target.shop / file, Precisions, DeviceError)


def scales_of(model: ModelFiles) -> Quantization | None:
    return None if model.quantization is None else read_json(model.quantization, Quantization, DeviceError)
