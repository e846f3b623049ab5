"""What importances look at, made by hand."""

from __future__ import annotations

from collections.abc import Iterable

from torch import nn

from edgeprune.graph.channels import ChannelGraph
from edgeprune.prune.importance import Evidence, Scores, Tensors, random


def evidence(
    graph: ChannelGraph, seed: int = 0, model: nn.Module | None = None, gradients: Iterable[Tensors] = ()
) -> Evidence:
    return Evidence(graph, model or nn.Module(), seed, lambda: gradients)


def random_scores(graph: ChannelGraph, seed: int) -> Scores:
    return random(evidence(graph, seed))
