"""Which tensors are quantized, and which share a scale. Pure: operators and a scheme in, names out.

Rules:
- What a quantized convolution reads is quantized.
- Operators that only move values (Concat, Split, MaxPool, nearest upsampling, views) commute with quantization:
  everything that they connect is one *tensor class* with one scale, quantized where its values are made. So the
  inputs of a Concat share a scale, and the integers pass through.
- An addition reads its skip input quantized, since a convolution reads that one too; the branch stays as it is,
  so that the addition can be fused behind the branch's convolution.
- placement 'all' adds what lies between: a convolution's result, SiLU's gate, an addition's branch. A ReLU's
  input stays as it is under the asymmetric scheme, where the saturation at zero does the ReLU's work.
- Float stay: the head's last convolutions, and everything behind them. One scale over boxes (0 to the image's size)
  and scores (0 to 1) would round every score to 0. Softmax, matrix products and averages have no integer kernel in
  one or the other runtime; they read what their inputs are and make float.

Sources: NVIDIA TensorRT, 'Explicit Quantization' (Q/DQ placement recommendations); onnxruntime's QDQ selectors.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.utils._pytree import tree_leaves

from edgeprune.quant.watch import Watch
from edgeprune.records.quantization import Scheme

#: torch operators that only move values, or choose among them.
MOVES = frozenset(
    {
        "cat", "chunk", "split", "split_with_sizes", "tensor_split", "unbind", "stack", "__getitem__", "narrow",
        "select", "view", "reshape", "flatten", "permute", "transpose", "contiguous", "unsqueeze", "squeeze", "expand",
        "clone", "detach", "to", "max_pool2d", "interpolate", "pad",
    }
)  # fmt: skip
#: BatchNorm belongs to the convolution before it.
_NORM = "batch_norm"


@dataclass(frozen=True)
class Operator:
    """One operator of a forward pass: what it made, and from what."""

    name: str
    kind: str
    inputs: tuple[str, ...]


@dataclass(frozen=True)
class Placement:
    """What is quantized.

    Attributes:
        convolutions: Whose weights are.
        points: Tensor that is quantized -> the first tensor of its class, which names the scale.
    """

    convolutions: tuple[str, ...]
    points: dict[str, str]


def operators(model: nn.Module, image: torch.Tensor) -> tuple[Operator, ...]:
    """Run `model` once and note every operator."""
    tracer = _Tracer(model)
    tracer.run(image)
    return tuple(tracer.operators)


def place(program: Sequence[Operator], scheme: Scheme, float_layers: Iterable[str]) -> Placement:
    """Choose the tensors to quantize.

    Args:
        program: From `operators`.
        scheme: The target's.
        float_layers: Convolutions that stay float.
    """
    stays_float = set(float_layers)
    convolutions = [op for op in program if op.kind == "conv2d" and op.name not in stays_float]
    classes = _Classes(program)
    wanted = {classes.of(op.inputs[0]) for op in convolutions}
    if scheme.placement == "all":
        wanted |= {classes.of(name) for name in _between(program, convolutions, wanted, classes, scheme)}
    points = {}
    for op in program:
        if op.kind not in MOVES and classes.of(op.name) in wanted and not _folded(op, program):
            points[op.name] = classes.of(op.name)
    return Placement(tuple(op.name for op in convolutions), points)


def _between(
    program: Sequence[Operator],
    convolutions: Sequence[Operator],
    wanted: set[str],
    classes: _Classes,
    scheme: Scheme,
) -> Iterable[str]:
    """What only placement 'all' quantizes."""
    readers: dict[str, list[Operator]] = {}
    for op in program:
        for name in op.inputs:
            readers.setdefault(name, []).append(op)
    for conv in convolutions:
        result = next((op for op in readers.get(conv.name, []) if op.kind == _NORM), conv)
        after = readers.get(result.name, [])
        relu = after and all(op.kind in {"relu", "relu6", "hardtanh"} for op in after)
        if relu and scheme.activations == "asymmetric":
            yield from (op.name for op in after)  # whoever reads it: it is the convolution's result
        else:
            yield result.name
        for op in after:
            if op.kind == "sigmoid" and op.name.endswith(":gate"):
                yield op.name
                yield op.name.removesuffix(":gate")
    for op in program:
        if op.kind == "add" and classes.of(op.name) in wanted:
            yield from op.inputs


def _folded(op: Operator, program: Sequence[Operator]) -> bool:
    """Whether a BatchNorm follows: the convolution's own result is then never a tensor of the exported graph."""
    return op.kind == "conv2d" and any(o.kind == _NORM and op.name in o.inputs for o in program)


class _Classes:
    """Union-find over tensors that operators only move; a class is named by its first tensor."""

    def __init__(self, program: Sequence[Operator]) -> None:
        self._order = {op.name: index for index, op in enumerate(program)}
        self._parent = {op.name: op.name for op in program}
        for op in program:
            if op.kind in MOVES:
                for name in op.inputs:
                    self._join(op.name, name)

    def of(self, name: str) -> str:
        while self._parent[name] != name:
            self._parent[name] = self._parent[self._parent[name]]
            name = self._parent[name]
        return name

    def _join(self, a: str, b: str) -> None:
        first, second = sorted((self.of(a), self.of(b)), key=self._order.__getitem__)
        self._parent[second] = first


class _Tracer(Watch):
    def __init__(self, model: nn.Module) -> None:
        super().__init__(model)
        self.operators: list[Operator] = []
        self._maker: dict[int, str] = {}
        self._alive: list[Any] = []  # an id is only a name as long as its tensor lives

    def made(self, name: str, kind: str, value: Any, inputs: Any) -> Any:
        if kind == "sigmoid" and value is None:
            value = inputs[0].sigmoid()
        if kind == "interpolate" and "nearest" not in tree_leaves(inputs):
            kind = "interpolate, mixing values"
        made_from = [self._maker[id(t)] for t in tree_leaves(inputs) if id(t) in self._maker]
        self.operators.append(Operator(name, kind, tuple(dict.fromkeys(made_from))))
        for tensor in tree_leaves(value):
            self._maker[id(tensor)] = name
        self._alive.append(value)
        return value
