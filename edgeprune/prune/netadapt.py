"""NetAdapt: cut a step at a time, each time in the one cluster where it hurts least. Pure.

Rules, as algorithm 1 has them:
- Every iteration asks for a step less of the resource. Every cluster alone is narrowed to the widest rung with which
  that holds (*choose number of filters*), its best-scored channels stay (*choose which filters*), and of these
  candidates the one with the lowest loss goes into the next iteration.
- The resource is what the budget is in: ms that the target is predicted to take, or MACs.
- There is no short-term fine-tuning between: a candidate is scored as it was cut. The build trains the last one.
- The last step asks for the budget itself. Where no cluster alone saves a whole step, half of it is asked for.

Source: Yang et al. 2018, 'NetAdapt: Platform-Aware Neural Network Adaptation for Mobile Applications', section 3.2 and
algorithm 1.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from edgeprune.prune.problem import Problem, Solvers
from edgeprune.prune.search import Rungs

#: Of what the whole model spends. The paper's steps are of this order (MobileNet: 0.5 of 20 to 60 ms).
STEP = 1 / 40
#: Steps are halved this often before there is nothing to save.
_HALVED = 6


def netadapt(problem: Problem) -> Solvers:
    """Iterations until the budget holds; another budget shares all iterations but its last."""
    space, known = problem.space, dict[tuple[bytes, float], Rungs | None]()
    step = STEP * space.ms(space.whole)

    def solve(budget: float) -> Rungs:
        point = space.whole
        far = max(space.ms(point) - budget, 1e-12)
        while (here := space.ms(point)) > budget:
            problem.means.on_trial(round(100 * (1 - (here - budget) / far)), 100)
            asked = (max(here - step / 2**n, budget) for n in range(_HALVED))
            following = next((p for p in (_looked_up(point, limit) for limit in asked) if p is not None), None)
            if following is None:
                return point
            point = following
        return point

    def _looked_up(point: Rungs, limit: float) -> Rungs | None:
        key = point.tobytes(), limit
        if key not in known:
            known[key] = iterate(problem, point, limit)
        return known[key]

    return Solvers({"netadapt": solve}, problem.loss)


def iterate(problem: Problem, point: Rungs, limit: float) -> Rungs | None:
    """One iteration: the candidate within `limit` that loses least; None where no cluster alone gets there."""
    found = [(problem.loss(c.point), c.cluster, c.point) for c in candidates(problem, point, limit)]
    return min(found, key=lambda f: f[:2])[2] if found else None


@dataclass(frozen=True, eq=False)
class Candidate:
    """A point with one cluster narrower than before."""

    cluster: int
    point: Rungs


def candidates(problem: Problem, point: Rungs, limit: float) -> Iterator[Candidate]:
    """For every cluster, the widest of its narrower rungs with which `limit` holds; those that have one."""
    for cluster, ladder in enumerate(problem.space.ladders):
        for rung in range(int(point[cluster]) + 1, ladder.last + 1):
            there = np.array(point)
            there[cluster] = rung
            if problem.space.ms(there) <= limit:
                yield Candidate(cluster, there)
                break
