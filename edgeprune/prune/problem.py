"""What an allocation is asked, and how it answers. Pure.

An allocation is one function, `METHODS['allocation'][name].function`: (Problem) -> Solvers.

Rules:
- It looks at the problem once and gives back functions of a budget, each of which answers with a point: a rung for
  every cluster. So one method serves every kind of goal, and can be asked again for a little less or more where the
  device measured something else than was predicted (prune/choose.py, the same for all methods).
- What a point spends is told by a time model. Multiply-accumulates are time on a machine that does nothing else.
- Whatever costs more than arithmetic (losses on training images, the supernet) is a function that is called if the
  method wants it, and remembers what it has found.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
from torch import nn

from edgeprune.graph.channels import ChannelGraph
from edgeprune.graph.cost import Widths
from edgeprune.prune.importance import CutLoss, Scores, no_images
from edgeprune.prune.ladder import Keeps, keeps_at, widths_at
from edgeprune.prune.search import Rungs, Space

#: A budget -> a method's point for it; the cheapest that it has where the budget is under that.
Solve = Callable[[float], Rungs]


@dataclass(frozen=True)
class Means:
    """What a method may use beside arithmetic.

    Attributes:
        model: What the channel graph is of.
        seed: Of everything random.
        trials: Candidates that a search may look at; episodes, where it learns.
        loss: Of the model cut to these keeps, as it is then.
        adapted: Of the model after short-term fine-tuning, cut to each of these keeps in turn: the loss of a candidate,
            after its own. None: candidates are judged as they are cut.
        supernet: Makes (trains, where that is asked for) the weight-sharing supernet of a problem: the loss of the
            sub-net that keeps these.
        on_trial: Told (candidates done, in all).
    """

    model: nn.Module = field(default_factory=nn.Module)
    seed: int = 0
    trials: int = 64
    loss: CutLoss = no_images
    adapted: Callable[[Sequence[Keeps]], CutLoss] | None = None
    supernet: Callable[[Problem], CutLoss] = lambda problem: no_images
    on_trial: Callable[[int, int], None] = lambda done, total: None


@dataclass(frozen=True, eq=False)
class Problem:
    """A model to be cut, and how much it may cost.

    Attributes:
        space: All points with what they spend (`space.ms`) and the importance that they lose.
        budget: Most that may be spent.
        in_time: Whether that is ms on the target; else the share of the MACs (or channels) that stay.
    """

    graph: ChannelGraph
    scores: Scores
    space: Space
    budget: float
    in_time: bool
    means: Means = Means()

    def keeps(self, point: Rungs) -> Keeps:
        """The best-scored channels of every group, as many as the point leaves."""
        return keeps_at(self.graph, self.scores, widths_at(self.space.ladders, point))

    def loss(self, point: Rungs) -> float:
        """Detection loss of the model cut there and not trained."""
        return self.means.loss(self.keeps(point))

    def adapted_loss(self, way: Sequence[Rungs], point: Rungs) -> float:
        """The same after short-term fine-tuning at every point of the way there, and there; without it where there is
        none."""
        if self.means.adapted is None:
            return self.loss(point)
        return self.means.adapted([self.keeps(before) for before in way])(self.keeps(point))

    @cached_property
    def supernet(self) -> CutLoss:
        return self.means.supernet(self)

    def supernet_loss(self, point: Rungs) -> float:
        """Detection loss of the supernet's sub-net there."""
        return self.supernet(self.keeps(point))


@dataclass(frozen=True, eq=False)
class Depth:
    """A problem with some blocks gone.

    Attributes:
        clusters: Of each of its clusters, which it is in the whole model.
    """

    problem: Problem
    clusters: Sequence[int]

    def point(self, whole: Rungs) -> Rungs:
        """The whole model's point, as far as there are still such clusters."""
        ladders = self.problem.space.ladders
        return np.array([min(whole[i], ladder.last) for i, ladder in zip(self.clusters, ladders, strict=True)], np.intp)


@dataclass(frozen=True)
class Solvers:
    """A method's answer.

    Attributes:
        by_name: What plans name a choice by -> the function that makes it.
        loses: What the method wants little of: the best of several points within the budget loses least.
    """

    by_name: Mapping[str, Solve]
    loses: Callable[[Rungs], float]


def in_turn(space: Space, points: Sequence[Rungs]) -> Solve:
    """The first of these points within a budget; the cheapest of them, where none is."""

    def solve(budget: float) -> Rungs:
        found = space.first_within(points, budget)
        return min(points, key=space.ms) if found is None else found

    return solve


#: What METHODS['allocation'] names.
Allocation = Callable[[Problem], Solvers]


@dataclass(frozen=True)
class Share:
    """A machine whose time is a share of the whole model's MACs (or channels)."""

    used: Callable[[Widths], float]
    floor_ms: float = 0.0
    spread: float = 0.0

    def ms(self, widths: Widths) -> float:
        return self.used(widths)
