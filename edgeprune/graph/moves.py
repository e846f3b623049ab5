"""Rules of operators that move data: torch runs the operator itself on the labels, and what a reshape or a
split demands of the channels becomes a constraint."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from edgeprune.graph.labels import distinct, rows, varies
from edgeprune.graph.run import Run, constant, nothing, resized


def move(run: Run, *args: Any, **kwargs: Any) -> Any:
    return run.op(*args, **kwargs)


def cat(run: Run, tensors: list[torch.Tensor], dim: int = 0) -> torch.Tensor:
    dim %= tensors[0].dim()
    lengths = [t.shape[dim] for t in tensors]
    sized = [t.narrow(dim, 0, 1) for t in tensors]
    stored = distinct(*sized) if len({t.shape for t in sized}) == 1 else tuple(sized)
    parts = []
    for tensor, small, length in zip(tensors, stored, lengths, strict=True):
        shape = [length if d == dim else n for d, n in enumerate(small.shape)]
        index = tuple(slice(0, n) for n in shape)
        parts.append(tensor[index] if tensor.stride(dim) else small.expand(shape))
    return torch.cat(parts, dim).expand(run.shape)


def stack(run: Run, tensors: list[torch.Tensor], dim: int = 0) -> torch.Tensor:
    dim %= tensors[0].dim() + 1
    return cat(run, [t.unsqueeze(dim) for t in tensors], dim)


def reshape(run: Run, x: torch.Tensor, *shape: Any) -> torch.Tensor:
    """reshape, view, unflatten. A channel axis that is taken apart into a grid must stay a grid: the longest
    axis of the grid may shrink (the last of several), by equally many channels in every row."""
    out = x.reshape(run.shape)
    before = [d for d in range(x.dim()) if varies(x, d)]
    after = [d for d in range(out.dim()) if varies(out, d)]
    if len(after) > max(len(before), 1):
        shrinking = max(_regridded(x.shape, out.shape, after), key=lambda d: (out.shape[d], d))
        run.labels.equal_counts(rows(out, shrinking), f"{run.place} lays the channels out as a grid")
    return out


def _regridded(before: Sequence[int], after: Sequence[int], axes: list[int]) -> list[int]:
    """Those of `axes` that aren't taken over as they were at the front or the back."""
    front = next((i for i, (a, b) in enumerate(zip(before, after, strict=False)) if a != b), 0)
    back = next((i for i, (a, b) in enumerate(zip(before[::-1], after[::-1], strict=False)) if a != b), 0)
    return [d for d in axes if front <= d < len(after) - back] or axes


def flatten(run: Run, x: torch.Tensor, start_dim: int = 0, end_dim: int = -1) -> torch.Tensor:
    return x.flatten(start_dim, end_dim)


def chunk(run: Run, x: torch.Tensor, chunks: int, dim: int = 0) -> list[torch.Tensor]:
    return split(run, x, -(-x.shape[dim] // chunks), dim)


def split(run: Run, x: torch.Tensor, size: int | list[int], dim: int = 0) -> list[torch.Tensor]:
    """Pieces of one length must keep one length; pieces of several lengths keep theirs in every row."""
    pieces = list(x.split(size, dim))
    if varies(x, dim):
        why = f"{run.place} splits the channels"
        by_length: dict[int, list[list[int]]] = {}
        for piece in pieces:
            by_length.setdefault(piece.shape[dim], []).extend(rows(piece, dim))
        for parts in by_length.values():
            run.labels.equal_counts(parts, why)
    return pieces


def take(run: Run, x: torch.Tensor, dim: int = 0, *args: Any) -> torch.Tensor:
    """slice, select, narrow: their bounds are numbers in the program, so channels that they tell apart must
    keep their places."""
    out = run.op(x, dim, *args)
    if varies(x, dim) and (out.dim() < x.dim() or out.shape[dim] < x.shape[dim]):
        run.labels.lock(x, f"{run.place} takes channels by fixed positions")
    return out


def pad(run: Run, x: torch.Tensor, widths: list[int], mode: str = "constant", value: Any = None) -> torch.Tensor:
    """Padding along the channels adds positions that hold none; along the image it changes nothing."""
    for i in range(len(widths) // 2):
        dim, low, high = x.dim() - 1 - i, widths[2 * i], widths[2 * i + 1]
        if dim == 1 and (low or high):
            x = x[:, max(0, -low) : x.shape[1] - max(0, -high)]
            edges = [nothing((*x.shape[:1], max(0, n), *x.shape[2:])) for n in (low, high)]
            x = torch.cat((edges[0], x, edges[1]), 1)
        else:
            x = resized(run, x, [dim])
    return x.expand(run.shape)


def pixel_shuffle(run: Run, x: torch.Tensor, factor: int) -> torch.Tensor:
    """factor**2 channels become one at a larger size: they go together."""
    batch, channels, height, width = x.shape
    cells = x.reshape(batch, channels // factor**2, factor**2, height, width)
    merged = run.labels.join_along(cells, (2,), f"{run.place} shuffles it with what is no channel")
    return merged[:, :, 0, :1, :1].expand(run.shape)


def pixel_unshuffle(run: Run, x: torch.Tensor, factor: int) -> torch.Tensor:
    return x[:, :, :1, :1].repeat_interleave(factor**2, 1).expand(run.shape)


def pick(run: Run, x: torch.Tensor, dim: int, index: torch.Tensor, **__: Any) -> torch.Tensor:
    """gather, index_select: which positions are read is data, so they are all one."""
    run.labels.lock(index, f"{run.place} picks positions by it")
    why = f"{run.place} picks positions by data"
    if varies(x, dim) and all(not varies(x, d) for d in range(x.dim()) if d != dim % x.dim()):
        run.labels.lock(x, why)
        return constant(run)
    return run.labels.join_along(x, (dim,), why).expand(run.shape)


def index(run: Run, x: torch.Tensor, indices: list[torch.Tensor | None]) -> torch.Tensor:
    """x[i, j, :, …] with tensors: the indexed axes become those of the index."""
    taken = [d for d, i in enumerate(indices) if i is not None]
    for i in indices:
        if i is not None:
            run.labels.lock(i, f"{run.place} picks positions by it")
    why = f"{run.place} picks positions by data"
    if all(not varies(x, d) for d in range(x.dim()) if d not in taken) or taken != list(range(taken[0], taken[-1] + 1)):
        run.labels.lock(x, why)
        return constant(run)
    kept = run.labels.join_along(x, taken, why)
    rest = [d for d in range(x.dim()) if d not in taken]
    new = len(run.shape) - len(rest)
    return kept.reshape([*kept.shape[: taken[0]], *[1] * new, *kept.shape[taken[-1] + 1 :]]).expand(run.shape)
