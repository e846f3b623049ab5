"""Running a traced program on labels: which channels of which tensors are one and the same.

Every channel that a layer makes gets an integer label. A tensor of the program is stood in for by an
integer tensor of the same shape that holds, at every position, the label of the channel there, or `NONE`.
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

from dataclasses import dataclass, field

import torch

#: The label of a position that holds no channel that could be cut.
NONE = -1


@dataclass
class LayerLabels:
    """The labels at the positions of one layer's weight.

    Attributes:
        kind: conv, batch_norm, linear or parameter.
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
        pairs = torch.stack((a.flatten(), b.flatten()), 1)
        for x, y in pairs[(pairs >= 0).all(1)].unique(dim=0).tolist():
            self.join_one(x, y)
        return torch.where(a == NONE, b, a)

    def join_one(self, a: int, b: int) -> None:
        if a == NONE or b == NONE:
            return
        x, y = self.find(a), self.find(b)
        self._parent[max(x, y)] = min(x, y)  # the earlier producer names the channel

    def lock(self, labels: torch.Tensor | list[int], why: str) -> None:
        flat = labels.unique().tolist() if isinstance(labels, torch.Tensor) else labels
        for label in flat:
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


def varies(labels: torch.Tensor, dim: int) -> bool:
    """Whether positions along `dim` hold different channels."""
    return bool((labels != labels.narrow(dim, 0, 1)).any()) if labels.shape[dim] > 1 else False


def along(labels: torch.Tensor, dim: int) -> list[int] | None:
    """The labels along `dim`, read at position 0 of every other dim; None if the others vary too."""
    if any(varies(labels, d) for d in range(labels.dim()) if d != dim % labels.dim()):
        return None
    line: list[int] = labels.movedim(dim, -1).reshape(-1, labels.shape[dim])[0].tolist()
    return line


def rows(labels: torch.Tensor, dim: int) -> list[list[int]]:
    """The distinct lines of labels along `dim`, in order of appearance, without those that hold no channel."""
    lines = labels.movedim(dim, -1).reshape(-1, labels.shape[dim])
    seen = dict.fromkeys(tuple(line) for line in lines.unique(dim=0).tolist())
    return sorted(list(line) for line in seen if NONE not in line)
