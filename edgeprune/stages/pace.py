"""For goals in time: the parent at its best, and a clock that tells how long plans will take, image in to boxes out.

Rules:
- What counts is what the verdict will count: whole detectors, each in the form and with the settings that suit it best,
  against the parent in its own. So the parent is exported and raced before anything is cut.
- A precision is chosen by whole engines evenly cut, the form and the settings by successive halving of one cut about as
  far as the goal asks. What the table says of inference becomes image in to boxes out by that engine (plans.py).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from edgeprune.errors import DeviceError, RecipeError
from edgeprune.job import Job
from edgeprune.records import files, read_json, write_json
from edgeprune.records.latency import ActivationRace, ActivationTried, LatencyTable, Pace
from edgeprune.records.model import ModelFiles
from edgeprune.records.recipe import Activation
from edgeprune.stages.board import build_on_device, kits
from edgeprune.stages.common import engine_files, engines, lacking, race, tuned
from edgeprune.stages.export import export_float
from edgeprune.stages.latency import Target, given_table, latency_table, precisions, scales_of
from edgeprune.stages.plans import ROUNDS, parent_at_best, plans_of
from edgeprune.stages.tune import PARENTS, tune_parent

if TYPE_CHECKING:
    from torch import nn

    from edgeprune.graph.channels import ChannelGraph
    from edgeprune.graph.cost import Widths
    from edgeprune.prune.time import Clock

#: Goals share what was found out with an engine cut about as far: levels are rounded to this many.
LEVELS = 4
#: Activation functions to race; the model's own first.
ACTIVATIONS: tuple[Activation, ...] = ("keep", "relu", "hardswish")
#: How much less a model must be cut with another activation function for that to be worth what a swap costs.
WORTH = 0.1


def pace(job: Job) -> Job:
    """parent.onnx, its engines, tune-parent.json; latency/parent.json: these engines at their best, in one run. And
    latency/activation.json where the recipe races activation functions.

    Returns:
        The job, with the activation function that won.

    Raises:
        RecipeError: Activation functions are to be raced for a goal that isn't one in time.
    """
    if not job.recipe.goal.in_time:
        if job.recipe.activation == "race":
            raise RecipeError(
                "Activation functions are raced for a goal in time.", where="activation",
                expected="goal: latency_ms, speedup or fps", got="goal: macs_ratio",
                next_step="give such a goal, or name the activation",
            )  # fmt: skip
        return job
    export_float(job, "parent", job.shop / "parent.pt")
    if job.on_board:
        kits(job, ("parent",))
        build_on_device(job, ("parent",))
    tune_parent(job)

    def act(work: Path) -> None:
        raced = tuned(job, engines(job, lacking(job), ("parent",)), PARENTS)
        write_json(work / "latency/parent.json", race(job, raced, "pace of the parent", ROUNDS))

    job.shop.stage(
        "pace of the parent", act,
        reads={**engine_files(job, ("parent",)), "tuned": job.shop / PARENTS, "data": job.sha256["data"]},
        makes=("latency/parent.json",),
    )  # fmt: skip
    if job.recipe.activation != "race":
        files.remove(job.shop / "latency/activation.json")  # of another recipe
        return job
    return replace(job, recipe=job.recipe.model_copy(update={"activation": _raced_activation(job).chosen}))


def _raced_activation(job: Job) -> ActivationRace:
    """latency/activation.json: for every activation function, how far the model must be cut with it for the goal."""
    around, goal_ms = _aim(job)
    tried = []
    for activation in ACTIVATIONS:
        model = _swapped(job, activation)
        times = precisions(replace(Target.of(job), activation=activation), model)
        best, level = times.best(max(goal_ms - around, 0.0))
        whole = best.engines[0].ms
        tried.append(ActivationTried(activation=activation, precision=best.precision, level=level, whole_ms=whole))
    kept, least = tried[0], min(tried, key=lambda t: t.level)
    chosen = least if kept.level > 1 or kept.level - least.level > WORTH else kept
    found = ActivationRace(chosen=chosen.activation, tried=tuple(tried))
    write_json(job.shop / "latency/activation.json", found)
    return found


def _swapped(job: Job, activation: Activation) -> ModelFiles:
    """latency/swapped-ACTIVATION.pt: the parent with another activation function, to be timed and not used."""
    if activation == "keep":
        return ModelFiles(job.shop / "parent.pt")
    file = f"latency/swapped-{activation}.pt"

    def act(work: Path) -> None:
        from edgeprune.yolo.blocks import swap_activation
        from edgeprune.yolo.checkpoint import pack
        from edgeprune.yolo.load import load_detector

        detector = load_detector(job.shop / "parent.pt")
        swap_activation(detector.model, activation)
        files.write_bytes(work / file, pack(detector.model, detector.checkpoint, half=detector.half))

    job.shop.stage(
        f"try activation {activation}", act,
        reads={"parent": job.shop / "parent.pt", "activation": activation}, makes=(file,),
    )  # fmt: skip
    return ModelFiles(job.shop / file)


def _aim(job: Job) -> tuple[float, float]:
    """Milliseconds around the engine of the parent at its best, and of the budget of image in to boxes out, as far as
    one run of the parent alone can tell them."""
    parent = parent_at_best(job)
    assert parent.parts is not None
    around = parent.parts.preprocess_ms + parent.parts.postprocess_ms
    return around, job.recipe.goal.budget_ms(parent.latency_ms.p50)


def clock(job: Job, share: float, model: ModelFiles) -> tuple[Clock, dict[str, object]]:
    """What tells the time of a model on the job's target; and what that hangs on, for a key.

    Args:
        share: How far to the goal; engines are measured where it is 1.
        model: What is about to be cut.
    """
    from edgeprune.prune.time import Timing

    target = Target.of(job)
    around, goal_ms = _aim(job)
    table, level = _table(job, target, model, max(goal_ms - around, 0.0))
    found = _pace_of(job, target, model, table, round(min(level, 1.0) * LEVELS) / LEVELS)
    budget = job.recipe.goal.budget_ms(found.parent_ms, share)

    def tell(graph: ChannelGraph, module: nn.Module, known: ChannelGraph | None = None) -> Timing:
        from edgeprune.latency.model import LatencyModel, PacedModel

        paced = PacedModel(LatencyModel.of(table, known or graph), found.around_ms, found.factor)
        return Timing(paced, budget, _measure(job, model, found, graph, module) if share == 1.0 else None)

    return tell, {
        "goal": job.recipe.goal.model_dump(exclude={"max_map_drop"}),
        "share": share,
        "pace": found.model_dump(mode="json"),
        "table": table.model_dump(mode="json"),
        "parent's pace": job.shop / "latency/parent.json",
    }


def _table(job: Job, target: Target, model: ModelFiles, budget_ms: float) -> tuple[LatencyTable, float]:
    """The table to plan by, and how far a model must be cut for a budget of inference: what the recipe names, else that
    of the precision that must be cut least."""
    times = precisions(target, model)
    if job.recipe.latency_table is not None:
        table = given_table(target, Path(job.recipe.latency_table))
        return table, times.needed(table.precision, budget_ms)
    best, level = times.best(budget_ms)
    return latency_table(target, best.precision, model), level


def _pace_of(job: Job, target: Target, model: ModelFiles, table: LatencyTable, level: float) -> Pace:
    """latency/pace-PRECISION-LEVEL.json: in which form, and with which settings, plans of a precision are measured."""
    precision = table.precision
    file = f"latency/pace-{precision}-{level:g}.json"
    stage = f"pace in {precision}, cut by {level:.0%} of what can be"

    def act(work: Path) -> None:
        subject = target.subject(precision, model)
        write_json(work / file, plans_of(job).pace(subject, table, level, work / "forms", stage))

    job.shop.stage(
        stage, act,
        reads={
            **target.reads, "precision": precision, "level": level, "tuned": job.shop / PARENTS,
            "table": table.model_dump(mode="json"), "data": job.sha256["data"],
            "settings": job.profile.model_dump(mode="json"),
        },
        makes=(file,),
    )  # fmt: skip
    return read_json(job.shop / file, Pace, DeviceError)


def _measure(
    job: Job, model: ModelFiles, found: Pace, graph: ChannelGraph, module: nn.Module
) -> Callable[[Sequence[Widths]], list[float]]:
    from edgeprune.latency.subject import Subject

    subject = Subject.at_hand(module, graph, job.profile, found.precision, job.bench, scales_of(model))
    return lambda plans: plans_of(job).measure(subject, plans, found)
