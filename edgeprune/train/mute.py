"""Schedules that decide who stays while the whole model trains, by muting channels or single weights.

Rules:
- How many stay of every group is chosen before; these keepers decide which. The cut that follows takes the best
  by the recipe's importance, what was muted last. Units (train/units.py) are channels, or weights where the recipe
  leaves zeros.
- The EMA, which is what a build goes on with, is muted at every epoch's end too.

gradual: the lowest l2 norms of all that a unit owns, more and more of those that will go: 1 - (1 - t)^3 of them, t
    from 0 to 1. Source: Zhu, Gupta 2018, 'To prune, or not to prune', section 3, eq. 1.
soft: nobody for long. After every epoch the filters with the lowest l2 norm are zeroed, as many as will go, and go on
    training. Source: He et al. 2018, 'Soft Filter Pruning', section 3.2, eq. 2.
regrowth: from the start as many as will go. Now and then a / 2 (1 + cos(pi t / end)) of the others are dropped, those
    with the lowest gates, and as many grown, from zero, those whose gates have the largest gradients. A weight is its
    own gate. Source: Evci et al. 2020, 'Rigging the Lottery', section 3 and algorithm 1.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from edgeprune.train.units import Places, Units, units_of
from edgeprune.train.whole import Whole, squares, steps_of
from edgeprune.yolo.trainer import averaged, trained

#: Share of a group's channels that regrowth exchanges at first (RigL's alpha).
EXCHANGED = 0.3
#: Regrowth exchanges channels so often, and in this share of the steps (RigL: three quarters of training).
EXCHANGES, UNTIL = 20, 0.75
#: Gradual pruning takes so many steps down its ramp (Zhu and Gupta prune every 100 to 1000 steps of training).
RAMPS = 100


class Muting:
    """What keeps units muted.

    Attributes:
        muted: Of every unit, and nobody at the end; the same in every process of a training.
        step: Optimizer steps done.
    """

    def __init__(self, units: Units) -> None:
        self.units, self.muted, self.step = units, units.nobody(), 0

    def state_dict(self) -> dict[str, Any]:
        return {"step": self.step, "muted": self.muted}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.step, self.muted = state["step"], state["muted"].cpu()

    def optimizer_step(self, trainer: Any) -> None:
        """Count, decide, and let what is muted learn nothing."""
        self.step += 1
        self.decide(trainer)
        for name, going in self.units.places(self.muted):
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
        zero(model, self.units.places(self.muted))


class Gradual(Muting):
    """Gradual pruning."""

    def decide(self, trainer: Any) -> None:
        steps = steps_of(trainer)
        if self.step % max(1, steps // RAMPS) and self.step < steps:
            return
        groups, stay = self.units.groups, self.units.stay
        wanted = {name: ramp(len(groups[name]), width, self.step / steps) for name, width in stay.items()}
        if any(len(n) - int(self.muted[n.start : n.stop].sum()) > wanted[g] for g, n in groups.items()):
            norms = self.units.sums(squares(trained(trainer)))
            norms[self.muted[:-1]] = -1.0  # who is muted stays so
            self.muted = self.units.lowest(norms, wanted)


class Regrowth(Muting):
    """RigL."""

    def on_train_start(self, trainer: Any) -> None:
        self.muted = self.units.lowest(self.units.sums(squares(trained(trainer))))
        self.mute(trained(trainer))
        self.mute(averaged(trainer))

    def decide(self, trainer: Any) -> None:
        end = UNTIL * steps_of(trainer)
        if self.step >= end or self.step % max(1, round(end / EXCHANGES)):
            return
        model = trained(trainer)
        slopes = {name: p.grad**2 for name, p in model.named_parameters() if p.grad is not None}
        share = EXCHANGED / 2 * (1 + math.cos(math.pi * self.step / end))
        magnitudes, steepness = self.units.gates(squares(model)), self.units.gates(slopes)
        self.muted = exchanged(self.units.groups, self.muted, magnitudes, steepness, share)


class Soft:
    """Soft filter pruning: what is zeroed is trained on."""

    def __init__(self, units: Units) -> None:
        self.units = units

    def on_train_epoch_end(self, trainer: Any) -> None:
        model = trained(trainer)
        places = self.units.filter_places(self.units.lowest(self.units.filters(squares(model))))
        zero(model, places)
        zero(averaged(trainer), places)


def gradual(whole: Whole) -> Gradual:
    """Zhu, Gupta 2018: from whole to what will stay, by a ramp."""
    return Gradual(units_of(whole))


def soft(whole: Whole) -> Soft:
    """He et al. 2018: the weak are zeroed after every epoch, and may come back."""
    return Soft(units_of(whole))


def regrowth(whole: Whole) -> Regrowth:
    """Evci et al. 2020: dropped by magnitude and grown by gradient."""
    return Regrowth(units_of(whole))


def ramp(size: int, width: int, progress: float) -> int:
    """Units of a group that are still there: size - (size - width)(1 - (1 - progress)^3), rounded."""
    return size - round((size - width) * (1 - (1 - min(progress, 1.0)) ** 3))


def zero(model: nn.Module, places: Places) -> None:
    """Mutates `model`."""
    with torch.no_grad():
        for name, going in places:
            parameter = model.get_parameter(name)
            parameter.masked_fill_(going.to(parameter.device), 0.0)


def exchanged(
    groups: Mapping[str, range], muted: torch.Tensor, magnitudes: torch.Tensor, slopes: torch.Tensor, share: float
) -> torch.Tensor:
    """Who is muted after an exchange: of every group, this share of the open units is dropped, those with the lowest
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
