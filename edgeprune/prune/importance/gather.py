"""From weight positions to channels, and from there to numbers that compare."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import torch
from torch import nn

from edgeprune.graph.channels import ChannelGraph, Layer
from edgeprune.prune.importance.evidence import Scores, Tensors

#: Layers that multiply.
WEIGHTED = ("conv", "conv_transpose", "linear")


def weights(graph: ChannelGraph, model: nn.Module) -> dict[str, torch.Tensor]:
    """The weights of all layers that multiply, by parameter name, in double precision."""
    named = dict(model.named_parameters())
    names = [f"{name}.weight" for name, layer in graph.layers.items() if layer.kind in WEIGHTED]
    return {name: named[name].detach().double() for name in names}


def gather(graph: ChannelGraph, values: Tensors, kinds: tuple[str, ...], sides: tuple[str, ...]) -> Scores:
    """Sum `values` (parameter name -> tensor) over the positions that each channel owns."""
    sums = [np.zeros(group.size) for group in graph.groups]
    for name, layer in graph.layers.items():
        if layer.kind not in kinds:
            continue
        for side in sides:
            line = layer.side(side)
            if not line or (side == "in" and layer.depthwise):  # a depthwise weight has one axis of channels
                continue
            for tensor, total in _tensors(name, layer, side, values):
                by_position = _sum_along(tensor, layer, side) if total else tensor
                for channel, value in zip(line, by_position.tolist(), strict=True):
                    if channel is not None:
                        sums[channel[0]][channel[1]] += value
    return {group.name: s for group, s in zip(graph.groups, sums, strict=True)}


def gated(graph: ChannelGraph, values: Tensors) -> Scores:
    """Sum `values` over what mutes a channel: the scale and shift of its BatchNorm; where it passes none, the rows that
    make it. (The rows on top of the gates would count it twice.)"""
    gates = gather(graph, values, kinds=("batch_norm",), sides=("out",))
    own = gather(graph, values, kinds=(*WEIGHTED, "parameter"), sides=("out",))
    return {name: gate if gate.any() else own[name] for name, gate in gates.items()}


def by_group(scores: Scores) -> Scores:
    """Scores in units of their group's mean: for what layers differ in the scale of."""
    return {name: s / s.mean() if s.any() else np.ones_like(s) for name, s in scores.items()}


def by_all(scores: Scores) -> Scores:
    """Scores in units of the mean over all channels: for what compares as it is, such as changes of one loss."""
    mean = np.concatenate(list(scores.values())).mean()
    return {name: values / mean if mean else np.ones_like(values) for name, values in scores.items()}


def average(found: Iterable[Tensors], method: str) -> dict[str, torch.Tensor]:
    """The mean over batches, in double precision; what a batch lacks is 0 there."""
    total: dict[str, torch.Tensor] = {}
    batches = 0
    for one in found:
        for name, value in one.items():
            total[name] = total[name] + value.double() if name in total else value.double()
        batches += 1
    if not batches:
        raise ValueError(f"{method} needs at least one batch")
    return {name: value / batches for name, value in total.items()}


def _tensors(name: str, layer: Layer, side: str, values: Tensors) -> list[tuple[torch.Tensor, bool]]:
    if layer.kind == "parameter":
        return [(values[name].flatten(), False)] if name in values else []
    found = []
    if f"{name}.weight" in values:
        found.append((values[f"{name}.weight"], layer.kind != "batch_norm"))
    if side == "out" and f"{name}.bias" in values:
        found.append((values[f"{name}.bias"], False))
    return found


def _sum_along(weight: torch.Tensor, layer: Layer, side: str) -> torch.Tensor:
    """A conv or linear weight summed to one number per output or input position."""
    flat = weight.flatten(2).sum(2) if weight.dim() > 2 else weight
    rows = "in" if layer.kind == "conv_transpose" else "out"
    if layer.depthwise and layer.kind == "conv_transpose":  # (in, outputs an input): every element is an output
        return flat.flatten()
    if side == rows:
        return flat.sum(1)
    return flat.reshape(layer.groups, -1, flat.shape[1]).sum(1).flatten()
