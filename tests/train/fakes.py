"""A trainer as far as keepers know one."""

from __future__ import annotations

import copy
from types import SimpleNamespace
from typing import Any

import torch
from torch import nn

from edgeprune.graph.build import build
from edgeprune.graph.channels import ChannelGraph
from edgeprune.graph.cost import CostModel
from edgeprune.graph.trace import trace
from edgeprune.prune.apply import make_plan
from edgeprune.train.whole import Whole
from tests import nets


class Two(nets.Net):
    """conv (2 channels) -> BatchNorm -> ReLU -> conv (1 channel)."""

    def __init__(self) -> None:
        super().__init__(a=nn.Conv2d(1, 2, 1, bias=False), bn=nn.BatchNorm2d(2), out=nn.Conv2d(2, 1, 1, bias=False))
        with torch.no_grad():
            self.a.weight.copy_(torch.tensor([3.0, -1.0]).view(2, 1, 1, 1))
            self.bn.weight.copy_(torch.tensor([2.0, -4.0]))
            self.bn.bias.copy_(torch.tensor([0.0, -2.0]))
            self.out.weight.copy_(torch.tensor([1.0, 5.0]).view(1, 2, 1, 1))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.out(torch.relu(self.bn(self.a(x))))


def graph_of(model: nn.Module, channels: int = 3) -> ChannelGraph:
    return build(trace(model, (1, channels, 8, 8)))


def whole_of(
    model: nn.Module, keeps: dict[str, tuple[int, ...]] | None = None, strength: float | None = None, channels: int = 3
) -> Whole:
    graph = graph_of(model, channels)
    plan = None
    if keeps is not None:
        plan = make_plan(
            graph,
            CostModel(graph, model),
            keeps,
            None,
            importance="l2",
            allocation="global",
            channel_multiple=1,
            seed=0,
        )
    return Whole.of(graph, model, plan, strength)


def trainer_of(model: nn.Module, steps: int = 8, batch: int = 4, rate: float = 0.001) -> Any:
    """One epoch of `steps` batches."""
    for parameter in model.parameters():
        parameter.grad = torch.zeros_like(parameter)
    return SimpleNamespace(
        model=model, ema=SimpleNamespace(ema=copy.deepcopy(model)), batch_size=batch, epochs=1, epoch=0,
        train_loader=range(steps), optimizer=SimpleNamespace(param_groups=[{"lr": rate}]),
    )  # fmt: skip
