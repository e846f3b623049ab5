"""What a granularity is asked, and may ask for: a request's scores, goal, data and repeats."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache, partial
from math import inf
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from torch import nn

from edgeprune.errors import PlanError, RecipeError
from edgeprune.graph.channels import ChannelGraph, Side
from edgeprune.graph.cost import CostModel, Widths
from edgeprune.prune import allocate, choose, importance
from edgeprune.prune.apply import require_plan_of
from edgeprune.prune.candidates import Adapted, Batch, Candidates, remembered
from edgeprune.prune.granularity import Left, Task
from edgeprune.prune.importance import CutLoss
from edgeprune.prune.ladder import Keeps, Limits, keeps_at, ladders_of
from edgeprune.prune.owned import Owned
from edgeprune.prune.problem import Depth, Means, Problem
from edgeprune.prune.request import Request, device_of
from edgeprune.prune.search import Space, greedy
from edgeprune.prune.time import Timing
from edgeprune.prune.traced import M, channel_graph, without
from edgeprune.quant.fake import attach, with_rounded_weights
from edgeprune.records import PlannedTime, PrunePlan, Quantization, read_json
from edgeprune.records.methods import METHODS
from edgeprune.records.plan import name_in_parent
from edgeprune.yolo import blocks, repeats
from edgeprune.yolo.data import batches
from edgeprune.yolo.load import Detector
from edgeprune.yolo.loss import gradients, losses, mean_loss

T = TypeVar("T")


def task_of(
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
        kinds = ("losses", "adapted-losses", "supernet-losses")
        kept = {kind: request.work and request.work / f"{kind}{which}.jsonl" for kind in kinds}
        costs = CostModel(left.graph, left.model)
        judge = request.judge or mean_loss
        candidates = Candidates(
            left.model, left.graph, costs, record, lambda: _draw(request, request.trial_batches), judge
        )

        def supernet(problem: Problem) -> CutLoss:
            """The loss of sub-nets of the supernet, BatchNorm's statistics their own."""
            net = candidates.of(shortened(trained(), left.gone)) if request.train_supernet else candidates
            return remembered(partial(net.loss, recalibrated=True), kept["supernet-losses"])

        return Means(
            left.model, request.seed, request.trials, remembered(candidates.loss, kept["losses"]),
            _adapted(request, candidates, left.graph, kept["adapted-losses"]), supernet, on_trial,
        )  # fmt: skip

    aim = _Aim(request, whole, limits, before.macs_ratio if before else 1.0, means)

    @cache
    def trained() -> nn.Module:
        """The whole model, as the supernet that all depths share."""
        assert request.train_supernet is not None
        net = copy.deepcopy(detector.model)
        request.train_supernet(net, aim.problem(whole, scores_of_all()))
        return net

    @cache
    def scores_of_all() -> importance.Scores:
        return method.function(evidence(graph))

    def shortened(model: M, names: Sequence[str]) -> M:
        return without(model, names, request.image_size, detector.channels)

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

    def shorter(names: Sequence[str]) -> Left:
        model = shortened(detector.model, names)
        graph = channel_graph(model, request.image_size, detector.channels)
        return Left(model, graph, {name: name_in_parent(name, names) for name in graph.layers}, tuple(sorted(names)))

    return Task(
        whole, scores=lambda other: scores_of_all() if other is graph else method.function(evidence(other)),
        each=lambda: method.function_of_each(evidence(graph)),
        widths=aim.widths, repeats=there, without=shorter, spends=aim.spends, lost=aim.lost,
        search=aim.search if METHODS["allocation"][request.allocation].depth and request.widths is None else None,
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

    def search(self, lefts: Sequence[Callable[[], tuple[Left, importance.Scores]]]) -> int:
        """Which of these an allocation that searches finds best."""
        clusters = {g: n for n, cluster in enumerate(self.whole.graph.clusters) for g in cluster}

        @cache
        def depth(number: int) -> Depth:
            left, scores = lefts[number]()
            problem = self.problem(left, scores)
            whole_groups = (left.origins(self.whole.graph, la.cluster[0])[0][0] for la in problem.space.ladders)
            return Depth(problem, [clusters[group] for group in whole_groups])

        return METHODS["allocation"][self.request.allocation].function_of_depth(
            [partial(depth, number) for number in range(len(lefts))]
        )

    def problem(self, left: Left, scores: importance.Scores) -> Problem:
        """What an allocation is asked for this model."""
        if self.request.clock is not None:
            return choose.problem_of(left.graph, scores, self._timing(left), self.limits, self.means(left))
        costs = CostModel(left.graph, left.model)
        return allocate.problem_of(left.graph, costs, scores, self._budget(left), self.limits, self.means(left))

    def _choose(self, left: Left, scores: importance.Scores, allocation: str) -> tuple[Keeps, PlannedTime | None]:
        if self.request.widths is not None:
            return _at_widths(read_json(self.request.widths, PrunePlan, PlanError), left.graph, left.model, scores)
        costs, limits, means = CostModel(left.graph, left.model), self.limits, self.means(left)
        if self.request.clock is not None:
            return choose.choose(left.graph, costs, scores, self._timing(left), allocation, limits, means)
        budget = self._budget(left)
        if left is not self.whole and (budget.macs_ratio or budget.channel_ratio or 0.0) >= 1:
            return {}, None
        return allocate.allocate(left.graph, costs, scores, budget, allocation, limits, means), None

    def _budget(self, left: Left) -> allocate.Budget:
        """As a share of what is left."""
        ratios = (self.request.macs_ratio and self.request.macs_ratio / self.macs_before, self.request.channel_ratio)
        spent = 1.0 if left is self.whole else self.spends(left)
        return allocate.Budget(*(ratio and ratio / spent for ratio in ratios))

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


def _adapted(request: Request, candidates: Candidates, graph: ChannelGraph, file: Path | None) -> Adapted | None:
    if request.adapt is None:
        return None
    count = request.adapt_steps
    # other images every time, and others than losses are taken on
    return Adapted(candidates, graph, request.adapt, lambda n: _draw(request, count, seed=request.seed + 1 + n), file)


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


def _draw(request: Request, count: int, images: int | None = None, seed: int | None = None) -> Iterator[Batch]:
    """Training batches; of `images`, and drawn by `seed`, instead of the request's."""
    if request.view is None:
        raise RecipeError(
            f"Importance {request.importance} with allocation {request.allocation} needs training data.",
            expected="--data data.yaml", got="none",
            next_step="give the data set, or take methods that don't (edgeprune methods)",
        )  # fmt: skip
    size, device = request.image_size[0], device_of(request.torch_device)
    seed = request.seed if seed is None else seed
    yield from batches(request.view, size, images or request.batch, count, seed, device)


def _counted(items: Iterable[T], total: int, on_item: Callable[[int, int], None]) -> Iterator[T]:
    for number, item in enumerate(items, 1):
        yield item
        on_item(number, total)
