"""Carrying a plan out: every module keeps the positions that the plan names, nothing else changes.

Rules:
- The plan belongs to one graph. Another graph's plan is refused before anything is touched.
- Weights are copied, never recomputed: `cut.weight == parent.weight[out][:, in]`, to the bit (but for what
  a block folds into its weights by a power of two, see yolo/blocks.py).
- What a plan zeroes is zero, and nothing else of it changes; that is in the parent's numbering too.
- The parent isn't changed; the cut model is a copy.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from typing import TypeVar

import numpy as np
import torch
from torch import nn

from edgeprune.errors import PlanError
from edgeprune.graph.channels import ChannelGraph, Layer
from edgeprune.graph.cost import CostModel
from edgeprune.prune import sparse
from edgeprune.prune.ladder import Keeps
from edgeprune.records import LayerKeep, PlannedTime, PrunedGroup, PrunePlan
from edgeprune.records.plan import ZeroedLayer

Model = TypeVar("Model", bound=nn.Module)
#: Layer -> {'in': positions that stay, 'out': positions that stay}.
LayerKeeps = Mapping[str, Mapping[str, Sequence[int]]]


def make_plan(
    graph: ChannelGraph,
    costs: CostModel,
    keeps: Keeps,
    time: PlannedTime | None = None,
    zeros: Mapping[str, ZeroedLayer] | None = None,
    blocks: Sequence[str] = (),
    whole: tuple[float, int] | None = None,
    **how: str | int,
) -> PrunePlan:
    """The record of a choice.

    Args:
        keeps: Channel group name -> indices that stay.
        time: How they were chosen, for a budget of time.
        zeros: Layers whose weights are zeroed in part.
        blocks: Repeats that were taken out before; `graph` is that of what is left.
        whole: MACs and parameters of the parent, where something was.
        how: importance, allocation, channel_multiple and seed, for whoever reads the plan.
    """
    layers = graph.layer_keeps(keeps)
    widths = np.array([len(keeps.get(g.name, range(g.size))) for g in graph.groups], dtype=np.float64)
    macs, parameters = whole or (costs.macs(costs.widths), round(costs.parameters(costs.widths)))
    return PrunePlan(
        graph_sha256=graph.sha256,
        groups={
            g.name: PrunedGroup(size=g.size, keep=tuple(keeps.get(g.name, tuple(range(g.size))))) for g in graph.groups
        },
        layers={name: LayerKeep(in_=tuple(sides["in"]), out=tuple(sides["out"])) for name, sides in layers.items()},
        macs=(macs, costs.macs(widths)),
        parameters=(parameters, round(costs.parameters(widths))),
        time=time,
        zeros=dict(zeros) if zeros else None,
        blocks=tuple(blocks) or None,
        **how,
    )


def require_plan_of(graph: ChannelGraph, plan: PrunePlan) -> None:
    """Raise PlanError where the plan was made for another model than `graph` was built from."""
    if plan.graph_sha256 != graph.sha256:
        raise PlanError(
            "The plan was made for another model.",
            where="plan.graph_sha256", expected=graph.sha256, got=plan.graph_sha256,
            next_step="take its own parent (parent.pt beside plan.json), or another plan",
        )  # fmt: skip


def apply(
    model: Model,
    graph: ChannelGraph,
    plan: PrunePlan,
    settle: Callable[[nn.Module, LayerKeeps], None] = lambda *_: None,
) -> Model:
    """Cut `model` by `plan`.

    Args:
        model: The model that `graph` was built from.
        settle: Called with the cut model and the positions that stay of every layer, to set what blocks know
            of their own widths.

    Returns:
        A cut copy.

    Raises:
        PlanError: The plan was made for another graph, or its parts contradict each other.
    """
    require_plan_of(graph, plan)
    layers = graph.layer_keeps({name: group.keep for name, group in plan.groups.items()})
    for name, sides in layers.items():
        stated = plan.layers.get(name)
        if stated is None or list(stated.in_) != sides["in"] or list(stated.out) != sides["out"]:
            raise PlanError("The plan's layers don't follow from its groups.", where=name)
    cut = copy.deepcopy(model)
    modules = dict(cut.named_modules())
    with torch.no_grad():
        for name, zeroed in (plan.zeros or {}).items():
            _zero(modules, name, zeroed)
        for name, layer in graph.layers.items():
            if layer.kind == "parameter":
                _cut_parameter(modules, name, layers[name]["out"])
            else:
                _CUT[layer.kind](modules[name], layer, layers[name]["in"], layers[name]["out"])
    settle(cut, layers)
    return cut


def compose(first: PrunePlan, second: PrunePlan, graph: ChannelGraph, costs: CostModel) -> PrunePlan:
    """One plan from the first's parent that does what both do in turn.

    Args:
        first: Parent -> middle, made for `graph`. The second takes no blocks out.
        second: Middle -> cut.
        graph: The parent's channel graph; `costs` its costs.
    """
    stays: dict[str, set[int]] = {}
    for name, layer in graph.layers.items():
        keep, inner = first.layers[name], second.layers[name]
        for line, outer, positions in ((layer.in_, keep.in_, inner.in_), (layer.out, keep.out, inner.out)):
            for position in (outer[p] for p in positions):
                channel = line[position]
                if channel is not None:
                    stays.setdefault(graph.groups[channel[0]].name, set()).add(channel[1])
    keeps = {name: tuple(sorted(members)) for name, members in stays.items()}
    # what leaves zeros changes no shape, so both mean the same weights
    zeros = {**(first.zeros or {}), **(second.zeros or {})}
    return make_plan(
        graph, costs, keeps, second.time, zeros, first.blocks or (), (first.macs[0], first.parameters[0]),
        importance=second.importance, allocation=second.allocation,
        channel_multiple=second.channel_multiple, seed=second.seed,
    )  # fmt: skip


def original_sizes(graph: ChannelGraph, before: PrunePlan, parent: ChannelGraph) -> dict[str, int]:
    """How wide the channel groups of a cut model were in its parent.

    Args:
        graph: The cut model's.
        before: Parent -> cut model.
        parent: The parent's channel graph.

    Returns:
        Channel group of the cut model -> size of the parent's group that its first channel belongs to.
    """
    sizes = {}
    for index, group in enumerate(graph.groups):
        name, side = group.sides[0]
        position = graph.layers[name].side(side).index((index, 0))
        keep = before.layers[name]
        channel = parent.layers[name].side(side)[(keep.in_ if side == "in" else keep.out)[position]]
        assert channel is not None
        sizes[group.name] = parent.groups[channel[0]].size
    return sizes


def _zero(modules: Mapping[str, nn.Module], name: str, zeroed: ZeroedLayer) -> None:
    weight = getattr(modules.get(name), "weight", None)
    if not isinstance(weight, torch.Tensor) or weight.numel() != zeroed.size:
        raise PlanError(
            "The plan zeroes weights that the model doesn't have.", where=f"zeros.{name}",
            expected=f"a layer of {zeroed.size} weights",
            got="no layer" if weight is None else f"{weight.numel()} weights",
        )  # fmt: skip
    weight.masked_fill_(sparse.read(zeroed, name).reshape(weight.shape).to(weight.device), 0.0)


def _take(tensor: torch.Tensor, keep: list[int], axis: int) -> torch.Tensor:
    return tensor.index_select(axis, torch.tensor(keep, device=tensor.device))


def _set(module: nn.Module, name: str, value: torch.Tensor) -> None:
    old = getattr(module, name)
    setattr(module, name, nn.Parameter(value, old.requires_grad) if isinstance(old, nn.Parameter) else value)


def _cut_conv(module: nn.Module, layer: Layer, in_: list[int], out: list[int]) -> None:
    assert isinstance(module, (nn.Conv2d, nn.ConvTranspose2d))
    # The weight is (out, in / groups, ...), transposed (in, out / groups, ...).
    rows, columns = (in_, out) if layer.kind == "conv_transpose" else (out, in_)
    weight = _take(module.weight, rows, 0)
    if layer.depthwise:
        module.groups = len(in_)
    else:  # each group of rows keeps its own columns
        width = module.weight.shape[1]
        own = [[c % width for c in columns if c // width == g] for g in range(module.groups)]
        weight = torch.cat([_take(b, c, 1) for b, c in zip(weight.chunk(module.groups), own, strict=True)])
    _set(module, "weight", weight)
    if module.bias is not None:
        _set(module, "bias", _take(module.bias, out, 0))
    module.in_channels, module.out_channels = len(in_), len(out)


def _cut_linear(module: nn.Module, layer: Layer, in_: list[int], out: list[int]) -> None:
    assert isinstance(module, nn.Linear)
    _set(module, "weight", _take(_take(module.weight, out, 0), in_, 1))
    if module.bias is not None:
        _set(module, "bias", _take(module.bias, out, 0))
    module.in_features, module.out_features = len(in_), len(out)


def _cut_batch_norm(module: nn.Module, layer: Layer, in_: list[int], out: list[int]) -> None:
    assert isinstance(module, nn.modules.batchnorm._BatchNorm)
    for name in ("weight", "bias", "running_mean", "running_var"):
        if getattr(module, name) is not None:
            _set(module, name, _take(getattr(module, name), out, 0))
    module.num_features = len(out)


def _cut_parameter(modules: dict[str, nn.Module], name: str, out: list[int]) -> None:
    owner, _, attribute = name.rpartition(".")
    value = getattr(modules[owner], attribute)
    axis = next(d for d, size in enumerate(value.shape) if size > 1)
    _set(modules[owner], attribute, _take(value, out, axis))


_CUT = {"conv": _cut_conv, "conv_transpose": _cut_conv, "linear": _cut_linear, "batch_norm": _cut_batch_norm}
