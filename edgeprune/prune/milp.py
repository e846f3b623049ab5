"""The widths that keep the most importance within a budget of time, by mixed-integer programs. Pure.

The problem is a knapsack with a choice a cluster: one rung each, the least importance lost, time at most the budget.
Were time a sum over clusters, one program would solve it exactly (SciPy's HiGHS). It isn't, so:

- A program is solved on the time as it is around a known point, one cluster at a time. Where its answer is slower than
  the program thought, it is narrowed by the best steps until it holds; what is left over is given back.
- An answer that is better is the next point; where none is, the program may look only half as far from its point,
  until it looks no further than a rung. So a mistake about far moves doesn't hide near ones.
- It starts from several points (greedy's, an equal share of every cluster, the fastest there is), and every answer is
  bettered by pairs of moves, judged by their own time.

How near to the best it ends, on nets so small that every point can be tried (6 clusters, 49152 points, 48 budgets
each; tests/prune/test_search.py has a part of it): the best itself on a machine with steps, always; on a smooth one in
85 %, 0.2 % more importance lost than need be on average, 4 % at worst.
"""

from __future__ import annotations

import ctypes
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np

from edgeprune.prune.search import MIXED, Rungs, Space, Walk

#: Branch and bound ends here and not after a time, so that the same request gives the same plan on every machine.
_OPTIONS = {"mip_rel_gap": 1e-5, "node_limit": 5000}
#: HiGHS lets a row be off by a millionth: of a thousandth of the budget.
_ROW = 1000.0
#: Greed on its way to these shares of the budget first starts elsewhere.
_DETOURS = (1.0, 0.9)
#: An answer counts as better if it loses this share less: smaller steps are rounding.
_BETTER = 1e-6


def best(space: Space, budget: float) -> Rungs | None:
    """The best point found within the budget (ms); None where none was."""
    found: Rungs | None = None
    for start in _starts(space, budget):
        walk = _refine(space, start, budget)
        if found is None or space.loss(walk.point) < space.loss(found) * (1 - _BETTER):
            found = walk.point
    return None if found is None else Walk(space, found).settle(budget)


def _starts(space: Space, budget: float) -> Iterator[Rungs]:
    for detour in _DETOURS:
        walk = Walk(space, space.whole)
        if walk.narrow(budget * detour) and walk.narrow(budget):
            yield walk.widen(budget)
    for point in (space.first_within(space.alike, budget), space.fastest):
        if point is not None and space.ms(point) <= budget:
            yield Walk(space, point).widen(budget)


def _refine(space: Space, point: Rungs, budget: float) -> Walk:
    walk, reach = Walk(space, point), 1.0
    longest = max(ladder.last for ladder in space.ladders)
    while reach * longest >= 1:
        answers = (_program(space, walk, limit, reach) for limit in (budget, budget * (1 + MIXED)))
        better = next(filter(None, (_improved(space, walk, answer, budget) for answer in answers)), None)
        reach = reach / 2 if better is None else reach
        walk = better or walk
    walk.swap(budget)
    return walk


def _improved(space: Space, walk: Walk, answer: Rungs | None, budget: float) -> Walk | None:
    """Where an answer leads to within the budget, if that is better than `walk`."""
    if answer is None or (answer == walk.point).all():
        return None
    there = Walk(space, answer)
    if not there.narrow(budget):
        return None
    there.swap(budget)
    return there if space.loss(there.point) < space.loss(walk.point) * (1 - _BETTER) else None


def _program(space: Space, walk: Walk, budget: float, reach: float) -> Rungs | None:
    """The best point by the table of `walk`, no cluster further than `reach` (a share of its ladder)."""
    from scipy.optimize import Bounds, LinearConstraint, milp
    from scipy.sparse import csr_matrix

    worst = space.loss(walk.point)
    if worst <= 0:
        return None
    far = np.maximum(np.ceil(reach * space.narrowest), 1)[space.of]
    # what loses more by itself than the point does is in no better one
    open_ = (np.abs(space.rung - walk.point[space.of]) <= far) & (space.lost <= worst * (1 + _BETTER))
    count = len(space.of)
    one_each = csr_matrix((np.ones(count), (space.of, np.arange(count))), shape=(len(space.ladders), count))
    with _silence():
        answer = milp(
            np.minimum(space.lost / worst, 2.0),
            constraints=[
                LinearConstraint(one_each, 1, 1),
                LinearConstraint(walk.change[None, :] * _ROW / budget, -np.inf, (budget - walk.ms) * _ROW / budget),
            ],
            bounds=Bounds(0, open_.astype(np.float64)),
            integrality=np.ones(count),
            options=_OPTIONS,
        )
    if answer.x is None:
        return None
    chosen = np.flatnonzero(answer.x > 0.5)
    point = walk.point.copy()
    point[space.of[chosen]] = space.rung[chosen]
    return point


@contextmanager
def _silence() -> Iterator[None]:
    """HiGHS prints a line of its debugging to the process's standard output, whatever it is told."""
    c = ctypes.CDLL(None)
    sys.stdout.flush()
    c.fflush(None)
    kept, nowhere = os.dup(1), os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 1)
    try:
        yield
    finally:
        c.fflush(None)
        os.dup2(kept, 1)
        os.close(kept)
        os.close(nowhere)
