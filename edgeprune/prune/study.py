"""Architecture search over widths, and depth where blocks may go: every cluster's rung is a variable, and how many
repeats are gone; sub-nets of one supernet are scored.

Rules:
- A point is scored as a sub-net of the weight-sharing supernet, which is the detector itself: the best-scored channels
  of every cluster, as many as the point leaves (OFA's sorted channels; Yu and Huang 2019's slimmable widths, a width a
  layer), BatchNorm's statistics its own. It is trained by the sandwich rule first where a recipe says so.
- `nsga2` looks for all trade-offs of what is spent and what is lost. A budget is answered with the best point in it.
- `tpe` looks for the least loss, what is spent over the budget being a constraint. What breaks it isn't scored.
- Depth is how many of the repeats are gone, in the order of what they weigh for what they save (prune/depth.py). The
  rungs of a shorter net are those of the whole one, as far as there are such clusters.
- Both begin with the whole net and with equal shares. What the best point leaves of the budget is given back, the most
  importance for it first, if that loses no more: all methods use what they are given.
- A search is the same for the same seed, whether it was interrupted or not: it runs in memory and its losses are
  remembered in a file (prune/candidates.py), so that it comes to where it was in no time.

Sources: Deb et al. 2002 (NSGA-II), section III; Bergstra et al. 2011 (TPE), section 4; Yu and Huang 2019, 'Universally
Slimmable Networks', section 3; Cai et al. 2020, 'Once for All', section 3.2. Both samplers are Optuna's.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from edgeprune.errors import missing_package
from edgeprune.prune.problem import Depth, Problem, Solvers
from edgeprune.prune.search import Rungs, Walk

#: A generation of NSGA-II: so many that small searches see a few.
POPULATION = 20
#: Name of the variable beside the clusters' numbers.
_DEPTH = "depth"
#: A problem at every depth, the whole model's first; made when it is looked at.
Depths = Sequence[Callable[[], Depth]]


def nsga2(problem: Problem) -> Solvers:
    """Multi-objective: what is spent, and what is lost. Raises DeviceError without the extra 'search'."""
    return _solvers(problem, "nsga2", _trade_offs)


def nsga2_depth(depths: Depths) -> int:
    """The same with how many blocks go: which of these depths its best point has."""
    return _deep(depths, _trade_offs)


def tpe(problem: Problem) -> Solvers:
    """The least loss within the budget. Raises DeviceError without the extra 'search'."""
    return _solvers(problem, "tpe", _least_loss)


def tpe_depth(depths: Depths) -> int:
    """The same with how many blocks go."""
    return _deep(depths, _least_loss)


def _trade_offs(depths: Depths) -> list[Seen]:
    optuna, means = _optuna(), depths[0]().problem.means
    sampler = optuna.samplers.NSGAIISampler(population_size=min(POPULATION, max(2, means.trials // 4)), seed=means.seed)
    study = optuna.create_study(directions=["minimize", "minimize"], sampler=sampler)
    return _run(depths, study, lambda trial, seen: (seen.spends, seen.loss))


def _least_loss(depths: Depths) -> list[Seen]:
    optuna = _optuna()

    def score(trial: Any, seen: Seen) -> float:
        trial.set_constraint("budget", seen.spends - 1)
        # by Optuna's rules points over the budget are told apart by how far they are over it alone
        return seen.loss if seen.spends <= 1 else 0.0

    sampler = optuna.samplers.TPESampler(seed=depths[0]().problem.means.seed, multivariate=True)
    return _run(depths, optuna.create_study(sampler=sampler), score)


def _optuna() -> Any:
    try:
        import optuna
    except ImportError as error:
        raise missing_package("optuna", "search") from error
    optuna.logging.set_verbosity(optuna.logging.ERROR)  # progress is the build's to tell
    return optuna


@dataclass(frozen=True, eq=False)
class Seen:
    """A point that was looked at."""

    depth: int
    problem: Problem
    point: Rungs

    @property
    def spends(self) -> float:
        """Of the budget."""
        return self.problem.space.ms(self.point) / self.problem.budget

    @property
    def loss(self) -> float:
        return self.problem.supernet_loss(self.point)


def _solvers(problem: Problem, name: str, look: Callable[[Depths], list[Seen]]) -> Solvers:
    _optuna()  # before anybody waits for losses
    seen: list[Rungs] = []
    alone = Depth(problem, range(len(problem.space.ladders)))

    def solve(budget: float) -> Rungs:
        if not seen:
            seen.extend(one.point for one in look([lambda: alone]))
        return _best(problem, seen, budget)

    return Solvers({name: solve}, problem.supernet_loss)


def _deep(depths: Depths, look: Callable[[Depths], list[Seen]]) -> int:
    seen = look(depths)
    within = [one for one in seen if one.spends <= 1]
    best = min(within, key=lambda one: (one.loss, one.depth)) if within else min(seen, key=lambda one: one.spends)
    return best.depth


def _run(depths: Depths, study: Any, score: Callable[[Any, Seen], Any]) -> list[Seen]:
    """Ask, score and tell, as often as there are trials; every point that was looked at. Variables are the whole
    model's rungs, at every depth the same; and the depth, if there are several."""
    whole = depths[0]().problem
    ladders = whole.space.ladders
    open_ = [i for i, ladder in enumerate(ladders) if ladder.last]
    seen: dict[tuple[int, bytes], Seen] = {}
    for deep, point in _first(depths):
        variables = {_DEPTH: deep} if len(depths) > 1 else {}
        study.enqueue_trial(variables | {str(i): int(point[i]) for i in open_})
    for number in range(whole.means.trials):
        trial = study.ask()
        deep = trial.suggest_int(_DEPTH, 0, len(depths) - 1) if len(depths) > 1 else 0
        rungs = whole.space.whole
        for i in open_:
            rungs[i] = trial.suggest_int(str(i), 0, ladders[i].last)
        depth = depths[deep]()
        one = Seen(deep, depth.problem, depth.point(rungs))
        study.tell(trial, score(trial, one))
        seen[deep, one.point.tobytes()] = one
        whole.means.on_trial(number + 1, whole.means.trials)
    return list(seen.values())


def _first(depths: Depths) -> Iterable[tuple[int, Rungs]]:
    """The widest equal shares within the budget at every depth, and the whole net."""
    whole = depths[0]().problem.space
    for deep, made in enumerate(depths):
        depth = made()
        problem = depth.problem
        within = (p for p in whole.alike if problem.space.ms(depth.point(p)) <= problem.budget)
        if (point := next(within, None)) is not None:
            yield deep, point
    yield 0, whole.whole


def _best(problem: Problem, seen: Iterable[Rungs], budget: float) -> Rungs:
    space = problem.space
    within = [point for point in seen if space.ms(point) <= budget]
    if within:
        found = min(within, key=problem.supernet_loss)
    else:
        walk = Walk(space, min(seen, key=space.ms))
        if not walk.narrow(budget):
            return walk.point
        found = walk.point
    fuller = Walk(space, found).settle(budget)
    return min((found, fuller), key=lambda point: (problem.supernet_loss(point), -space.ms(point)))
