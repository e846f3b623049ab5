"""The stages that tell how long a model will take on its target before it is one: for goals in time.

Rules:
- What is timed is the structure, not the weights: a table belongs to the user's model file, the activation function,
  the target's runtime, its device and its power mode; every goal and every schedule takes it over.
- The precision that a plan is made for is the one that has to be cut least for the goal, by whole engines on the
  device. In INT8, SiLU and narrow layers often lose to float.
- Engines that a plan's choice is measured with stand beside a reference from the table's own day, so that a machine
  that has become slower since doesn't make plans look slower.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
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
    from torch import nn

    from edgeprune.graph.channels import ChannelGraph
    from edgeprune.graph.cost import Widths
    from edgeprune.latency.subject import Subject
    from edgeprune.prune.time import Clock


@dataclass(frozen=True)
class Target:
    """What a model is timed on, and where that is kept.

    Attributes:
        name: The target's.
        model_sha256: Of the user's checkpoint.
        activation: The recipe's, since a swap changes times.
        parents_shape: Input of the parent, where the build's is another one.
    """

    name: str
    profile: TargetProfile
    bench: Bench
    shop: Workshop
    model_sha256: str
    activation: str = "keep"
    seed: int = 0
    parents_shape: tuple[int, int, int, int] | None = None

    @classmethod
    def of(cls, job: Job) -> Target:
        """A build's."""
        return cls(
            job.target, job.profile, job.bench, job.shop, job.sha256["model"], job.recipe.activation, job.recipe.seed,
            job.own_shape if job.resized else None,
        )  # fmt: skip

    def subject(self, precision: str, model: ModelFiles) -> Subject:
        """A checkpoint in a precision."""
        from edgeprune.latency.subject import Subject

        return Subject.of(model.checkpoint, self.profile, precision, self.bench.architecture, _scales(model))

    def parents(self, precision: str, checkpoint: Path) -> Subject:
        """The parent in a precision, at its own input."""
        own = {"input_shape": self.parents_shape or self.profile.input_shape}
        return replace(self, profile=self.profile.model_copy(update=own)).subject(precision, ModelFiles(checkpoint))

    @property
    def reads(self) -> dict[str, Any]:
        """What times depend on."""
        profile = self.profile
        return {
            "model": self.model_sha256, "activation": self.activation, "runtime": profile.runtime,
            "settings": profile.settings.model_dump(mode="json"), "shape": profile.input_shape,
            "scheme": profile.quantization.model_dump(), "device": self.bench.address,
            "there": self.bench.versions(profile.runtime), "power mode": self.bench.info.power_mode,
            "seed": self.seed, **versions("ultralytics", "torch", "onnx", "onnxslim"),
        }  # fmt: skip

    def on_step(self, stage: str) -> Callable[[str, int, int], None]:
        return lambda what, done, total: self.shop.listener.progress(stage, done, total, what)


def refuse_boards(profile: TargetProfile) -> None:
    """Raise ProfileError where engines are built by the device itself."""
    if profile.runtime == "tensorrt":
        raise ProfileError(
            "There are no latency tables for TensorRT yet.", where="runtime", expected="onnxruntime or openvino",
            got=profile.runtime, next_step="give goal: macs_ratio; the board races what comes of it all the same",
        )  # fmt: skip


def latency_table(target: Target, precision: str, model: ModelFiles) -> LatencyTable:
    """latency/PRECISION.json, and beside it the whole model's graph as the reference of later measurements.

    Args:
        model: The checkpoint that is to be cut, with its scales if it has any.

    Raises:
        DeviceError: The device can't be asked, lacks the precision, or is too noisy.
    """
    refuse_boards(target.profile)
    stage = f"latency table {precision}"

    def act(work: Path) -> None:
        from edgeprune.latency.table import make_table

        subject = target.subject(precision, model)
        (work / "latency").mkdir(exist_ok=True)
        table = make_table(
            subject, target.bench, target.profile.settings, work, target=target.name,
            multiple=target.profile.channel_multiple, seed=target.seed, on_step=target.on_step(stage),
        )  # fmt: skip
        (work / f"latency/{precision}.onnx").write_bytes(subject.onnx().SerializeToString(deterministic=True))
        write_json(work / f"latency/{precision}.json", table)

    target.shop.stage(
        stage, act,
        reads={**target.reads, "precision": precision, "multiple": target.profile.channel_multiple},
        makes=(f"latency/{precision}.json", f"latency/{precision}.onnx"),
    )  # fmt: skip
    return read_json(target.shop / f"latency/{precision}.json", LatencyTable, DeviceError)


def precisions(target: Target, model: ModelFiles, parent: Path) -> Precisions:
    """latency/precisions.json: whole engines in every precision that the target races, evenly cut.

    Args:
        model: What is to be cut.
        parent: The parent's checkpoint.
    """
    refuse_boards(target.profile)
    asked, plugin = target.profile.precisions, target.profile.plugin

    def act(work: Path) -> None:
        from edgeprune.latency.plans import at_level
        from edgeprune.latency.table import LEVELS, time_whole

        lacking = about(target.bench, target.profile.runtime, asked, plugin).lacking
        parents, found = {}, []
        for precision in [p for p in asked if p not in lacking]:
            stage = target.on_step(f"precisions: {precision}")
            subject = target.subject(precision, model)
            plans = [at_level(subject.graph, target.profile.channel_multiple, level) for level in LEVELS]
            timed = time_whole(
                subject, target.bench, target.profile.settings, work / precision, plans, target.seed, on_step=stage
            )
            found.append(PrecisionTimes(precision=precision, levels=LEVELS, engines=tuple(timed)))
            if precision == "int8":
                continue  # the parent is float
            if target.activation == "keep" and target.parents_shape is None:
                parents[precision] = timed[0]
                continue
            whole = target.parents(precision, parent)
            (parents[precision],) = time_whole(
                whole, target.bench, target.profile.settings, work / f"{precision}-parent",
                [whole.costs.widths], target.seed, on_step=stage,
            )  # fmt: skip
        write_json(work / "latency/precisions.json", Precisions(parent=parents, model=tuple(found), lacking=lacking))

    target.shop.stage(
        "precisions", act,
        reads={
            **target.reads, "precisions": asked, "multiple": target.profile.channel_multiple,
            "parent's input": target.parents_shape,
        },
        makes=("latency/precisions.json",),
    )  # fmt: skip
    return read_json(target.shop / "latency/precisions.json", Precisions, DeviceError)


def clock(job: Job, share: float, model: ModelFiles) -> tuple[Clock, dict[str, object]]:
    """What tells the time of a model on the job's target, for a goal in time; and what that hangs on, for a key.

    Args:
        share: How far to the goal; engines are measured where it is 1.
        model: What is about to be cut.
    """
    from edgeprune.prune.time import Timing

    target, goal = Target.of(job), job.recipe.goal
    times = precisions(target, model, job.shop / "parent.pt")
    budget = goal.budget_ms(times.parent_ms, share)
    precision = times.best(goal.budget_ms(times.parent_ms)).precision
    table = latency_table(target, precision, model)

    def tell(graph: ChannelGraph, module: nn.Module) -> Timing:
        from edgeprune.latency.model import LatencyModel

        measure = _measure(target, precision, table, graph, module, model) if share == 1.0 else None
        return Timing(LatencyModel.of(table, graph), budget, measure)

    return tell, {
        "goal": goal.model_dump(exclude={"max_map_drop"}), "share": share,
        "table": target.shop / f"latency/{precision}.json", "precisions": target.shop / "latency/precisions.json",
    }  # fmt: skip


def _measure(
    target: Target, precision: str, table: LatencyTable, graph: ChannelGraph, module: nn.Module, model: ModelFiles
) -> Callable[[Sequence[Widths]], list[float]]:
    """Whole engines on the device, in milliseconds of the table's day."""
    from edgeprune.latency.subject import Subject
    from edgeprune.latency.table import time_whole

    subject = Subject.at_hand(module, graph, target.profile, precision, target.bench.architecture, _scales(model))

    def measure(plans: Sequence[Widths]) -> list[float]:
        import tempfile

        with tempfile.TemporaryDirectory() as folder:
            reference, *found = time_whole(
                subject, target.bench, target.profile.settings, Path(folder), plans, target.seed,
                reference=target.shop / f"latency/{precision}.onnx", on_step=target.on_step("engines of plans"),
            )  # fmt: skip
        drift = table.engines[0].ms / reference.ms
        return [timed.ms * drift for timed in found]

    return measure


def _scales(model: ModelFiles) -> Quantization | None:
    return None if model.quantization is None else read_json(model.quantization, Quantization, DeviceError)
