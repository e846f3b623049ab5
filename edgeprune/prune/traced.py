"""The channel graph of a detector, and of what is left of one."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar

from torch import nn

from edgeprune.graph.build import build
from edgeprune.graph.channels import ChannelGraph
from edgeprune.graph.trace import Program, trace
from edgeprune.yolo import blocks, repeats
from edgeprune.yolo.load import predictions

M = TypeVar("M", bound=nn.Module)


def channel_graph(model: nn.Module, image_size: tuple[int, int], channels: int = 3) -> ChannelGraph:
    """The channel graph of a detector, costs counted at `image_size` (height, width)."""
    return traced_graph(model, image_size, channels)[1]


def traced_graph(model: nn.Module, image_size: tuple[int, int], channels: int = 3) -> tuple[Program, ChannelGraph]:
    """The same, with the program that it was read from."""
    program = trace(model, (1, channels, *image_size), predictions)
    return program, build(program, blocks.ties(model), blocks.exact_sizes(model))


def without(model: M, names: Sequence[str], image_size: tuple[int, int], channels: int) -> M:
    """The model without these repeats; itself, without any."""
    return repeats.without(model, names, (1, channels, *image_size)) if names else model
