"""Goals as an ordered thing: which kind one is of, which of two is harder, how one is said. Pure."""

from __future__ import annotations

from typing import Literal, get_args

from edgeprune.records.recipe import Goal
from edgeprune.records.report import Report

GoalKind = Literal["speedup", "latency_ms", "fps", "macs_ratio", "sparsity"]
KINDS: tuple[GoalKind, ...] = get_args(GoalKind)
#: Kind -> its short form in names of builds: '2x', '8ms'.
UNITS: dict[str, str] = {
    "speedup": "x",
    "latency_ms": "ms",
    "fps": "fps",
    "macs_ratio": "macs",
    "sparsity": "zeros",
    "imgsz": "px",
}
#: Kinds of which more is harder; of the others less is.
_UP = frozenset({"speedup", "fps", "sparsity"})


def kind_and_value(goal: Goal) -> tuple[GoalKind, float]:
    """What a goal asks for."""
    return next((kind, value) for kind in KINDS if (value := getattr(goal, kind, None)) is not None)


def harder(kind: str, one: float, other: float) -> bool:
    """Whether the first of two values of a kind asks for more."""
    return one > other if kind in _UP else one < other


def hardness(kind: str, value: float) -> float:
    """A key to sort by, from mild to hard."""
    return value if kind in _UP else -value


def short(kind: str, value: float) -> str:
    """In names: '2x', '0.5macs'."""
    return f"{value:g}{UNITS[kind]}"


def words(kind: str, value: float) -> str:
    """As a recipe has it: 'speedup 2'."""
    return f"{kind} {value:g}"


def whole(kind: str, report: Report) -> float:
    """The value that the uncut parent has by itself; times are its best engine's in that report."""
    parent = next(r for r in report.rows if f"{r.variant} {r.precision}" == report.verdict.comparison.parent)
    ms = parent.latency_ms.p50
    return {"speedup": 1.0, "macs_ratio": 1.0, "latency_ms": ms, "fps": 1e3 / ms, "sparsity": 0.0}[kind]
