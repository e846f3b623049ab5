"""From weight positions to channels, and from there to numbers that compare."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import torch
from torch import nn

from edgeprune.graph.channels import ChannelGraph
from edgeprune.prune.importance.evidence import Scores, Tensors
from edgeprune.prune.owned import Owned

#: Layers that multiply.
WEIGHTED = ("conv", "conv_transpose", "linear")


def weights(graph: ChannelGraph, model: nn.Module) -> dict[str, torch.Tensor]:
    """The weights of all layers that multiply, by parameter name, in double precision."""
    named = dict(model.named_parameters())
    names = [f"{name}.weight" for name, layer in graph.layers.items() if layer.kind in WEIGHTED]
    return {name: named[name].detach().double() for name in names}


def gather(graph: ChannelGraph, values: Tensors, kinds: tuple[str, ...], sides: tuple[str, ...]) -> Scores:
    """Sum `values` (parameter name -> tensor) over the positions that each channel owns."""
    if not values:
        return {group.name: np.zeros(group.size) for group in graph.groups}
    owned = Owned.of_all(graph, values)
    sums = owned.sums(values, [part for part in owned.parts if part.kind in kinds and part.side in sides]).numpy()
    return {name: sums[numbers.start : numbers.stop] for name, numbers in owned.groups.items()}


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
