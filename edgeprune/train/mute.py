"""Schedules that decide who stays while the whole model trains, by muting channels.

Rules:
- How many stay of every channel group is chosen before; these keepers decide which. The cut that follows takes the best
  by the recipe's importance, channels that were muted last.
- Muted are gates (prune/owned.py): BatchNorm's scale and shift, or a channel's rows where it has no BatchNorm. A muted
  channel's other weights go on standing, so that its gates have a gradient to be grown by.
- The EMA, which is what a build goes on with, is muted at every epoch's end too.

gradual: the lowest l2 norms of all that a channel owns, more and more of those that will go: 1 - (1 - t)^3 of them, t
    from 0 to 1. Source: Zhu, Gupta 2018, 'To prune, or not to prune', section 3, eq. 1.
soft: nobody for long. After every epoch the filters with the lowest l2 norm are zeroed, as many as will go, and go on
    training. Source: He et al. 2018, 'Soft Filter Pruning', section 3.2, eq. 2.
regrowth: from the start as many as will go. Now and then a / 2 (1 + cos(pi t / end)) of the others are dropped, those
    with the lowest gates, and as many grown, from zero, those whose gates have the largest gradients. Source: Evci et
    al. 2020, 'Rigging the Lottery', section 3 and algorithm 1.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from edgeprune.prune.owned import Owned
from edgeprune.train.whole import Whole, squares, steps_of
from edgeprune.yolo.trainer import averaged, trained

#: Share of a group's channels that regrowth exchanges at first (RigL's alpha).
EXCHANGED = 0.3
#: Regrowth exchanges channels so often, and in this share of the steps (RigL: three quarters of training).
EXCHANGES, UNTIL = 20, 0.75


class Muting:
    """What keeps channels muted.

    Attributes:
        muted: Of every channel, and nobody at the end; the same in every process of a training.
        step: Optimizer steps done.
    """

    def __init__(self, whole: Whole) -> None:
        self.owned, self.widths = whole.owned, whole.widths
        self.gates = whole.owned.gates()
        self.muted = torch.zeros(self.owned.count + 1, dtype=torch.bool)
        self.step = 0

    def state_dict(self) -> dict[str, Any]:
        return {"step": self.step, "muted": self.muted}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.step, self.muted = state["step"], state["muted"].cpu()

    def optimizer_step(self, trainer: Any) -> None:
        """Count, decide, and let what is muted learn nothing."""
        self.step += 1
        self.decide(trainer)
        for name, going in self._places():
            gradient = trained(trainer).get_parameter(name).grad
            if gradient is not None:
                gradient.masked_fill_(going.to(gradient.device), 0.0)

    def decide(self, trainer: Any) -> None:
        """Say who is muted from this step on."""

    def on_before_zero_grad(self, trainer: Any) -> None:
        self.mute(trained(trainer))

    def on_train_epoch_end(self, trainer: Any) -> None:
        self.mute(averaged(trainer))

    def mute(self, model: nn.Module) -> None:
        with torch.no_grad():
            for name, going in self._places():
                parameter = model.get_parameter(name)
                parameter.masked_fill_(going.to(parameter.device), 0.0)

    def _places(self) -> list[tuple[str, torch.Tensor]]:
        return [(part.parameter, (self.muted & theirs)[part.numbers]) for part, theirs in self.gates]


class Gradual(Muting):
    """Gradual pruning of channels."""

    def decide(self, trainer: Any) -> None:
        progress = self.step / steps_of(trainer)
        wanted = {name: ramp(len(self.owned.groups[name]), width, progress) for name, width in self.widths.items()}
        if any(len(n) - int(self.muted[n.start : n.stop].sum()) > wanted[g] for g, n in self.owned.groups.items()):
            norms = self.owned.sums(squares(trained(trainer))).cpu()
            norms[self.muted[:-1]] = -1.0  # who is muted stays so
            self.muted = lowest(self.owned, norms, wanted)


class Regrowth(Muting):
    """RigL over channels."""

    def on_train_start(self, trainer: Any) -> None:
        self.muted = lowest(self.owned, self.owned.sums(squares(trained(trainer))).cpu(), self.widths)
        self.mute(trained(trainer))
        self.mute(averaged(trainer))

    def decide(self, trainer: Any) -> None:
        end = UNTIL * steps_of(trainer)
        if self.step >= end or self.step % max(1, round(end / EXCHANGES)):
            return
        model = trained(trainer)
        slopes = {name: p.grad**2 for name, p in model.named_parameters() if p.grad is not None}
        share = EXCHANGED / 2 * (1 + math.cos(math.pi * self.step / end))
        self.muted = exchanged(
            self.owned.groups,
            self.muted,
            self.owned.gate_sums(squares(model)).cpu(),
            self.owned.gate_sums(slopes).cpu(),
            share,
        )


class Soft:
    """Soft filter pruning: zeroed filters are trained on."""

    def __init__(self, whole: Whole) -> None:
        self.owned, self.widths = whole.owned, whole.widths

    def on_train_epoch_end(self, trainer: Any) -> None:
        rows, model = self.owned.rows, trained(trainer)
        filters = [part for part in rows if part.parameter.endswith(".weight") or part.kind == "parameter"]
        weak = lowest(self.owned, self.owned.sums(squares(model), filters).cpu(), self.widths)
        with torch.no_grad():
            for module in (model, averaged(trainer)):
                for part in rows:
                    parameter = module.get_parameter(part.parameter)
                    parameter.masked_fill_(weak[part.numbers].to(parameter.device), 0.0)


def gradual(whole: Whole) -> Gradual:
    """Zhu, Gupta 2018: the widths ramp from whole to the chosen ones."""
    return Gradual(whole)


def soft(whole: Whole) -> Soft:
    """He et al. 2018: weak filters are zeroed after every epoch, and may come back."""
    return Soft(whole)


def regrowth(whole: Whole) -> Regrowth:
    """Evci et al. 2020: channels are dropped by magnitude and grown by gradient."""
    return Regrowth(whole)


def ramp(size: int, width: int, progress: float) -> int:
    """Channels of a group that are still there: size - (size - width)(1 - (1 - progress)^3), rounded."""
    return size - round((size - width) * (1 - (1 - min(progress, 1.0)) ** 3))


def lowest(owned: Owned, values: torch.Tensor, widths: Mapping[str, int]) -> torch.Tensor:
    """All but the `widths` highest of every group; equal ones go from the end. Nobody, last, doesn't."""
    found = torch.zeros(owned.count + 1, dtype=torch.bool)
    for name, numbers in owned.groups.items():
        order = values[numbers.start : numbers.stop].argsort(descending=True, stable=True)
        found[numbers.start + order[widths[name] :]] = True
    return found


def exchanged(
    groups: Mapping[str, range], muted: torch.Tensor, magnitudes: torch.Tensor, slopes: torch.Tensor, share: float
) -> torch.Tensor:
    """Who is muted after an exchange: of every group, this share of the open channels is dropped, those with the lowest
    magnitudes, and as many of the muted, the dropped among them, are grown, those with the largest gradients."""
    after = muted.clone()
    for numbers in groups.values():
        shut = muted[numbers.start : numbers.stop].clone()
        count = min(int(share * int((~shut).sum())), int(shut.sum()))
        if count:
            here = slice(numbers.start, numbers.stop)
            shut[magnitudes[here].masked_fill(shut, math.inf).argsort(stable=True)[:count]] = True
            shut[slopes[here].masked_fill(~shut, -1.0).argsort(descending=True, stable=True)[:count]] = False
            after[here] = shut
    return after
