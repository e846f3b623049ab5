"""Choosing widths for a budget of time: what a method proposes, judged by whole engines on the device.

Rules, the same for every allocation (prune/problem.py):
- What a method proposes is measured as a whole engine, where there is a device; the prediction is corrected by what
  that took, and the method is asked again, until its engine takes the budget or at most 5 % less. A method with
  several solvers (`global`: mixed-integer programs and greed) has each of them measured and corrected.
- Of what was measured within the budget, the plan is taken that loses least by what the method judges by, whoever
  found it; for `global` and `uniform` that is importance.
- Channels that cost importance and save no time stay, with `global`: nothing is cut that could be wider within the
  budget.
- A budget under that of an empty engine, or under the fastest that can be reached, is refused with what can be, before
  a method begins to search.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from edgeprune.errors import PlanError
from edgeprune.graph.channels import ChannelGraph
from edgeprune.graph.cost import CostModel
from edgeprune.prune.importance import Scores
from edgeprune.prune.ladder import Keeps, Limits, ladders_of, widths_at
from edgeprune.prune.problem import Allocation, Means, Problem, Solvers
from edgeprune.prune.search import Rungs, Space
from edgeprune.prune.time import Measure, Timing
from edgeprune.records.choice import PlannedTime, Trial
from edgeprune.records.methods import METHODS

#: An engine this much faster than its budget could have kept more.
WINDOW = 0.05
#: Of solving and measuring; whole engines take the device a while.
ROUNDS = 4
#: A prediction may be off by so much that engines are built to see whether a budget can be reached after all.
_BENEFIT_OF_DOUBT = 0.2


def choose(
    graph: ChannelGraph, costs: CostModel, scores: Scores, timing: Timing, allocation: str, limits: Limits,
    means: Means | None = None,
) -> tuple[Keeps, PlannedTime]:  # fmt: skip
    """Choose the channels that stay.

    Args:
        timing: Of this graph on the target. Whole engines are built and measured where it can.
        means: What the allocation may use beside arithmetic.

    Returns:
        Channel group name -> ascending indices that stay, for every group; and what was tried.

    Raises:
        PlanError: The budget can't be met within the limits, or by what was measured.
    """
    problem = problem_of(graph, scores, timing, limits, means)
    space = problem.space
    _require_over_floor(timing)
    _require_reachable(space, [space.fastest], timing)
    method: Allocation = METHODS["allocation"][allocation].function
    solvers = method(problem)
    tried = (
        [_Try(name, 1, solve(timing.budget_ms), None) for name, solve in solvers.by_name.items()]
        if timing.measure is None
        else _race(space, solvers, timing, timing.measure)
    )
    chosen = _chosen(space, solvers, tried, timing)
    total, macs = sum(float(s.sum()) for s in scores.values()), costs.macs(costs.widths)
    choices = tuple(
        Trial(
            method=t.solver,
            round=t.round,
            predicted_ms=space.ms(t.point),
            measured_ms=t.measured_ms,
            importance_kept=float(np.clip(1 - space.loss(t.point) / total, 0, 1)) if total else 1.0,
            macs_ratio=costs.macs(widths_at(space.ladders, t.point)) / macs,
            chosen=t is chosen,
        )
        for t in tried
    )
    planned = PlannedTime(budget_ms=timing.budget_ms, whole_ms=space.ms(space.whole), choices=choices)
    return problem.keeps(chosen.point), planned


def problem_of(
    graph: ChannelGraph, scores: Scores, timing: Timing, limits: Limits, means: Means | None = None
) -> Problem:
    """A budget of time, as methods are asked for it."""
    space = Space(graph, ladders_of(graph, scores, limits), timing.model)
    return Problem(graph, scores, space, timing.budget_ms, in_time=True, means=means or Means())


@dataclass(frozen=True, eq=False)
class _Try:
    solver: str
    round: int
    point: Rungs
    measured_ms: float | None


def _race(space: Space, solvers: Solvers, timing: Timing, measure: Measure) -> list[_Try]:
    """Solve, measure, correct, again; each solver until its engine is in the window or it has nothing new to offer."""
    # aimed at a little less than the budget, so that noise doesn't put every second engine above it
    aim = timing.budget_ms * (1 - min(2 * timing.model.spread, WINDOW / 2))
    asked = dict.fromkeys(solvers.by_name, aim)
    took: dict[bytes, float] = {}
    tried: list[_Try] = []
    for number in range(1, ROUNDS + 1):
        points = {name: solvers.by_name[name](ms) for name, ms in asked.items()}
        if number == 1:
            _require_reachable(space, list(points.values()), timing)
        old = {(t.solver, t.point.tobytes()) for t in tried}
        points = {name: p for name, p in points.items() if (name, p.tobytes()) not in old}
        fresh = {p.tobytes(): p for p in points.values() if p.tobytes() not in took}
        if fresh:
            took |= zip(fresh, measure([widths_at(space.ladders, p) for p in fresh.values()]), strict=True)
        new = [_Try(name, number, point, took[point.tobytes()]) for name, point in points.items()]
        tried += new
        off = [(t, t.measured_ms / timing.budget_ms) for t in new if t.measured_ms is not None]
        asked = {
            t.solver: space.ms(t.point) / ratio * aim / timing.budget_ms
            for t, ratio in off
            if not 1 - WINDOW <= ratio <= 1
        }
        if not asked:
            break
    return tried


def _chosen(space: Space, solvers: Solvers, tried: Sequence[_Try], timing: Timing) -> _Try:
    def took(t: _Try) -> float:
        return space.ms(t.point) if t.measured_ms is None else t.measured_ms

    within = [t for t in tried if took(t) <= timing.budget_ms]
    if not within:
        fastest = min(tried, key=took)
        raise _unreachable(timing, f"{took(fastest):.3f} ms, the fastest of {len(tried)} that were tried")
    return min(within, key=lambda t: (solvers.loses(t.point), took(t)))


def _require_over_floor(timing: Timing) -> None:
    if timing.budget_ms <= timing.model.floor_ms:
        raise PlanError(
            "The budget is faster than an empty engine: handing the image over and taking the answer back is slower.",
            expected=f"over {timing.model.floor_ms:.3f} ms", got=f"{timing.budget_ms:.3f} ms",
            next_step="ask for more time; a smaller input or another runtime lowers that floor",
        )  # fmt: skip


def _require_reachable(space: Space, points: Sequence[Rungs], timing: Timing) -> None:
    """Refuse a budget that none of these is thought to come near."""
    fastest = min(space.ms(point) for point in points)
    doubt = _BENEFIT_OF_DOUBT if timing.measure else 0.0
    if fastest * (1 - doubt) > timing.budget_ms:
        times = space.ms(space.whole) / fastest
        raise _unreachable(timing, f"{fastest:.3f} ms predicted for the fastest, {times:.2f} times faster than uncut")


def _unreachable(timing: Timing, got: str) -> PlanError:
    return PlanError(
        "So little time can't be reached within the recipe's limits: cutting more doesn't make this target faster.",
        expected=f"at most {timing.budget_ms:.3f} ms", got=got,
        next_step="ask for more time (goal), raise max_group_ratio or lower min_width, or take a smaller input",
    )  # fmt: skip
