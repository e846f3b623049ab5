"""Rules of operators that mix channels: softmax, reductions, matrix products. What a cut would change is locked."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch.utils._pytree import tree_map

from edgeprune.graph.labels import varies
from edgeprune.graph.run import Run, constant, lock_beside_constants, nothing


def softmax(run: Run, x: torch.Tensor, dim: int, *_: Any) -> torch.Tensor:
    """A channel that is cut leaves the denominator, one that is silenced doesn't: so none may go."""
    if varies(x, dim):
        run.labels.lock(x, f"{run.place} runs over these channels")
    return x


def reduce(run: Run, x: torch.Tensor, dim: Any = None, *_: Any, **__: Any) -> Any:
    """sum, mean, max … over axes. Over a stack of feature maps it is their element-wise sum: they meet. Over
    the channels themselves the result would change by a cut: locked."""
    dims = list(range(x.dim())) if dim is None or dim == [] else [dim] if isinstance(dim, int) else list(dim)
    dims = [d % x.dim() for d in dims]
    reduced = [d for d in dims if varies(x, d)]
    if reduced and not any(varies(x, d) for d in range(x.dim()) if d not in dims):
        run.labels.lock(x, f"{run.place} runs over these channels")
        return constant(run)
    kept = run.labels.join_along(x, dims, f"{run.place} adds it to what is no channel")

    def like(value: torch.Tensor) -> torch.Tensor:
        shape = [n for d, n in enumerate(kept.shape) if d not in dims] if value.dim() < kept.dim() else kept.shape
        return kept.reshape(shape).expand(value.shape)

    return tree_map(like, run.value)


def ranked(run: Run, x: torch.Tensor, k: Any = None, dim: int = -1, *_: Any, **__: Any) -> Any:
    """topk, sort: positions change places by data."""
    if varies(x, dim):
        run.labels.lock(x, f"{run.place} ranks these channels")
        return constant(run)
    merged = x.narrow(dim, 0, 1)
    return tree_map(lambda v: merged.expand(v.shape), run.value)


def matmul(run: Run, a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """out[..., i, j] = sum over k of a[..., i, k] b[..., k, j]: channels along k are contracted, and join
    between the factors; channels along i or j are carried."""
    labels, shape = run.labels, run.shape
    inner = run.inputs[0][-1]
    if varies(a, -1) or varies(b, -2):
        if varies(a, -2) or varies(b, -1):
            labels.lock(a, f"{run.place} contracts and carries channels at once")
            labels.lock(b, f"{run.place} contracts and carries channels at once")
        left, right = a.movedim(-1, -2)[..., :1], b[..., :1]
        lock_beside_constants(run, left, right)
        contracted = labels.join(left, right)
        run.spend(run.node, shape[-2] * shape[-1], contracted.flatten().tolist(), None)
        return nothing(shape)
    left, right = a[..., :1], b[..., :1, :]
    if varies(a, -2) and varies(b, -1):
        labels.lock(a, f"{run.place} multiplies channels with channels")
        labels.lock(b, f"{run.place} multiplies channels with channels")
    carried, dim = (left, -2) if varies(left, -2) else (right, -1)
    idle = right if carried is left else left
    labels.lock(idle, f"{run.place} spreads it over other channels")
    carried = carried.expand(*shape[:-2], *carried.shape[-2:])
    if varies(carried, dim):
        run.spend(run.node, shape[-1 if dim == -2 else -2] * inner, carried.flatten().tolist(), None)
    else:
        run.spend(run.node, math.prod(shape) * inner, None, None)
    return carried.expand(shape)


def attention(run: Run, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, *_: Any, **options: Any) -> torch.Tensor:
    """scaled_dot_product_attention over the last two axes; its default scale is computed from q's width."""
    if options.get("scale") is None:
        for tensor in (q, k):
            run.labels.lock(tensor, f"{run.place} scales by the width of q")
    lock_beside_constants(run, q[..., :1, :], k[..., :1, :])
    contracted = run.labels.join(q[..., :1, :], k[..., :1, :])
    rows_, columns = run.inputs[0][-2], run.inputs[1][-2]
    run.spend(run.node, rows_ * columns, contracted.flatten().tolist(), None)
    carried = v[..., :1, :]
    run.spend(run.node, rows_ * columns, carried.flatten().tolist(), None)
    return carried.expand(run.shape)
