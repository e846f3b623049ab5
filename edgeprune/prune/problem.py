"""What an allocation is asked, and how it answers. Pure.

An allocation is one function, `METHODS['allocation'][name].function`: (Problem) -> Solvers.

Rules:
- It looks at the problem once and gives back functions of a budget, each of which answers with a point: a rung for
  every cluster. So one method serves every kind of goal, and can be asked again for a little less or more where the
  device measured something else than was predicted (prune/choose.py, the same for all methods).
- What a point spends is told by a time model. Multiply-accumulates are time on a machine that does nothing else.
- Whatever costs more than arithmetic (losses on training images, the supernet) is a function that is called if the
  method wants it, and remembered.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from torch import nn

from edgeprune.errors import RecipeError
from edgeprune.graph.channels import ChannelGraph
from edgeprune.graph.cost import Widths
from edgeprune.prune.importance import Scores
from edgeprune.prune.ladder import Keeps, keeps_at, widths_at
from edgeprune.prune.search import Rungs, Space

#: Detection loss of the model that keeps these channels, on some training batches.
Loss = Callable[[Keeps], float]
#: A budget -> a method's point for it; the cheapest that it has where the budget is under that.
Solve = Callable[[float], Rungs]


def no_data(keeps: Keeps) -> float:
    """The loss where there are no training images to take it on."""
    raise RecipeError(
        "The allocation needs training data.", where="allocation", expected="--data data.yaml", got="none",
        next_step="give the data set, or take an allocation that doesn't need it (edgeprune methods)",
    )  # fmt: skip


@dataclass(frozen=True)
class Means:
    """What a method may use beside arithmetic.

    Attributes:
        model: What the channel graph is of.
        seed: Of everything random.
        trials: Candidates that a search may look at; episodes, where it learns.
        folder: Where a search keeps what it has found, so that an interrupted one goes on; none: in memory.
        loss: Of the model cut to these keeps, as it is then.
        supernet: Of the same as a sub-net of the weight-sharing supernet.
        on_trial: Told (candidates done, in all).
    """

    model: nn.Module = field(default_factory=nn.Module)
    seed: int = 0
    trials: int = 64
    folder: Path | None = None
    loss: Loss = no_data
    supernet: Loss = no_data
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
    _known: dict[tuple[str, bytes], float] = field(default_factory=dict)

    def keeps(self, point: Rungs) -> Keeps:
        """The best-scored channels of every group, as many as the point leaves."""
        return keeps_at(self.graph, self.scores, widths_at(self.space.ladders, point))

    def loss(self, point: Rungs) -> float:
        """Detection loss of the model cut there and not trained; remembered."""
        return self._look("loss", self.means.loss, point)

    def supernet_loss(self, point: Rungs) -> float:
        """Detection loss of the supernet's sub-net there; remembered."""
        return self._look("supernet", self.means.supernet, point)

    def _look(self, kind: str, loss: Loss, point: Rungs) -> float:
        key = kind, point.tobytes()
        if key not in self._known:
            self._known[key] = loss(self.keeps(point))
        return self._known[key]


@dataclass(frozen=True)
class Solvers:
    """A method's answer.

    Attributes:
        by_name: What plans name a choice by -> the function that makes it.
        loses: What the method wants little of: the best of several points within the budget loses least.
    """

    by_name: Mapping[str, Solve]
    loses: Callable[[Rungs], float]


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
