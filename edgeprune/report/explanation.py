"""What there is to say about a model's channel groups, as plain data: what the tree and the page show.

Rules:
- Everything is (before, after). Without a plan, after equals before.
- What a channel carries is what goes when it goes: the cost at the present widths minus the cost with its
  group narrower by one step of its cluster, divided by the channels of that step. Neighbours stay whole,
  so the figures of two groups don't add up.
- A *step* is the least by which a cluster can shrink with every proportion kept.
- A layer is locked where every channel that it makes is.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

#: Positions side by side: (index of the channel group or -1, positions, positions that stay).
Run = tuple[int, int, int]
#: Before and after the plan.
Change = tuple[float, float]


@dataclass(frozen=True)
class Member:
    """One side of one layer that a channel group sits in: the positions [start, stop) that it owns there."""

    layer: str
    side: str
    positions: tuple[tuple[int, int], ...]


@dataclass(frozen=True)
class ExplainedGroup:
    """A channel group.

    Attributes:
        block: The top-level block whose layer makes it.
        cluster: Index of its cluster.
        locked: Why it can't be cut, or None.
        macs_per_channel, parameters_per_channel: What one of its channels carries.
        keep: Indices that stay, as [start, stop) ranges; all of them without a plan.
    """

    name: str
    size: int
    after: int
    block: str
    cluster: int
    locked: str | None
    members: tuple[Member, ...]
    macs_per_channel: float
    parameters_per_channel: float
    keep: tuple[tuple[int, int], ...]


@dataclass(frozen=True)
class ExplainedCluster:
    """Groups that shrink in proportion.

    Attributes:
        groups: Their indices.
        why: What ties them, a sentence each; empty where the cluster is one group.
        step: Channels that each of them loses in the least step.
        macs_per_step, parameters_per_step: What that step saves.
    """

    groups: tuple[int, ...]
    why: tuple[str, ...]
    step: tuple[int, ...]
    macs_per_step: float
    parameters_per_step: float


@dataclass(frozen=True)
class ExplainedLayer:
    """A layer: `detail` is its kernel and stride; `reads` and `makes` its channels by position."""

    name: str
    kind: str
    detail: str
    reads: tuple[Run, ...]
    makes: tuple[Run, ...]
    widths_in: tuple[int, int]
    widths_out: tuple[int, int]
    macs: Change
    parameters: Change
    locked: bool


@dataclass(frozen=True)
class ExplainedRow:
    """A line inside a block: a layer with what follows it (`layers`), an operator, or (kind training) a layer
    that inference doesn't run."""

    name: str
    label: str
    kind: str
    operator: str
    layers: tuple[str, ...]
    holds: tuple[Run, ...]
    macs: Change
    parameters: Change


@dataclass(frozen=True)
class ExplainedBlock:
    """A top-level block, or an operator between blocks.

    Attributes:
        name, kind, class_: Path, kind of unit, class of the module (or the operator).
        shapes: Shapes of what leaves it, without the batch.
        reads, holds: Channels of every tensor that enters and leaves, where known.
        rows: What is inside, in the order of execution.
        edges: (from, to) among the rows by index; -1 is outside.
    """

    name: str
    kind: str
    class_: str
    shapes: tuple[tuple[int, ...], ...]
    reads: tuple[tuple[Run, ...], ...]
    holds: tuple[tuple[Run, ...], ...]
    macs: Change
    parameters: Change
    rows: tuple[ExplainedRow, ...]
    edges: tuple[tuple[int, int], ...]


@dataclass(frozen=True)
class Explanation:
    """A model as its channel groups have it.

    Attributes:
        locked_macs: Share of the MACs that lie in locked layers.
        how: What the plan says of itself (importance, allocation …); empty without one.
        edges: (from, to) among the blocks by name.
    """

    model: str
    input_shape: tuple[int, ...]
    graph_sha256: str
    how: dict[str, str | int]
    macs: Change
    parameters: Change
    channels: tuple[int, int]
    locked_macs: float
    groups: tuple[ExplainedGroup, ...]
    clusters: tuple[ExplainedCluster, ...]
    layers: dict[str, ExplainedLayer]
    blocks: tuple[ExplainedBlock, ...]
    edges: tuple[tuple[str, str], ...]

    @property
    def planned(self) -> bool:
        return bool(self.how)

    def as_json(self) -> dict[str, Any]:
        """Plain data for `json.dumps`."""
        return asdict(self)
