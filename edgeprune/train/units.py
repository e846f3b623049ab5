"""What schedules mute while a model trains: channels, or single weights. Pure.

Rules:
- Units are numbered through, group by group: a channel group's channels, a layer's weights. One number more, the last,
  is nobody's and is never muted.
- A *channel* is muted by its gates (prune/owned.py): scale and shift of its BatchNorms, or its rows where it has none.
  Its other weights go on standing, so that its gates have a gradient to be grown by.
- A *weight* is muted by being zero, and is its own gate. How many of a layer's will be is what the plan's zeros say.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property

import torch

from edgeprune.prune.owned import Owned, Part
from edgeprune.train.whole import Whole

#: A parameter's name -> a tensor of its shape.
ByName = Mapping[str, torch.Tensor]
#: A parameter's name, and where in it the units are that are muted.
Places = list[tuple[str, torch.Tensor]]


@dataclass(frozen=True, eq=False)
class Units(ABC):
    """Units of one kind. Sums are over what a unit has of `values`, a number a unit, on the CPU.

    Attributes:
        groups: Group -> numbers of its units.
        stay: Group -> units that will stay.
    """

    groups: Mapping[str, range]
    stay: Mapping[str, int]

    @abstractmethod
    def sums(self, values: ByName) -> torch.Tensor:
        """Over all that is a unit's own."""

    @abstractmethod
    def gates(self, values: ByName) -> torch.Tensor:
        """Over what mutes it."""

    @abstractmethod
    def filters(self, values: ByName) -> torch.Tensor:
        """Over what makes it."""

    @abstractmethod
    def places(self, muted: torch.Tensor) -> Places:
        """What mutes units, where these are."""

    @abstractmethod
    def filter_places(self, muted: torch.Tensor) -> Places:
        """What makes units, where these are."""

    def nobody(self) -> torch.Tensor:
        """Nobody is muted."""
        return torch.zeros(sum(map(len, self.groups.values())) + 1, dtype=torch.bool)

    def lowest(self, values: torch.Tensor, stay: Mapping[str, int] | None = None) -> torch.Tensor:
        """All but the `stay` highest of every group; of equals those at the end. Nobody isn't."""
        found = self.nobody()
        for name, numbers in self.groups.items():
            order = values[numbers.start : numbers.stop].argsort(descending=True, stable=True)
            found[numbers.start + order[(stay or self.stay)[name] :]] = True
        return found


@dataclass(frozen=True, eq=False)
class Channels(Units):
    """Channels that can be cut."""

    owned: Owned

    @staticmethod
    def of(whole: Whole) -> Channels:
        return Channels(whole.owned.groups, whole.widths, whole.owned)

    def sums(self, values: ByName) -> torch.Tensor:
        return self.owned.sums(values).cpu()

    def gates(self, values: ByName) -> torch.Tensor:
        return self.owned.gate_sums(values).cpu()

    def filters(self, values: ByName) -> torch.Tensor:
        rows = [part for part in self.owned.rows if part.parameter.endswith(".weight") or part.kind == "parameter"]
        return self.owned.sums(values, rows).cpu()

    def places(self, muted: torch.Tensor) -> Places:
        return _places(((part, muted & theirs) for part, theirs in self._gates))

    @cached_property
    def _gates(self) -> list[tuple[Part, torch.Tensor]]:
        return self.owned.gates()  # asked for twice a step

    def filter_places(self, muted: torch.Tensor) -> Places:
        return _places((part, muted) for part in self.owned.rows)


@dataclass(frozen=True, eq=False)
class Weights(Units):
    """Single weights of the layers that the plan leaves zeros in; a group is named by its parameter.

    Attributes:
        shapes: Of these parameters.
    """

    shapes: Mapping[str, torch.Size]

    @staticmethod
    def of(whole: Whole) -> Weights:
        assert whole.plan is not None
        assert whole.plan.zeros is not None
        zeros = {f"{name}.weight": zeroed for name, zeroed in whole.plan.zeros.items()}
        groups, start = dict[str, range](), 0
        for name, zeroed in zeros.items():
            groups[name] = range(start, start + zeroed.size)
            start += zeroed.size
        shapes = {name: whole.model.get_parameter(name).shape for name in zeros}
        return Weights(groups, {name: z.size - z.zeros for name, z in zeros.items()}, shapes)

    def sums(self, values: ByName) -> torch.Tensor:
        none = torch.zeros(())
        return torch.cat([values.get(name, none).expand(self.shapes[name]).flatten().cpu() for name in self.groups])

    def places(self, muted: torch.Tensor) -> Places:
        return [(name, muted[n.start : n.stop].reshape(self.shapes[name])) for name, n in self.groups.items()]

    gates = filters = sums
    filter_places = places


def units_of(whole: Whole) -> Units:
    """What a model's plan is about."""
    return Weights.of(whole) if whole.plan is not None and whole.plan.zeros else Channels.of(whole)


def _places(parts: Iterable[tuple[Part, torch.Tensor]]) -> Places:
    return [(part.parameter, muted[part.numbers]) for part, muted in parts]
