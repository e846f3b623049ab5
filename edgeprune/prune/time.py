"""What a chooser needs to know of a target: how long an engine of given widths takes there.

Who knows it (the latency table and its model, the device that measures) lies on a higher floor and is handed in.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from edgeprune.graph.channels import ChannelGraph
from edgeprune.graph.cost import Widths

if TYPE_CHECKING:
    from torch import nn


class TimeModel(Protocol):
    """The time of one inference by a whole engine, predicted."""

    @property
    def floor_ms(self) -> float:
        """What an empty engine takes: reading the input, writing the output."""

    @property
    def spread(self) -> float:
        """Relative noise: two times that differ by less than this share count as alike."""

    def ms(self, widths: Widths) -> float:
        """Milliseconds at these widths, one number a channel group in the graph's order."""


#: Builds whole engines of these widths, measures them on the device in one run, and returns their medians in ms.
Measure = Callable[[Sequence[Widths]], Sequence[float]]


@dataclass(frozen=True)
class Timing:
    """One model's time on one target, and what it may become.

    Attributes:
        model: Predicts it, of the channel graph at hand.
        budget_ms: Most that an inference may take.
        measure: Measures it; None where a prediction will do (all rounds but the last).
    """

    model: TimeModel
    budget_ms: float
    measure: Measure | None = None


class Clock(Protocol):
    """The timing of a model that is about to be cut; in later rounds one that was cut before, with its own graph."""

    def __call__(self, graph: ChannelGraph, model: nn.Module, known: ChannelGraph | None = None, /) -> Timing:
        """Tell it.

        Args:
            graph: The model's channel graph.
            known: The same in the names that a latency table knows its layers by, where blocks have been taken out.
        """
