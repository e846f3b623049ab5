"""How wide the layers of a model are."""

from __future__ import annotations

from torch import nn


def widths(model: nn.Module) -> dict[str, int]:
    """Output channels of every convolution and linear layer by name, in the model's order."""
    found: dict[str, int] = {}
    for name, module in model.named_modules():
        if isinstance(module, (nn.Conv2d, nn.ConvTranspose2d)):
            found[name] = module.out_channels
        elif isinstance(module, nn.Linear):
            found[name] = module.out_features
    return found
