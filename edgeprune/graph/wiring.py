"""Which module feeds which, read from a traced program: what a drawing of the model shows as boxes and arrows.

Rules:
- The program alone is the source: no YAML, no naming of modules. A *unit* is what is drawn as one box.
- `by_block`: a unit is a child of the deepest module that holds the whole forward (`model.0` … of an
  Ultralytics detector, `a`, `b`, `out` of a plain net).
- `by_layer`: a unit is a layer (conv, linear) or an operator that moves data between positions or
  channels (pooling, resizing, matmul, softmax). Normalisation, activation and reshaping belong to the
  unit that they follow.
- Only what inference runs is wired; what training alone reads of a layer is no box.
- An operator outside every unit is no box of its own, unless it brings several units together (a bare
  cat or add): then it is a unit of kind `join`, named as its node.
- Units stand in the order of execution. A module that runs twice is one unit, so an edge may point back.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from operator import getitem
from typing import Any

import torch

from edgeprune.graph.build import operator_name
from edgeprune.graph.channels import Channel, ChannelGraph
from edgeprune.graph.trace import Program, module_path

#: What the image and the model's output are called as ends of an edge.
IMAGE, OUTPUT = "image", "output"

#: Operators that make a layer of their own weight.
_LAYERS = frozenset({"conv2d", "conv_transpose2d", "linear"})
#: Operators without weights that `by_layer` shows.
_SHOWN = frozenset({
    "max_pool2d", "avg_pool2d", "adaptive_avg_pool2d", "upsample_nearest2d", "upsample_bilinear2d",
    "matmul", "bmm", "einsum", "scaled_dot_product_attention", "softmax",
})  # fmt: skip
#: Operators that take a channel axis apart.
_TAKING_APART = frozenset({"chunk", "split", "split_with_sizes", "view", "reshape"})
#: Operators whose result holds its (first known) operand's channels at the same positions of axis 1.
_CARRYING = frozenset({
    "batch_norm", "silu", "relu", "relu6", "leaky_relu", "hardswish", "hardtanh", "gelu", "mish", "sigmoid",
    "hardsigmoid", "tanh", "softplus", "dropout", "contiguous", "clone", "detach", "to", "max_pool2d", "avg_pool2d",
    "adaptive_avg_pool2d", "upsample_nearest2d", "upsample_bilinear2d", "add", "sub", "mul", "div", "maximum",
    "minimum",
})  # fmt: skip


@dataclass(frozen=True)
class Unit:
    """One box.

    Attributes:
        name: Module path; the node's name for an operator without a module.
        kind: module, layer, operator, join, image or output.
        operator: ATen's name where the unit is one operator, else ''.
        inside: Path of the module whose forward runs it ('' for the model itself).
        shapes: Real shapes of what leaves it, in order of first use.
        reads: Names of the nodes that it reads from outside, in order.
        writes: Names of the nodes of its own that others read, in order.
    """

    name: str
    kind: str
    operator: str
    inside: str
    shapes: tuple[tuple[int, ...], ...]
    reads: tuple[str, ...]
    writes: tuple[str, ...]


@dataclass(frozen=True)
class Wiring:
    """What is drawn.

    Attributes:
        units: In the order of execution.
        edges: (from, to) by name.
        unit_of: Node name -> the unit that it belongs to; nodes outside every unit are left out.
    """

    units: tuple[Unit, ...]
    edges: tuple[tuple[str, str], ...]
    unit_of: dict[str, str]


@dataclass(frozen=True)
class _Box:
    """What a node says of the unit that it belongs to."""

    name: str
    kind: str
    operator: str = ""


def by_block(program: Program) -> Wiring:
    """The wiring of the model's top-level blocks."""
    depth = len(_spine(program))

    def box(node: torch.fx.Node) -> _Box | None:
        parts, operator = _parts(node), operator_name(node)
        if len(parts) > depth:
            return _Box(".".join(parts[: depth + 1]), "module")
        return _Box(node.name, "operator", operator) if operator in _LAYERS else None

    return _wire(program, box)


def by_layer(program: Program) -> Wiring:
    """The wiring of layers and of the operators that stand between them."""

    def box(node: torch.fx.Node) -> _Box | None:
        operator = operator_name(node)
        if operator in _LAYERS:
            return _Box(layer_of(program, node) or node.name, "layer", operator)
        gathers = operator in {"cat", "stack"} and len(set(node.all_input_nodes)) > 1
        return _Box(node.name, "operator", operator) if operator in _SHOWN or gathers else None

    return _wire(program, box)


def shape(node: torch.fx.Node) -> tuple[int, ...]:
    """Shape of what a node returns at the real input size; () where that is no tensor."""
    value = node.meta.get("val")
    return tuple(value.shape) if isinstance(value, torch.Tensor) else ()


def layer_of(program: Program, node: torch.fx.Node) -> str | None:
    """The layer whose own weight this operator reads, as the channel graph names it."""
    if operator_name(node) not in _LAYERS | {"batch_norm"}:
        return None
    names = [program.states[n.name] for n in node.all_input_nodes if n.name in program.states]
    return names[0].rpartition(".")[0] if names else None


def tensor_channels(program: Program, graph: ChannelGraph) -> dict[str, tuple[Channel, ...]]:
    """Node name -> the channels along axis 1 of its result, for drawing.

    Exact where a layer makes or reads the tensor, or plain operators lie between; other nodes are left out.
    """
    lines: dict[torch.fx.Node, tuple[Channel, ...]] = {}
    for node in _operators(program):
        layer = graph.layers.get(layer_of(program, node) or "")
        if layer is not None and operator_name(node) in {"conv2d", "conv_transpose2d"}:
            lines[node.all_input_nodes[0]] = layer.in_
            lines[node] = layer.out
    for node in _operators(program):
        line = lines.get(node) or _carried(node, lines)
        if line is not None and len(line) == _width(node):
            lines[node] = line
    return {node.name: line for node, line in lines.items()}


# --- wiring -------------------------------------------------------------------------------------------


def _wire(program: Program, box: Callable[[torch.fx.Node], _Box | None]) -> Wiring:
    carried: dict[torch.fx.Node, str | None] = {}  # node -> the unit that its data come from
    units: dict[str, _Draft] = {}
    edges: dict[tuple[str, str], None] = {}

    def enter(found: _Box, node: torch.fx.Node, reads: Iterable[tuple[str, str]]) -> str:
        unit = units.setdefault(found.name, _Draft(found.kind, found.operator, ".".join(_parts(node))))
        for source, through in reads:
            if source != found.name:
                edges[source, found.name] = None
                unit.reads[through] = None
                units[source].writes[through] = None
        return found.name

    for node in program.nodes:
        if node.name in program.training_only:
            continue
        if node.op == "placeholder":
            carried[node] = enter(_Box(IMAGE, IMAGE), node, ()) if node.name == program.input_name else None
            continue
        reads = [(source, n.name) for n in node.all_input_nodes if (source := carried.get(n)) is not None]
        found = _Box(OUTPUT, OUTPUT) if node.op == "output" else box(node)
        if found is not None and (reads or found.kind == "layer"):
            carried[node] = enter(found, node, reads)
        elif len({source for source, _ in reads}) > 1:
            carried[node] = enter(_Box(node.name, "join", operator_name(node)), node, reads)
        else:
            carried[node] = reads[0][0] if reads else None
    shapes = {node.name: shape(node) for node in carried}
    drawn = tuple(unit.done(name, shapes) for name, unit in units.items())
    return Wiring(drawn, tuple(edges), {node.name: unit for node, unit in carried.items() if unit is not None})


class _Draft:
    """A unit while the program is walked through."""

    def __init__(self, kind: str, operator: str, inside: str) -> None:
        self.kind, self.operator, self.inside = kind, operator, inside
        self.reads: dict[str, None] = {}
        self.writes: dict[str, None] = {}

    def done(self, name: str, shapes: Mapping[str, tuple[int, ...]]) -> Unit:
        leaving = tuple(shapes[n] for n in self.writes if shapes[n])
        return Unit(name, self.kind, self.operator, self.inside, leaving, tuple(self.reads), tuple(self.writes))


def _operators(program: Program) -> Iterable[torch.fx.Node]:
    return (node for node in program.nodes if node.op == "call_function")


def _parts(node: torch.fx.Node) -> tuple[str, ...]:
    """The module path of a node in parts, without what torch.export adds: '@1' for a module's second run, and
    the slice where a forward runs a part of a Sequential."""
    path = re.sub(r"@\d+|slice\([^)]*\)\.?", "", module_path(node)).removesuffix(".")
    return tuple(path.split(".")) if path else ()


def _spine(program: Program) -> tuple[str, ...]:
    """Path of the deepest module that holds every operator that stands in a child of the model."""
    paths = [parts for node in _operators(program) if (parts := _parts(node))]
    spine: tuple[str, ...] = ()
    while paths and len({parts[: len(spine) + 1] for parts in paths}) == 1:
        if min(map(len, paths)) <= len(spine) + 1:
            break
        spine = paths[0][: len(spine) + 1]
    return spine


# --- channels of tensors ------------------------------------------------------------------------------


def _width(node: torch.fx.Node) -> int | None:
    return shape(node)[1] if len(shape(node)) > 1 else None


def _carried(node: torch.fx.Node, lines: Mapping[torch.fx.Node, tuple[Channel, ...]]) -> tuple[Channel, ...] | None:
    operator = operator_name(node)
    if operator == "cat" and _dim(node) == 1:
        parts = [lines.get(n) for n in _tensors(node.args[0])]
        return None if any(p is None for p in parts) else tuple(c for p in parts if p for c in p)
    if node.target is getitem:
        return _piece(node, lines)
    if operator in _CARRYING:
        return next((lines[n] for n in node.all_input_nodes if n in lines and len(lines[n]) == _width(node)), None)
    return None


def _piece(node: torch.fx.Node, lines: Mapping[torch.fx.Node, tuple[Channel, ...]]) -> tuple[Channel, ...] | None:
    """What `getitem` takes from a chunk or split along axis 1."""
    pieces, index = node.all_input_nodes[0], node.args[1]
    line = lines.get(pieces.all_input_nodes[0]) if pieces.all_input_nodes else None
    values = pieces.meta.get("val")
    if line is None or operator_name(pieces) not in _TAKING_APART or not isinstance(values, (list, tuple)):
        return None
    sizes = [value.shape[1] for value in values]
    if not isinstance(index, int) or sum(sizes) != len(line):
        return None
    start = sum(sizes[:index])
    return line[start : start + sizes[index]]


def _tensors(argument: Any) -> list[torch.fx.Node]:
    return [n for n in argument if isinstance(n, torch.fx.Node)] if isinstance(argument, (list, tuple)) else []


def _dim(node: torch.fx.Node) -> int:
    dim = node.kwargs.get("dim", node.args[1] if len(node.args) > 1 else 0)
    rank = len(shape(node))
    return dim % rank if isinstance(dim, int) and rank else -1
