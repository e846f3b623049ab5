"""The channel graph of a model: which channels go together, what ties their counts, what can't be cut.

Rules:
- A *channel* is a set of weight positions that live or die together. A *channel group* is the set of
  channels that sit in the same layers under the same constraints; any of its channels may be chosen.
- Groups that a constraint ties (the halves of a chunk, the heads of an attention) form a *cluster*. The
  groups of a cluster shrink in proportion, so every equality of counts that held before the cut holds
  after it; which channels go is each group's own choice.
- A channel that reaches the model's output, or that an operator can't do without, is locked with a
  sentence why. A group tied to a locked one is locked too.
- The graph's identity is a hash of its layers and channels, not of operator names: the same model gives
  the same hash under every version of torch.

Source of the grouping: DepGraph (Fang et al., CVPR 2023, section 3.2) defines groups by dependency; here
they come from running the program on labels, so that reshapes and splits need no rule of their own.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

from edgeprune.errors import PlanError

#: (index of the channel group, index within it), or None where the position can't be cut at all.
Channel = tuple[int, int] | None
#: One side of one layer: its name and 'in' or 'out'.
Side = tuple[str, str]


@dataclass(frozen=True)
class Layer:
    """A module (or a bare parameter) with its channels by position.

    Attributes:
        kind: conv, conv_transpose, linear, batch_norm or parameter.
        in_: Channel at each input position, in the parent's order; empty for batch_norm and parameter.
        out: Channel at each output position.
        groups: Groups of a convolution. Depthwise ones are as many as their input channels.
        depthwise: Whether each input channel is convolved alone.
    """

    kind: str
    in_: tuple[Channel, ...]
    out: tuple[Channel, ...]
    groups: int = 1
    depthwise: bool = False

    def side(self, side: str) -> tuple[Channel, ...]:
        return self.in_ if side == "in" else self.out


@dataclass(frozen=True)
class ChannelGroup:
    """Channels that go together.

    Attributes:
        name: The layer that makes them, with the range of its outputs where the group is not all of them.
        size: Channels in the group.
        sides: The layers whose input or output positions it owns.
        locked: Why it can't be cut, or None.
        sizes: The only sizes at which a cut equals muting, where a block computes with its own width; empty
            for any size.
    """

    name: str
    size: int
    sides: tuple[Side, ...]
    locked: str | None
    sizes: tuple[int, ...] = ()


@dataclass(frozen=True)
class Cost:
    """`coefficient` x count(`a`) x count(`b`) multiply-accumulates at `where`; a missing side counts 1."""

    where: str
    coefficient: float
    a: tuple[Channel, ...] | None
    b: tuple[Channel, ...] | None


@dataclass(frozen=True)
class ChannelGraph:
    """The channel graph of one model.

    Attributes:
        layers: Layer by module name, in execution order.
        groups: All channel groups, locked ones too.
        clusters: Indices of the groups that shrink in proportion; every group is in exactly one cluster.
        reasons: Of each cluster, the sentences that say what ties its groups and bounds their sizes.
        costs: Where multiply-accumulates are spent, at the real input size, batch 1.
        sha256: Identity of the graph.
    """

    layers: dict[str, Layer]
    groups: tuple[ChannelGroup, ...]
    clusters: tuple[tuple[int, ...], ...]
    reasons: tuple[tuple[str, ...], ...]
    costs: tuple[Cost, ...]
    sha256: str

    def locked(self, cluster: Sequence[int]) -> str | None:
        """Why none of the cluster's groups can be cut, or None."""
        return next((f"{self.groups[g].name}: {self.groups[g].locked}" for g in cluster if self.groups[g].locked), None)

    def layer_keeps(self, keeps: Mapping[str, Sequence[int]]) -> dict[str, dict[str, list[int]]]:
        """The positions that stay in every layer.

        Args:
            keeps: Channel group name -> indices that stay, ascending, in the group's own numbering. A group
                that is not named stays whole.

        Returns:
            {module: {'in': positions, 'out': positions}} in the model's own numbering.

        Raises:
            PlanError: An unknown group, a locked one, or indices out of range, unsorted, doubled or none.
        """
        by_name = {group.name: index for index, group in enumerate(self.groups)}
        stays: dict[int, set[int]] = {}
        for name, keep in keeps.items():
            if name not in by_name:
                raise PlanError(f"No channel group is named '{name}'.", expected="a name of this model's channel graph")
            group = self.groups[by_name[name]]
            _check_keep(group, list(keep))
            stays[by_name[name]] = set(keep)
        self._check_clusters(stays)
        return {
            name: {side: _positions(layer.side(side), stays) for side in ("in", "out")}
            for name, layer in self.layers.items()
        }

    def proportions(self, cluster: Sequence[int]) -> list[tuple[int, ...]]:
        """Every row of sizes that the cluster's groups can be cut to, from whole to narrowest."""
        sizes = [self.groups[g].size for g in cluster]
        parts = 1 if self.locked(cluster) else math.gcd(*sizes)
        rows = [tuple(size * n // parts for size in sizes) for n in range(parts, 0, -1)]
        allowed = [self.groups[g].sizes for g in cluster]
        return [row for row in rows if all(not a or n in a for n, a in zip(row, allowed, strict=True))]

    def _check_clusters(self, stays: Mapping[int, set[int]]) -> None:
        for cluster in self.clusters:
            kept = {g: len(stays[g]) if g in stays else self.groups[g].size for g in cluster}
            first = cluster[0]
            for g in cluster:
                if kept[g] * self.groups[first].size != kept[first] * self.groups[g].size:
                    raise PlanError(
                        "Channel groups that are tied don't shrink in proportion.",
                        where=f"{self.groups[first].name} and {self.groups[g].name}",
                        expected=f"{self.groups[first].size}:{self.groups[g].size}",
                        got=f"{kept[first]}:{kept[g]}",
                    )
                if self.groups[g].sizes and kept[g] not in self.groups[g].sizes:
                    raise PlanError(
                        "A channel group can't be cut to this size: its block computes with it.",
                        where=self.groups[g].name,
                        expected=f"one of {', '.join(map(str, self.groups[g].sizes))} channels",
                        got=kept[g],
                    )


def _positions(line: Sequence[Channel], stays: Mapping[int, set[int]]) -> list[int]:
    return [i for i, c in enumerate(line) if c is None or c[0] not in stays or c[1] in stays[c[0]]]


def _check_keep(group: ChannelGroup, keep: list[int]) -> None:
    ascending = all(a < b for a, b in pairwise(keep))
    if not keep or not ascending or keep[0] < 0 or keep[-1] >= group.size:
        raise PlanError(
            "A channel group's keep is not a list of its indices.",
            where=group.name,
            expected=f"1 to {group.size} ascending, distinct indices in 0..{group.size - 1}",
            got=f"{keep[:8]}{'…' if len(keep) > 8 else ''}",
        )
    if group.locked and len(keep) < group.size:
        raise PlanError(
            "A locked channel group can't be cut.", where=group.name, expected="all of it", got=group.locked
        )
