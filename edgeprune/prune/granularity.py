"""What a granularity is asked, and how it answers; and the granularities that cut channels.

A granularity is one function, `METHODS['granularity'][name].function`: (Task) -> Pruned. prune/sparse.py has those that
leave zeros, prune/depth.py the one that takes whole blocks out.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import torch
from torch import nn

from edgeprune.errors import PlanError
from edgeprune.graph.channels import ChannelGraph, ChannelGroup
from edgeprune.prune.importance import Scores, Tensors
from edgeprune.prune.ladder import Keeps
from edgeprune.records import PlannedTime


@dataclass(frozen=True)
class Left:
    """What is left of a model when some repeats are taken out; the whole model, if none are.

    Attributes:
        graph: Its channel graph, in its own numbering.
        names: Its layers -> the same layers in the whole model.
        gone: The repeats.
    """

    model: nn.Module
    graph: ChannelGraph
    names: Mapping[str, str]
    gone: tuple[str, ...] = ()

    def alias(self, whole: ChannelGraph) -> ChannelGraph:
        """The graph in the whole model's numbering; layers that are gone have no channels."""
        empty = {name: replace(layer, in_=(), out=()) for name, layer in whole.layers.items()}
        return replace(self.graph, layers=empty | {self.names[n]: layer for n, layer in self.graph.layers.items()})

    def origins(self, whole: ChannelGraph, group: int) -> list[tuple[int, int]]:
        """Which the channels of a group are in the whole model: its groups, and channels there."""
        name = next(layer for layer, side in self.graph.groups[group].sides if side == "out")
        places = {c[1]: p for p, c in enumerate(self.graph.layers[name].out) if c is not None and c[0] == group}
        line = whole.layers[self.names[name]].out
        found = [line[places[channel]] for channel in range(self.graph.groups[group].size)]
        return [old for old in found if old is not None]

    def scores(self, whole: ChannelGraph, scores: Scores) -> Scores:
        """The whole model's scores of the channels that are left."""
        return {
            group.name: np.array([scores[whole.groups[owner].name][c] for owner, c in self.origins(whole, index)])
            for index, group in enumerate(self.graph.groups)
        }


#: (model, scores) -> the channels that stay for the goal, and how they were chosen.
Widths = Callable[[Left, Scores], tuple[Keeps, PlannedTime | None]]


def _no_repeats(names: Sequence[str]) -> Left:
    raise ValueError(f"there are no repeats, and so no {names}")


@dataclass(frozen=True)
class Task:
    """A model to be pruned. The functions are called if a granularity wants them.

    Attributes:
        whole: The model, with its channel graph.
        scores: Of the channels of its graph, or of one that groups them otherwise.
        each: Of its single weights: parameter name -> a score a weight, high = keep, over or equal 0.
        widths: Chooses channels for the goal.
        repeats: Names of the repeats that can be taken out.
        without: What is left without these.
        spends: What a model spends of what the goal counts: MACs, or predicted ms.
        search: Which of these, the whole model first, is best with widths that are searched along; None where the
            allocation doesn't search.
        lost: Importance that channels lose until a model meets the goal; infinite where it can't. Predicted, for a
            goal in time.
        fixed: Layers whose weights are constants of the method, no parameters of the model.
        sparsity: Share of zeros that is asked for, where that is the goal.
        allocation: How they are shared out among the layers.
    """

    whole: Left
    scores: Callable[[ChannelGraph], Scores]
    each: Callable[[], Tensors]
    widths: Widths
    repeats: Callable[[], Sequence[str]] = tuple
    without: Callable[[Sequence[str]], Left] = _no_repeats
    spends: Callable[[Left], float] = lambda left: 0.0
    search: Callable[[Sequence[Callable[[], tuple[Left, Scores]]]], int] | None = None
    lost: Callable[[Left, Scores], float] = lambda left, scores: 0.0
    fixed: frozenset[str] = frozenset()
    sparsity: float | None = None
    allocation: str = "global"


@dataclass(frozen=True)
class Pruned:
    """What is to go.

    Attributes:
        keeps: Channel group -> indices that stay.
        time: How they were chosen, for a budget of time.
        zeros: Layer -> where its weights are to be zero.
        left: What channels are cut of; the whole model where none.
    """

    keeps: Keeps = field(default_factory=dict)
    time: PlannedTime | None = None
    zeros: Mapping[str, torch.Tensor] = field(default_factory=dict)
    left: Left | None = None

    @property
    def blocks(self) -> tuple[str, ...]:
        """Repeats that are taken out before channels are cut."""
        return self.left.gone if self.left else ()


def channels(task: Task) -> Pruned:
    """Whole filters: filter j of a layer goes with its feature map, and with the kernels K[:, j] of all that read it.
    Source: Li et al. 2017, section 3."""
    return Pruned(*task.widths(task.whole, task.scores(task.whole.graph)))


def neurons(task: Task) -> Pruned:
    """Neurons of linear layers alone: channels j that nothing but linear layers read go, row W[j] and column V[:, j].
    Those are the hidden ones of feed-forward networks and of heads' multi-layer perceptrons (RT-DETR), and what a
    classifier reads. Source: Hu et al. 2016, section 4 (the fully connected layers of LeNet and VGG).

    Raises:
        PlanError: The model has none that can be cut.
    """
    graph = task.whole.graph
    own = {g.name for g in graph.groups if g.locked is None and _is_neuron(g, graph)}
    if not any(graph.locked(c) is None and {graph.groups[g].name for g in c} <= own for c in graph.clusters):
        raise PlanError(
            "The model has no neurons that can be cut: no channels that linear layers alone read.",
            where="granularity", expected="a model with linear layers, a classifier or an RT-DETR say",
            got=f"{sum(layer.kind == 'linear' for layer in graph.layers.values())} linear layers",
            next_step="cut channels (granularity: channels)",
        )  # fmt: skip
    groups = (g if g.locked or g.name in own else replace(g, locked="neurons alone are cut") for g in graph.groups)
    return Pruned(*task.widths(replace(task.whole, graph=replace(graph, groups=tuple(groups))), task.scores(graph)))


def _is_neuron(group: ChannelGroup, graph: ChannelGraph) -> bool:
    readers = [graph.layers[layer].kind for layer, side in group.sides if side == "in"]
    return bool(readers) and set(readers) == {"linear"}
