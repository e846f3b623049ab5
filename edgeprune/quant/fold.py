"""Scales that follow the weights: through the folding of BatchNorm, and through a cut.

Rules:
- Folding multiplies an output channel by c = gamma / sqrt(variance + eps). Its scale is multiplied by |c|, so the
  integers stay what they were, times the sign of c. Where rounding in FP32 would move a weight over a tie, the
  folded weight is set to the exact value: what was trained is what is exported.
- A cut keeps the scales of the output channels that stay; those of activations stay as they are.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import nn

from edgeprune.errors import ModelError
from edgeprune.quant.affine import LIMIT, along, dequantize, quantize
from edgeprune.records import LayerKeep
from edgeprune.records.quantization import Quantization


def fold(model: nn.Module, folded: nn.Module, record: Quantization) -> Quantization:
    """The record of the folded model. Sets the weights of `folded` to what their integers allow.

    Args:
        model: With BatchNorm, as `record` belongs to it.
        folded: A copy of it with BatchNorm folded into the convolutions. Convolutions that folding removed (a
            training branch of the head) are dropped.

    Returns:
        Scales of the folded weights; what BatchNorm made is now what the convolution makes.

    Raises:
        ModelError: `record` belongs to another model.
    """
    before, after = dict(model.named_modules()), dict(folded.named_modules())
    weights = {}
    with torch.no_grad():
        for name, scales in record.weights.items():
            if name not in before:
                raise ModelError(
                    "The scales belong to another model.", where=name, expected="a convolution of this one"
                )
            if name not in after:
                continue
            weight, target = before[name].weight.float(), after[name].weight
            own = along(torch.tensor(scales), 0, weight.dim())
            norm = _norm(before, name)
            factor = torch.ones_like(own) if norm is None else _factor(norm).reshape(own.shape)
            integers = quantize(weight, own, 0, -LIMIT, LIMIT) * factor.sign()
            scale = torch.where(factor == 0, own, own * factor.abs())
            exact = dequantize(integers, scale)
            clipped = target.clamp(-LIMIT * scale, LIMIT * scale)
            target.copy_(torch.where(quantize(clipped, scale, 0, -LIMIT, LIMIT) == integers, clipped, exact))
            weights[name] = tuple(scale.flatten().tolist())
    merged = {f"{name}>batch_norm.0": name for name in after if _norm(before, name) is not None}
    rename = {old: new for old, new in merged.items() if old in record.points}
    return record.model_copy(
        update={
            "weights": weights,
            "activations": {rename.get(name, name): entry for name, entry in record.activations.items()},
            "points": {rename.get(p, p): rename.get(name, name) for p, name in record.points.items()},
        }
    )


def cut(record: Quantization, layers: Mapping[str, LayerKeep]) -> Quantization:
    """The record of the model after a cut.

    Args:
        layers: From the plan: what stays of every layer, in the numbering of the model that `record` belongs to.
    """
    return record.model_copy(
        update={
            "weights": {
                name: tuple(scales[i] for i in layers[name].out) if name in layers else scales
                for name, scales in record.weights.items()
            }
        }
    )


def kept_scales(record: Quantization, layers: Mapping[str, LayerKeep]) -> list[int]:
    """Which of all weight scales, one convolution's after another's, stay after a cut."""
    kept, start = [], 0
    for name, scales in record.weights.items():
        kept += [start + i for i in (layers[name].out if name in layers else range(len(scales)))]
        start += len(scales)
    return kept


def _norm(modules: Mapping[str, nn.Module], name: str) -> nn.BatchNorm2d | None:
    """The BatchNorm beside a convolution in one of Ultralytics' blocks."""
    block, _, leaf = name.rpartition(".")
    norm = modules.get(f"{block}.bn") if leaf == "conv" else None
    return norm if isinstance(norm, nn.BatchNorm2d) else None


def _factor(norm: nn.BatchNorm2d) -> torch.Tensor:
    assert norm.running_var is not None
    return norm.weight.float() / (norm.running_var.float() + norm.eps).sqrt()
