"""Rules of element-wise operators: one tensor carries its channels through, several join theirs."""

from __future__ import annotations

from typing import Any

import torch

from edgeprune.graph.labels import Labels, varies
from edgeprune.graph.moves import chunk
from edgeprune.graph.run import Run, State, fixed, holds_channels, lock_beside_constants, resized


def carry(run: Run, x: torch.Tensor, *others: Any, **__: Any) -> torch.Tensor:
    """The same channels, possibly at another image size (axes behind the second). What else it reads (where to
    sample, where to clamp) must keep its width."""
    for other in others:
        if isinstance(other, torch.Tensor):
            run.labels.lock(other, f"{run.place} is steered by it")
    return x if tuple(x.shape) == run.shape else resized(run, x, range(2, x.dim())).expand(run.shape)


def first(run: Run, x: torch.Tensor, *_: Any) -> torch.Tensor:
    """type_as: of the other only the type is read."""
    return x


def meet(run: Run, a: Any, b: Any = None, *_: Any, **__: Any) -> torch.Tensor:
    """Element by element. What is spread over another's channels (a gate of one channel, a constant with a
    width of its own) isn't one of them: it is locked, or locks them."""
    tensors = [t for t in (a, b) if isinstance(t, torch.Tensor)]
    if len(tensors) == 1:
        return tensors[0].expand(run.shape)
    x, y = (t.reshape([1] * (len(run.shape) - t.dim()) + list(t.shape)) for t in tensors)
    for one, other in ((x, y), (y, x)):
        wider = [d for d in range(one.dim()) if varies(one, d) and not varies(other, d)]
        if not wider:
            continue
        if holds_channels(other):
            run.labels.lock(other, f"{run.place} spreads it over other channels")
        elif any(other.shape[d] > 1 and other.stride(d) for d in wider):
            run.labels.lock(one, f"{run.place} meets a constant of fixed width")
        return one.expand(run.shape)
    lock_beside_constants(run, x, y)
    return run.labels.join(x, y).expand(run.shape)


def meet_three(run: Run, condition: Any, a: Any, b: Any, *_: Any, **__: Any) -> torch.Tensor:
    return meet(run, meet(run, a, b), condition)


def copy_into(run: Run, target: torch.Tensor, source: torch.Tensor, *_: Any) -> torch.Tensor:
    """Written in place, into a tensor whose other readers were labelled before: only like into like is free."""
    source = source.expand(target.shape)
    lock_beside_constants(run, target, source)
    return run.labels.join(target, source)


def prelu(run: Run, x: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    return meet(run, x, weight.reshape([1, -1, *[1] * (x.dim() - 2)])) if weight.numel() > 1 else x


def glu(run: Run, x: torch.Tensor, dim: int = -1) -> torch.Tensor:
    return meet(run, *chunk(run, x, 2, dim))


def loose(labels: Labels, x: State) -> torch.Tensor:
    """A parameter or buffer that no layer owns (a layer scale): one label an element of its one long axis."""
    long = [d for d, size in enumerate(x.shape) if size > 1]
    if len(long) != 1:
        return fixed(x.shape)
    known = labels.layers.get(x.name)
    out = known.out if known else labels.fresh(x.shape[long[0]])
    labels.layer(x.name, "parameter", out, [], 1, False)
    return torch.tensor(out).reshape([-1 if d == long[0] else 1 for d in range(len(x.shape))])
