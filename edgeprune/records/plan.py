"""PrunePlan: which channels stay. Names and numbers alone; anyone can check it against the parent."""

from __future__ import annotations

from itertools import pairwise
from typing import Annotated, Any

from pydantic import ConfigDict, Field, SerializerFunctionWrapHandler, model_serializer, model_validator

from edgeprune.records.base import Record
from edgeprune.records.calibration import Sha256
from edgeprune.records.choice import PlannedTime

Index = Annotated[int, Field(ge=0)]


class PrunedGroup(Record):
    """A channel group and what stays of it."""

    size: int = Field(ge=1)
    """Channels in the parent."""
    keep: tuple[Index, ...] = Field(min_length=1)
    """Indices within the group that stay, ascending."""

    @model_validator(mode="after")
    def _ascending(self) -> PrunedGroup:
        if any(a >= b for a, b in pairwise(self.keep)) or self.keep[-1] >= self.size:
            raise ValueError(f"keep must be ascending, distinct indices below the group's size {self.size}")
        return self


class LayerKeep(Record):
    """Positions of one module's weight that stay, in the parent's numbering."""

    model_config = ConfigDict(populate_by_name=True, serialize_by_alias=True)

    in_: tuple[Index, ...] = Field(alias="in")
    """Input channels; empty for a module without an input axis (batch_norm)."""
    out: tuple[Index, ...]
    """Output channels."""


class PrunePlan(Record):
    """What to cut from one model. Applies to the graph that it was made for and to no other."""

    graph_sha256: Sha256
    """Identity of the parent's channel graph."""
    groups: dict[str, PrunedGroup]
    """Every channel group of the parent."""
    layers: dict[str, LayerKeep]
    """What that means for every module that has channels."""
    macs: tuple[float, float]
    """Multiply-accumulates of the parent and of the cut model, one image."""
    parameters: tuple[int, int]
    """Parameters of the parent and of the cut model."""
    importance: str
    """How channels were scored."""
    allocation: str
    channel_multiple: int
    seed: int
    time: PlannedTime | None = None
    """How the widths were chosen, for a goal in time: the last cut's budget, predictions and measurements."""

    @model_serializer(mode="wrap")
    def _without_nothing(self, as_usual: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """A plan for a goal in MACs is the same bytes as ever."""
        return {key: value for key, value in as_usual(self).items() if key != "time" or value is not None}

    @property
    def macs_ratio(self) -> float:
        return self.macs[1] / self.macs[0]

    @property
    def pruning_ratio(self) -> float:
        """Channels removed : original, over all channel groups."""
        size = sum(g.size for g in self.groups.values())
        return 1 - sum(len(g.keep) for g in self.groups.values()) / size
