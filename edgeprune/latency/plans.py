"""Widths to time a model at: all clusters alike, or each as chance has it. Pure.

Rules:
- A cluster's groups shrink in proportion, to widths that divide by the channel multiple, as in any plan.
- Random plans lie about a level of cutting that is random too, so that they reach from the whole model to the
  narrowest, and clusters differ within each.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from edgeprune.graph.channels import ChannelGraph
from edgeprune.graph.cost import Widths
from edgeprune.prune.ladder import Limits, rows_of

#: Pruning ratio that no group of a plan exceeds here; more than any recipe's default, so that the model never guesses.
MAX_RATIO = 0.9
#: How far clusters lie about the level of their plan, in shares of their ladder.
SCATTER = 0.25

#: The widths that a cluster can take: one row of group widths each, whole first.
Ladder = tuple[tuple[int, ...], ...]


def ladders(graph: ChannelGraph, multiple: int) -> list[Ladder]:
    """Of every cluster, in the graph's order."""
    limits = Limits(channel_multiple=multiple, min_width=multiple, max_group_ratio=MAX_RATIO)
    return [rows_of(graph, cluster, limits) for cluster in graph.clusters]


def at_level(graph: ChannelGraph, multiple: int, level: float) -> Widths:
    """Every cluster cut alike. level: 0 whole, 1 narrowest."""
    return _widths(graph, ladders(graph, multiple), np.full(len(graph.clusters), level))


def at_random(graph: ChannelGraph, multiple: int, count: int, seed: int) -> list[Widths]:
    """Random plans, the same for the same graph and seed."""
    generator = np.random.default_rng(seed)
    rows = ladders(graph, multiple)
    levels = (np.arange(count) + generator.random(count)) / count  # one in each equal part, so none is forgotten
    return [
        _widths(graph, rows, generator.normal(level, SCATTER, len(rows))) for level in generator.permutation(levels)
    ]


def _widths(graph: ChannelGraph, rows: Sequence[Ladder], levels: npt.NDArray[np.float64]) -> Widths:
    widths = np.zeros(len(graph.groups))
    for cluster, ladder, level in zip(graph.clusters, rows, np.clip(levels, 0, 1).tolist(), strict=True):
        widths[list(cluster)] = ladder[round(level * (len(ladder) - 1))]
    return widths
