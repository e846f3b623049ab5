"""What importances look at, made by hand."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import torch
from torch import nn

from edgeprune.graph.channels import ChannelGraph
from edgeprune.prune.importance import Evidence, Loss, Scores, Tensors, random, watched


def evidence(
    graph: ChannelGraph, seed: int = 0, model: nn.Module | None = None, gradients: Iterable[Tensors] = ()
) -> Evidence:
    return Evidence(graph, model or nn.Module(), seed, lambda: gradients, lambda: gradients)


def seen(graph: ChannelGraph, model: nn.Module, images: Iterable[torch.Tensor]) -> Evidence:
    """Evidence of what the model's channels take on."""
    return Evidence(graph, model, 0, activations=lambda measure: watched(model, graph, images, measure))


def lossy(graph: ChannelGraph, model: nn.Module, batches: int, loss: Callable[[], torch.Tensor]) -> Evidence:
    """Evidence of a loss that is the same in every batch."""

    def losses() -> Iterable[Loss]:
        return ((loss(), dict(model.named_parameters())) for _ in range(batches))

    return Evidence(graph, model, 0, losses=losses)


def random_scores(graph: ChannelGraph, seed: int) -> Scores:
    return random(evidence(graph, seed))
