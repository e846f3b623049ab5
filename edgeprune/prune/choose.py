"""Choosing widths for a budget of time: both solvers, judged by whole engines on the device.

Rules:
- `global` is solved by mixed-integer programs and by greed, `uniform` by the widest equal share that holds. What they
  choose is measured as whole engines, where there is a device; the prediction is corrected by what that took, and each
  solves again, until its engine takes the budget or at most 5 % less.
- Of what was measured within the budget, the plan that keeps the most importance is taken, whoever found it.
- Channels that cost importance and save no time stay: nothing is cut that could be wider within the budget.
- A budget under that of an empty engine, or under the fastest that can be reached, is refused with what can be.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from edgeprune.errors import PlanError
from edgeprune.graph.channels import ChannelGraph
from edgeprune.graph.cost import CostModel
from edgeprune.prune.importance import Scores
from edgeprune.prune.ladder import Keeps, Limits, keeps_at, ladders_of, uniform_rungs, widths_at
from edgeprune.prune.milp import best
from edgeprune.prune.search import Rungs, Space, greedy
from edgeprune.prune.time import Measure, Timing
from edgeprune.records.choice import Method, PlannedTime, Trial

#: An engine this much faster than its budget could have kept more.
WINDOW = 0.05
#: Of solving and measuring; whole engines take the device a while.
ROUNDS = 4
#: A prediction may be off by so much that engines are built to see whether a budget can be reached after all.
_BENEFIT_OF_DOUBT = 0.2


def choose(
    graph: ChannelGraph, costs: CostModel, scores: Scores, timing: Timing, allocation: str, limits: Limits
) -> tuple[Keeps, PlannedTime]:
    """Choose the channels that stay.

    Args:
        timing: Of this graph on the target. Whole engines are built and measured where it can.

    Returns:
        Channel group name -> ascending indices that stay, for every group; and what was tried.

    Raises:
        PlanError: The budget can't be met within the limits, or by what was measured.
    """
    space = Space(graph, ladders_of(graph, scores, limits), timing.model)
    methods: tuple[Method, ...] = ("uniform",) if allocation == "uniform" else ("milp", "greedy")
    _require_reachable(space, methods[0], timing)
    tried = (
        [_Try(method, 1, _solve(space, method, timing.budget_ms), None) for method in methods]
        if timing.measure is None
        else _race(space, methods, timing, timing.measure)
    )
    chosen = _chosen(space, tried, timing)
    total, macs = sum(float(s.sum()) for s in scores.values()), costs.macs(costs.widths)
    choices = tuple(
        Trial(
            method=t.method,
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
    return keeps_at(graph, scores, widths_at(space.ladders, chosen.point)), planned


@dataclass(frozen=True, eq=False)
class _Try:
    method: Method
    round: int
    point: Rungs
    measured_ms: float | None


def _solve(space: Space, method: Method, budget: float) -> Rungs:
    """A method's answer; the fastest that it has where the budget is under that."""
    if method == "uniform":
        points = [np.array(rungs, dtype=np.intp) for rungs in uniform_rungs(space.ladders)]
        return next((p for p in points if space.ms(p) <= budget), min(points, key=space.ms))
    found = best(space, budget) if method == "milp" else greedy(space, budget)
    return space.fastest if found is None else found


def _race(space: Space, methods: Sequence[Method], timing: Timing, measure: Measure) -> list[_Try]:
    """Solve, measure, correct, again; each method until its engine is in the window or it has nothing new to offer."""
    # aimed at a little less than the budget, so that noise doesn't put every second engine above it
    aim = timing.budget_ms * (1 - min(2 * timing.model.spread, WINDOW / 2))
    asked = dict.fromkeys(methods, aim)
    took: dict[bytes, float] = {}
    tried: list[_Try] = []
    for number in range(1, ROUNDS + 1):
        points = {method: _solve(space, method, ms) for method, ms in asked.items()}
        old = {(t.method, t.point.tobytes()) for t in tried}
        points = {method: p for method, p in points.items() if (method, p.tobytes()) not in old}
        fresh = {p.tobytes(): p for p in points.values() if p.tobytes() not in took}
        if fresh:
            took |= zip(fresh, measure([widths_at(space.ladders, p) for p in fresh.values()]), strict=True)
        new = [_Try(method, number, point, took[point.tobytes()]) for method, point in points.items()]
        tried += new
        off = [(t, t.measured_ms / timing.budget_ms) for t in new if t.measured_ms is not None]
        asked = {
            t.method: space.ms(t.point) / ratio * aim / timing.budget_ms
            for t, ratio in off
            if not 1 - WINDOW <= ratio <= 1
        }
        if not asked:
            break
    return tried


def _chosen(space: Space, tried: Sequence[_Try], timing: Timing) -> _Try:
    def took(t: _Try) -> float:
        return space.ms(t.point) if t.measured_ms is None else t.measured_ms

    within = [t for t in tried if took(t) <= timing.budget_ms]
    if not within:
        fastest = min(tried, key=took)
        raise _unreachable(timing, f"{took(fastest):.3f} ms, the fastest of {len(tried)} that were tried")
    return min(within, key=lambda t: (space.loss(t.point), took(t)))


def _require_reachable(space: Space, method: Method, timing: Timing) -> None:
    if timing.budget_ms <= timing.model.floor_ms:
        raise PlanError(
            "The budget is faster than an empty engine: handing the image over and taking the answer back is slower.",
            expected=f"over {timing.model.floor_ms:.3f} ms", got=f"{timing.budget_ms:.3f} ms",
            next_step="ask for more time; a smaller input or another runtime lowers that floor",
        )  # fmt: skip
    fastest = space.ms(_solve(space, "uniform", 0.0) if method == "uniform" else space.fastest)
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
