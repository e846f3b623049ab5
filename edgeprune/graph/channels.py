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

import hashlib
import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from operator import getitem
from typing import Any, cast

import torch
from torch.utils._pytree import tree_leaves

from edgeprune.errors import PlanError, UnsupportedOpError
from edgeprune.graph.labels import NONE, Labels
from edgeprune.graph.rules import RULES, TAKE_STATE, Run, State, loose, nothing
from edgeprune.graph.trace import Program, module_path, source_line

#: (index of the channel group, index within it), or None where the position can't be cut at all.
Channel = tuple[int, int] | None
#: One side of one layer: its name and 'in' or 'out'.
Side = tuple[str, str]


@dataclass(frozen=True)
class Layer:
    """A module (or a bare parameter) with its channels by position.

    Attributes:
        kind: conv, linear, batch_norm or parameter.
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
    """

    name: str
    size: int
    sides: tuple[Side, ...]
    locked: str | None


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
        costs: Where multiply-accumulates are spent, at the real input size, batch 1.
        sha256: Identity of the graph.
    """

    layers: dict[str, Layer]
    groups: tuple[ChannelGroup, ...]
    clusters: tuple[tuple[int, ...], ...]
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


def build(program: Program, ties: Iterable[Sequence[Side]] = ()) -> ChannelGraph:
    """Run the program on labels and gather what was learned.

    Args:
        program: From `trace`.
        ties: Layer sides that a block keeps equally long for a reason that no operator shows (a view back to
            the input's channel count).

    Returns:
        The channel graph.

    Raises:
        UnsupportedOpError: An operator without a rule.
    """
    labels = Labels()
    _run(program, labels)
    for tie in ties:
        parts = [_side(labels, side) for side in tie]
        labels.equal_counts(parts, f"{tie[0][0]} and {tie[1][0]} are read with one width")
    return _gather(labels)


# --- running ------------------------------------------------------------------------------------------


def _run(program: Program, labels: Labels) -> None:
    values: dict[torch.fx.Node, Any] = {}
    for node in program.nodes:
        if node.op == "placeholder":
            values[node] = _placeholder(program, node)
        elif node.op == "output":
            for leaf in tree_leaves(torch.fx.node.map_arg(node.args, lambda n: values[n])):
                if isinstance(leaf, torch.Tensor):
                    labels.lock(leaf, "it reaches the model's output")
        else:
            values[node] = _call(program, node, values, labels)


def _placeholder(program: Program, node: torch.fx.Node) -> Any:
    shape = tuple(node.meta["val"].shape)
    return State(program.states[node.name], shape) if node.name in program.states else nothing(shape)


def _call(program: Program, node: torch.fx.Node, values: Mapping[torch.fx.Node, Any], labels: Labels) -> Any:
    name = operator_name(node)
    rule = RULES.get(name)
    if rule is None:
        raise UnsupportedOpError(
            f"The operator '{node.target}' has no rule for its channels.",
            where=f"node {node.name}, module '{module_path(node)}', {source_line(node)}",
            expected=f"one of {len(RULES)} operators with a rule",
            next_step="add a function for it to edgeprune/graph/rules.py (its docstring says how)",
        )
    value = node.meta.get("val")
    run = Run(
        labels,
        node.name,
        tuple(value.shape) if isinstance(value, torch.Tensor) else (),
        program.shapes.get(node.name, ()),
        [program.shapes[n.name] for n in node.all_input_nodes if n.name in program.shapes],
        cast(Any, node.target),
    )

    def look_up(argument: torch.fx.Node) -> Any:
        found = values[argument]
        return loose(labels, found) if isinstance(found, State) and name not in TAKE_STATE else found

    args = torch.fx.node.map_arg(node.args, look_up)
    kwargs = torch.fx.node.map_arg(node.kwargs, look_up)
    return rule(run, *args, **kwargs)


def operator_name(node: torch.fx.Node) -> str:
    """ATen's name without namespace, overload and the underscore of an in-place form."""
    if node.target is getitem:
        return "getitem"
    return str(node.target).removeprefix("aten.").split(".")[0].removesuffix("_")


def _side(labels: Labels, side: Side) -> list[int]:
    layer = labels.layers[side[0]]
    return layer.in_ if side[1] == "in" else layer.out


# --- gathering ----------------------------------------------------------------------------------------


def _gather(labels: Labels) -> ChannelGraph:
    locked = {labels.find(label): why for label, why in reversed(list(labels.locked.items()))}
    parts = [[{labels.find(label) for label in part} for part in constraint] for constraint in labels.constraints]
    owned: dict[int, dict[Side, list[int]]] = {}  # channel -> side -> positions
    for name, layer in labels.layers.items():
        for side, labelled in (("out", layer.out), ("in", layer.in_)):
            for position, label in enumerate(labelled):
                if label != NONE:
                    owned.setdefault(labels.find(label), {}).setdefault((name, side), []).append(position)
    by_signature: dict[Any, list[int]] = {}
    for channel, sides in owned.items():
        why = locked.get(channel)
        if all(labels.layers[name].kind == "parameter" for name, _ in sides):
            why = why or "no layer makes it"
        membership = tuple((i, j) for i, p in enumerate(parts) for j, part in enumerate(p) if channel in part)
        by_signature.setdefault((frozenset(sides), () if why else membership, why), []).append(channel)
    groups: list[ChannelGroup] = []
    channel_of: dict[int, tuple[int, int]] = {}
    for (_, _, why), channels in by_signature.items():
        channel_of.update({channel: (len(groups), member) for member, channel in enumerate(channels)})
        groups.append(_group([owned[c] for c in channels], labels, why))
    by_group = [[Counter(channel_of[c][0] for c in part) for part in p] for p in parts]
    clusters = _clusters(len(groups), by_group)
    groups = _lock_tied(groups, clusters)

    def line(raw: Iterable[int] | None) -> tuple[Channel, ...] | None:
        return None if raw is None else tuple(channel_of.get(labels.find(label)) for label in raw)

    layers = {
        name: Layer(layer.kind, line(layer.in_) or (), line(layer.out) or (), layer.groups, layer.depthwise)
        for name, layer in labels.layers.items()
    }
    costs = tuple(Cost(s.where, s.coefficient, line(s.a), line(s.b)) for s in labels.spendings)
    return ChannelGraph(layers, tuple(groups), clusters, costs, _identity(layers, groups, clusters))


def _group(channels: list[dict[Side, list[int]]], labels: Labels, why: str | None) -> ChannelGroup:
    sides = tuple(channels[0])
    name, side = next((s for s in sides if s[1] == "out"), sides[0])
    positions = [c[name, side][0] for c in channels]
    width = len(_side(labels, (name, side)))
    contiguous = positions == list(range(positions[0], positions[0] + len(positions)))
    span = f"{positions[0]}:{positions[-1] + 1}" if contiguous else ",".join(map(str, positions))
    label = name if len(positions) == width else f"{name}[{span}]"
    return ChannelGroup(label, len(channels), sides, why)


def _clusters(count: int, constraints: list[list[Counter[int]]]) -> tuple[tuple[int, ...], ...]:
    """Merge groups until every constraint holds when clusters shrink in proportion.

    Constraints on few groups come first: that an attention's heads are equally wide in all is then already
    true because their q, k and v are, each by itself, and q and k stay free of v.
    """
    cluster_of = list(range(count))
    for parts in sorted(constraints, key=lambda parts: len(set().union(*parts))):
        shares = []
        for part in parts:
            share: Counter[int] = Counter()
            for group, channels in part.items():
                share[cluster_of[group]] += channels
            shares.append(share)
        if any(share != shares[0] for share in shares):
            merged = {cluster for share in shares for cluster in share}
            cluster_of = [min(merged) if c in merged else c for c in cluster_of]
    members: dict[int, list[int]] = {}
    for group, cluster in enumerate(cluster_of):
        members.setdefault(cluster, []).append(group)
    return tuple(tuple(m) for m in members.values())


def _lock_tied(groups: list[ChannelGroup], clusters: tuple[tuple[int, ...], ...]) -> list[ChannelGroup]:
    tied = list(groups)
    for cluster in clusters:
        holder = next((groups[g] for g in cluster if groups[g].locked), None)
        if holder:
            for g in cluster:
                why = groups[g].locked or f"its count is tied to {holder.name}, and {holder.locked}"
                tied[g] = ChannelGroup(groups[g].name, groups[g].size, groups[g].sides, why)
    return tied


def _identity(layers: Mapping[str, Layer], groups: Sequence[ChannelGroup], clusters: Sequence[Sequence[int]]) -> str:
    content = {
        "layers": {n: [x.kind, x.groups if not x.depthwise else 0, x.in_, x.out] for n, x in layers.items()},
        "groups": [[g.name, g.size, g.locked is not None] for g in groups],
        "clusters": clusters,
    }
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


# --- keeping ------------------------------------------------------------------------------------------


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
