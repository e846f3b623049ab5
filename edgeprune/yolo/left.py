"""What is left of a model's weights."""

from __future__ import annotations

from torch import nn


def left(model: nn.Module) -> dict[str, int]:
    """Weights that aren't zero of every convolution and linear layer by name, in the model's order."""
    kinds = (nn.Conv2d, nn.ConvTranspose2d, nn.Linear)
    return {n: int(m.weight.count_nonzero()) for n, m in model.named_modules() if isinstance(m, kinds)}
