"""Training a whole model before it is cut: what a method that does so may look at.

Rules:
- Such a method is a *keeper* (yolo/trainer.py): its methods are named after the trainer's events. One with
  `begin(model)` adds what is trained along, before training, as the submodule that `adds` names; with `end(model)` it
  takes that off again and refuses what can't be cut. Both mutate the model.
- Parameters are reached by name, so that what goes along with the model (scales, a teacher) is left alone.
- What changes while training and isn't in the model is a keeper's state (`state_dict`), and outlives an interruption.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from edgeprune.errors import RecipeError
from edgeprune.graph.channels import ChannelGraph
from edgeprune.prune.owned import Owned, Part
from edgeprune.records import PrunePlan
from edgeprune.yolo.trainer import trained


@dataclass(frozen=True)
class Whole:
    """The model before it is trained.

    Attributes:
        owned: What its channels own.
        model: The module.
        plan: The widths that it will be cut to, and who would stay now; none where that is chosen after training.
        strength: Of the penalty; None for the method's own.
    """

    owned: Owned
    model: nn.Module
    plan: PrunePlan | None = None
    strength: float | None = None

    @staticmethod
    def of(
        graph: ChannelGraph, model: nn.Module, plan: PrunePlan | None = None, strength: float | None = None
    ) -> Whole:
        return Whole(Owned.of(graph, model), model, plan, strength)

    @property
    def widths(self) -> dict[str, int]:
        """Channel group -> channels that will stay."""
        assert self.plan is not None
        return {name: len(self.plan.groups[name].keep) for name in self.owned.groups}

    @property
    def goes(self) -> torch.Tensor:
        """Of every channel whether it would go now; nobody's, at the end, wouldn't."""
        assert self.plan is not None
        found = torch.ones(self.owned.count + 1, dtype=torch.bool)
        for name, numbers in self.owned.groups.items():
            found[[numbers[index] for index in self.plan.groups[name].keep]] = False
        found[-1] = False
        return found


def squares(model: nn.Module) -> dict[str, torch.Tensor]:
    """Of every parameter by name: what norms over channels are summed from."""
    return {name: p.detach() ** 2 for name, p in model.named_parameters()}


def steps_of(trainer: Any) -> int:
    """Optimizer steps of a run."""
    return len(trainer.train_loader) * int(trainer.epochs)


def refuse_closed(owned: Owned, closed: Callable[[slice], torch.Tensor], regularization: str, strength: float) -> None:
    """Refuse a run that closed every channel of a channel group that BatchNorm gates.

    Args:
        closed: A group's channels -> of each, whether it is.

    Raises:
        RecipeError: Names the group.
    """
    normed = owned.normed
    for name, numbers in owned.groups.items():
        group = slice(numbers.start, numbers.stop)
        if normed[group].all() and bool(closed(group).all()):
            raise RecipeError(
                "Regularization pressed every channel of a channel group to nothing: no order is left to cut by.",
                where=f"regularization: {regularization}, channel group {name}",
                got=f"regularization_strength {strength:g}",
                next_step="lower regularization_strength, or regularization_epochs; what was built before it stands",
            )


def with_gradients(trainer: Any, parts: tuple[Part, ...]) -> Iterator[tuple[Part, torch.Tensor, torch.Tensor]]:
    """Parts whose parameters have gradients: part, weight and gradient, which may be added to in place."""
    found = dict(trained(trainer).named_parameters())
    for part in parts:
        parameter = found[part.parameter]
        if parameter.grad is not None:
            yield part, parameter.detach(), parameter.grad
