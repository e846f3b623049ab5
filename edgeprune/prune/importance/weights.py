"""Importances that look at the model alone. Rules stand in this room's front page."""

from __future__ import annotations

import numpy as np
import torch
from torch import nn

from edgeprune.errors import RecipeError
from edgeprune.graph.channels import Channel, ChannelGraph, Layer
from edgeprune.prune.importance.evidence import Evidence, Scores
from edgeprune.prune.importance.gather import WEIGHTED, by_group, gather, weights

_OWNED = (*WEIGHTED, "batch_norm", "parameter")


def random(evidence: Evidence) -> Scores:
    """The control: uniform scores in 0..1, the same for the same graph and seed. No paper."""
    generator = np.random.default_rng(evidence.seed)
    return {group.name: generator.random(group.size) for group in evidence.graph.groups}


def random_each(evidence: Evidence) -> dict[str, torch.Tensor]:
    """The control of single weights: uniform scores in 0..1 by seed. No paper."""
    generator = np.random.default_rng(evidence.seed)
    found = weights(evidence.graph, evidence.model)
    return {name: torch.from_numpy(generator.random(tuple(w.shape))) for name, w in found.items()}


def l1(evidence: Evidence) -> Scores:
    """Sum of |w| over the weights w that a channel owns. Source: Li et al. 2017, section 3.1."""
    return magnitude(evidence.graph, evidence.model, 1)


def l1_each(evidence: Evidence) -> dict[str, torch.Tensor]:
    """|w|. Source: Han et al. 2015, section 3."""
    return {name: w.abs() for name, w in weights(evidence.graph, evidence.model).items()}


def l2(evidence: Evidence) -> Scores:
    """Root of the sum of w^2 over the weights w that a channel owns.
    Source: Li et al. 2017, section 3.1 and appendix 6.1 (l2 beside l1)."""
    return magnitude(evidence.graph, evidence.model, 2)


def l2_each(evidence: Evidence) -> dict[str, torch.Tensor]:
    """w^2: what it adds to the square of a kernel's norm. Source: Li et al. 2017, section 3.1 (l2 beside l1)."""
    return {name: w**2 for name, w in weights(evidence.graph, evidence.model).items()}


def magnitude(graph: ChannelGraph, model: nn.Module, power: int) -> Scores:
    """l1 (power 1) or l2 (power 2) over everything that a channel owns."""
    return by_group({name: s ** (1 / power) for name, s in _powers(graph, model, power).items()})


def _powers(graph: ChannelGraph, model: nn.Module, power: int) -> Scores:
    powers = {name: p.detach().double().abs() ** power for name, p in model.named_parameters()}
    return gather(graph, powers, kinds=_OWNED, sides=("out", "in"))


def lamp(evidence: Evidence) -> Scores:
    """Channel u of a group: |W[u]|^2 / the sum of |W[v]|^2 over its channels v that are as large or larger.
    Source: Lee et al. 2021, section 3, over channels."""
    return {name: _lamp(s) for name, s in _powers(evidence.graph, evidence.model, 2).items()}


def lamp_each(evidence: Evidence) -> dict[str, torch.Tensor]:
    """Weight u of a layer: W[u]^2 / the sum of W[v]^2 over its weights v that are as large or larger.
    Source: Lee et al. 2021, section 3."""
    found = weights(evidence.graph, evidence.model)
    return {n: torch.from_numpy(_lamp((w**2).flatten().numpy())).reshape(w.shape) for n, w in found.items()}


def _lamp(squares: np.ndarray) -> np.ndarray:
    order = np.argsort(squares, kind="stable")
    larger = np.cumsum(squares[order][::-1])[::-1]
    score = np.zeros_like(squares)
    score[order] = np.divide(squares[order], larger, out=np.zeros_like(larger), where=larger > 0)
    return score


def bn(evidence: Evidence) -> Scores:
    """Sum of |gamma| over the BatchNorms that a channel passes through; l2 in groups without BatchNorm.
    Source: Liu et al. 2017 (network slimming), section 3."""
    graph, model = evidence.graph, evidence.model
    scales = {n: p.detach().double().abs() for n, p in model.named_parameters() if n.endswith(".weight")}
    sums = gather(graph, scales, kinds=("batch_norm",), sides=("out",))
    fallback = magnitude(graph, model, 2)
    return by_group({name: values if values.any() else fallback[name] for name, values in sums.items()})


def fpgm(evidence: Evidence) -> Scores:
    """Filter x_j: the sum of its distances to all filters of the group, sum_i |x_j - x_i|; near 0 is what the others
    can stand in for, their geometric median. A channel that several layers make has their rows as one filter.
    Source: He et al. 2019, section 3."""
    graph = evidence.graph
    found = weights(graph, evidence.model)
    filters: list[list[np.ndarray]] = [[] for _ in graph.groups]
    for name, layer in graph.layers.items():
        if layer.kind not in WEIGHTED:
            continue
        rows = _rows(found[f"{name}.weight"], layer)
        owned: dict[int, dict[int, list[int]]] = {}
        for position, channel in enumerate(layer.out):
            if channel is not None:
                owned.setdefault(channel[0], {}).setdefault(channel[1], []).append(position)
        for group, by_channel in owned.items():
            if len(by_channel) == graph.groups[group].size and len({len(p) for p in by_channel.values()}) == 1:
                own = [by_channel[channel] for channel in sorted(by_channel)]
                filters[group].append(rows[own].reshape(len(own), -1))
    fallback = magnitude(graph, evidence.model, 2)
    scores = {
        group.name: _distances(np.concatenate(own, 1)) if own else fallback[group.name]
        for group, own in zip(graph.groups, filters, strict=True)
    }
    return by_group(scores)


def _distances(filters: np.ndarray) -> np.ndarray:
    x = torch.from_numpy(filters)
    total: np.ndarray = torch.cdist(x, x, compute_mode="donot_use_mm_for_euclid_dist").sum(1).numpy()
    return total


def _rows(weight: torch.Tensor, layer: Layer) -> np.ndarray:
    """A row an output: everything that makes it."""
    if layer.kind != "conv_transpose":
        return weight.flatten(1).numpy()
    if layer.depthwise:
        return weight.flatten(0, 1).flatten(1).numpy()
    by_group = weight.reshape(layer.groups, -1, *weight.shape[1:]).transpose(1, 2)  # (groups, outputs, inputs, ...)
    return by_group.reshape(by_group.shape[0] * by_group.shape[1], -1).numpy()


def synapses(evidence: Evidence) -> Scores:
    """Sum of |gamma_i| |K| over the kernels K that a channel sends or receives (`synapses_each`).
    Source: Lin et al. 2018 (synaptic strength), section 3."""
    return by_group(gather(evidence.graph, synapses_each(evidence), kinds=WEIGHTED, sides=("out", "in")))


def synapses_each(evidence: Evidence) -> dict[str, torch.Tensor]:
    """Kernel K from input channel i: its strength |gamma_i| |K|, shared out among its elements. Gamma is the scale of
    the BatchNorm that the channel passed last; 1 where it passed none. Source: Lin et al. 2018, section 3."""
    graph = evidence.graph
    scales = {n: p.detach().double().abs() for n, p in evidence.model.named_parameters() if n.endswith(".weight")}
    found: dict[str, torch.Tensor] = {}
    passed: dict[Channel, float] = {}
    for name, layer in graph.layers.items():  # in the order in which they run
        own = scales.get(f"{name}.weight")
        if layer.kind == "batch_norm" and own is not None:
            passed |= {channel: gamma for channel, gamma in zip(layer.out, own.tolist(), strict=True) if channel}
        if layer.kind not in WEIGHTED or own is None:
            continue
        gamma = torch.tensor([passed.get(channel, 1.0) for channel in layer.in_], dtype=own.dtype)
        norms = own.flatten(2).norm(dim=2) if own.dim() > 2 else own
        strength = norms * _of_inputs(gamma, norms, layer) / own[0, 0].numel()
        found[f"{name}.weight"] = strength.reshape(*strength.shape, *[1] * (own.dim() - 2)).expand(own.shape)
    return found


def _of_inputs(values: torch.Tensor, norms: torch.Tensor, layer: Layer) -> torch.Tensor:
    """A number an input position, as a factor of kernels laid out (rows, columns) as the layer's weight is."""
    if layer.kind == "conv_transpose":
        return values[:, None]
    group_of_row = torch.arange(norms.shape[0]) // (norms.shape[0] // layer.groups)
    return values.reshape(layer.groups, -1)[group_of_row]


def masks(evidence: Evidence) -> Scores:
    """The share of the weights that a channel owns which the masks m in the checkpoint leave: sum of m / count of m.
    No paper: what torch.nn.utils.prune left, the user's own."""
    left = masks_each(evidence)
    ones = {name: torch.ones_like(mask) for name, mask in left.items()}
    stays, of = (gather(evidence.graph, v, kinds=WEIGHTED, sides=("out", "in")) for v in (left, ones))
    return {name: stays[name] / np.maximum(of[name], 1) for name in of}


def masks_each(evidence: Evidence) -> dict[str, torch.Tensor]:
    """The masks m in the checkpoint themselves, 1 = stays; a layer without one is whole. No paper: the user's own.

    Raises:
        RecipeError: There are none.
    """
    found = weights(evidence.graph, evidence.model)
    if not any(name in evidence.masks for name in found):
        raise RecipeError(
            "Importance masks reads what torch.nn.utils.prune left in the checkpoint, and there is nothing.",
            where="importance", expected="a checkpoint whose modules have weight_orig and weight_mask",
            got="a model without masks",
            next_step="prune it with torch.nn.utils.prune first, or take another importance",
        )  # fmt: skip
    return {n: evidence.masks[n].double() if n in evidence.masks else torch.ones_like(w) for n, w in found.items()}
