"""A net of six clusters whose losses are made up, so that every point can be tried and the best is known."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import numpy as np

from edgeprune.graph.build import build
from edgeprune.graph.channels import ChannelGraph
from edgeprune.graph.cost import CostModel, Widths
from edgeprune.graph.trace import trace
from edgeprune.prune.candidates import remembered
from edgeprune.prune.ladder import Limits, ladders_of, widths_at
from edgeprune.prune.problem import Means, Problem, Share
from edgeprune.prune.search import Rungs, Space
from tests.prune.evidence import random_scores
from tests.prune.machine import Machine, smooth
from tests.prune.test_search import Six

#: What cutting a cluster entirely would cost, by the first layer of each: the first is precious, the last free.
PRICES = {"a": 16.0, "b": 0.5, "c": 8.0, "d": 0.1, "e": 4.0, "f": 0.0}


@dataclass
class Case:
    """The net, and a loss that is 1 + the sum over clusters of its price x (share that went)^2.

    Attributes:
        asked: How often a loss was taken.
    """

    in_time: bool = True
    prices: Mapping[str, float] = field(default_factory=lambda: PRICES)
    asked: int = 0

    def __post_init__(self) -> None:
        self.model = Six().eval()
        self.graph: ChannelGraph = build(trace(self.model, (1, 3, 32, 32)))
        self.costs = CostModel(self.graph, self.model)
        self.scores = random_scores(self.graph, 0)
        self.limits = Limits(8, 8, 0.9)
        self.machine = Machine(self.graph, smooth)

    def loss(self, keeps: Mapping[str, tuple[int, ...]]) -> float:
        self.asked += 1
        gone = {g.name: 1 - len(keeps.get(g.name, range(g.size))) / g.size for g in self.graph.groups}
        return 1.0 + sum(self.prices.get(name.split(".")[0], 0.0) * share**2 for name, share in gone.items())

    def problem(self, share: float, **means: object) -> Problem:
        """Of this share of what the whole net spends."""
        whole = self.costs.macs(self.costs.widths)
        time = self.machine if self.in_time else Share(lambda widths: self.costs.macs(widths) / whole)
        space = Space(self.graph, ladders_of(self.graph, self.scores, self.limits), time)
        given = replace(
            Means(self.model, loss=remembered(self.loss, None), supernet=lambda _: remembered(self.loss, None)),
            **means,  # type: ignore[arg-type]
        )
        return Problem(self.graph, self.scores, space, share * space.ms(space.whole), self.in_time, given)

    def widths(self, keeps: Mapping[str, tuple[int, ...]]) -> Widths:
        return np.array([float(len(keeps.get(g.name, range(g.size)))) for g in self.graph.groups])

    def cluster(self, problem: Problem, layer: str) -> int:
        """Index of the cluster whose channels a layer makes."""
        names = [[self.graph.groups[g].name.split(".")[0] for g in la.cluster] for la in problem.space.ladders]
        return next(i for i, here in enumerate(names) if layer in here)

    def stays(self, problem: Problem, point: Rungs) -> dict[str, float]:
        """Share that stays, by the layer that makes the channels."""
        widths = widths_at(problem.space.ladders, point)
        return {g.name.split(".")[0]: w / g.size for g, w in zip(self.graph.groups, widths, strict=True)}

    def best(self, problem: Problem) -> tuple[Rungs, float]:
        """The point that loses least within the budget, of all that there are; and its loss."""
        space, found = problem.space, (problem.space.whole, np.inf)
        prices = [self.prices.get(self.graph.groups[la.cluster[0]].name.split(".")[0], 0.0) for la in space.ladders]
        gone = [np.array([1 - row[0] / la.widths[0][0] for row in la.widths]) for la in space.ladders]
        points = np.array(list(itertools.product(*(range(len(la.widths)) for la in space.ladders))), dtype=np.intp)
        losses = 1 + sum(p * g[points[:, i]] ** 2 for i, (p, g) in enumerate(zip(prices, gone, strict=True)))
        for index in np.argsort(losses, kind="stable"):
            if space.ms(points[index]) <= problem.budget:
                found = points[index], float(losses[index])
                break
        return found
