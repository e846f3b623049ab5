"""The oracle: the uncut model with the removed channels silenced wherever they are made or read."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.utils._pytree import tree_leaves

from edgeprune.graph.channels import ChannelGraph
from edgeprune.graph.cost import CostModel
from edgeprune.prune.apply import apply, make_plan
from edgeprune.yolo import blocks


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
    """Random BatchNorm statistics and scales, layer scales, and weights where fresh ones are all zero: what is
    all alike would hide a mixed-up channel."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, nn.modules.batchnorm._BatchNorm):
                for tensor, low in ((module.weight, 0.5), (module.bias, -0.5), (module.running_mean, -0.5)):
                    if tensor is not None:
                        tensor.uniform_(low, low + 1, generator=generator)
                if module.running_var is not None:
                    module.running_var.uniform_(0.5, 1.5, generator=generator)
        for name, parameter in model.named_parameters():
            if not parameter.any():
                parameter.uniform_(-0.1, 0.1, generator=generator)
            elif name.endswith("gamma"):
                parameter.uniform_(0.5, 1.5, generator=generator)
    return model


def random_keeps(graph: ChannelGraph, seed: int, ratio: float) -> dict[str, tuple[int, ...]]:
    """Random channels of every group that can be cut; clusters shrink in proportion, so halves stay halves."""
    generator = np.random.default_rng(seed)
    keeps: dict[str, tuple[int, ...]] = {}
    for cluster in graph.clusters:
        rows = graph.proportions(cluster)
        if len(rows) == 1:
            continue
        stay = 1 - ratio * generator.random() * 2
        row = min(rows, key=lambda row: abs(row[0] / rows[0][0] - stay))
        for g, size in zip(cluster, row, strict=True):
            group = graph.groups[g]
            keeps[group.name] = tuple(sorted(generator.choice(group.size, size, replace=False).tolist()))
    return keeps


def cut_and_mute(
    model: nn.Module, graph: ChannelGraph, keeps: Mapping[str, tuple[int, ...]]
) -> tuple[nn.Module, nn.Module]:
    costs = CostModel(graph, model)
    plan = make_plan(graph, costs, dict(keeps), importance="random", allocation="global", channel_multiple=1, seed=0)
    return apply(model, graph, plan, blocks.settle), mute(model, graph, keeps)
