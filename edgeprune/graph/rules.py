"""What each ATen operator does to channels: one small function an operator, gathered in `RULES`.

How to add a rule: write a function `(run, *args, **kwargs) -> labels` that takes the operator's own
arguments in ATen's order, with tensors replaced by label tensors (`labels.py`; a layer's own parameters
by `State`, see `TAKE_STATE`). Add it to `RULES` under the operator's name, and a net that uses it to
tests/nets.py. An operator without a rule raises `UnsupportedOpError`; none is ever taken for an
element-wise one.

Families:
- *move*: data goes elsewhere unchanged; torch runs the operator itself on the labels;
- *carry*: one tensor in, the same channels out, at another image size or value;
- *meet*: several tensors element by element; their channels are joined;
- *make*: conv and linear read some channels and make others;
- *mix*: softmax, reductions, matmul contract channels.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

from edgeprune.graph.labels import NONE, Labels, along, rows, varies


@dataclass(frozen=True)
class State:
    """A parameter or buffer as an operator's argument: its qualified name and its shape."""

    name: str
    shape: tuple[int, ...]

    @property
    def module(self) -> str:
        return self.name.rpartition(".")[0]


@dataclass
class Run:
    """What a rule may know of the node that it is called for.

    Attributes:
        labels: The channels as known so far; rules write here.
        node: The node's name in the program, for messages.
        shape: Shape of the node's result in the small trace (empty where it isn't a tensor).
        real_shape: The same at the real input size, for costs.
        real_inputs: Real shapes of the node's tensor inputs in order.
        op: The operator itself, for rules that let torch run it on the labels.
    """

    labels: Labels
    node: str
    shape: tuple[int, ...]
    real_shape: tuple[int, ...]
    real_inputs: list[tuple[int, ...]]
    op: Callable[..., Any]


Rule = Callable[..., Any]


def nothing(shape: tuple[int, ...]) -> torch.Tensor:
    """Labels of a tensor without channels (constants, coordinates)."""
    return torch.full((1,) * len(shape), NONE).expand(shape)


# --- move ---------------------------------------------------------------------------------------------


def move(run: Run, *args: Any, **kwargs: Any) -> Any:
    return run.op(*args, **kwargs)


def reshape(run: Run, x: torch.Tensor, shape: list[int]) -> torch.Tensor:
    """A channel axis that is taken apart into a grid must stay a grid: the longest axis of the grid may
    shrink, by equally many channels in every row."""
    out = x.reshape(shape)
    before = [d for d in range(x.dim()) if varies(x, d)]
    after = [d for d in range(out.dim()) if varies(out, d)]
    if len(after) > max(len(before), 1):
        shrinking = max(after, key=lambda d: out.shape[d])
        run.labels.equal_counts(rows(out, shrinking), f"{run.node} lays the channels out as a grid")
    return out


def view(run: Run, x: torch.Tensor, shape: list[int]) -> torch.Tensor:
    return reshape(run, x, shape)


def flatten(run: Run, x: torch.Tensor, start_dim: int = 0, end_dim: int = -1) -> torch.Tensor:
    return x.flatten(start_dim, end_dim)


def chunk(run: Run, x: torch.Tensor, chunks: int, dim: int = 0) -> list[torch.Tensor]:
    return split(run, x, -(-x.shape[dim] // chunks), dim)


def split(run: Run, x: torch.Tensor, size: int | list[int], dim: int = 0) -> list[torch.Tensor]:
    """Pieces of one length must keep one length; pieces of several lengths keep theirs in every row."""
    pieces = list(x.split(size, dim))
    if varies(x, dim):
        why = f"{run.node} splits the channels"
        by_length: dict[int, list[list[int]]] = {}
        for piece in pieces:
            by_length.setdefault(piece.shape[dim], []).extend(rows(piece, dim))
        for parts in by_length.values():
            run.labels.equal_counts(parts, why)
    return pieces


# --- carry --------------------------------------------------------------------------------------------


def carry(run: Run, x: torch.Tensor, *_: Any, **__: Any) -> torch.Tensor:
    """The same channels, possibly at another image size (axes behind the second)."""
    if tuple(x.shape) == run.shape:
        return x
    return x[(slice(None), slice(None)) + (slice(0, 1),) * (x.dim() - 2)].expand(run.shape)


def batch_norm(run: Run, x: torch.Tensor, weight: State, *_: Any) -> torch.Tensor:
    channels = along(x, 1)
    if channels is None:
        run.labels.lock(x, f"{run.node} normalises what is no plain channel axis")
        return x
    run.labels.layer(weight.module, "batch_norm", channels, [], 1, False)
    return x


# --- meet ---------------------------------------------------------------------------------------------


def meet(run: Run, a: Any, b: Any = None, *_: Any, **__: Any) -> torch.Tensor:
    tensors = [t for t in (a, b) if isinstance(t, torch.Tensor)]
    return tensors[0] if len(tensors) == 1 else run.labels.join(*tensors)


def loose(labels: Labels, x: State) -> torch.Tensor:
    """A parameter or buffer that no layer owns (a layer scale): one label an element of its one long axis."""
    long = [d for d, size in enumerate(x.shape) if size > 1]
    if len(long) != 1:
        return nothing(x.shape)
    known = labels.layers.get(x.name)
    out = known.out if known else labels.fresh(x.shape[long[0]])
    labels.layer(x.name, "parameter", out, [], 1, False)
    return torch.tensor(out).reshape([-1 if d == long[0] else 1 for d in range(len(x.shape))])


# --- make ---------------------------------------------------------------------------------------------


def conv2d(
    run: Run, x: torch.Tensor, weight: State, bias: Any = None, stride: Any = 1, padding: Any = 0,
    dilation: Any = 1, groups: int = 1,
) -> torch.Tensor:  # fmt: skip
    """New labels for the output. Depthwise (also with several outputs an input): the output is the input's
    channel. Grouped: every group stays equally wide on both sides."""
    labels, made, read = run.labels, weight.shape[0], along(x, 1)
    kernel = weight.shape[2] * weight.shape[3]
    positions = run.real_shape[2] * run.real_shape[3]
    if read is None:
        labels.lock(x, f"{weight.module} convolves over what is no plain channel axis")
        read = [NONE] * x.shape[1]
    depthwise = groups > 1 and groups == len(read)
    if depthwise:
        out = [channel for channel in read for _ in range(made // groups)]
        labels.spend(weight.module, positions * kernel, None, out)
    else:
        out = labels.fresh(made)
        labels.spend(weight.module, positions * kernel / groups, read, out)
    if groups > 1 and not depthwise:
        why = f"{weight.module} is a convolution in {groups} groups"
        for side in (read, out):
            width = len(side) // groups
            labels.equal_counts([side[i : i + width] for i in range(0, len(side), width)], why)
    labels.layer(weight.module, "conv", out, read, groups, depthwise)
    return torch.tensor(labels.layers[weight.module].out).view(1, -1, 1, 1).expand(run.shape)


def linear(run: Run, x: torch.Tensor, weight: State, bias: Any = None) -> torch.Tensor:
    labels, read = run.labels, along(x, -1)
    if read is None:
        labels.lock(x, f"{weight.module} reads what is no plain channel axis")
        read = [NONE] * x.shape[-1]
    out = labels.fresh(weight.shape[0])
    positions = 1
    for size in run.real_shape[:-1]:
        positions *= size
    labels.spend(weight.module, positions, read, out)
    labels.layer(weight.module, "linear", out, read, 1, False)
    return torch.tensor(labels.layers[weight.module].out).expand(run.shape)


# --- mix ----------------------------------------------------------------------------------------------


def softmax(run: Run, x: torch.Tensor, dim: int, *_: Any) -> torch.Tensor:
    """A channel that is cut leaves the denominator, one that is silenced doesn't: so none may go."""
    if varies(x, dim):
        run.labels.lock(x, f"{run.node} (softmax) runs over these channels")
    return x


def matmul(run: Run, a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """out[..., i, j] = sum over k of a[..., i, k] b[..., k, j]: channels along k are contracted, and join
    between the factors; channels along i or j are carried."""
    labels, batch = run.labels, run.real_shape[:-2]
    rows_real, inner_real, columns_real = run.real_shape[-2], run.real_inputs[0][-1], run.real_shape[-1]
    if varies(a, -1) or varies(b, -2):
        if varies(a, -2) or varies(b, -1):
            labels.lock(a, f"{run.node} (matmul) contracts and carries channels at once")
            labels.lock(b, f"{run.node} (matmul) contracts and carries channels at once")
        contracted = labels.join(a.movedim(-1, -2)[..., :1], b[..., :1])
        labels.spend(run.node, rows_real * columns_real, contracted.flatten().tolist(), None)
        return nothing(run.shape)
    left, right = a[..., :1], b[..., :1, :]
    if varies(a, -2) and varies(b, -1):
        labels.lock(a, f"{run.node} (matmul) multiplies channels with channels")
        labels.lock(b, f"{run.node} (matmul) multiplies channels with channels")
    out = torch.where(left == NONE, right, left).expand(run.shape)
    carried = next((t for t, d in ((left, -2), (right, -1)) if varies(t, d)), None)
    if carried is None:
        total = 1
        for size in (*batch, rows_real, inner_real, columns_real):
            total *= size
        labels.spend(run.node, total, None, None)
    else:
        other = columns_real if carried is left else rows_real
        labels.spend(run.node, other * inner_real, carried.flatten().tolist(), None)
    return out


def constant(run: Run, *_: Any, **__: Any) -> torch.Tensor:
    return nothing(run.shape)


def _table(rule: Rule, names: str) -> dict[str, Rule]:
    return dict.fromkeys(names.split(), rule)


#: Operators whose rules take a layer's own `State`; to all others a parameter comes as `loose` labels.
TAKE_STATE = frozenset({"batch_norm", "conv2d", "linear"})

#: ATen operator (without namespace and overload) -> rule.
RULES: dict[str, Rule] = {
    **_table(move, "getitem cat stack slice select permute transpose unsqueeze squeeze expand"),
    **_table(carry, "silu relu relu6 leaky_relu hardswish hardtanh gelu mish sigmoid hardsigmoid tanh softplus"),
    **_table(carry, "contiguous clone detach dropout neg exp cos sin pow sqrt to"),
    **_table(carry, "max_pool2d avg_pool2d adaptive_avg_pool2d upsample_nearest2d upsample_bilinear2d"),
    **_table(meet, "add sub mul div maximum minimum"),
    **_table(constant, "arange full zeros ones zeros_like ones_like empty"),
    "batch_norm": batch_norm,
    "chunk": chunk,
    "conv2d": conv2d,
    "flatten": flatten,
    "linear": linear,
    "matmul": matmul,
    "reshape": reshape,
    "softmax": softmax,
    "split": split,
    "split_with_sizes": split,
    "view": view,
}
