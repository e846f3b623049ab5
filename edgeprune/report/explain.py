"""Explaining a model: from a checkpoint, or from a traced model and its channel graph, to an `Explanation`.

Rules:
- The explanation of one model, image size and plan is the same, every time.
- A plan is shown only beside the model that it was made for.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from itertools import groupby
from pathlib import Path

import numpy as np
from torch import nn

from edgeprune.graph import wiring
from edgeprune.graph.channels import Channel, ChannelGraph, Layer, Side
from edgeprune.graph.cost import CostModel, Widths
from edgeprune.graph.trace import Program
from edgeprune.prune.apply import require_plan_of
from edgeprune.records import PrunePlan
from edgeprune.report.explanation import (
    Change,
    ExplainedBlock,
    ExplainedCluster,
    ExplainedGroup,
    ExplainedLayer,
    ExplainedRow,
    Explanation,
    Member,
    Run,
)


def explain(model: Path, image_size: tuple[int, int], plan: PrunePlan | None = None) -> Explanation:
    """Open a checkpoint (or model YAML), trace it and explain it.

    Raises:
        CheckpointError, ModelError, UnsupportedOpError: It can't be opened or traced.
        RecipeError: An image size that the detector doesn't take.
        PlanError: The plan was made for another model.
    """
    from edgeprune.prune.make import require_stride
    from edgeprune.prune.traced import traced_graph
    from edgeprune.yolo.load import load
    from edgeprune.yolo.repeats import without

    detector = load(model)
    require_stride(detector, image_size)
    left = detector.model
    if plan is not None and plan.blocks:
        left = without(left, plan.blocks, (1, detector.channels, *image_size))
    program, graph = traced_graph(left, image_size, detector.channels)
    return gather(model.name, left, program, graph, plan)


def gather(
    name: str,
    model: nn.Module,
    program: Program,
    graph: ChannelGraph,
    plan: PrunePlan | None = None,
) -> Explanation:
    """Explain a traced model. Pure.

    Args:
        name: What to call it.
        plan: What to cut, if that is to be shown.

    Raises:
        PlanError: The plan was made for another graph.
    """
    if plan is not None:
        require_plan_of(graph, plan)
    return _Gathering(model, program, graph, plan).explanation(name)


def ranges(indices: Sequence[int]) -> tuple[tuple[int, int], ...]:
    """Ascending indices as [start, stop) ranges."""
    runs = [[i for _, i in run] for _, run in groupby(enumerate(indices), lambda pair: pair[1] - pair[0])]
    return tuple((run[0], run[-1] + 1) for run in runs)


class _Gathering:
    """One explanation in the making: what its parts are all computed from."""

    def __init__(
        self,
        model: nn.Module,
        program: Program,
        graph: ChannelGraph,
        plan: PrunePlan | None,
    ) -> None:
        self.graph, self.program, self.plan = graph, program, plan
        self.modules = dict(model.named_modules())
        self.tensors = dict(model.named_parameters())
        self.costs = CostModel(graph, model)
        keeps = {g: tuple(plan.groups[g].keep) for g in plan.groups} if plan else {}
        self.keeps = [keeps.get(g.name, tuple(range(g.size))) for g in graph.groups]
        self.kept = [set(keep) for keep in self.keeps]
        self.stays = graph.layer_keeps(keeps)
        self.after: Widths = np.array([len(keep) for keep in self.keeps], dtype=np.float64)
        self.macs_by = (self.costs.macs_by_layer(self.costs.widths), self.costs.macs_by_layer(self.after))
        self.channels_of = wiring.tensor_channels(program, graph)
        self.blocks, self.inner = wiring.by_block(program), wiring.by_layer(program)
        self.row_of, self.block_of = self._places()
        self.bare_macs: dict[str, dict[str, float]] = {}  # row -> operator without a layer -> its MACs
        for node, macs in self.macs_by[0].items():
            if node not in graph.layers:
                self.bare_macs.setdefault(self.inner.unit_of.get(node, ""), {})[node] = macs

    def explanation(self, name: str) -> Explanation:
        plan, costs, graph = self.plan, self.costs, self.graph
        layers = {n: self._layer(n, layer) for n, layer in graph.layers.items()}
        whole = costs.macs(costs.widths)
        how: dict[str, str | int] = {} if plan is None else {
            "importance": plan.importance, "allocation": plan.allocation, "channel_multiple": plan.channel_multiple,
            "seed": plan.seed,
        }  # fmt: skip
        return Explanation(
            model=name,
            input_shape=next(u.shapes[0][1:] for u in self.blocks.units if u.kind == wiring.IMAGE),
            graph_sha256=graph.sha256,
            how=how,
            macs=(whole, costs.macs(self.after)),
            parameters=(costs.parameters(costs.widths), costs.parameters(self.after)),
            channels=(sum(g.size for g in graph.groups), sum(map(len, self.keeps))),
            locked_macs=sum(x.macs[0] for x in layers.values() if x.locked) / whole if whole else 0.0,
            groups=self._groups(),
            clusters=tuple(map(self._cluster, graph.clusters, graph.reasons)),
            layers=layers,
            blocks=self._blocks(layers),
            edges=self.blocks.edges,
        )

    # --- groups ---------------------------------------------------------------------------------------

    def _groups(self) -> tuple[ExplainedGroup, ...]:
        cluster_of = {g: c for c, cluster in enumerate(self.graph.clusters) for g in cluster}
        positions: dict[tuple[int, Side], list[int]] = {}
        for name, layer in self.graph.layers.items():
            for side in ("in", "out"):
                for position, channel in enumerate(layer.side(side)):
                    if channel is not None:
                        positions.setdefault((channel[0], (name, side)), []).append(position)
        members: dict[int, list[Member]] = {}
        for (owner, (name, side)), owned in positions.items():
            members.setdefault(owner, []).append(Member(name, side, ranges(owned)))
        found = []
        for index, group in enumerate(self.graph.groups):
            cluster = self.graph.clusters[cluster_of[index]]
            step = self._steps(cluster)[cluster.index(index)]
            macs, parameters = self._saved({index: step})
            first = next((s for s in group.sides if s[1] == "out"), group.sides[0])
            found.append(
                ExplainedGroup(
                    name=group.name, size=group.size, after=len(self.keeps[index]), block=self._block_of(first[0]),
                    cluster=cluster_of[index], locked=group.locked, members=tuple(members.get(index, ())),
                    macs_per_channel=macs / step, parameters_per_channel=parameters / step,
                    keep=ranges(self.keeps[index]),
                )
            )  # fmt: skip
        return tuple(found)

    def _cluster(self, cluster: tuple[int, ...], reasons: tuple[str, ...]) -> ExplainedCluster:
        steps = self._steps(cluster)
        macs, parameters = self._saved(dict(zip(cluster, steps, strict=True)))
        return ExplainedCluster(cluster, reasons, steps, macs, parameters)

    def _steps(self, cluster: Sequence[int]) -> tuple[int, ...]:
        """Channels that each group loses first; of a locked cluster, those of its least proportion."""
        sizes = [self.graph.groups[g].size for g in cluster]
        rows = self.graph.proportions(cluster)
        if len(rows) > 1:
            return tuple(size - fewer for size, fewer in zip(sizes, rows[1], strict=True))
        return tuple(size // math.gcd(*sizes) for size in sizes)

    def _saved(self, fewer: Mapping[int, int]) -> tuple[float, float]:
        """MACs and parameters that go with so many channels of each group."""
        costs, widths = self.costs, self.costs.widths.copy()
        for group, count in fewer.items():
            widths[group] -= count
        return (
            costs.macs(costs.widths) - costs.macs(widths),
            costs.parameters(costs.widths) - costs.parameters(widths),
        )

    # --- layers and blocks ----------------------------------------------------------------------------

    def _layer(self, name: str, layer: Layer) -> ExplainedLayer:
        stays = self.stays[name]
        shares = [len(stays[s]) / len(layer.side(s)) if layer.side(s) else 1.0 for s in ("in", "out")]
        locked = all(c is None or self.graph.groups[c[0]].locked for c in layer.out)
        return ExplainedLayer(
            name=name,
            kind=layer.kind,
            detail=_detail(self.modules.get(name), layer),
            reads=self._runs(layer.in_),
            makes=self._runs(layer.out),
            widths_in=(len(layer.in_), len(stays["in"])),
            widths_out=(len(layer.out), len(stays["out"])),
            macs=(self.macs_by[0].get(name, 0.0), self.macs_by[1].get(name, 0.0)),
            parameters=self._parameters(name, layer, *shares),
            locked=locked,
        )

    def _parameters(self, name: str, layer: Layer, read: float, made: float) -> Change:
        """A layer's parameters, before and with these shares of its channels."""
        if layer.kind == "parameter":
            return self.tensors[name].numel(), self.tensors[name].numel() * made
        own = dict(self.modules[name].named_parameters(recurse=False))
        after = sum(p.numel() * made * (read if p.dim() > 1 and not layer.depthwise else 1.0) for p in own.values())
        return sum(p.numel() for p in own.values()), after

    def _places(self) -> tuple[dict[str, str], dict[str, str]]:
        """Layer -> the row that it stands in; row -> the block that it stands in."""
        block_of: dict[str, str] = {}
        for node, unit in self.inner.unit_of.items():
            if node in self.blocks.unit_of:
                block_of.setdefault(unit, self.blocks.unit_of[node])
        row_of: dict[str, str] = {}
        loose: dict[str, dict[str, None]] = {}  # node outside every row -> parameters that it hands on
        for fx in self.program.nodes:
            row = self.inner.unit_of.get(fx.name)
            own = (self.program.states.get(fx.name), wiring.layer_of(self.program, fx))
            names = dict.fromkeys(name for name in own if name in self.graph.layers)
            for before in fx.all_input_nodes:
                names.update(loose.get(before.name, {}))
            if row is None:
                loose[fx.name] = names
            else:
                row_of.update({name: row for name in names if name not in row_of})
        return row_of, block_of

    def _blocks(self, layers: Mapping[str, ExplainedLayer]) -> tuple[ExplainedBlock, ...]:
        inside: dict[str, list[ExplainedRow]] = {}
        of_row: dict[str, list[str]] = {}
        for name, row in self.row_of.items():
            of_row.setdefault(row, []).append(name)
        for unit in self.inner.units:
            block = self.block_of.get(unit.name, unit.name)
            inside.setdefault(block, []).append(self._row(unit, block, [layers[n] for n in of_row.get(unit.name, [])]))
        for name, layer in layers.items():
            if name not in self.row_of:
                block = self._block_of(name)
                label = name.removeprefix(f"{block}.")
                alone = ExplainedRow(name, label, "training", "", (name,), (), layer.macs, layer.parameters)
                inside.setdefault(block, []).append(alone)
        return tuple(self._block(unit, inside.get(unit.name, [])) for unit in self.blocks.units)

    def _block_of(self, layer: str) -> str:
        """The block that a layer stands in; by its path where only training reads it."""
        if layer in self.row_of:
            return self.block_of[self.row_of[layer]]
        return next((u.name for u in self.blocks.units if layer.startswith(f"{u.name}.")), "")

    def _row(self, unit: wiring.Unit, block: str, own: Sequence[ExplainedLayer]) -> ExplainedRow:
        spent = [x.macs for x in own]
        spent += [(macs, self.macs_by[1][node]) for node, macs in self.bare_macs.get(unit.name, {}).items()]
        label = unit.name.removeprefix(f"{block}.") if unit.kind == "layer" else unit.operator
        return ExplainedRow(
            name=unit.name, label=label, kind=unit.kind, operator=unit.operator, layers=tuple(x.name for x in own),
            holds=self._runs(next((self.channels_of[n] for n in unit.writes if n in self.channels_of), ())),
            macs=_total(spent), parameters=_total([x.parameters for x in own]),
        )  # fmt: skip

    def _block(self, unit: wiring.Unit, rows: Sequence[ExplainedRow]) -> ExplainedBlock:
        index = {row.name: i for i, row in enumerate(rows)}
        edges = [(index.get(a, -1), index.get(b, -1)) for a, b in self.inner.edges if a in index or b in index]
        return ExplainedBlock(
            name=unit.name, kind=unit.kind, class_=self._class(unit.name) or unit.operator,
            shapes=tuple(shape[1:] for shape in unit.shapes),
            reads=tuple(self._runs(self.channels_of.get(n, ())) for n in unit.reads),
            holds=tuple(self._runs(self.channels_of.get(n, ())) for n in unit.writes),
            macs=_total([row.macs for row in rows]), parameters=_total([row.parameters for row in rows]),
            rows=tuple(rows), edges=tuple(dict.fromkeys(edges)),
        )  # fmt: skip

    def _class(self, path: str) -> str:
        return type(self.modules[path]).__name__ if path in self.modules else ""

    def _runs(self, line: Sequence[Channel]) -> tuple[Run, ...]:
        """Neighbours of one group as one run, with how many of their positions stay."""
        runs = []
        for group, channels in groupby(line, lambda c: -1 if c is None else c[0]):
            members = list(channels)
            runs.append((group, len(members), sum(c is None or c[1] in self.kept[c[0]] for c in members)))
        return tuple(runs)


def _total(changes: Sequence[Change]) -> Change:
    return sum(c[0] for c in changes), sum(c[1] for c in changes)


def _detail(module: nn.Module | None, layer: Layer) -> str:
    """Kernel, stride and groups of a convolution; '' for other layers."""
    if not isinstance(module, (nn.Conv2d, nn.ConvTranspose2d)):
        return ""
    words = ["×".join(map(str, module.kernel_size))]
    if any(step != 1 for step in module.stride):
        words.append(f"{'/' if isinstance(module, nn.Conv2d) else '·'}{max(module.stride)}")
    if layer.depthwise:
        words.append("depthwise")
    elif layer.groups > 1:
        words.append(f"{layer.groups} groups")
    return " ".join(words)
