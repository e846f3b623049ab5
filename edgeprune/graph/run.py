"""What a rule is given, and what rules of every family need."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch.utils._pytree import tree_map

from edgeprune.graph.labels import NONE, Labels, distinct


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
        node: The node's name in the program.
        place: Operator and module, for sentences.
        value: What the node returns, as tensors without storage: for shapes.
        inputs: Shapes of the node's tensor inputs in order.
        op: The operator itself, for rules that let torch run it on the labels.
        counted: Whether its multiply-accumulates are spent at inference.
    """

    labels: Labels
    node: str
    place: str
    value: Any
    inputs: list[tuple[int, ...]]
    op: Callable[..., Any]
    counted: bool = True

    @property
    def shape(self) -> tuple[int, ...]:
        return tuple(self.value.shape)

    def spend(self, where: str, coefficient: float, a: list[int] | None, b: list[int] | None) -> None:
        if self.counted:
            self.labels.spend(where, coefficient, a, b)


Rule = Callable[..., Any]


def nothing(shape: tuple[int, ...]) -> torch.Tensor:
    """Labels of a tensor without channels (constants, coordinates)."""
    return torch.full((1,) * len(shape), NONE).expand(shape)


def fixed(shape: tuple[int, ...]) -> torch.Tensor:
    """Labels of a constant whose width is its own: stored, not expanded, so that what meets it can tell."""
    return torch.full(shape, NONE)


def holds_channels(labels: torch.Tensor) -> bool:
    return bool((distinct(labels)[0] != NONE).any())


def constant(run: Run, *_: Any, **__: Any) -> Any:
    return tree_map(lambda v: nothing(tuple(v.shape)) if isinstance(v, torch.Tensor) else v, run.value)


def counted(run: Run, *_: Any, **__: Any) -> torch.Tensor:
    """arange: its values depend on its length."""
    return fixed(run.shape)


def resized(run: Run, x: torch.Tensor, dims: Any) -> torch.Tensor:
    """One position along `dims`, whose neighbours the operator mixes; and the new extent of what it was."""
    merged = run.labels.join_along(x, dims, f"{run.place} mixes neighbouring positions")
    return merged.expand([run.shape[d] if d in dims else n for d, n in enumerate(merged.shape)])


def lock_beside_constants(run: Run, x: torch.Tensor, y: torch.Tensor) -> None:
    """Where only one of the two holds a channel, the other's position stays, and so must the channel."""
    a, b = distinct(*torch.broadcast_tensors(x, y))
    for one, other in ((a, b), (b, a)):
        run.labels.lock(one[(one != NONE) & (other == NONE)], f"{run.place} meets a constant of fixed width")
