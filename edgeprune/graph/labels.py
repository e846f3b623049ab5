"""Running a traced program on labels: which channels of which tensors are one and the same.

Every channel that a layer makes gets an integer label. A tensor of the program is stood in for by an
integer tensor of the same shape that holds, at every position, the label of the channel there, or `NONE`.
Axes along which the labels don't differ (most of all the image's height and width) are expanded, not
stored: their stride is 0, so that a label tensor costs as much as its channels, at every image size.
Operators that only move data are run by torch itself on these tensors; operators with a meaning for
channels have a rule in `rules.py` and speak to this file's `Labels`:

- `fresh` makes labels, `join` says that two channels live or die together (union-find);
- `produce` and `read` note which position of which layer's weight holds which channel;
- `lock` says that a channel can't be cut, and why;
- `equal_counts` notes that parts must stay equally long. Nothing is joined for that: which channels of
  each part stay is left to whoever chooses;
- `spend` notes multiply-accumulates as coefficient x (channels read) x (channels made).
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

import torch

#: The label of a position that holds no channel that could be cut.
NONE = -1


@dataclass
class LayerLabels:
    """The labels at the positions of one layer's weight.

    Attributes:
        kind: conv, conv_transpose, batch_norm, linear or parameter.
        out: One label per output channel.
        in_: One label per input channel; empty for a batch_norm or a parameter.
        groups: Groups of a convolution.
        depthwise: Every input channel is convolved alone.
    """

    kind: str
    out: list[int]
    in_: list[int] = field(default_factory=list)
    groups: int = 1
    depthwise: bool = False


@dataclass
class Spending:
    """`coefficient` x count(`a`) x count(`b`) multiply-accumulates; a missing side counts as one."""

    where: str
    coefficient: float
    a: list[int] | None
    b: list[int] | None


class Labels:
    """What has been learned of the channels so far. Mutated by the rules, read by `channels.build`."""

    def __init__(self) -> None:
        self._parent: list[int] = []
        self.layers: dict[str, LayerLabels] = {}
        self.constraints: dict[tuple[tuple[int, ...], ...], str] = {}
        self.locked: dict[int, str] = {}
        self.spendings: list[Spending] = []

    def fresh(self, count: int) -> list[int]:
        first = len(self._parent)
        self._parent.extend(range(first, first + count))
        return list(range(first, first + count))

    def find(self, label: int) -> int:
        """The representative of everything that `label` was joined with (`NONE` stands for itself)."""
        if label == NONE:
            return NONE
        root = label
        while self._parent[root] != root:
            root = self._parent[root]
        while self._parent[label] != root:
            self._parent[label], label = root, self._parent[label]
        return root

    def join(self, a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
        """Join two label tensors position by position (broadcast); `NONE` joins with nothing."""
        a, b = torch.broadcast_tensors(a, b)
        (x, y), shape = distinct(a, b), a.shape
        both = (x != NONE) & (y != NONE) & (x != y)
        count = len(self._parent)
        for pair in (x[both] * count + y[both]).unique().tolist():
            self.join_one(*divmod(pair, count))
        return torch.where(x == NONE, y, x).expand(shape)

    def join_along(self, labels: torch.Tensor, dims: Iterable[int], why: str) -> torch.Tensor:
        """Join everything along `dims`; returns the labels with one position left along each of them. Channels
        that meet a position without one along these axes are locked."""
        for dim in dims:
            if varies(labels, dim):
                (stored,) = distinct(labels)
                mixed = (stored == NONE).any(dim, keepdim=True) & (stored != NONE)
                self.lock(stored[mixed], why)
                first, *others = _without_repeats(stored, dim).unbind(dim)
                for other in others:
                    self.join(first, other)
                merged = stored.amax(dim, keepdim=True)  # NONE is below every label
                labels = merged.expand([1 if d == dim % labels.dim() else n for d, n in enumerate(labels.shape)])
            else:
                labels = labels.narrow(dim, 0, 1)
        return labels

    def join_one(self, a: int, b: int) -> None:
        if a == NONE or b == NONE:
            return
        x, y = self.find(a), self.find(b)
        self._parent[max(x, y)] = min(x, y)  # the earlier producer names the channel

    def lock(self, labels: torch.Tensor | list[int], why: str) -> None:
        for label in distinct(labels)[0].unique().tolist() if isinstance(labels, torch.Tensor) else labels:
            if label != NONE:
                self.locked.setdefault(label, why)

    def equal_counts(self, parts: list[list[int]], why: str) -> None:
        if any(NONE in part for part in parts):
            self.lock([label for part in parts for label in part], f"{why}, some of which can't be cut")
        elif len(parts) > 1 and all(parts):
            self.constraints.setdefault(tuple(tuple(p) for p in parts), why)

    def layer(self, name: str, kind: str, out: list[int], in_: list[int], groups: int, depthwise: bool) -> None:
        """Note a layer's labels. A layer that runs more than once has its channels joined across the runs."""
        known = self.layers.get(name)
        if known is None:
            self.layers[name] = LayerLabels(kind, out, in_, groups, depthwise)
            return
        for mine, theirs in zip(known.out + known.in_, out + in_, strict=True):
            if NONE in (mine, theirs) and mine != theirs:
                self.lock([mine, theirs], f"{name} runs more than once, once on what can't be cut")
            self.join_one(mine, theirs)

    def spend(self, where: str, coefficient: float, a: list[int] | None, b: list[int] | None) -> None:
        self.spendings.append(Spending(where, coefficient, a, b))


def distinct(*labels: torch.Tensor) -> tuple[torch.Tensor, ...]:
    """The same tensors with one position left along every axis in which none of them stores more."""
    for dim, size in enumerate(labels[0].shape):
        if size > 1 and all(t.stride(dim) == 0 or t.shape[dim] == 1 for t in labels):
            labels = tuple(t.narrow(dim, 0, 1) for t in labels)
    return labels


def varies(labels: torch.Tensor, dim: int) -> bool:
    """Whether positions along `dim` hold different channels."""
    if labels.shape[dim] <= 1 or labels.stride(dim) == 0:
        return False
    (stored,) = distinct(labels)
    return bool((stored != stored.narrow(dim, 0, 1)).any())


def _without_repeats(labels: torch.Tensor, dim: int) -> torch.Tensor:
    """The slices along `dim` that differ from the one before."""
    slices = labels.movedim(dim, 0)
    changes = (slices[1:] != slices[:-1]).flatten(1).any(1)
    return slices[torch.cat((changes.new_ones(1), changes))].movedim(0, dim)


def line(labels: torch.Tensor, dim: int) -> list[int]:
    """The labels along `dim`, read at position 0 of every other axis."""
    for other in range(labels.dim()):
        if other != dim % labels.dim():
            labels = labels.narrow(other, 0, 1)
    read: list[int] = labels.flatten().tolist()
    return read


def rows(labels: torch.Tensor, dim: int) -> list[list[int]]:
    """The distinct lines of labels along `dim`, in order of appearance; none if they hold no channel at all."""
    (stored,) = distinct(labels)
    lines = stored.movedim(dim, -1)
    lines = lines.expand(*lines.shape[:-1], labels.shape[dim]).reshape(-1, labels.shape[dim])
    seen = dict.fromkeys(map(tuple, lines.tolist()))
    return [list(row) for row in seen] if any(label != NONE for row in seen for label in row) else []
