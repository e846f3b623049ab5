"""Choosing what to cut: scores + costs + a budget -> what stays of every channel group. Pure.

Rules (prune/ladder.py has those of single clusters, prune/choose.py chooses for a budget of time):
- `uniform`: every cluster goes down to the same share, the largest that meets the budget.
- `global`: the step that loses the least importance per multiply-accumulate saved goes first, until the
  budget is met. (Per MAC, not per channel: otherwise early layers with few, expensive channels are kept
  only because late ones have many cheap ones.)
- A budget that can't be reached within the limits is refused with the nearest that can.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from edgeprune.errors import PlanError
from edgeprune.graph.channels import ChannelGraph
from edgeprune.graph.cost import CostModel, Widths
from edgeprune.prune.importance import Scores
from edgeprune.prune.ladder import Keeps, Ladder, Limits, keeps_at, ladders_of, uniform_rungs, widths_at


@dataclass(frozen=True)
class Budget:
    """What has to be met: one of MACs (share of the parent's) and channels (share of all that may stay)."""

    macs_ratio: float | None = None
    channel_ratio: float | None = None


def allocate(
    graph: ChannelGraph, costs: CostModel, scores: Scores, budget: Budget, allocation: str, limits: Limits
) -> Keeps:
    """Choose the channels that stay.

    Returns:
        Channel group name -> ascending indices that stay, for every group.

    Raises:
        PlanError: The budget can't be met within the limits.
    """
    ladders = ladders_of(graph, scores, limits)
    used = _spent(costs, budget)
    lowest = widths_at(ladders, [ladder.last for ladder in ladders])
    target = budget.macs_ratio if budget.macs_ratio is not None else budget.channel_ratio
    assert target is not None
    if used(lowest) > target:
        what = "MACs" if budget.macs_ratio is not None else "channels"
        raise PlanError(
            f"So few {what} can't be reached within the recipe's limits.",
            expected=f"at most {target:.3f} of the parent's {what}",
            got=f"{used(lowest):.3f} with every group at its floor",
            next_step="raise the goal or max_group_ratio, or lower min_width or the channel multiple",
        )
    if allocation == "uniform":
        rungs = next(r for r in uniform_rungs(ladders) if used(widths_at(ladders, r)) <= target)
    else:
        rungs = _global(costs, ladders, used, target)
    return keeps_at(graph, scores, widths_at(ladders, rungs))


def _spent(costs: CostModel, budget: Budget) -> Callable[[Widths], float]:
    if budget.macs_ratio is not None:
        whole = costs.macs(costs.widths)
        return lambda widths: costs.macs(widths) / whole
    total = costs.widths.sum()
    return lambda widths: float(widths.sum() / total)


def _global(costs: CostModel, ladders: Sequence[Ladder], used: Callable[[Widths], float], target: float) -> list[int]:
    """Greedy: always the step with the least importance lost per MAC saved (or per channel, if channels are
    what is counted), the saving measured at the widths reached so far."""
    rungs = [0] * len(ladders)
    widths = costs.widths.copy()

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
    while used(widths) > target:
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
