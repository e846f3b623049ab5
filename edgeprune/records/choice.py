"""PlannedTime: how the widths of a plan were chosen for a budget of time, and what else was tried."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from edgeprune.records.base import Record

#: milp: HiGHS on the time as it is around the best known widths, again and again; greedy: the step that loses the least
#: importance per millisecond; else the allocation itself.
Method = Literal["milp", "greedy", "uniform", "sensitivity", "netadapt", "amc", "nsga2", "tpe"]


class Trial(Record):
    """Widths that a method chose, what they were thought to take, and what they took."""

    method: Method
    round: int = Field(ge=1)
    """Of choosing and measuring, from 1; each later one corrects the prediction by what the one before took."""
    predicted_ms: float = Field(gt=0.0)
    """By the latency table's model, uncorrected."""
    measured_ms: float | None = Field(default=None, gt=0.0)
    """Median of the whole engine on the target; None where nothing was measured."""
    importance_kept: float = Field(ge=0.0, le=1.0)
    """Of the importance of all channels of the model that was cut."""
    macs_ratio: float = Field(gt=0.0, le=1.0)
    """MACs that stay, of the model that was cut."""
    chosen: bool = False
    """Whether the plan is this one."""


class PlannedTime(Record):
    """What a plan was to take, and every choice that was tried for it, in the order they were made."""

    budget_ms: float = Field(gt=0.0)
    whole_ms: float = Field(gt=0.0)
    """The model before this cut, predicted."""
    choices: tuple[Trial, ...] = Field(min_length=1)

    @model_validator(mode="after")
    def _one_chosen(self) -> PlannedTime:
        if sum(choice.chosen for choice in self.choices) != 1:
            raise ValueError("exactly one of the choices is the plan's")
        return self

    @property
    def chosen(self) -> Trial:
        return next(choice for choice in self.choices if choice.chosen)

    def sentence(self) -> str:
        """For the report's notes."""
        chosen = self.chosen
        took = "not measured" if chosen.measured_ms is None else f"measured {chosen.measured_ms:.2f}"
        return (
            f"widths for {self.budget_ms:.2f} ms: by {chosen.method}, predicted {chosen.predicted_ms:.2f}, {took}; "
            f"{chosen.importance_kept:.1%} of the importance kept at {chosen.macs_ratio:.1%} of the MACs, "
            f"the best of {len(self.choices)} that were tried"
        )
