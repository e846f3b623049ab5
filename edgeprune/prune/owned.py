"""What each channel owns, as tensors: for scores, and for methods that look at a channel, or mute it, while its model
trains. Pure.

Rules:
- Channels that can be cut are numbered through (for scores all are); every other position of a parameter belongs to
  nobody.
- A channel owns the rows that make it, its BatchNorm parameters, and the columns that read it; an entry where a row
  meets a column has two owners.
- A channel's *gates* are what mutes it by itself and can open it again: scale and shift of its BatchNorms, since the
  rows that make it and the columns that read it go on having gradients to learn by; without a BatchNorm, its rows.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from edgeprune.graph.channels import ChannelGraph, Layer


@dataclass(frozen=True, eq=False)
class Part:
    """One side of one parameter.

    Attributes:
        parameter: Its name.
        kind: Of its layer, as `graph.channels.Layer` has it.
        side: 'out' or 'in'.
        numbers: Channel at each position, int64, of a shape that is spread over the parameter's; the number of
            channels stands for nobody's.
    """

    parameter: str
    kind: str
    side: Literal["out", "in"]
    numbers: torch.Tensor

    @property
    def is_norm(self) -> bool:
        return self.kind == "batch_norm"


@dataclass(frozen=True, eq=False)
class Owned:
    """All parts of a model.

    Attributes:
        groups: Channel group -> the numbers of its channels.
        parts: Of every parameter.
    """

    groups: Mapping[str, range]
    parts: tuple[Part, ...]

    @staticmethod
    def of(graph: ChannelGraph, model: nn.Module) -> Owned:
        """Those of the model that `graph` was built from; channels that can be cut."""
        found = [index for cluster in graph.clusters if graph.locked(cluster) is None for index in cluster]
        return Owned._of(graph, dict(model.named_parameters()), found)

    @staticmethod
    def of_all(graph: ChannelGraph, values: Mapping[str, torch.Tensor]) -> Owned:
        """Those of these parameters alone; locked channels too."""
        return Owned._of(graph, values, range(len(graph.groups)))

    @staticmethod
    def _of(graph: ChannelGraph, like: Mapping[str, torch.Tensor], indices: Iterable[int]) -> Owned:
        groups: dict[str, range] = {}
        starts: dict[int, int] = {}
        count = 0
        for index in indices:
            group = graph.groups[index]
            starts[index], groups[group.name] = count, range(count, count + group.size)
            count += group.size
        shapes = {name: tuple(value.shape) for name, value in like.items()}
        parts = []
        for name, layer in graph.layers.items():
            for side in ("out", "in"):
                line = [count if c is None or c[0] not in starts else starts[c[0]] + c[1] for c in layer.side(side)]
                if any(number < count for number in line):
                    parts += _parts(name, layer, side, line, shapes)
        return Owned(groups, tuple(parts))

    @staticmethod
    def silent(graph: ChannelGraph, model: nn.Module) -> tuple[npt.NDArray[np.bool_], Owned]:
        """Of every channel whether nothing of the image gets through it: its gates or its rows are all zero."""
        owned = Owned.of(graph, model)
        sizes = {name: p.detach().abs() for name, p in model.named_parameters()}
        made = owned.sums(sizes, owned.rows)
        return ((owned.gate_sums(sizes) == 0) | (made == 0)).cpu().numpy(), owned

    @property
    def count(self) -> int:
        """Channels in all."""
        return sum(map(len, self.groups.values()))

    @property
    def norms(self) -> tuple[Part, ...]:
        """BatchNorm scales."""
        return tuple(p for p in self.parts if p.is_norm and p.parameter.endswith(".weight"))

    @property
    def rows(self) -> tuple[Part, ...]:
        """What makes channels, BatchNorm aside."""
        return tuple(p for p in self.parts if p.side == "out" and not p.is_norm)

    @property
    def normed(self) -> torch.Tensor:
        """Of every channel, and at the end of nobody, whether it passes a BatchNorm."""
        found = torch.zeros(self.count + 1, dtype=torch.bool)
        for part in self.norms:
            found[part.numbers] = True
        found[-1] = False
        return found

    def gates(self) -> list[tuple[Part, torch.Tensor]]:
        """The parts that hold gates, each with the channels that have them there: bool, nobody's last."""
        normed = self.normed
        open_ = ~normed
        open_[-1] = False
        return [(p, normed) for p in self.parts if p.is_norm] + [(p, open_) for p in self.rows]

    def sums(self, values: Mapping[str, torch.Tensor], parts: Iterable[Part] | None = None) -> torch.Tensor:
        """One number a channel: `values` (parameter name -> tensor of its shape) over what it owns of `parts`."""
        first = next(iter(values.values()))
        device = first.device
        # FP16 can't hold such sums; FP64 is what scores are computed in
        total = torch.zeros(self.count + 1, device=device, dtype=torch.promote_types(first.dtype, torch.float32))
        for part in self.parts if parts is None else parts:
            if part.parameter in values:
                numbers, value = part.numbers.to(device), values[part.parameter]
                along = [d for d in range(value.dim()) if numbers.shape[d] == 1]
                value = value.sum(along, keepdim=True) if along else value
                total.index_add_(0, numbers.flatten(), value.flatten().to(total.dtype))
        return total[:-1]

    def gate_sums(self, values: Mapping[str, torch.Tensor]) -> torch.Tensor:
        """The same over gates alone."""
        device = next(iter(values.values())).device
        total = torch.zeros(self.count, device=device)
        for part, theirs in self.gates():
            total += self.sums(values, (part,)) * theirs[:-1].to(device)
        return total


def _parts(
    name: str, layer: Layer, side: Literal["out", "in"], line: list[int], shapes: Mapping[str, tuple[int, ...]]
) -> list[Part]:
    numbers = torch.tensor(line)
    if layer.kind == "parameter":
        return [Part(name, layer.kind, side, numbers.view(shapes[name]))] if name in shapes else []
    found = []
    weight = shapes.get(f"{name}.weight")
    if weight is not None and not (side == "in" and layer.depthwise):  # that weight has one axis of channels
        found.append(Part(f"{name}.weight", layer.kind, side, _over_weight(numbers, layer, side, weight)))
    if side == "out" and f"{name}.bias" in shapes:
        found.append(Part(f"{name}.bias", layer.kind, side, numbers))
    return found


def _over_weight(numbers: torch.Tensor, layer: Layer, side: str, shape: tuple[int, ...]) -> torch.Tensor:
    """(out, in / groups, …), transposed (in, out / groups, …): rows as they are, columns a line a group of rows."""
    rest = (1,) * (len(shape) - 2)
    if layer.kind == "batch_norm":
        return numbers
    if side == ("in" if layer.kind == "conv_transpose" else "out"):
        return numbers.view(-1, 1, *rest)
    lines = numbers.view(layer.groups, -1)
    return lines.repeat_interleave(shape[0] // layer.groups, 0).view(*shape[:2], *rest)
