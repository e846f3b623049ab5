"""Weights: of which layers, and what is left of them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from torch import nn


def weighted(model: nn.Module) -> Iterator[tuple[str, Any]]:
    """Every convolution and linear layer by name, in the model's order."""
    for name, module in model.named_modules():
        if isinstance(module, (nn.Conv2d, nn.ConvTranspose2d, nn.Linear)):
            yield name, module


def left(model: nn.Module) -> dict[str, int]:
    """Of each of them, the weights that aren't zero."""
    return {name: int(module.weight.count_nonzero()) for name, module in weighted(model)}
