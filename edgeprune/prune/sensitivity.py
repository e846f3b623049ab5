"""Measured sensitivity: what the loss rises by where one cluster alone is cut and nothing is trained. Pure.

Rules:
- A cluster's pruning curve is its rise of the loss at three cuts of it, over what the whole model loses. Between them
  it is a straight line, and it never falls: a lucky cut isn't taken for a wider one.
- Allocation (`sensitivity`): every cluster goes down until its own curve reaches a threshold, the same for all, the
  lowest with which the budget holds. So a sensitive layer keeps more. Where curves are flat, all go down alike. What
  that leaves of the budget is given back, the most sensitive for it first, so that nothing goes that saves no time.
- Importance (`measured`): a cluster's curve is spread over its channels, least L2 first, so that the scores which a cut
  takes away sum up to the rise that was measured for it. The curve's lower convex hull is taken, or scores wouldn't
  ascend in the order in which the channels went.

Source: Li et al. 2017, 'Pruning Filters for Efficient ConvNets', section 3.2 (layers pruned one at a time, the
sensitive ones less); Han et al. 2015, 'Learning both Weights and Connections', section 5 and figure 6 (each layer's
threshold from its own curve).
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import numpy.typing as npt

from edgeprune.prune.importance import Evidence, Scores, magnitude
from edgeprune.prune.importance.gather import by_all
from edgeprune.prune.ladder import highest
from edgeprune.prune.problem import Problem, Solvers, in_turn
from edgeprune.prune.search import Rungs, Space, Walk

#: Cuts that are measured of every cluster, as shares of its ladder.
CUTS = (1 / 3, 2 / 3, 1.0)
#: Shares of a cluster's channels that stay, where there is no ladder yet.
STAY = (0.75, 0.5, 0.25)
#: A flat curve rises by so much of the loss from end to end: of layers that cost nothing, none goes first.
_TIE = 1e-6

Floats = npt.NDArray[np.float64]


def sensitivity(problem: Problem) -> Solvers:
    """Shares by each cluster's own pruning curve: cluster k is cut as far as its loss(cut) - loss(whole) stays at or
    under one threshold for all, the lowest with which the budget holds. Source: Li et al. 2017, section 3.2; Han et al.
    2015, section 5 and figure 6."""
    curves = _curves(problem)
    thresholds = np.unique(np.concatenate([np.zeros(1), *curves]))
    points = [
        np.array([int(np.searchsorted(curve, limit, side="right")) - 1 for curve in curves], dtype=np.intp)
        for limit in thresholds
    ]

    def threshold(point: Rungs) -> float:
        return float(max(curve[rung] for curve, rung in zip(curves, point, strict=True)))

    ladders = [replace(ladder, lost=curve) for ladder, curve in zip(problem.space.ladders, curves, strict=True)]
    space = Space(problem.graph, ladders, problem.space.time)  # where a rung loses what its curve says
    lowest = in_turn(space, points)

    def solve(budget: float) -> Rungs:
        point = lowest(budget)
        return Walk(space, point).settle(budget) if space.ms(point) <= budget else point

    return Solvers({"sensitivity": solve}, threshold)


def _curves(problem: Problem) -> list[Floats]:
    """Rise of the loss at every rung of every cluster."""
    ladders, whole = problem.space.ladders, problem.space.whole
    base = problem.loss(whole)
    asked = [sorted({max(1, round(cut * la.last)) for cut in CUTS}) if la.last else [] for la in ladders]
    done, total = 0, sum(map(len, asked))
    curves = []
    for index, (ladder, rungs) in enumerate(zip(ladders, asked, strict=True)):
        rises = [0.0]
        for rung in rungs:
            point = whole.copy()
            point[index] = rung
            rises.append(max(problem.loss(point) - base, rises[-1]))
            done += 1
            problem.means.on_trial(done, total)
        every = np.arange(ladder.last + 1)
        curves.append(np.interp(every, [0, *rungs], rises) + _TIE * base * every / max(ladder.last, 1))
    return curves


def measured(evidence: Evidence) -> Scores:
    """The rise of the loss that cutting a channel's cluster made, loss(cut) - loss(whole), spread over the cluster's
    channels in order of L2. Source: Li et al. 2017, section 3.2; the spreading is this project's."""
    graph = evidence.graph
    order = magnitude(graph, evidence.model, 2)
    base = evidence.cut_loss({})
    scores: Scores = {}
    for cluster in graph.clusters:
        groups = [graph.groups[g] for g in cluster]
        whole, *rows = graph.proportions(cluster)
        stays = {min(rows, key=lambda row: abs(row[0] / whole[0] - stay)) for stay in STAY} if rows else set()
        shares, rises = [0.0], [0.0]
        for row in sorted(stays, reverse=True):
            keeps = {group.name: highest(order[group.name], width) for group, width in zip(groups, row, strict=True)}
            shares.append(1 - row[0] / whole[0])
            rises.append(max(evidence.cut_loss(keeps) - base, rises[-1]))
        slope = _slopes(shares, rises)
        for group in groups:
            edges = np.interp(np.arange(group.size + 1) / group.size, *slope)
            ranked = np.argsort(np.argsort(order[group.name], kind="stable"), kind="stable")
            scores[group.name] = np.diff(edges)[ranked] / len(groups)
    return by_all(scores)


def _slopes(shares: list[float], rises: list[float]) -> tuple[Floats, Floats]:
    """The lower convex hull of a curve, on to a share of 1 by its last slope."""
    hull: list[tuple[float, float]] = []
    for point in zip(shares, rises, strict=True):
        while len(hull) > 1 and _above(hull[-2], hull[-1], point):
            hull.pop()
        hull.append(point)
    if len(hull) == 1:
        return np.array([0.0, 1.0]), np.zeros(2)
    (x0, y0), (x1, y1) = hull[-2:]
    hull.append((1.0, y1 + (y1 - y0) / (x1 - x0) * (1.0 - x1)))
    return np.array([x for x, _ in hull]), np.array([y for _, y in hull])


def _above(a: tuple[float, float], b: tuple[float, float], c: tuple[float, float]) -> bool:
    """Whether b lies on or above the line from a to c."""
    return (b[1] - a[1]) * (c[0] - a[0]) >= (c[1] - a[1]) * (b[0] - a[0])
