"""Granularities that leave zeros where they are and change no shape: single weights, whole kernels, N of M.

Rules:
- What counts is the share of zeros among the weights of convolutions and linear layers; constants of a method (the
  convolution that takes the mean over DFL's bins) aren't touched and don't count.
- `global`: the units (weights, kernels) of all layers compete, the least score per weight first. `uniform`: every
  layer loses the same share. The best unit of a layer always stays.
- What is zero already is zeroed first, so that rounds build on each other.
- N of M has nothing to share out: N of every M neighbours along the input channels stay, in every layer whose input
  channels (of a group) divide by M; TensorRT's sparse kernels and OpenVINO's sparse weights want it so. The goal counts
  in these layers alone. Transposed and depthwise convolutions stay whole.
- Branches that export merges (RepConv's) get a pattern each; their sum has the zeros that both have.
- Formula and source of each stand in its function's docstring.
"""

from __future__ import annotations

import base64
from collections.abc import Callable, Mapping

import numpy as np
import numpy.typing as npt
import torch

from edgeprune.errors import PlanError
from edgeprune.graph.channels import Layer
from edgeprune.prune.granularity import Pruned, Task
from edgeprune.prune.importance.gather import WEIGHTED
from edgeprune.records.plan import ZeroedLayer

#: Layer -> where its weights are zero.
Zeros = dict[str, torch.Tensor]
#: Scores of a layer's weights -> of its units, summed.
Units = Callable[[torch.Tensor], torch.Tensor]


def weights(task: Task) -> Pruned:
    """Single weights become zero, those with the least scores, until zeros / weights is the goal (unstructured).
    Source: Han et al. 2015, section 3."""
    return Pruned(zeros=_fewest(task, lambda scores: scores))


def kernels(task: Task) -> Pruned:
    """Whole k x k kernels become zero, synapses from one input channel to one output channel: those with the least sum
    of scores / (k k). Source: Lin et al. 2018, section 3."""
    return Pruned(zeros=_fewest(task, lambda scores: scores.flatten(2).sum(2) if scores.dim() > 2 else scores))


def two_of_four(task: Task) -> Pruned:
    """2:4, the pattern that hardware is made for: of every four neighbours along the input channels the two with the
    highest scores stay, the others become zero. Source: Mishra et al. 2021, sections 2 and 3 (the largest
    magnitudes of four); TensorRT's developer guide, 'Structured sparsity' (two zeros in every four consecutive values
    along C, for every k, r, s)."""
    return n_of_m(task, 2, 4)


def n_of_m(task: Task, n: int, m: int) -> Pruned:
    """The n best of every m neighbours along the input channels stay.

    Raises:
        PlanError: No layer has input channels that divide by m; or the goal is another share than the pattern's.
    """
    share = 1 - n / m
    if task.sparsity is None or abs(task.sparsity - share) > 1e-9:
        raise PlanError(
            f"{n}:{m} leaves one share of zeros.", expected=f"sparsity {share:g}", got=f"sparsity {task.sparsity}"
        )
    scores, layers = _layers(task)
    zeros = {
        name: ~best_of(values, n, m)
        for name, values in scores.items()
        if layers[name].kind != "conv_transpose" and values.shape[1] % m == 0
    }
    if not zeros:
        raise PlanError(
            f"No layer can be {n}:{m}.", expected=f"input channels that divide by {m}",
            got=f"{', '.join(str(v.shape[1]) for v in list(scores.values())[:8])} …",
            next_step="take weights or kernels",
        )  # fmt: skip
    return Pruned(zeros=zeros)


def best_of(scores: torch.Tensor, n: int, m: int) -> torch.Tensor:
    """Where a weight is among the n best of its m neighbours.

    Args:
        scores: (out, in, ...) with `in` divisible by m. Of equals the first stays.
    """
    lined = scores.movedim(1, -1)
    order = lined.reshape(*lined.shape[:-1], -1, m).argsort(dim=-1, descending=True, stable=True)
    stays = torch.zeros(order.shape, dtype=torch.bool)
    stays.scatter_(-1, order[..., :n], torch.ones((), dtype=torch.bool).expand(order[..., :n].shape))
    return stays.reshape(lined.shape).movedim(-1, 1)


def _layers(task: Task) -> tuple[dict[str, torch.Tensor], Mapping[str, Layer]]:
    """Scores by layer, of all that may have zeros."""
    each = task.each()
    names = [n for n, layer in task.whole.graph.layers.items() if layer.kind in WEIGHTED and n not in task.fixed]
    return {name: each[f"{name}.weight"].cpu() for name in names}, task.whole.graph.layers


def _fewest(task: Task, units: Units) -> Zeros:
    """The least units of all, or of every layer, until the share of zeros is reached."""
    assert task.sparsity is not None
    scores, _ = _layers(task)
    named = dict(task.whole.model.named_parameters())
    costs: list[npt.NDArray[np.float64]] = []
    for name, values in scores.items():
        cost = units(values).double() / (values.numel() / units(values).numel())
        cost[units(named[f"{name}.weight"].detach().abs().double()) == 0] = -1.0
        costs.append(cost.flatten().numpy())
    sizes = np.array([v.numel() // len(c) for v, c in zip(scores.values(), costs, strict=True)])
    picked = (
        [_least([cost], sizes[i : i + 1], task.sparsity)[0] for i, cost in enumerate(costs)]
        if task.allocation == "uniform"
        else _least(costs, sizes, task.sparsity)
    )
    return {
        name: torch.from_numpy(goes).reshape(units(values).shape + (1,) * (values.dim() - units(values).dim()))
        .expand(values.shape)
        .clone()
        for (name, values), goes in zip(scores.items(), picked, strict=True)
    }  # fmt: skip


def _least(
    costs: list[npt.NDArray[np.float64]], sizes: npt.NDArray[np.int64], sparsity: float
) -> list[npt.NDArray[np.bool_]]:
    """Which units go, layer by layer.

    Args:
        costs: A score a unit, per weight.
        sizes: Weights a unit, a number a layer.
    """
    prices = [cost.copy() for cost in costs]
    for price in prices:
        price[price.argmax()] = np.inf
    flat = np.concatenate(prices)
    size = np.repeat(sizes, [len(cost) for cost in costs])
    order = np.argsort(flat, kind="stable")
    wanted = sparsity * size.sum()
    count = int(np.searchsorted(np.cumsum(size[order]), wanted - 1e-6)) + 1
    if count > len(flat) - len(costs):
        most = float(size[order][: len(flat) - len(costs)].sum() / size.sum())
        raise PlanError(
            "So many zeros would leave a layer without weights.", expected=f"sparsity under {most:.4f}",
            got=f"{sparsity:g}", next_step="ask for fewer zeros (goal: sparsity)",
        )  # fmt: skip
    goes = np.zeros(len(flat), dtype=bool)
    goes[order[:count]] = True
    return np.split(goes, np.cumsum([len(cost) for cost in costs])[:-1])


def record(zeros: Mapping[str, torch.Tensor]) -> dict[str, ZeroedLayer]:
    """As a plan has them."""
    return {
        name: ZeroedLayer(
            size=where.numel(),
            zeros=int(where.sum()),
            bits=base64.b64encode(np.packbits(where.flatten().numpy()).tobytes()).decode(),
        )
        for name, where in zeros.items()
    }


def read(zeroed: ZeroedLayer, name: str) -> torch.Tensor:
    """Where a layer's weights are zero, in the order of its weight.

    Raises:
        PlanError: The bits aren't the numbers beside them.
    """
    try:
        bits = np.unpackbits(np.frombuffer(base64.b64decode(zeroed.bits, validate=True), dtype=np.uint8))
    except ValueError:
        bits = np.zeros(0, dtype=np.uint8)
    if len(bits) != -(-zeroed.size // 8) * 8 or bits[zeroed.size :].any() or bits.sum() != zeroed.zeros:
        raise PlanError(
            "The plan's zeros don't agree with each other.", where=f"zeros.{name}.bits",
            expected=f"{zeroed.size} bits in base64, {zeroed.zeros} of them set", got=f"{bits.sum()} of {len(bits)}",
        )  # fmt: skip
    return torch.from_numpy(bits[: zeroed.size].astype(bool))
