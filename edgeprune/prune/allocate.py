"""Sharing a goal out among the layers by arithmetic alone: equally, or by what the scores say. Pure.

Rules (prune/ladder.py has those of single clusters, prune/problem.py says what an allocation is):
- `uniform`: every cluster goes down to the same share, the largest that meets the budget.
- `global`: the step that loses the least importance per multiply-accumulate saved goes first, until the
  budget is met. (Per MAC, not per channel: otherwise early layers with few, expensive channels are kept
  only because late ones have many cheap ones.) A budget of time is solved by mixed-integer programs and by greed.
- A budget that can't be reached within the limits is refused with the nearest that can (`allocate`, for budgets that
  are counted; prune/choose.py for those that are measured).
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from edgeprune.errors import PlanError
from edgeprune.graph.channels import ChannelGraph
from edgeprune.graph.cost import CostModel, Widths
from edgeprune.prune.importance import Scores
from edgeprune.prune.ladder import Keeps, Ladder, Limits, ladders_of, widths_at
from edgeprune.prune.milp import best
from edgeprune.prune.problem import Allocation, Means, Problem, Share, Solvers, in_turn
from edgeprune.prune.search import Rungs, Space, greedy
from edgeprune.records.methods import METHODS


@dataclass(frozen=True)
class Budget:
    """What has to be met: one of MACs (share of the parent's) and channels (share of all that may stay)."""

    macs_ratio: float | None = None
    channel_ratio: float | None = None


def allocate(
    graph: ChannelGraph, costs: CostModel, scores: Scores, budget: Budget, allocation: str, limits: Limits,
    means: Means | None = None,
) -> Keeps:  # fmt: skip
    """Choose the channels that stay.

    Returns:
        Channel group name -> ascending indices that stay, for every group.

    Raises:
        PlanError: The budget can't be met within the limits, or not by this method.
    """
    problem = problem_of(graph, costs, scores, budget, limits, means)
    space, target = problem.space, problem.budget
    what = "MACs" if budget.macs_ratio is not None else "channels"
    if space.ms(space.narrowest) > target:
        raise _unreachable(what, target, f"{space.ms(space.narrowest):.3f} with every group at its floor")
    method: Allocation = METHODS["allocation"][allocation].function
    solvers = method(problem)
    points = [solve(target) for solve in solvers.by_name.values()]
    within = [point for point in points if space.ms(point) <= target]
    if not within:
        raise _unreachable(what, target, f"{min(map(space.ms, points)):.3f}, the least that {allocation} found")
    return problem.keeps(min(within, key=solvers.loses))


def problem_of(
    graph: ChannelGraph, costs: CostModel, scores: Scores, budget: Budget, limits: Limits, means: Means | None = None
) -> Problem:
    """A budget that is counted, as methods are asked for it."""
    target = budget.macs_ratio if budget.macs_ratio is not None else budget.channel_ratio
    assert target is not None
    space = Space(graph, ladders_of(graph, scores, limits), Share(_spent(costs, budget)))
    return Problem(graph, scores, space, target, in_time=False, means=means or Means())


def uniform(problem: Problem) -> Solvers:
    """Every layer the same share: width / whole width is one number, the largest that meets the budget.
    Source: Li et al. 2017, section 3.2 (theirs: one for all layers of a stage)."""
    space = problem.space
    return Solvers({"uniform": in_turn(space, space.alike)}, space.loss)


def by_importance(problem: Problem) -> Solvers:
    """The least importance lost for what is saved: greedy, always the step with the least (importance lost) / (MACs
    saved); in time HALP's program, the largest sum of importance with sum of ms <= budget, and greed beside it.

    Source: HALP (Shen et al. 2022), section 3, eq. 2 and 7; greed by MACs is this project's.
    """
    space = problem.space

    def counted(budget: float) -> Rungs:
        return np.array(_greedy(space.ladders, space.time.ms, budget), dtype=np.intp)

    def programs(budget: float) -> Rungs:
        found = best(space, budget)
        return space.fastest if found is None else found

    def greed(budget: float) -> Rungs:
        found = greedy(space, budget)
        return space.fastest if found is None else found

    return Solvers({"milp": programs, "greedy": greed} if problem.in_time else {"greedy": counted}, space.loss)


def _spent(costs: CostModel, budget: Budget) -> Callable[[Widths], float]:
    if budget.macs_ratio is not None:
        whole = costs.macs(costs.widths)
        return lambda widths: costs.macs(widths) / whole
    total = costs.widths.sum()
    return lambda widths: float(widths.sum() / total)


def _unreachable(what: str, target: float, got: str) -> PlanError:
    return PlanError(
        f"So few {what} can't be reached within the recipe's limits.",
        expected=f"at most {target:.3f} of the parent's {what}", got=got,
        next_step="raise the goal or max_group_ratio, or lower min_width or the channel multiple",
    )  # fmt: skip


def _greedy(ladders: Sequence[Ladder], used: Callable[[Widths], float], target: float) -> list[int]:
    """Always the step with the least importance lost per MAC saved (or per channel, if channels are what is counted),
    the saving measured at the widths reached so far."""
    rungs = [0] * len(ladders)
    widths = widths_at(ladders, rungs)

    def price(index: int) -> float:
        ladder, rung = ladders[index], rungs[index]
        narrower = widths.copy()
        narrower[list(ladder.cluster)] = ladder.widths[rung + 1]
        saved = used(widths) - used(narrower)
        return float(ladder.lost[rung + 1] - ladder.lost[rung]) / max(saved, 1e-12)

    # A price only rises as the neighbours shrink (they make the saving smaller), so a stale entry is a lower
    # bound: pop, price again, and take it if it is still the least (lazy greedy, Minoux 1978).
    heap = [(price(i), i) for i, ladder in enumerate(ladders) if len(ladder.widths) > 1]
    heapq.heapify(heap)
    while heap and used(widths) > target:
        _, index = heapq.heappop(heap)
        now = price(index)
        if heap and now > heap[0][0]:
            heapq.heappush(heap, (now, index))
            continue
        ladder = ladders[index]
        rungs[index] += 1
        widths[list(ladder.cluster)] = ladder.widths[rungs[index]]
        if rungs[index] + 1 < len(ladder.widths):
            heapq.heappush(heap, (price(index), index))
    return rungs
