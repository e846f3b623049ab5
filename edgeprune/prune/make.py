"""From a checkpoint to a plan and a smaller checkpoint: trace, score, choose, cut."""

from __future__ import annotations

import copy
import io
import traceback
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from math import inf
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from torch import nn

from edgeprune.errors import PlanError, RecipeError
from edgeprune.graph.build import build
from edgeprune.graph.channels import ChannelGraph, Side
from edgeprune.graph.cost import CostModel, Widths
from edgeprune.graph.trace import Program, dry_run, trace
from edgeprune.prune import importance, sparse
from edgeprune.prune.allocate import Budget, allocate
from edgeprune.prune.apply import apply, compose, make_plan, original_sizes, require_plan_of
from edgeprune.prune.candidates import Batch, Candidates, remembered
from edgeprune.prune.choose import choose
from edgeprune.prune.granularity import Left, Pruned, Task
from edgeprune.prune.importance import CutLoss
from edgeprune.prune.ladder import Keeps, Limits, keeps_at, ladders_of
from edgeprune.prune.owned import Owned
from edgeprune.prune.problem import Means, Problem
from edgeprune.prune.search import Space, greedy
from edgeprune.prune.time import Clock, Timing
from edgeprune.quant import fold
from edgeprune.quant.fake import SCALES, attach, with_rounded_weights
from edgeprune.records import PlannedTime, PrunePlan, Quantization, read_json, write_json
from edgeprune.records.files import write_bytes
from edgeprune.records.methods import METHODS
from edgeprune.records.model import ModelFiles
from edgeprune.records.plan import name_in_parent
from edgeprune.yolo import blocks, repeats
from edgeprune.yolo.checkpoint import pack
from edgeprune.yolo.data import batches
from edgeprune.yolo.load import Detector, load, predictions
from edgeprune.yolo.loss import gradients, losses

T = TypeVar("T")
M = TypeVar("M", bound=nn.Module)


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
        sparsity: share of zeros, for granularities that leave them.
        granularity, importance, allocation, channel_multiple, min_width, max_group_ratio, seed: As in Recipe.
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
    sparsity: float | None = None
    granularity: str = "channels"
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
    before = read_json(request.before, PrunePlan, PlanError) if request.before else None
    record = read_json(request.quantization, Quantization, PlanError) if request.quantization else None
    original: dict[str, int] = {}
    if before is not None:
        assert request.parent is not None
        parent = _without(load(request.parent).model, before.blocks or (), request.image_size, detector.channels)
        parent_graph = channel_graph(parent, request.image_size, detector.channels)
        original = original_sizes(graph, before, parent_graph)
    limits = Limits(request.channel_multiple, request.min_width, request.max_group_ratio, original)
    task = _task(request, detector, graph, record, limits, before, on_batch, on_trial)
    pruned: Pruned = METHODS["granularity"][request.granularity].function(task)
    left = pruned.left or task.whole
    whole = CostModel(graph, detector.model)
    plan = make_plan(
        left.graph, CostModel(left.graph, left.model), pruned.keeps, pruned.time, sparse.record(pruned.zeros),
        pruned.blocks, (whole.macs(whole.widths), round(whole.parameters(whole.widths))),
        importance=request.importance, allocation=request.allocation, channel_multiple=request.channel_multiple,
        seed=request.seed,
    )  # fmt: skip
    moments, cut_from, carried = request.moments, detector, left.model
    if request.carrier is not None and request.carrier.checkpoint != request.model:
        cut_from, moments = load(request.carrier.checkpoint), request.carrier.moments
        scales = request.carrier.quantization
        record = read_json(scales, Quantization, PlanError) if scales else None
        carried = _without(cut_from.model, pruned.blocks, request.image_size, detector.channels)
    cut = apply(carried, left.graph, plan, blocks.settle)
    _require_running(cut, request.image_size, detector.channels)
    if record is not None:
        assert files.quantization is not None
        write_json(files.quantization, fold.cut(record, plan.layers))
    if moments is not None:
        assert files.moments is not None
        shorten = partial(_without, names=pruned.blocks, image_size=request.image_size, channels=detector.channels)
        write_bytes(files.moments, cut_moments(moments, cut_from.model, left.graph, plan, record, shorten))
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
    model = _without(detector.model, plan.blocks or (), image_size, detector.channels)
    graph = channel_graph(model, image_size, detector.channels)
    cut = apply(model, graph, plan, blocks.settle)
    _require_running(cut, image_size, detector.channels)
    write_bytes(checkpoint_file, pack(cut, detector.checkpoint, half=detector.half))
    return plan


def cut_moments(
    moments: Path,
    model: nn.Module,
    graph: ChannelGraph,
    plan: PrunePlan,
    record: Quantization | None = None,
    shorten: Callable[[nn.Module], nn.Module] = lambda model: model,
) -> bytes:
    """The optimizer's moments of the cut model: each is cut as the parameter is that it belongs to.

    Args:
        moments: Parameter name -> {'exp_avg', 'exp_avg_sq', 'step'}, as a stretch of training leaves them.
        model: What they belong to, whole.
        graph: Of what is left of it, which the plan was made for.
        record: Its scales, whose moments are cut too.
        shorten: Takes the plan's blocks out.
    """
    state = torch.load(moments, weights_only=True, map_location="cpu")
    carrier = copy.deepcopy(model)
    made = {name: dict(entry) for name, entry in state.items()} if not plan.blocks else {}
    for key in ("exp_avg", "exp_avg_sq"):
        with torch.no_grad():
            for name, parameter in carrier.named_parameters():
                parameter.copy_(state[name][key] if name in state else torch.zeros_like(parameter))
        for name, parameter in apply(shorten(carrier), graph, plan).named_parameters():
            old = plan.name_in_parent(name)
            if old in state:
                made.setdefault(name, dict(state[old]))[key] = parameter.detach().clone()
    scales = made.get(f"{SCALES}.weight")
    if record is not None and scales is not None:
        kept = torch.tensor(fold.kept_scales(record, plan.layers))
        scales |= {key: scales[key][kept] for key in ("exp_avg", "exp_avg_sq")}
    buffer = io.BytesIO()
    torch.save(made, buffer)
    return buffer.getvalue()


def _without(model: M, names: Sequence[str], image_size: tuple[int, int], channels: int) -> M:
    """The model without these repeats; itself, without any."""
    return repeats.without(model, names, (1, channels, *image_size)) if names else model


def _task(
    request: Request,
    detector: Detector,
    graph: ChannelGraph,
    record: Quantization | None,
    limits: Limits,
    before: PrunePlan | None,
    on_batch: Callable[[int, int], None],
    on_trial: Callable[[int, int], None],
) -> Task:
    """What a granularity is asked, and may ask for."""
    method = METHODS["importance"][request.importance]
    whole = Left(detector.model, graph, {name: name for name in graph.layers})

    def means(left: Left) -> Means:
        which = "" if left is whole else f"-{left.graph.sha256[:12]}"  # its channel groups have the same names
        kept = {kind: request.work and request.work / f"{kind}{which}.jsonl" for kind in ("losses", "supernet-losses")}
        costs = CostModel(left.graph, left.model)
        candidates = Candidates(left.model, left.graph, costs, record, lambda: _draw(request, request.trial_batches))
        return Means(
            left.model, request.seed, request.trials, remembered(candidates.loss, kept["losses"]),
            partial(_supernet, request, candidates, kept["supernet-losses"]), on_trial,
        )  # fmt: skip

    aim = _Aim(request, whole, limits, before.macs_ratio if before else 1.0, means)

    def evidence(graph: ChannelGraph) -> importance.Evidence:
        return _evidence(request, graph, detector, record, means(whole).loss, on_batch)

    def there() -> list[str]:
        if record is not None:
            raise RecipeError(
                "Blocks are taken out of a float model: what they make has scales of its own.", where="granularity",
                expected="no scales yet", got="a quantized model", next_step="cut first and calibrate then",
            )  # fmt: skip
        # later rounds cut channels: blocks went in the first
        return repeats.repeats(detector.model, (1, detector.channels, *request.image_size)) if before is None else []

    def without(names: Sequence[str]) -> Left:
        model = _without(detector.model, names, request.image_size, detector.channels)
        shorter = channel_graph(model, request.image_size, detector.channels)
        return Left(model, shorter, {name: name_in_parent(name, names) for name in shorter.layers})

    return Task(
        whole, scores=lambda graph: method.function(evidence(graph)),
        each=lambda: method.function_of_each(evidence(graph)),
        widths=aim.widths, repeats=there, without=without, spends=aim.spends, lost=aim.lost,
        fixed=blocks.constants(detector.model), sparsity=request.sparsity, allocation=request.allocation,
    )  # fmt: skip


@dataclass(frozen=True)
class _Aim:
    """How far a request goes, for what is left of its model.

    Attributes:
        macs_before: MACs of the model that the request cuts : its parent's.
        means: What allocations may use besides arithmetic.
    """

    request: Request
    whole: Left
    limits: Limits
    macs_before: float
    means: Callable[[Left], Means]

    def spends(self, left: Left) -> float:
        """Predicted ms where the goal is one in time; else the share of the whole model's MACs, or channels."""
        if self.request.clock is not None:
            return self._timing(left).model.ms(_widths(left))
        if self.request.macs_ratio is None:
            return float(_widths(left).sum() / _widths(self.whole).sum())
        now, then = (CostModel(one.graph, one.model).macs(_widths(one)) for one in (left, self.whole))
        return now / then

    def lost(self, left: Left, scores: importance.Scores) -> float:
        """Importance that channels lose until the goal is met, chosen by importance alone; infinite where it isn't. For
        a goal in time by greed: every repeat is asked about, and programs take their time."""
        if self.request.clock is not None and self.request.widths is None:
            timing = self._timing(left)
            space = Space(left.graph, ladders_of(left.graph, scores, self.limits), timing.model)
            point = greedy(space, timing.budget_ms)
            return inf if point is None else space.loss(point)
        try:
            keeps, _ = self._choose(left, scores, "global")
        except PlanError:
            return inf
        return sum(float(s.sum() - s[list(keeps[name])].sum()) for name, s in scores.items() if name in keeps)

    def widths(self, left: Left, scores: importance.Scores) -> tuple[Keeps, PlannedTime | None]:
        """The channels that stay."""
        return self._choose(left, scores, self.request.allocation)

    def _choose(self, left: Left, scores: importance.Scores, allocation: str) -> tuple[Keeps, PlannedTime | None]:
        if self.request.widths is not None:
            return _at_widths(read_json(self.request.widths, PrunePlan, PlanError), left.graph, left.model, scores)
        costs = CostModel(left.graph, left.model)
        if self.request.clock is not None:
            return choose(left.graph, costs, scores, self._timing(left), allocation, self.limits, self.means(left))
        ratios = (self.request.macs_ratio and self.request.macs_ratio / self.macs_before, self.request.channel_ratio)
        spent = 1.0 if left is self.whole else self.spends(left)
        if left is not self.whole and spent <= (ratios[0] or ratios[1] or 0.0):
            return {}, None
        budget = Budget(*(ratio and ratio / spent for ratio in ratios))
        return allocate(left.graph, costs, scores, budget, allocation, self.limits, self.means(left)), None

    def _timing(self, left: Left) -> Timing:
        """The latency table knows layers by the whole model's names; engines are built from what is left."""
        assert self.request.clock is not None
        if left is self.whole:
            return self.request.clock(left.graph, left.model)
        return self.request.clock(left.graph, left.model, left.alias(self.whole.graph))


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


def _supernet(request: Request, candidates: Candidates, file: Path | None, problem: Problem) -> CutLoss:
    """The loss of sub-nets of the supernet, BatchNorm's statistics their own."""
    if request.train_supernet is not None:
        candidates = candidates.of(copy.deepcopy(candidates.model))
        request.train_supernet(candidates.model, problem)
    return remembered(partial(candidates.loss, recalibrated=True), file)


def _widths(left: Left) -> Widths:
    return np.array([group.size for group in left.graph.groups], dtype=np.float64)


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
