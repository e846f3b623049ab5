"""Building the channel graph: run the program on labels, then gather what was learned.

Rules:
- Every node of the program has a rule, or the build stops with its name.
- Channels with the same layers and constraints make a channel group.
- Parts that must stay equally long may lose different channels, as long as each lies by itself in every
  layer; where a layer holds them interleaved, they lose the same.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from itertools import pairwise
from operator import getitem
from typing import Any, cast

import torch
from torch.utils._pytree import tree_leaves

from edgeprune.errors import UnsupportedOpError
from edgeprune.graph.channels import Channel, ChannelGraph, ChannelGroup, Cost, Layer, Side
from edgeprune.graph.labels import NONE, Labels, distinct
from edgeprune.graph.meets import loose
from edgeprune.graph.rules import LAYERS, RULES
from edgeprune.graph.run import Run, State, fixed
from edgeprune.graph.trace import Program, module_path, source_line

#: What a block that computes with its own width allows: sizes for outputs start:stop of a layer.
ExactSizes = tuple[str, int, int, tuple[int, ...]]


def build(
    program: Program, ties: Iterable[Sequence[Side]] = (), exact_sizes: Iterable[ExactSizes] = ()
) -> ChannelGraph:
    """Run the program on labels and gather what was learned.

    Args:
        program: From `trace`.
        ties: Layer sides that a block keeps equally long for a reason that no operator shows (a view back to
            the input's channel count).
        exact_sizes: Output ranges that a block can only be cut to some sizes of.

    Returns:
        The channel graph.

    Raises:
        UnsupportedOpError: An operator without a rule.
    """
    labels = Labels()
    _run(program, labels)
    for tie in ties:
        if not all(layer in labels.layers for layer, _ in tie):
            continue  # the block never ran
        parts = [_side(labels, side) for side in tie]
        labels.equal_counts(parts, f"{tie[0][0]} and {tie[1][0]} are read with one width")
    _align(labels)
    return _gather(labels, exact_sizes)


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
    if node.name in program.states:
        return State(program.states[node.name], shape)
    if node.name == program.input_name:
        return fixed((1, shape[1], 1, 1)).expand(shape)
    return fixed(shape)


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
    inputs = [i.meta["val"] for i in node.all_input_nodes if "val" in i.meta]
    run = Run(
        labels,
        node.name,
        f"{name} in {module_path(node) or 'the model'}",
        node.meta.get("val"),
        [tuple(value.shape) for value in inputs if isinstance(value, torch.Tensor)],
        cast(Any, node.target),
        node.name not in program.training_only,
    )

    def look_up(argument: torch.fx.Node) -> Any:
        found = values[argument]
        return loose(labels, found) if isinstance(found, State) and name not in LAYERS else found

    args = torch.fx.node.map_arg(node.args, look_up)
    kwargs = torch.fx.node.map_arg(node.kwargs, look_up)
    result = rule(run, *args, **kwargs)
    if _writes_in_place(node) and isinstance(result, torch.Tensor) and isinstance(args[0], torch.Tensor):
        before, after = distinct(args[0].expand(result.shape), result)
        labels.lock(after[(before == NONE) & (after != NONE)], f"{run.place} writes it into a constant")
    return result


def _writes_in_place(node: torch.fx.Node) -> bool:
    return str(node.target).split(".")[1].endswith("_") if str(node.target).startswith("aten.") else False


def operator_name(node: torch.fx.Node) -> str:
    """ATen's name without namespace, overload and the underscore of an in-place form."""
    if node.target is getitem:
        return "getitem"
    return str(node.target).removeprefix("aten.").split(".")[0].removesuffix("_")


def _side(labels: Labels, side: Side) -> list[int]:
    layer = labels.layers[side[0]]
    return layer.in_ if side[1] == "in" else layer.out


# --- gathering ----------------------------------------------------------------------------------------


def _align(labels: Labels) -> None:
    """Parts that must stay equally long may lose different channels as long as each lies by itself in every
    layer. Where a layer holds them interleaved (a channel shuffle), the n-th of one goes with the n-th of the
    others: otherwise what stays would come in another order."""
    sides = [side for layer in labels.layers.values() for side in (layer.in_, layer.out)]
    settled = False
    while not settled:
        settled = True
        lines = [[labels.find(label) for label in side] for side in sides]
        holders: dict[int, set[int]] = {}
        for number, line in enumerate(lines):
            for channel in set(line):
                holders.setdefault(channel, set()).add(number)
        for parts in labels.constraints:
            part_of: dict[int, list[int]] = {}
            for number, part in enumerate(parts):
                for channel in {labels.find(label) for label in part}:
                    part_of.setdefault(channel, []).append(number)
            for number in set().union(*(holders.get(channel, set()) for channel in part_of)):
                order = [tuple(part_of[channel]) for channel in lines[number] if channel in part_of]
                if 1 + sum(a != b for a, b in pairwise(order)) > len(set(order)):
                    for row in zip(*parts, strict=True):
                        for label in row[1:]:
                            settled &= labels.find(row[0]) == labels.find(label)
                            labels.join_one(row[0], label)
                    break


def _gather(labels: Labels, exact_sizes: Iterable[ExactSizes]) -> ChannelGraph:
    locked = {labels.find(label): why for label, why in reversed(list(labels.locked.items()))}
    parts = [[{labels.find(label) for label in part} for part in constraint] for constraint in labels.constraints]
    owned: dict[int, dict[Side, list[int]]] = {}  # channel -> side -> positions
    for name, layer in labels.layers.items():
        for side, labelled in (("out", layer.out), ("in", layer.in_)):
            for position, label in enumerate(labelled):
                if label != NONE:
                    owned.setdefault(labels.find(label), {}).setdefault((name, side), []).append(position)
    membership: dict[int, list[tuple[int, int]]] = {}  # channel -> (constraint, part)
    for i, constraint in enumerate(parts):
        for j, part in enumerate(constraint):
            for channel in part:
                membership.setdefault(channel, []).append((i, j))
    by_signature: dict[Any, list[int]] = {}
    for channel, sides in owned.items():
        why = locked.get(channel)
        if all(labels.layers[name].kind == "parameter" for name, _ in sides):
            why = why or "no layer makes it"
        tied = () if why else tuple(membership.get(channel, ()))
        signature = frozenset((side, len(positions)) for side, positions in sides.items())
        by_signature.setdefault((signature, tied, why), []).append(channel)
    groups: list[ChannelGroup] = []
    channel_of: dict[int, tuple[int, int]] = {}
    for (_, _, why), channels in by_signature.items():
        channel_of.update({channel: (len(groups), member) for member, channel in enumerate(channels)})
        groups.append(_group([owned[c] for c in channels], labels, why))
    by_group = [[Counter(channel_of[c][0] for c in part) for part in p] for p in parts]
    clusters = _clusters(len(groups), by_group)
    groups = _with_sizes(groups, exact_sizes, labels, channel_of)
    reasons = _reasons(groups, clusters, by_group, list(labels.constraints.values()))
    groups = _lock_tied(groups, clusters)

    def line(raw: Iterable[int] | None) -> tuple[Channel, ...] | None:
        return None if raw is None else tuple(channel_of.get(labels.find(label)) for label in raw)

    layers = {
        name: Layer(layer.kind, line(layer.in_) or (), line(layer.out) or (), layer.groups, layer.depthwise)
        for name, layer in labels.layers.items()
    }
    costs = tuple(Cost(s.where, s.coefficient, line(s.a), line(s.b)) for s in labels.spendings)
    return ChannelGraph(layers, tuple(groups), clusters, reasons, costs, _identity(layers, groups, clusters))


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


def _reasons(
    groups: Sequence[ChannelGroup],
    clusters: tuple[tuple[int, ...], ...],
    constraints: list[list[Counter[int]]],
    whys: list[str],
) -> tuple[tuple[str, ...], ...]:
    cluster_of = {group: number for number, cluster in enumerate(clusters) for group in cluster}
    found: list[dict[str, None]] = [{} for _ in clusters]
    for parts, why in zip(constraints, whys, strict=True):
        tied = Counter(cluster_of[group] for group in set().union(*parts))
        for cluster, count in tied.items():
            if count > 1:
                found[cluster][why] = None
    for group, number in cluster_of.items():
        if groups[group].sizes:
            sizes = ", ".join(map(str, groups[group].sizes))
            found[number][f"the block computes with this width: only {sizes} are exact"] = None
    return tuple(tuple(reasons) for reasons in found)


def _with_sizes(
    groups: list[ChannelGroup], exact: Iterable[ExactSizes], labels: Labels, channel_of: Mapping[int, tuple[int, int]]
) -> list[ChannelGroup]:
    groups = list(groups)
    for layer, start, stop, sizes in exact:
        if layer not in labels.layers:
            continue  # the block never ran
        out = labels.layers[layer].out[start:stop]
        owners = {channel_of[labels.find(label)][0] for label in out}
        for g in owners:
            whole = groups[g].size == len(out)
            why = f"{layer} computes with the width of channels that belong to several groups"
            groups[g] = replace(groups[g], sizes=sizes, locked=groups[g].locked or (None if whole else why))
    return groups


def _lock_tied(groups: list[ChannelGroup], clusters: tuple[tuple[int, ...], ...]) -> list[ChannelGroup]:
    """Lock what is tied to something locked, and clusters that have no smaller size in proportion."""
    tied = list(groups)
    for cluster in clusters:
        holder = next((groups[g] for g in cluster if groups[g].locked), None)
        parts = math.gcd(*(groups[g].size for g in cluster))
        for g in cluster:
            why = groups[g].locked
            if holder:
                why = why or f"its count is tied to {holder.name}, and {holder.locked}"
            elif parts == 1 and len(cluster) == 1:
                why = "it is a single channel"
            elif parts == 1:
                sizes = ":".join(str(groups[other].size) for other in cluster[:8])
                why = f"its count is tied to other groups, and {sizes} can't shrink in proportion"
            tied[g] = replace(groups[g], locked=why)
    return tied


def _identity(layers: Mapping[str, Layer], groups: Sequence[ChannelGroup], clusters: Sequence[Sequence[int]]) -> str:
    content = {
        "layers": {n: [x.kind, x.groups if not x.depthwise else 0, x.in_, x.out] for n, x in layers.items()},
        "groups": [[g.name, g.size, g.locked is not None] for g in groups],
        "clusters": clusters,
    }
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
