"""PrunePlan: which channels stay. Names and numbers alone; anyone can check it against the parent."""

from __future__ import annotations

from collections.abc import Collection
from itertools import count, islice, pairwise
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


class ZeroedLayer(Record):
    """Where the weights of a layer are zero, of a plan that leaves zeros instead of cutting."""

    size: int = Field(ge=1)
    """Weights of the layer."""
    zeros: int = Field(ge=0)
    """How many of them are zero."""
    bits: str
    """A bit a weight, in the order of the weight's elements, the first the highest of the first byte; 1 = zero. In
    base64."""

    @model_validator(mode="after")
    def _within(self) -> ZeroedLayer:
        if self.zeros > self.size:
            raise ValueError(f"{self.zeros} zeros among {self.size} weights")
        return self

    @property
    def sparsity(self) -> float:
        """Zeros : weights."""
        return self.zeros / self.size


def name_in_parent(layer: str, blocks: Collection[str]) -> str:
    """The name that a layer had before these blocks went: those behind one have moved up in its list."""
    path = ""
    for part in layer.split("."):
        number = part
        if part.isdigit():
            stays = (n for n in count() if f"{path}.{n}" not in blocks)
            number = str(next(islice(stays, int(part), None)))
        path = f"{path}.{number}" if path else number
    return path


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
    zeros: dict[str, ZeroedLayer] | None = None
    """Layers whose weights are zeroed in part, where that is what was asked; constants are not among them."""

    blocks: tuple[str, ...] | None = None
    """Repeats that are taken out of the parent before channels are cut, in the parent's numbering. The graph, the
    groups and the layers are then those of what is left, in its own."""

    @model_serializer(mode="wrap")
    def _without_nothing(self, as_usual: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """A plan says nothing of what it doesn't do: one that cuts channels for a goal in MACs is the same bytes as
        ever."""
        silent = {"time", "zeros", "blocks"}
        return {key: value for key, value in as_usual(self).items() if key not in silent or value is not None}

    def sentences(self) -> list[str]:
        """What went besides channels."""
        said = []
        if self.blocks:
            said.append(f"blocks: {', '.join(self.blocks)} are taken out whole, the rest is channels")
        if self.zeros:
            said.append(
                f"zeros: {self.sparsity:.1%} of the weights of {len(self.zeros)} layers; no shape changes, and whether "
                "the runtime makes time of zeros is what was measured"
            )
        return said

    @property
    def sparsity(self) -> float:
        """Zeros : weights, over the layers that have some; 0 for a plan that cuts."""
        layers = (self.zeros or {}).values()
        return sum(z.zeros for z in layers) / max(sum(z.size for z in layers), 1)

    def name_in_parent(self, layer: str) -> str:
        """The parent's name of a layer."""
        return name_in_parent(layer, self.blocks or ())

    @property
    def macs_ratio(self) -> float:
        return self.macs[1] / self.macs[0]

    @property
    def pruning_ratio(self) -> float:
        """Channels removed : original, over all channel groups."""
        size = sum(g.size for g in self.groups.values())
        return 1 - sum(len(g.keep) for g in self.groups.values()) / size
