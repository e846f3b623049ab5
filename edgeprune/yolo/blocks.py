"""What stock blocks of Ultralytics know about their own widths, and must be told after a cut.

Rules:
- A block's forward reads some widths from attributes (`C2f.c`, `Attention.key_dim`). After a cut they are
  derived again from the convolutions that the block holds, never from the plan.
- `Attention.scale` stays the parent's: cutting q and k channels equals muting them only with the scale
  that the parent's logits had.
- `Attention.forward` views its values back to the width of its input, so the two are tied.

Source: ultralytics/nn/modules/block.py, 8.4.190.
"""

from __future__ import annotations

from torch import nn
from ultralytics.nn.modules.block import C2PSA, PSA, Attention, C2f

#: One side of one layer, as edgeprune.graph names it.
Side = tuple[str, str]


def ties(model: nn.Module) -> list[tuple[Side, Side]]:
    """Layer sides that stock blocks keep equally long without an operator that shows it."""
    return [
        ((f"{name}.qkv.conv", "in"), (f"{name}.proj.conv", "in"))
        for name, module in model.named_modules()
        if isinstance(module, Attention)
    ]


def refresh(model: nn.Module) -> None:
    """Set every block's own width attributes from the convolutions that it holds. Mutates `model`."""
    for module in model.modules():
        if isinstance(module, (C2f, C2PSA, PSA)):
            module.c = module.cv1.conv.out_channels // 2
        elif isinstance(module, Attention):
            module.head_dim = module.pe.conv.out_channels // module.num_heads
            module.key_dim = (module.qkv.conv.out_channels // module.num_heads - module.head_dim) // 2
