"""Architecture search over widths: every cluster's rung is a variable, sub-nets of one supernet are scored.

Rules:
- A point is scored as a sub-net of the weight-sharing supernet, which is the detector itself: the best-scored channels
  of every cluster, as many as the point leaves (OFA's sorted channels; Yu and Huang 2019's slimmable widths, a width a
  layer), BatchNorm's statistics its own. It is trained by the sandwich rule first where a recipe says so.
- `nsga2` looks for all trade-offs of what is spent and what is lost. A budget is answered with the best point in it.
- `tpe` looks for the least loss, what is spent over the budget being a constraint. What breaks it isn't scored.
- Both begin with the whole net and with equal shares. What the best point leaves of the budget is given back, the most
  importance for it first, if that loses no more: all methods use what they are given.
- A search is the same for the same seed, whether it was interrupted or not: it runs in memory and its losses are
  remembered in a file (prune/candidates.py), so that it comes to where it was in no time.

Sources: Deb et al. 2002 (NSGA-II), section III; Bergstra et al. 2011 (TPE), section 4; Yu and Huang 2019, 'Universally
Slimmable Networks', section 3; Cai et al. 2020, 'Once for All', section 3.2. Both samplers are Optuna's.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from edgeprune.errors import missing_package
from edgeprune.prune.problem import Problem, Solvers
from edgeprune.prune.search import Rungs, Walk

#: A generation of NSGA-II: so many that small searches see a few.
POPULATION = 20


def nsga2(problem: Problem) -> Solvers:
    """Multi-objective: what is spent, and what is lost. Raises DeviceError without the extra 'search'."""
    optuna = _optuna()

    def look() -> list[Rungs]:
        sampler = optuna.samplers.NSGAIISampler(
            population_size=min(POPULATION, max(2, problem.means.trials // 4)), seed=problem.means.seed
        )
        study = optuna.create_study(directions=["minimize", "minimize"], sampler=sampler)
        return _run(problem, study, lambda trial, point: (problem.space.ms(point), problem.supernet_loss(point)))

    return _solvers(problem, "nsga2", look)


def tpe(problem: Problem) -> Solvers:
    """The least loss within the budget. Raises DeviceError without the extra 'search'."""
    optuna = _optuna()

    def score(trial: Any, point: Rungs) -> float:
        over = problem.space.ms(point) / problem.budget - 1
        trial.set_constraint("budget", over)
        # by Optuna's rules points over the budget are told apart by how far they are over it alone
        return problem.supernet_loss(point) if over <= 0 else 0.0

    def look() -> list[Rungs]:
        sampler = optuna.samplers.TPESampler(seed=problem.means.seed, multivariate=True)
        return _run(problem, optuna.create_study(sampler=sampler), score)

    return _solvers(problem, "tpe", look)


def _optuna() -> Any:
    try:
        import optuna
    except ImportError as error:
        raise missing_package("optuna", "search") from error
    optuna.logging.set_verbosity(optuna.logging.ERROR)  # progress is the build's to tell
    return optuna


def _solvers(problem: Problem, name: str, look: Callable[[], list[Rungs]]) -> Solvers:
    seen: list[Rungs] = []

    def solve(budget: float) -> Rungs:
        if not seen:
            seen.extend(look())
        return _best(problem, seen, budget)

    return Solvers({name: solve}, problem.supernet_loss)


def _run(problem: Problem, study: Any, score: Callable[[Any, Rungs], Any]) -> list[Rungs]:
    """Ask, score and tell, as often as there are trials; every point that was looked at."""
    open_ = [i for i, ladder in enumerate(problem.space.ladders) if ladder.last]
    seen: dict[bytes, Rungs] = {}
    for point in _first(problem):
        study.enqueue_trial({str(i): int(point[i]) for i in open_})
    for number in range(problem.means.trials):
        trial = study.ask()
        point = problem.space.whole
        for i in open_:
            point[i] = trial.suggest_int(str(i), 0, problem.space.ladders[i].last)
        study.tell(trial, score(trial, point))
        seen[point.tobytes()] = point
        problem.means.on_trial(number + 1, problem.means.trials)
    return list(seen.values())


def _first(problem: Problem) -> Iterable[Rungs]:
    """The whole net, and the widest equal shares within the budget."""
    within = problem.space.first_within(problem.space.alike, problem.budget)
    return [problem.space.whole] if within is None else [within, problem.space.whole]


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
