"""NetAdapt: cut a step at a time, each time in the one cluster where it hurts least. Pure.

Rules, as algorithm 1 has them:
- Every iteration asks for a step less of the resource. Every cluster alone is narrowed to the widest rung with which
  that holds (*choose number of filters*), its best-scored channels stay (*choose which filters*), and of these
  candidates the one with the lowest loss goes into the next iteration.
- The resource is what the budget is in: ms that the target is predicted to take, or MACs.
- A candidate has short-term fine-tuning before its loss is taken (`search_steps` of the recipe), from the weights of
  the one that won the iteration before. Only widths are learned from that: the build cuts the model itself, and trains
  it.
- The last step asks for the budget itself. Where no cluster alone saves a whole step, half of it is asked for.

Source: Yang et al. 2018, 'NetAdapt: Platform-Aware Neural Network Adaptation for Mobile Applications', section 3.2 and
algorithm 1.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from edgeprune.prune.problem import Problem, Solvers
from edgeprune.prune.search import Rungs

#: Of what the whole model spends. The paper's steps are of this order (MobileNet: 0.5 of 20 to 60 ms).
STEP = 1 / 40
#: Steps are halved this often before there is nothing to save.
_HALVED = 6


def netadapt(problem: Problem) -> Solvers:
    """Iteration i takes, of candidates k with one cluster narrower, argmin_k loss(k) with spent(k) <= spent(i - 1) -
    step, until the budget holds; another budget shares all iterations but its last.
    Source: Yang et al. 2018 (NetAdapt), section 3.2, algorithm 1."""
    space, known = problem.space, dict[tuple[tuple[bytes, ...], float], Rungs | None]()
    step = STEP * space.ms(space.whole)

    def solve(budget: float) -> Rungs:
        point, way = space.whole, list[Rungs]()
        far = max(space.ms(point) - budget, 1e-12)
        while (here := space.ms(point)) > budget:
            problem.means.on_trial(round(100 * (1 - (here - budget) / far)), 100)
            asked = (max(here - step / 2**n, budget) for n in range(_HALVED))
            following = next((p for p in (_looked_up(way, point, limit) for limit in asked) if p is not None), None)
            if following is None:
                return point
            point = following
            way.append(point)
        return point

    def _looked_up(way: Sequence[Rungs], point: Rungs, limit: float) -> Rungs | None:
        key = tuple(before.tobytes() for before in way), limit
        if key not in known:
            known[key] = iterate(problem, way, point, limit)
        return known[key]

    return Solvers({"netadapt": solve}, problem.loss)


def iterate(problem: Problem, way: Sequence[Rungs], point: Rungs, limit: float) -> Rungs | None:
    """One iteration: the candidate within `limit` that loses least; None where no cluster alone gets there.

    Args:
        way: Those that won the iterations before; `point` is the last of them.
    """
    found = [(problem.adapted_loss(way, c.point), c.cluster, c.point) for c in candidates(problem, point, limit)]
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
