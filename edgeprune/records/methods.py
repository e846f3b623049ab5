"""Every pruning method that a recipe can name, by what it decides: one line each.

A recipe takes one of each row and composes them. The line says where the method is from, what it needs, and which
function it is; the function's docstring has the formula. Adding a method is that function, a test, and a line here.

Rules:
- A function is named by where it is, so that this table, which device rooms read with the recipe, imports nothing.
- What a row's functions take and give back stands in the room that calls them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib import import_module
from typing import Any, Literal

from pydantic_core import core_schema

Need = Literal["data", "gradients", "training"]
Row = Literal["granularity", "importance", "regularization", "pruning", "allocation", "distillation"]


@dataclass(frozen=True)
class Method:
    """One method.

    Attributes:
        source: Paper, with section and formula; or what it is the control for.
        at: 'module:function' under edgeprune; none for what a row does without a function of its own.
        needs: What it can't do without: data = training images, gradients = of the loss on them, training = epochs.
    """

    source: str
    at: str | None = None
    needs: tuple[Need, ...] = ()

    @property
    def function(self) -> Callable[..., Any]:
        """The function itself; its room is imported for it."""
        assert self.at is not None
        module, _, name = self.at.partition(":")
        found: Callable[..., Any] = getattr(import_module(f"edgeprune.{module}"), name)
        return found


METHODS: Mapping[Row, Mapping[str, Method]] = {
    "granularity": {
        "channels": Method("Li et al. 2017, section 3: whole filters, with everything that reads them"),
    },
    "importance": {
        "random": Method("the control: uniform by seed", "prune.importance:random"),
        "l1": Method("Li et al. 2017, section 3.1", "prune.importance:l1"),
        "l2": Method("Li et al. 2017, section 3.1, with squares", "prune.importance:l2"),
        "bn": Method("Liu et al. 2017 (network slimming), section 3", "prune.importance:bn"),
        "taylor": Method("Molchanov et al. 2019, eq. 8 and 10", "prune.importance:taylor", ("data", "gradients")),
    },
    "regularization": {
        "none": Method("nothing"),
    },
    "pruning": {
        "one-shot": Method("cut, then train; `rounds` over 1: iterative (Han et al. 2015, section 3)"),
    },
    "allocation": {
        "global": Method(
            "what loses least for what it saves goes first: greedy per MAC; for a goal in time, mixed-integer programs "
            "on measured latency (HALP, Shen et al. 2022, section 3)",
            "prune.allocate:by_importance",
        ),
        "uniform": Method("Li et al. 2017, section 4: every layer the same share", "prune.allocate:uniform"),
    },
    "distillation": {
        "none": Method("labels alone"),
        "logits": Method("Hinton et al. 2015 (scores); LD, Zheng et al. 2022, eq. 4 (boxes)", needs=("training",)),
        "ultralytics": Method("Ultralytics' own feature distillation", needs=("training",)),
    },
}  # fmt: skip


@dataclass(frozen=True)
class Named:
    """Annotation of a field: one of a row's names."""

    row: Row

    def __get_pydantic_core_schema__(self, source: Any, handler: Any) -> core_schema.CoreSchema:
        return core_schema.literal_schema(list(METHODS[self.row]))
