"""What a model's head reads: the feature maps of its neck, one a level."""

from __future__ import annotations

import copy
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn


@dataclass(eq=False)
class Neck:
    """Hook of a model's head, that keeps what its last pass read.

    Attributes:
        maps: Features of shape (batch, channels, height, width), finest first.
    """

    maps: list[torch.Tensor] = field(default_factory=list)

    def __call__(self, head: nn.Module, inputs: Any) -> None:
        given = inputs[0]
        self.maps = list(given) if isinstance(given, (list, tuple)) else [given]

    def take(self) -> list[torch.Tensor]:
        """The last pass' maps, which are then forgotten: they hold its whole graph."""
        taken, self.maps = self.maps, []
        return taken


def listen(model: Any) -> Neck:
    """Keep what the head of `model` reads from now on."""
    neck = Neck()
    model.model[-1].register_forward_pre_hook(neck)
    return neck


def neck_widths(model: Any, channels: int = 3) -> tuple[int, ...]:
    """Channels that the head of `model` reads, level by level."""
    own = copy.deepcopy(model).eval()  # a head remembers the places of what it has seen
    neck, edge = listen(own), 2 * max(int(model.stride.max()), 32)
    with torch.no_grad():
        own(torch.zeros(1, channels, edge, edge))
    return tuple(level.shape[1] for level in neck.take())


def bins(model: Any) -> int:
    """Bins of the distribution that a model's head has for a box side; 1 where it regresses a number."""
    return int(getattr(model.model[-1], "reg_max", 1))
