"""From a checkpoint to a plan and a smaller checkpoint: trace, score, choose, cut."""

from __future__ import annotations

import copy
import io
import traceback
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from torch import nn

from edgeprune.errors import PlanError, RecipeError
from edgeprune.graph.build import build
from edgeprune.graph.channels import ChannelGraph, Side
from edgeprune.graph.cost import CostModel
from edgeprune.graph.trace import Program, dry_run, trace
from edgeprune.prune import importance
from edgeprune.prune.allocate import Budget, allocate
from edgeprune.prune.apply import apply, compose, make_plan, original_sizes, require_plan_of
from edgeprune.prune.candidates import Batch, Candidates, remembered
from edgeprune.prune.choose import choose
from edgeprune.prune.importance import CutLoss
from edgeprune.prune.ladder import Keeps, Limits, keeps_at
from edgeprune.prune.owned import Owned
from edgeprune.prune.problem import Means, Problem
from edgeprune.prune.time import Clock
from edgeprune.quant import fold
from edgeprune.quant.fake import SCALES, attach, with_rounded_weights
from edgeprune.records import PlannedTime, PrunePlan, Quantization, read_json, write_json
from edgeprune.records.files import write_bytes
from edgeprune.records.methods import METHODS
from edgeprune.records.model import ModelFiles
from edgeprune.yolo import blocks
from edgeprune.yolo.checkpoint import pack
from edgeprune.yolo.data import batches
from edgeprune.yolo.load import Detector, load, predictions
from edgeprune.yolo.loss import gradients, losses

T = TypeVar("T")


@dataclass(frozen=True)
class Request:
    """What to cut and how.

    Attributes:
        model: The checkpoint (or model YAML) to cut.
        parent: The checkpoint that all rounds started from; None where `model` is it.
        before: The plan from parent to model; None in the first round.
        quantization: The model's scales. Channels are then scored as INT8 computes them.
        moments: The optimizer's moments, to be cut with the model.
        carrier: Another training of the same model, with its scales and moments, which is cut in place of the one that
            is scored.
        widths: A plan for this model that says how many channels stay; the scores say which. Instead of a goal.
        image_size: Height and width in pixels that MACs are counted at.
        macs_ratio: MACs that may stay, as a share of the parent's; or
        channel_ratio: channels that may stay, as a share of all; or
        clock: tells the model's time on the target, and its budget.
        importance, allocation, channel_multiple, min_width, max_group_ratio, seed: As in Recipe.
        view: data.yaml of a view, for importances and allocations that need data.
        batch, batches: Images a batch and batches, for the same.
        trials, trial_batches: Candidates that an allocation may look at, and batches that each one's loss is taken on.
        train_supernet: Trains a model, which it changes, to be the weight-sharing supernet of a problem; none: it is
            one as it is.
        work: Where losses that were taken are kept, for a search that is interrupted; none: in memory.
        torch_device: '' for the first GPU or the CPU.
    """

    model: Path
    image_size: tuple[int, int]
    importance: str
    parent: Path | None = None
    before: Path | None = None
    quantization: Path | None = None
    moments: Path | None = None
    carrier: ModelFiles | None = None
    widths: Path | None = None
    macs_ratio: float | None = None
    channel_ratio: float | None = None
    clock: Clock | None = None
    allocation: str = "global"
    channel_multiple: int = 8
    min_width: int = 8
    max_group_ratio: float = 0.8
    view: Path | None = None
    batch: int = 16
    batches: int = 16
    trials: int = 64
    trial_batches: int = 2
    train_supernet: Callable[[nn.Module, Problem], None] | None = None
    work: Path | None = None
    torch_device: str = ""
    seed: int = 0


def channel_graph(model: nn.Module, image_size: tuple[int, int], channels: int = 3) -> ChannelGraph:
    """The channel graph of a detector, costs counted at `image_size` (height, width)."""
    return traced_graph(model, image_size, channels)[1]


def traced_graph(model: nn.Module, image_size: tuple[int, int], channels: int = 3) -> tuple[Program, ChannelGraph]:
    """The same, with the program that it was read from."""
    program = trace(model, (1, channels, *image_size), predictions)
    return program, build(program, blocks.ties(model), blocks.exact_sizes(model))


def prune_checkpoint(
    request: Request,
    *,
    files: ModelFiles,
    on_batch: Callable[[int, int], None] = lambda done, total: None,
    on_trial: Callable[[int, int], None] = lambda done, total: None,
) -> tuple[Detector, PrunePlan]:
    """Cut a checkpoint and write the plan (from the parent) and the smaller checkpoint.

    Args:
        files: What to write: checkpoint and plan; scales and moments where the request has them.
        on_batch, on_trial: Told how many batches are scored, and candidates looked at: (done, in all).

    Returns:
        The detector that was cut, as it came, and the plan.

    Raises:
        RecipeError, PlanError, CheckpointError, ModelError.
    """
    detector = load(request.model, request.seed)
    require_stride(detector, request.image_size)
    graph = channel_graph(detector.model, request.image_size, detector.channels)
    costs = CostModel(graph, detector.model)
    before = read_json(request.before, PrunePlan, PlanError) if request.before else None
    record = read_json(request.quantization, Quantization, PlanError) if request.quantization else None
    candidates = Candidates(detector.model, graph, costs, record, lambda: _draw(request, request.trial_batches))
    loss = remembered(candidates.loss, request.work and request.work / "losses.jsonl")
    scores = _scores(request, graph, detector, record, loss, on_batch)
    original: dict[str, int] = {}
    if before is not None:
        assert request.parent is not None
        parent = load(request.parent).model
        parent_graph = channel_graph(parent, request.image_size, detector.channels)
        original = original_sizes(graph, before, parent_graph)
    limits = Limits(request.channel_multiple, request.min_width, request.max_group_ratio, original)
    means = Means(
        detector.model, request.seed, request.trials, loss, lambda problem: _supernet(request, candidates, problem),
        on_trial,
    )  # fmt: skip
    macs_before = before.macs_ratio if before else 1.0
    keeps, time = _choose(request, detector, graph, costs, scores, limits, macs_before, means)
    plan = make_plan(
        graph, costs, keeps, time, importance=request.importance, allocation=request.allocation,
        channel_multiple=request.channel_multiple, seed=request.seed,
    )  # fmt: skip
    moments, cut_from = request.moments, detector
    if request.carrier is not None and request.carrier.checkpoint != request.model:
        cut_from, moments = load(request.carrier.checkpoint), request.carrier.moments
        scales = request.carrier.quantization
        record = read_json(scales, Quantization, PlanError) if scales else None
    cut = apply(cut_from.model, graph, plan, blocks.settle)
    _require_running(cut, request.image_size, detector.channels)
    if record is not None:
        assert files.quantization is not None
        write_json(files.quantization, fold.cut(record, plan.layers))
    if moments is not None:
        assert files.moments is not None
        write_bytes(files.moments, cut_moments(moments, cut_from.model, graph, plan, record))
    if before is not None:
        plan = compose(before, plan, parent_graph, CostModel(parent_graph, parent))
    assert files.plan is not None
    write_json(files.plan, plan)
    write_bytes(files.checkpoint, pack(cut, detector.checkpoint, half=detector.half))
    return detector, plan


def replay(model: Path, plan_file: Path, checkpoint_file: Path, seed: int = 0) -> PrunePlan:
    """Carry a plan out on the model that it was made for, and write the smaller checkpoint.

    Raises:
        PlanError: The plan is malformed, or was made for another model. Nothing is written.
        CheckpointError, ModelError: As `prune_checkpoint`.
    """
    plan = read_json(plan_file, PrunePlan, PlanError)
    detector = load(model, seed)
    image_size = (2 * max(detector.stride, 32),) * 2  # the graph is the same at every size
    graph = channel_graph(detector.model, image_size, detector.channels)
    cut = apply(detector.model, graph, plan, blocks.settle)
    _require_running(cut, image_size, detector.channels)
    write_bytes(checkpoint_file, pack(cut, detector.checkpoint, half=detector.half))
    return plan


def cut_moments(
    moments: Path, model: nn.Module, graph: ChannelGraph, plan: PrunePlan, record: Quantization | None = None
) -> bytes:
    """The optimizer's moments of the cut model: each is cut as the parameter is that it belongs to.

    Args:
        moments: Parameter name -> {'exp_avg', 'exp_avg_sq', 'step'}, as a stretch of training leaves them.
        model: What they belong to, whole.
        record: Its scales, whose moments are cut too.
    """
    state = torch.load(moments, weights_only=True, map_location="cpu")
    carrier = copy.deepcopy(model)
    for key in ("exp_avg", "exp_avg_sq"):
        with torch.no_grad():
            for name, parameter in carrier.named_parameters():
                parameter.copy_(state[name][key] if name in state else torch.zeros_like(parameter))
        for name, parameter in apply(carrier, graph, plan).named_parameters():
            if name in state:
                state[name][key] = parameter.detach().clone()
    scales = state.get(f"{SCALES}.weight")
    if record is not None and scales is not None:
        kept = torch.tensor(fold.kept_scales(record, plan.layers))
        scales |= {key: scales[key][kept] for key in ("exp_avg", "exp_avg_sq")}
    buffer = io.BytesIO()
    torch.save(state, buffer)
    return buffer.getvalue()


def _choose(
    request: Request,
    detector: Detector,
    graph: ChannelGraph,
    costs: CostModel,
    scores: importance.Scores,
    limits: Limits,
    macs_before: float,
    means: Means,
) -> tuple[Keeps, PlannedTime | None]:
    if request.widths is not None:
        return _at_widths(read_json(request.widths, PrunePlan, PlanError), graph, detector.model, scores)
    if request.clock is not None:
        timing = request.clock(graph, detector.model)
        return choose(graph, costs, scores, timing, request.allocation, limits, means)
    budget = Budget(
        macs_ratio=request.macs_ratio / macs_before if request.macs_ratio else None, channel_ratio=request.channel_ratio
    )
    return allocate(graph, costs, scores, budget, request.allocation, limits, means), None


def _supernet(request: Request, candidates: Candidates, problem: Problem) -> CutLoss:
    """The loss of sub-nets of the supernet, BatchNorm's statistics their own."""
    if request.train_supernet is not None:
        candidates = candidates.of(copy.deepcopy(candidates.model))
        request.train_supernet(candidates.model, problem)
    file = request.work and request.work / "supernet-losses.jsonl"
    return remembered(partial(candidates.loss, recalibrated=True), file)


def _at_widths(
    plan: PrunePlan, graph: ChannelGraph, model: nn.Module, scores: importance.Scores
) -> tuple[Keeps, PlannedTime | None]:
    """The best-scored channels at widths that were chosen before; those that training left silent go first."""
    require_plan_of(graph, plan)
    silent, owned = Owned.silent(graph, model)
    known = {
        name: np.where(silent[owned.groups[name].start : owned.groups[name].stop], -np.inf, values)
        if name in owned.groups
        else values
        for name, values in scores.items()
    }
    widths = np.array([len(plan.groups[group.name].keep) for group in graph.groups], dtype=np.float64)
    return keeps_at(graph, known, widths), plan.time


def _scores(
    request: Request,
    graph: ChannelGraph,
    detector: Detector,
    record: Quantization | None,
    cut_loss: CutLoss,
    on_batch: Callable[[int, int], None],
) -> importance.Scores:
    score = METHODS["importance"][request.importance].function
    found: importance.Scores = score(_evidence(request, graph, detector, record, cut_loss, on_batch))
    return found


def _evidence(
    request: Request,
    graph: ChannelGraph,
    detector: Detector,
    record: Quantization | None,
    cut_loss: CutLoss,
    on_batch: Callable[[int, int], None],
) -> importance.Evidence:
    """What importances may look at; data is drawn when one asks."""

    def drawn(images: int, count: int) -> tuple[Any, Iterator[dict[str, Any]]]:
        model = copy.deepcopy(detector.model) if record is None else attach(copy.deepcopy(detector.model), record)
        return model.to(device_of(request.torch_device)).eval(), _counted(
            _draw(request, count, images), count, on_batch
        )

    def of_batches(images: int, count: int) -> Iterator[importance.Tensors]:
        for by_name in gradients(*drawn(images, count)):
            yield {name: gradient.cpu() for name, gradient in by_name.items()}

    def activations(measure: importance.Measure) -> Iterator[Mapping[Side, torch.Tensor]]:
        model, found = drawn(request.batch, request.batches)
        return importance.watched(model, graph, (batch["img"] for batch in found), measure)

    return importance.Evidence(
        graph,
        detector.model if record is None else with_rounded_weights(detector.model, record),
        request.seed,
        gradients=lambda: of_batches(request.batch, request.batches),
        image_gradients=lambda: of_batches(1, request.batch * request.batches),
        activations=activations,
        losses=lambda: losses(*drawn(request.batch, request.batches)),
        cut_loss=cut_loss,
        masks=detector.masks,
    )


def device_of(torch_device: str) -> torch.device:
    """Where to compute, as Ultralytics reads it: '' for the first GPU or the CPU; '1,2': the first of them."""
    first = torch_device.split(",")[0]
    return torch.device(
        f"cuda:{first}" if first.isdigit() else first or ("cuda" if torch.cuda.is_available() else "cpu")
    )


def _draw(request: Request, count: int, images: int | None = None) -> Iterator[Batch]:
    """Training batches; of `images` instead of the request's."""
    if request.view is None:
        raise RecipeError(
            f"Importance {request.importance} with allocation {request.allocation} needs training data.",
            expected="--data data.yaml", got="none",
            next_step="give the data set, or take methods that don't (edgeprune methods)",
        )  # fmt: skip
    size, device = request.image_size[0], device_of(request.torch_device)
    yield from batches(request.view, size, images or request.batch, count, request.seed, device)


def _counted(items: Iterable[T], total: int, on_item: Callable[[int, int], None]) -> Iterator[T]:
    for number, item in enumerate(items, 1):
        yield item
        on_item(number, total)


def _require_running(cut: nn.Module, image_size: tuple[int, int], channels: int) -> None:
    """A block of the user's own may have its width in an attribute, which no operator shows."""
    try:
        dry_run(cut, (1, channels, *image_size))
    except Exception as error:  # whatever a forward raises on shapes that it didn't expect
        frames = traceback.extract_tb(error.__traceback__)
        own = [f for f in frames if not {"torch", "edgeprune"} & set(Path(f.filename).parts)] or frames
        raise PlanError(
            "The cut model doesn't run: a block computes with a width that it keeps for itself.",
            where=f"{own[-1].filename}:{own[-1].lineno}, in {own[-1].name}: {own[-1].line}",
            got=f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}",
            next_step="let the block read the width from its input's shape",
        ) from error


def require_stride(detector: Detector, image_size: tuple[int, int]) -> None:
    if any(edge % detector.stride for edge in image_size):
        raise RecipeError(
            "The input's size doesn't divide by the detector's stride.",
            expected=f"multiples of {detector.stride}", got=f"{image_size[0]}x{image_size[1]}",
        )  # fmt: skip
