"""What stock blocks of Ultralytics know about their own widths, and must be told after a cut.

Rules:
- A block's forward reads some widths from attributes (`C2f.c`, `Attention.key_dim`, `CBLinear.c2s`). After
  a cut each is the count of the positions that stayed of those that it stood for.
- `Attention.scale` stays the parent's: cutting q and k channels equals muting them only with the scale
  that the parent's logits had.
- `AAttn` computes its scale from `head_dim` at run time. The ratio to the parent's is folded into the rows
  that make q. It is a power of two at a quarter (a sixteenth …) of the width, where folding loses no bit of
  a weight: these are the sizes that it can be cut to.
- `Attention.forward` views its values back to the width of its input, so the two are tied.

Source: ultralytics/nn/modules/block.py, conv.py and transformer.py, 8.4.190.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import sqrt

import torch
from torch import nn
from ultralytics.nn.modules.block import (
    C2,
    C2PSA,
    DFL,
    PSA,
    SPPELAN,
    AAttn,
    ADown,
    Attention,
    C2f,
    CBLinear,
    RepNCSPELAN4,
    RepVGGDW,
)
from ultralytics.nn.modules.conv import RepConv
from ultralytics.nn.modules.head import Detect
from ultralytics.nn.modules.transformer import MSDeformAttn

#: One side of one layer, as edgeprune.graph names it.
Side = tuple[str, str]
#: Sizes that outputs start:stop of a layer can be cut to: (layer, start, stop, sizes).
ExactSizes = tuple[str, int, int, tuple[int, ...]]
#: Layer -> {'in': positions that stay, 'out': positions that stay}.
LayerKeeps = Mapping[str, Mapping[str, Sequence[int]]]

#: Blocks whose `c` is the length of each half of what `cv1` makes.
_HALVES = (C2, C2f, C2PSA, PSA, RepNCSPELAN4)


def ties(model: nn.Module) -> list[tuple[Side, Side]]:
    """Layer sides that stock blocks keep equally long without an operator that shows it."""
    return [
        ((f"{name}.qkv.conv", "in"), (f"{name}.proj.conv", "in"))
        for name, module in model.named_modules()
        if isinstance(module, Attention)
    ]


def exact_sizes(model: nn.Module) -> list[ExactSizes]:
    """Output ranges that stock blocks compute with the width of."""
    found = []
    for name, module in model.named_modules():
        if isinstance(module, AAttn):
            width = module.head_dim
            sizes = tuple(width // 4**n for n in range(8) if width % 4**n == 0)
            found += [
                (f"{name}.qkv.conv", 3 * width * h, 3 * width * h + width, sizes) for h in range(module.num_heads)
            ]
    return found


def settle(model: nn.Module, keeps: LayerKeeps) -> None:
    """Set every stock block's own width attributes after a cut. Mutates `model`, whose weights are cut.

    Args:
        model: The cut model, its blocks' attributes still the parent's.
        keeps: What stayed of every layer, in the parent's numbering.
    """
    for name, block in model.named_modules():
        if not any(layer.startswith(f"{name}.") for layer in keeps):
            continue  # it never ran, so nothing of it was cut
        stayed = _Stayed(name, keeps)
        if isinstance(block, _HALVES):
            block.c = stayed.out("cv1.conv", 0, block.c)
        elif isinstance(block, (ADown, SPPELAN)):
            block.c = stayed.out("cv1.conv")
        elif isinstance(block, CBLinear):
            starts = [sum(block.c2s[:i]) for i in range(len(block.c2s))]
            block.c2s = [stayed.out("conv", s, s + n) for s, n in zip(starts, block.c2s, strict=True)]
        elif isinstance(block, Attention):
            key, value = block.key_dim, block.head_dim
            block.key_dim = stayed.out("qkv.conv", 0, key)
            block.head_dim = stayed.out("qkv.conv", 2 * key, 2 * key + value)
        elif isinstance(block, AAttn):
            _settle_area_attention(block, stayed.out("qkv.conv", 0, block.head_dim))
        elif isinstance(block, RepConv):
            block.c1, block.c2 = stayed.in_("conv1.conv"), stayed.out("conv1.conv")
            block.g = block.conv1.conv.groups
        elif isinstance(block, RepVGGDW):
            block.dim = stayed.out("conv.conv")
        elif isinstance(block, MSDeformAttn):
            block.d_model = stayed.out("value_proj")


@dataclass(frozen=True)
class _Stayed:
    """How many positions of a block's layers stayed."""

    block: str
    keeps: LayerKeeps

    def out(self, layer: str, start: int = 0, stop: int | None = None) -> int:
        kept = self.keeps[f"{self.block}.{layer}"]["out"]
        return sum(start <= position and (stop is None or position < stop) for position in kept)

    def in_(self, layer: str) -> int:
        return len(self.keeps[f"{self.block}.{layer}"]["in"])


def _settle_area_attention(block: AAttn, width: int) -> None:
    ratio = sqrt(width / block.head_dim)  # the parent scaled by its own width ** -0.5
    block.head_dim, block.all_head_dim = width, width * block.num_heads
    if ratio == 1:
        return
    gate = torch.ones(block.num_heads, 3, width)
    gate[:, 0] = ratio
    owner = block.qkv.bn if hasattr(block.qkv, "bn") else block.qkv.conv
    with torch.no_grad():
        for tensor in (owner.weight, owner.bias):
            tensor.mul_(gate.flatten().to(tensor).reshape(-1, *[1] * (tensor.dim() - 1)))


#: Recipe's name -> the activation function.
_ACTIVATIONS: dict[str, type[nn.Module]] = {"relu": nn.ReLU, "relu6": nn.ReLU6, "hardswish": nn.Hardswish}


def swap_activation(model: nn.Module, name: str) -> int:
    """Put another activation function in the place of every SiLU. Mutates `model`; returns how many blocks changed."""
    swapped = 0
    for module in model.modules():
        for child, value in module.named_children():
            if isinstance(value, nn.SiLU):
                setattr(module, child, _ACTIVATIONS[name]())
                swapped += 1
    return swapped


def constants(model: nn.Module) -> frozenset[str]:
    """Layers of stock blocks whose weights are constants: the mean over DFL's bins."""
    return frozenset(f"{name}.conv" for name, module in model.named_modules() if isinstance(module, DFL))


def float_layers(model: nn.Module) -> dict[str, str]:
    """Convolutions of stock blocks that stay float when the model is quantized, with the reason."""
    found = {}
    for name, block in model.named_modules():
        if isinstance(block, (RepConv, RepVGGDW)):
            for path, inner in block.named_modules(prefix=name):
                if isinstance(inner, nn.Conv2d):
                    found[path] = "a branch that export merges with its neighbours: no scale of its own survives that"
    for name, head in model.named_modules():
        if not isinstance(head, Detect):
            continue
        for branch in ("cv2", "cv3", "one2one_cv2", "one2one_cv3"):
            for level, line in enumerate(getattr(head, branch, None) or ()):
                last = len(line) - 1
                if isinstance(line[last], nn.Conv2d):
                    found[f"{name}.{branch}.{level}.{last}"] = "makes the head's raw boxes or scores"
        if isinstance(head.dfl, DFL):
            found[f"{name}.dfl.conv"] = "takes the mean of a distribution over box distances"
    return found
