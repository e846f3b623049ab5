"""Importances that look at what channels take on. Rules stand in this room's front page.

A channel is looked at where it is read, behind its activation function and what else comes before its readers (an
addition, a concatenation); one that no layer reads, where it is made.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import numpy as np
import torch
from torch import nn

from edgeprune.graph.channels import ChannelGraph, Side
from edgeprune.prune.importance.evidence import Evidence, Measure, Scores
from edgeprune.prune.importance.gather import by_group


def apoz(evidence: Evidence) -> Scores:
    """1 - APoZ: the share of a channel's values a, over images and places, with a > 0. For ReLU that is 1 minus the
    share of zeros; SiLU's values are under 0 where ReLU's would be 0. Source: Hu et al. 2016, section 3."""
    return _by_channel(evidence, lambda values: (values > 0).double().mean(1), "apoz")


def activation(evidence: Evidence) -> Scores:
    """The mean of |a| over a channel's values a, images and places; behind ReLU the paper's mean of a.
    Source: Molchanov et al. 2017, section 2.2."""
    return by_group(_by_channel(evidence, lambda values: values.double().abs().mean(1), "activation"))


def deviation(evidence: Evidence) -> Scores:
    """sqrt(mean (a - mean a)^2) over a channel's values a in a batch, mean over batches: what never changes tells
    nothing. Source: Molchanov et al. 2017, section 2.2."""
    return by_group(_by_channel(evidence, lambda values: values.double().std(1, correction=0), "deviation"))


def watched(
    model: nn.Module, graph: ChannelGraph, images: Iterable[torch.Tensor], measure: Measure
) -> Iterator[dict[Side, torch.Tensor]]:
    """Run the model on batches of images, and measure what its layers read and make.

    Args:
        model: As the graph was built from; in eval mode.
        measure: (channels, values) -> a number a channel.

    Yields:
        A batch: layer and side -> a number a position. A layer that runs several times has the mean.
    """
    found: dict[Side, list[torch.Tensor]] = {}

    def note(side: Side, value: Any, axis: int) -> None:
        found.setdefault(side, []).append(measure(value.detach().movedim(axis, 0).flatten(1)).cpu())

    modules, hooks = dict(model.named_modules()), []
    for name, layer in graph.layers.items():
        if layer.kind in {"parameter", "batch_norm"}:
            continue
        axis = -1 if layer.kind == "linear" else 1
        hooks += [
            modules[name].register_forward_pre_hook(lambda _m, args, s=(name, "in"), a=axis: note(s, args[0], a)),
            modules[name].register_forward_hook(lambda _m, _i, made, s=(name, "out"), a=axis: note(s, made, a)),
        ]
    try:
        for batch in images:
            found.clear()
            with torch.no_grad():
                model(batch)
            yield {side: torch.stack(values).mean(0) for side, values in found.items()}
    finally:
        for hook in hooks:
            hook.remove()


def _by_channel(evidence: Evidence, measure: Measure, method: str) -> Scores:
    graph = evidence.graph
    sums = {side: [np.zeros(group.size) for group in graph.groups] for side in ("in", "out")}
    seen = {side: [np.zeros(group.size) for group in graph.groups] for side in ("in", "out")}
    batches = 0
    for found in evidence.activations(measure):
        _add(graph, found, sums, seen)
        batches += 1
    if not batches:
        raise ValueError(f"{method} needs at least one batch")
    return {
        group.name: _mean(sums[side][i], seen[side][i])
        for i, group in enumerate(graph.groups)
        for side in ("in" if seen["in"][i].any() else "out",)
    }


def _add(
    graph: ChannelGraph,
    found: Mapping[Side, torch.Tensor],
    sums: Mapping[str, list[np.ndarray]],
    seen: Mapping[str, list[np.ndarray]],
) -> None:
    for (name, side), values in found.items():
        for channel, value in zip(graph.layers[name].side(side), values.tolist(), strict=True):
            if channel is not None:
                sums[side][channel[0]][channel[1]] += value
                seen[side][channel[0]][channel[1]] += 1


def _mean(total: np.ndarray, count: np.ndarray) -> np.ndarray:
    return np.divide(total, count, out=np.zeros_like(total), where=count > 0)
