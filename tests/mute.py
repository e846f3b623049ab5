"""The oracle: the uncut model with the removed channels silenced wherever they are made or read."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import nn
from torch.utils._pytree import tree_leaves

from edgeprune.graph.channels import ChannelGraph


def mute(model: nn.Module, graph: ChannelGraph, keeps: Mapping[str, Sequence[int]]) -> nn.Module:
    """A copy whose convolutions and linear layers read zero at every removed input, and whose layers make
    zero at every removed output."""
    muted = copy.deepcopy(model)
    modules = dict(muted.named_modules())
    for name, sides in graph.layer_keeps(keeps).items():
        layer = graph.layers[name]
        if layer.kind == "parameter":
            continue
        axis = -1 if layer.kind == "linear" else 1
        if layer.in_:
            modules[name].register_forward_pre_hook(
                lambda _m, args, keep=sides["in"], a=axis: (_silence(args[0], keep, a),)
            )
        modules[name].register_forward_hook(lambda _m, _i, out, keep=sides["out"], a=axis: _silence(out, keep, a))
    return muted


def _silence(tensor: torch.Tensor, keep: list[int], axis: int) -> torch.Tensor:
    gate = torch.zeros(tensor.shape[axis], dtype=tensor.dtype)
    gate[keep] = 1
    return tensor * gate.reshape([-1 if d == axis % tensor.dim() else 1 for d in range(tensor.dim())])


def largest_error(a: Any, b: Any) -> float:
    """Largest difference over all tensors of two nested outputs, relative to each tensor's largest value."""
    pairs = list(zip(tree_leaves(a), tree_leaves(b), strict=True))
    assert pairs
    worst = 0.0
    for x, y in pairs:
        if isinstance(x, torch.Tensor):
            assert x.shape == y.shape
            worst = max(worst, float((x - y).detach().abs().max() / y.detach().abs().max().clamp(min=1e-30)))
    return worst


def give_life(model: nn.Module, seed: int = 0) -> nn.Module:
    """Random BatchNorm statistics and scales: fresh ones are all alike and would hide a mixed-up channel."""
    generator = torch.Generator().manual_seed(seed)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            with torch.no_grad():
                module.weight.uniform_(0.5, 1.5, generator=generator)
                module.bias.uniform_(-0.5, 0.5, generator=generator)
                module.running_mean.uniform_(-0.5, 0.5, generator=generator)
                module.running_var.uniform_(0.5, 1.5, generator=generator)
    return model
