"""The operators that own weights: what they read and what channels they make. See `rules.py` for the others.

Rules:
- A layer makes one fresh label an output channel, and reads its input's labels along the channel axis. Where
  these differ at other positions too (an image position, a query), the positions are joined.
- Depthwise: the output is the input's channel. Grouped: every group stays equally wide on both sides.
- A weight that no layer of torch owns by itself (packed projections of `nn.MultiheadAttention`) is fixed:
  what it reads is locked, what it makes has no channels.
- A normalisation layer carries its channels.
"""

from __future__ import annotations

import math
from typing import Any

import torch

from edgeprune.graph.labels import line, varies
from edgeprune.graph.run import Run, State, nothing


def _read(run: Run, x: torch.Tensor, dim: int, where: str) -> list[int]:
    others = [d for d in range(x.dim()) if d != dim % x.dim()]
    return line(run.labels.join_along(x, others, f"{where} reads it together with what is no channel"), dim)


def batch_norm(run: Run, x: torch.Tensor, weight: Any, bias: Any, mean: Any, *_: Any) -> torch.Tensor:
    state = next((s for s in (weight, mean) if isinstance(s, State)), None)
    if state is None:  # neither weights nor statistics: nothing to cut
        return x
    run.labels.layer(state.module, "batch_norm", _read(run, x, 1, state.module), [], 1, False)
    return x


def layer_norm(run: Run, x: torch.Tensor, shape: list[int], *_: Any) -> torch.Tensor:
    """layer_norm: mean and variance are taken over the channels, a silenced one counts, a cut one doesn't."""
    if any(varies(x, -1 - i) for i in range(len(shape))):
        run.labels.lock(x, f"{run.place} takes mean and variance over these channels")
    return x


def group_norm(run: Run, x: torch.Tensor, *_: Any) -> torch.Tensor:
    run.labels.lock(x, f"{run.place} takes mean and variance over these channels")
    return x


def linear(run: Run, x: torch.Tensor, weight: Any, bias: Any = None) -> torch.Tensor:
    rows = math.prod(run.shape[:-1])
    if not _owned(weight):
        return _fixed(run, x, weight, rows * x.shape[-1] * run.shape[-1])
    labels, read = run.labels, _read(run, x, -1, weight.module)
    labels.layer(weight.module, "linear", labels.fresh(weight.shape[0]), read, 1, False)
    made = labels.layers[weight.module].out
    run.spend(weight.module, rows, read, made)
    return torch.tensor(made).expand(run.shape)


def conv2d(
    run: Run, x: torch.Tensor, weight: Any, bias: Any = None, stride: Any = 1, padding: Any = 0,
    dilation: Any = 1, groups: int = 1,
) -> torch.Tensor:  # fmt: skip
    return _convolution(run, x, weight, "conv", groups, math.prod(run.shape[2:]))


def conv_transpose2d(
    run: Run, x: torch.Tensor, weight: Any, bias: Any = None, stride: Any = 1, padding: Any = 0,
    output_padding: Any = 0, groups: int = 1, dilation: Any = 1,
) -> torch.Tensor:  # fmt: skip
    return _convolution(run, x, weight, "conv_transpose", groups, math.prod(run.inputs[0][2:]))


def _convolution(run: Run, x: torch.Tensor, weight: Any, kind: str, groups: int, positions: int) -> torch.Tensor:
    labels, made, width = run.labels, run.shape[1], x.shape[1]
    if not _owned(weight):
        kernel = math.prod(run.inputs[1][2:])
        return _fixed(run, x, weight, positions * kernel * width * made // groups)
    read = _read(run, x, 1, weight.module)
    kernel = math.prod(weight.shape[2:])
    depthwise = groups > 1 and groups == width
    out = [channel for channel in read for _ in range(made // groups)] if depthwise else labels.fresh(made)
    if groups > 1 and not depthwise:
        for side in (read, out):
            parts = [side[i : i + len(side) // groups] for i in range(0, len(side), len(side) // groups)]
            labels.equal_counts(parts, f"{weight.module} is a convolution in {groups} groups")
    labels.layer(weight.module, kind, out, read, groups, depthwise)
    out = labels.layers[weight.module].out
    if depthwise:
        run.spend(weight.module, positions * kernel, None, out)
    else:
        run.spend(weight.module, positions * kernel / groups, read, out)
    return torch.tensor(out).view(1, -1, 1, 1).expand(run.shape)


def _owned(weight: Any) -> bool:
    return isinstance(weight, State) and weight.name.endswith(".weight")


def _fixed(run: Run, x: torch.Tensor, weight: Any, macs: int) -> torch.Tensor:
    name = weight.name if isinstance(weight, State) else "a computed weight"
    run.labels.lock(x, f"{run.place} reads it through {name}, which no layer of torch owns by itself")
    run.spend(run.node, macs, None, None)
    return nothing(run.shape)
