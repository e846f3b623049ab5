"""The widths that may be chosen: a ladder a cluster, and what each rung of it loses. Pure.

Rules:
- The groups of a cluster shrink in proportion, through the *rungs* that give every one of them a width
  that divides by the channel multiple. Where no such width exists (odd sizes), the rule holds for the
  cluster's largest group only.
- Within a group the lowest scores go first; each group of a cluster chooses its own.
- A floor on widths and a cap on the pruning ratio hold for every group; locked groups stay whole.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from edgeprune.graph.channels import ChannelGraph
from edgeprune.graph.cost import Widths
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
class Ladder:
    """The widths that a cluster can take, from whole to narrowest; one row of group widths each.

    Attributes:
        cluster: Indices of its channel groups.
        widths: A row a rung, a width a group.
        lost: Importance that is gone at each rung, the cluster's groups together; 0 at the first.
    """

    cluster: tuple[int, ...]
    widths: tuple[tuple[int, ...], ...]
    lost: npt.NDArray[np.float64]

    @staticmethod
    def of(graph: ChannelGraph, cluster: Sequence[int], limits: Limits, ascending: Scores) -> Ladder:
        """A cluster's ladder; `ascending` has the running sums of every group's scores, lowest first."""
        rows = rows_of(graph, cluster, limits)
        names = [graph.groups[g].name for g in cluster]
        lost = [
            float(sum(ascending[n][a - b - 1] for n, a, b in zip(names, rows[0], row, strict=True) if a > b))
            for row in rows
        ]
        return Ladder(tuple(cluster), rows, np.array(lost))

    @property
    def last(self) -> int:
        """The narrowest rung."""
        return len(self.widths) - 1


def rows_of(graph: ChannelGraph, cluster: Sequence[int], limits: Limits) -> tuple[tuple[int, ...], ...]:
    """The widths of a cluster's rungs, whole first."""
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
    return (whole, *(aligned or [row for row in allowed if max(row) % limits.channel_multiple == 0]))


def ladders_of(graph: ChannelGraph, scores: Scores, limits: Limits) -> tuple[Ladder, ...]:
    """Of every cluster, in the graph's order."""
    ascending = {name: np.cumsum(np.sort(s)) for name, s in scores.items()}
    return tuple(Ladder.of(graph, cluster, limits, ascending) for cluster in graph.clusters)


def widths_at(ladders: Sequence[Ladder], rungs: Sequence[int] | npt.NDArray[np.intp]) -> Widths:
    """One number a channel group, in the graph's order, of the ladders' rungs."""
    widths = np.zeros(sum(len(ladder.cluster) for ladder in ladders))
    for ladder, rung in zip(ladders, rungs, strict=True):
        widths[list(ladder.cluster)] = ladder.widths[rung]
    return widths


def uniform_rungs(ladders: Sequence[Ladder]) -> list[list[int]]:
    """Rungs of every cluster at the same share, widest share first; ties of rounding go to the narrower side."""
    shares = sorted({row[0] / ladder.widths[0][0] for ladder in ladders for row in ladder.widths}, reverse=True)
    return [
        [
            next((i for i, row in enumerate(la.widths) if row[0] / la.widths[0][0] <= share + 1e-9), la.last)
            for la in ladders
        ]
        for share in shares
    ]


def keeps_at(graph: ChannelGraph, scores: Scores, widths: Widths) -> Keeps:
    """The best-scored channels of every group, as many as its width; ascending indices."""
    return {group.name: highest(scores[group.name], int(widths[i])) for i, group in enumerate(graph.groups)}


def highest(scores: npt.NDArray[np.float64], count: int) -> tuple[int, ...]:
    """The indices of the highest scores, ascending; of equal ones the first."""
    return tuple(sorted(np.argsort(-scores, kind="stable")[:count].tolist()))
