"""What a model of given widths costs: multiply-accumulates and parameters, exactly, without building it.

Rules:
- Multiply-accumulates (MACs) are those of convolutions, linear layers and matrix products at the real
  input size, batch 1; element-wise work, normalisation and pooling count nothing (as torch's
  FlopCounterMode and fvcore have it).
- Every cost is coefficient x (channels read) x (channels made), and a count of channels is linear in the
  widths of the groups, so a candidate's cost is two small matrix products.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt
from torch import nn

from edgeprune.graph.channels import Channel, ChannelGraph, Cost

Widths = npt.NDArray[np.float64]


class CostModel:
    """Costs of a channel graph as functions of the widths of its groups (one number a group, in order)."""

    def __init__(self, graph: ChannelGraph, model: nn.Module) -> None:
        self.widths: Widths = np.array([g.size for g in graph.groups], dtype=np.float64)
        self._macs = _Bilinear(graph.costs, len(graph.groups))
        self._parameters = _Bilinear(_parameter_costs(graph, model), len(graph.groups))
        covered = self._parameters(self.widths)
        self._uncovered = sum(p.numel() for p in model.parameters()) - covered

    def macs(self, widths: Widths) -> float:
        return self._macs(widths)

    def macs_by_layer(self, widths: Widths) -> dict[str, float]:
        return self._macs.by_name(widths)

    def parameters(self, widths: Widths) -> float:
        """Trainable and fixed parameters; buffers (running statistics) don't count."""
        return self._parameters(widths) + self._uncovered


class _Bilinear:
    """Sum of coefficient x (A w + a) x (B w + b)."""

    def __init__(self, costs: Sequence[Cost], groups: int) -> None:
        self.names = [c.where for c in costs]
        self.coefficients = np.array([c.coefficient for c in costs], dtype=np.float64)
        self.left, self.left_fixed = counts([c.a for c in costs], groups)
        self.right, self.right_fixed = counts([c.b for c in costs], groups)

    def _terms(self, widths: Widths) -> Widths:
        left = self.left @ widths + self.left_fixed
        right = self.right @ widths + self.right_fixed
        terms: Widths = self.coefficients * left * right
        return terms

    def __call__(self, widths: Widths) -> float:
        return float(self._terms(widths).sum())

    def by_name(self, widths: Widths) -> dict[str, float]:
        total: dict[str, float] = {}
        for name, term in zip(self.names, self._terms(widths), strict=True):
            total[name] = total.get(name, 0.0) + float(term)
        return total


def counts(sides: Sequence[Sequence[Channel] | None], groups: int) -> tuple[Widths, Widths]:
    """How many channels each side has, as a linear function of the widths of the groups.

    Args:
        sides: Channels by position; None counts 1.
        groups: How many channel groups there are.

    Returns:
        A, shape (sides, groups), and a, shape (sides,): A @ widths + a channels.
    """
    matrix, fixed = np.zeros((len(sides), groups)), np.zeros(len(sides))
    for row, side in enumerate(sides):
        if side is None:
            fixed[row] = 1
            continue
        members: dict[int, set[int]] = {}
        for channel in side:
            if channel is None:
                fixed[row] += 1
            else:
                matrix[row, channel[0]] += 1
                members.setdefault(channel[0], set()).add(channel[1])
        for group, seen in members.items():
            matrix[row, group] /= len(seen)  # positions per channel
    return matrix, fixed


def _parameter_costs(graph: ChannelGraph, model: nn.Module) -> list[Cost]:
    modules: Mapping[str, nn.Module] = dict(model.named_modules())
    costs = []
    for name, layer in graph.layers.items():
        if layer.kind == "parameter":
            costs.append(Cost(name, 1, None, layer.out))
            continue
        module = modules[name]
        weight, bias = module.weight, module.bias
        if layer.kind == "batch_norm":
            costs.append(Cost(name, 2 if weight is not None else 0, None, layer.out))
            continue
        assert hasattr(weight, "shape")
        per_pair = weight[0, 0].numel()
        if layer.depthwise:
            costs.append(Cost(name, per_pair, None, layer.out))
        else:
            costs.append(Cost(name, per_pair / layer.groups, layer.in_, layer.out))
        if bias is not None:
            costs.append(Cost(name, 1, None, layer.out))
    return costs
