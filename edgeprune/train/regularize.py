"""Regularization before a cut: a penalty that presses channels towards zero while the whole model trains.

Rules:
- A penalty is a gradient that is added to the loss' own before each step. Ultralytics' loss is that of an image times
  the batch; so is the penalty.
- Only channels that can be cut are pressed.
- `growing` is a decay beside AdamW's own, not a gradient: AdamW divides gradients by their size, which would make any
  strength the same.
- A run that presses every channel of a group to nothing is refused: there would be no order among them left to cut by.
- Formula and source of each stand in its function's docstring.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from edgeprune.prune.owned import Part
from edgeprune.train.whole import Whole, refuse_closed, squares, steps_of, with_gradients
from edgeprune.yolo.trainer import trained

#: Ten times the paper's 1e-4: a build presses for a few hundred steps, not for a whole training.
SLIMMING = 1e-3
#: As much on a whole channel as slimming on its scale.
GROUP_LASSO = 1e-3
#: The paper's ceiling is 1, reached in 10,000 steps and more; at AdamW's rate of 0.0014 and a hundred steps, a decay of
#: 100 leaves of a channel as little.
GROWING = 100.0
#: Share of the steps in which growing's decay rises; then it stays at its ceiling (the paper's stabilising stage).
GROWS = 0.75
#: A channel is closed when its BatchNorm scales are this small a share of what its group's were on average.
CLOSED = 0.01


class Slimming:
    """L1 on BatchNorm scales, by its subgradient: strength x sign(scale)."""

    def __init__(self, whole: Whole) -> None:
        self.owned, self.parts = whole.owned, whole.owned.norms
        self.strength = SLIMMING if whole.strength is None else whole.strength
        self.before = self._scales(whole.model)

    def optimizer_step(self, trainer: Any) -> None:
        for part, weight, gradient in with_gradients(trainer, self.parts):
            gradient += self.strength * trainer.batch_size * weight.sign() * _theirs(part, self.owned.count, weight)

    def end(self, model: nn.Module) -> None:
        """Raises RecipeError where a channel group has closed altogether."""
        after = self._scales(model)
        refuse_closed(
            self.owned, lambda group: after[group] < CLOSED * self.before[group].mean(), "slimming", self.strength
        )

    def _scales(self, model: nn.Module) -> torch.Tensor:
        found = {name: p.detach().abs().float().cpu() for name, p in model.named_parameters()}
        return self.owned.sums(found, self.parts)


class GroupLasso:
    """The l2 norm of everything that a channel owns; its gradient is strength x weight / norm."""

    def __init__(self, whole: Whole) -> None:
        self.owned = whole.owned
        self.strength = GROUP_LASSO if whole.strength is None else whole.strength

    def optimizer_step(self, trainer: Any) -> None:
        norms = self.owned.sums(squares(trained(trainer))).sqrt().clamp(min=1e-12)
        inverse = torch.cat((1 / norms, norms.new_zeros(1)))
        for part, weight, gradient in with_gradients(trainer, self.owned.parts):
            gradient += self.strength * trainer.batch_size * weight * inverse[part.numbers.to(weight.device)]


class Growing:
    """L2 that grows on the channels that will go: weight -= rate x strength at this step x weight."""

    def __init__(self, whole: Whole) -> None:
        self.parts, self.goes = whole.owned.parts, whole.goes
        self.ceiling = GROWING if whole.strength is None else whole.strength
        self.step = 0

    def state_dict(self) -> dict[str, int]:
        return {"step": self.step}

    def load_state_dict(self, state: dict[str, int]) -> None:
        self.step = state["step"]

    def on_before_zero_grad(self, trainer: Any) -> None:
        self.step += 1
        rate = trainer.optimizer.param_groups[0]["lr"]
        left = max(1 - rate * grown(self.ceiling, self.step, steps_of(trainer)), 0.0)
        model = trained(trainer)
        with torch.no_grad():
            for part in self.parts:
                weight = model.get_parameter(part.parameter)
                going = self.goes[part.numbers].to(weight.device)
                weight.mul_(torch.where(going, left, 1.0))


def slimming(whole: Whole) -> Slimming:
    """Network slimming: the loss + strength x sum of |gamma| over BatchNorm scales gamma.
    Source: Liu et al. 2017, section 3, eq. 1."""
    return Slimming(whole)


def group_lasso(whole: Whole) -> GroupLasso:
    """Structured sparsity learning: the loss + strength x sum over channels of the l2 norm of all that a channel owns.
    Source: Wen et al. 2016, section 3, eq. 2, over channels."""
    return GroupLasso(whole)


def growing(whole: Whole) -> Growing:
    """Growing regularization, GReg-1: the loss + strength / 2 x sum of |w|^2 over the channels w that will go. Who goes
    is fixed by the scores before, the strength grows evenly up to a ceiling.
    Source: Wang et al. 2021, section 3.2, eq. 2."""
    return Growing(whole)


def grown(ceiling: float, step: int, steps: int) -> float:
    """The decay at a step, from 1: rises evenly, then stays."""
    return ceiling * min(step / (GROWS * steps), 1.0)


def _theirs(part: Part, count: int, like: torch.Tensor) -> torch.Tensor:
    return (part.numbers < count).to(like.device, like.dtype)
