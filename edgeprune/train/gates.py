"""L0 by hard-concrete gates: the model learns which of its channels it needs, while it learns.

Rules:
- A channel that can be cut and passes a BatchNorm has one gate; it multiplies what each of its BatchNorms gives. A
  sample holds for one batch. The gates are a submodule, so that optimizer, EMA and checkpoints carry them.
- The penalty is the expected share of parameters that stay: a gate counts by what its channel owns.
- After training, what a gate lets through at test time is folded into scale and shift of its BatchNorms: the checkpoint
  is stock again, and every importance that looks at them (bn, taylor, magnitudes) sees the gate. A closed gate leaves
  zeros.

With b = 2/3, g = -0.1, z = 1.1, and a the parameter that is learned:
    sample:       clamp(sigmoid((log u - log(1 - u) + log a) / b) (z - g) + g, 0, 1), u uniform     (eq. 10, 11)
    open:         P(gate > 0) = sigmoid(log a - b log(-g / z))                                      (eq. 12)
    at test time: clamp(sigmoid(log a) (z - g) + g, 0, 1)                                           (eq. 13)

Source: Louizos, Welling, Kingma, 'Learning Sparse Neural Networks through L0 Regularization', ICLR 2018, section 2.2.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import nn

from edgeprune.prune.owned import Owned
from edgeprune.train.whole import Whole, refuse_closed
from edgeprune.yolo.hooks import remove_hooks
from edgeprune.yolo.trainer import trained

BETA, LOW, HIGH = 2 / 3, -0.1, 1.1
#: Of an expected share of parameters, 0 to 1, against a detection loss of a few units.
STRENGTH = 1.0
#: Gates are closed so often at first: the model is trained, and comes to know them. Log of (1 - it) / it.
CLOSED_AT_FIRST = 0.1
#: Name of the submodule.
GATES = "edgeprune_gates"


class Gates(nn.Module):
    """The gates of one model; `log_alpha` has one number a channel.

    Attributes:
        now: The gates of the pass under way, nobody's 1 at the end.
    """

    #: From open to closed is five units of log alpha; at the weights' own rate a hundred steps move it by a tenth.
    learning_rate_factor = 30.0
    weights: torch.Tensor

    def __init__(self, owned: Owned, model: nn.Module) -> None:
        super().__init__()
        first = math.log((1 - CLOSED_AT_FIRST) / CLOSED_AT_FIRST)
        self.log_alpha = nn.Parameter(torch.full((owned.count,), first))
        ones = {name: torch.ones_like(p.detach()).float() for name, p in model.named_parameters()}
        held = owned.sums(ones) * owned.normed[:-1]
        self.register_buffer("weights", held / held.sum().clamp(min=1.0), persistent=False)
        self.norms = [part.parameter.rpartition(".")[0] for part in owned.norms]
        for index, part in enumerate(owned.norms):
            self.register_buffer(f"numbers{index}", part.numbers, persistent=False)
        self.now: torch.Tensor | None = None

    def sampled(self) -> torch.Tensor:
        """A sample of every gate."""
        u = torch.rand_like(self.log_alpha).clamp(1e-6, 1 - 1e-6)
        return _stretched(((u.log() - (1 - u).log() + self.log_alpha) / BETA).sigmoid())

    def at_test(self) -> torch.Tensor:
        """What every gate lets through at test time; 0 where it is closed."""
        return _stretched(self.log_alpha.sigmoid())

    def open(self) -> torch.Tensor:
        """The probability that a gate isn't closed."""
        return (self.log_alpha - BETA * math.log(-LOW / HIGH)).sigmoid()

    def penalty_gradient(self) -> torch.Tensor:
        """Of the expected share of parameters that stay, by log alpha: weight x open x (1 - open)."""
        probability = self.open().detach()
        return self.weights * probability * (1 - probability)

    def through(self, index: int) -> torch.Tensor:
        """The gates of one BatchNorm's channels, in the pass under way."""
        assert self.now is not None
        gates: torch.Tensor = self.now[getattr(self, f"numbers{index}")]
        return gates


class _Multiply:
    """Hook of a BatchNorm."""

    def __init__(self, gates: Gates, index: int) -> None:
        self.gates, self.index = gates, index

    def __call__(self, module: nn.Module, inputs: Any, output: torch.Tensor) -> torch.Tensor:
        if self.gates.now is None:
            return output
        return output * self.gates.through(self.index).to(output.dtype).view(1, -1, *[1] * (output.dim() - 2))


class L0:
    """Keeper that gives a model gates, presses them, and folds them."""

    adds = GATES

    def __init__(self, whole: Whole) -> None:
        self.owned = whole.owned
        self.strength = STRENGTH if whole.strength is None else whole.strength

    def begin(self, model: nn.Module) -> None:
        attach(model, self.owned)

    def optimizer_step(self, trainer: Any) -> None:
        gates: Gates = trained(trainer).get_submodule(GATES)
        if gates.log_alpha.grad is not None:
            gates.log_alpha.grad += self.strength * trainer.batch_size * gates.penalty_gradient()

    def end(self, model: nn.Module) -> None:
        """Raises RecipeError where every gate of a channel group is closed."""
        passing = fold(model).cpu()
        refuse_closed(self.owned, lambda group: passing[group] == 0, "l0", self.strength)


def l0(whole: Whole) -> L0:
    """L0 regularization of channels by hard-concrete gates: the loss + strength x sum of share x P(gate > 0), share of
    the parameters that a channel owns, P(gate > 0) = sigmoid(log a - b log(-g / z)).
    Source: Louizos et al. 2018, section 2.2, eq. 12."""
    return L0(whole)


def attach(model: nn.Module, owned: Owned) -> Gates:
    """Give a model gates. Mutates it."""
    gates = Gates(owned, model)
    model.add_module(GATES, gates)
    for index, name in enumerate(gates.norms):
        model.get_submodule(name).register_forward_hook(_Multiply(gates, index))
    model.register_forward_pre_hook(_enter)
    model.register_forward_hook(_leave, always_call=True)
    return gates


def fold(model: nn.Module) -> torch.Tensor:
    """Fold a model's gates into its BatchNorms and take them off. Mutates it; returns what each gate lets through."""
    gates: Gates = model.get_submodule(GATES)
    passing = gates.at_test().detach().float()
    padded = torch.cat((passing, passing.new_ones(1)))
    for index, name in enumerate(gates.norms):
        norm = model.get_submodule(name)
        remove_hooks(norm, lambda hook: isinstance(hook, _Multiply))
        with torch.no_grad():
            for parameter in norm.parameters():
                parameter.mul_(padded[getattr(gates, f"numbers{index}")].to(parameter.dtype))
    remove_hooks(model, lambda hook: hook in {_enter, _leave})
    delattr(model, GATES)
    return passing


def _stretched(share: torch.Tensor) -> torch.Tensor:
    return (share * (HIGH - LOW) + LOW).clamp(0, 1)


def _enter(model: nn.Module, args: Any) -> None:
    gates: Gates = model.get_submodule(GATES)
    drawn = gates.sampled() if model.training else gates.at_test()
    gates.now = torch.cat((drawn, drawn.new_ones(1)))


def _leave(model: nn.Module, args: Any, output: Any) -> None:
    model.get_submodule(GATES).now = None
