"""Choosing what to cut: scores + costs + a budget -> what stays of every channel group. Pure.

Rules:
- The groups of a cluster shrink in proportion, through the *steps* that give every one of them a width
  that divides by the channel multiple. Where no such width exists (odd sizes), the rule holds for the
  cluster's largest group only.
- Within a group the lowest scores go first; each group of a cluster chooses its own.
- `uniform`: every cluster goes down to the same share, the largest that meets the budget.
- `global`: the step that loses the least importance per multiply-accumulate saved goes first, until the
  budget is met. (Per MAC, not per channel: otherwise early layers with few, expensive channels are kept
  only because late ones have many cheap ones.)
- A floor on widths and a cap on the pruning ratio hold for every group; locked groups stay whole.
- A budget that can't be reached within these is refused with the nearest that can.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from edgeprune.errors import PlanError
from edgeprune.graph.channels import ChannelGraph
from edgeprune.graph.cost import CostModel, Widths
from edgeprune.prune.importance import Scores

Keeps = dict[str, tuple[int, ...]]


@dataclass(frozen=True)
class Limits:
    """What no choice may break.

    Attributes:
        channel_multiple: Cut widths divide by it.
        min_width: Channels that every group keeps at least.
        max_group_ratio: Pruning ratio that no group may exceed, counted from
        original: channel group -> its size in the parent, where earlier rounds have cut it already.
    """

    channel_multiple: int = 8
    min_width: int = 8
    max_group_ratio: float = 0.8
    original: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True)
class Budget:
    """What has to be met: one of MACs (share of the parent's) and channels (share of all that may stay)."""

    macs_ratio: float | None = None
    channel_ratio: float | None = None


def allocate(
    graph: ChannelGraph, costs: CostModel, scores: Scores, budget: Budget, scope: str, limits: Limits
) -> Keeps:
    """Choose the channels that stay.

    Returns:
        Channel group name -> ascending indices that stay, for every group.

    Raises:
        PlanError: The budget can't be met within the limits.
    """
    ladders = [_Ladder.of(graph, cluster, limits) for cluster in graph.clusters]
    used = _spent(graph, costs, budget)
    lowest = _widths(graph, [ladder.widths[-1] for ladder in ladders], ladders)
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
    choose = _uniform if scope == "uniform" else _global
    rungs = choose(graph, costs, scores, ladders, used, target)
    widths = _widths(graph, [ladder.widths[r] for ladder, r in zip(ladders, rungs, strict=True)], ladders)
    return {
        group.name: tuple(sorted(np.argsort(-scores[group.name], kind="stable")[: int(widths[i])].tolist()))
        for i, group in enumerate(graph.groups)
    }


@dataclass(frozen=True)
class _Ladder:
    """The widths that a cluster can take, from whole to narrowest; one row of group widths each."""

    cluster: tuple[int, ...]
    widths: tuple[tuple[int, ...], ...]

    @staticmethod
    def of(graph: ChannelGraph, cluster: Sequence[int], limits: Limits) -> _Ladder:
        whole, *candidates = graph.proportions(cluster)
        from_ = [limits.original.get(graph.groups[g].name, graph.groups[g].size) for g in cluster]
        allowed = [
            row
            for row in candidates
            if all(
                w >= min(limits.min_width, size) and 1 - w / original <= limits.max_group_ratio + 1e-9
                for w, size, original in zip(row, whole, from_, strict=True)
            )
        ]
        aligned = [row for row in allowed if all(w % limits.channel_multiple == 0 for w in row)]
        if not aligned:
            aligned = [row for row in allowed if max(row) % limits.channel_multiple == 0]
        return _Ladder(tuple(cluster), (whole, *aligned))


def _spent(graph: ChannelGraph, costs: CostModel, budget: Budget) -> Callable[[Widths], float]:
    if budget.macs_ratio is not None:
        whole = costs.macs(costs.widths)
        return lambda widths: costs.macs(widths) / whole
    total = costs.widths.sum()
    return lambda widths: float(widths.sum() / total)


def _widths(graph: ChannelGraph, rows: Sequence[Sequence[int]], ladders: Sequence[_Ladder]) -> Widths:
    widths = np.zeros(len(graph.groups))
    for row, ladder in zip(rows, ladders, strict=True):
        widths[list(ladder.cluster)] = row
    return widths


def _uniform(
    graph: ChannelGraph,
    costs: CostModel,
    scores: Scores,
    ladders: Sequence[_Ladder],
    used: Callable[[Widths], float],
    target: float,
) -> list[int]:
    """The largest share of every cluster that meets the target; ties of rounding go to the wider side."""
    shares = sorted({row[0] / ladder.widths[0][0] for ladder in ladders for row in ladder.widths}, reverse=True)
    for share in shares:
        rungs = [
            next((i for i, row in enumerate(la.widths) if row[0] / la.widths[0][0] <= share + 1e-9), len(la.widths) - 1)
            for la in ladders
        ]
        if used(_widths(graph, [la.widths[r] for la, r in zip(ladders, rungs, strict=True)], ladders)) <= target:
            return rungs
    return [len(ladder.widths) - 1 for ladder in ladders]


def _global(
    graph: ChannelGraph,
    costs: CostModel,
    scores: Scores,
    ladders: Sequence[_Ladder],
    used: Callable[[Widths], float],
    target: float,
) -> list[int]:
    """Greedy: always the step with the least importance lost per MAC saved (or per channel, if channels are
    what is counted), the saving measured at the widths reached so far."""
    ascending = {name: np.cumsum(np.sort(s)) for name, s in scores.items()}

    def lost(ladder: _Ladder, rung: int) -> float:
        row, whole = ladder.widths[rung], ladder.widths[0]
        gone = [(graph.groups[g].name, a - b) for g, a, b in zip(ladder.cluster, whole, row, strict=True)]
        return float(sum(ascending[name][count - 1] for name, count in gone if count))

    rungs = [0] * len(ladders)
    widths = costs.widths.copy()

    def price(index: int) -> float:
        ladder, rung = ladders[index], rungs[index]
        narrower = widths.copy()
        narrower[list(ladder.cluster)] = ladder.widths[rung + 1]
        saved = used(widths) - used(narrower)
        return (lost(ladder, rung + 1) - lost(ladder, rung)) / max(saved, 1e-12)

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
