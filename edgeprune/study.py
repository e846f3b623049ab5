"""A study in a database: who has still to run, who is at it, and what became of each. Optuna's storage, and any number
of machines on it.

Rules:
- A run is an entrant with a seed, and is entered once. A worker takes the next one that waits; Optuna hands each to one
  worker alone. What was entered twice (two workers began at the same moment) runs once: the earlier one counts.
- A worker beats its heart while it runs. A run whose worker fell silent is entered again, by whoever sees it first, and
  taken up by the next; on the same machine it goes on in its folder. After `TRIES` silent deaths it has failed.
- What a run has come to is decided in the storage: done, stopped, or failed with a reason. All else is open.
- The study knows what it is of, by hashes, from its first moment. Another data set, model, target, budget or number of
  epochs is refused by name, and nothing is changed.

Sources: Optuna's RDBStorage (`heartbeat_interval`, `grace_period`) and `fail_stale_trials`; successive halving: Li et
al. 2020, 'A System for Massively Parallel Hyperparameter Tuning' (ASHA), algorithm 2, as Optuna's
SuccessiveHalvingPruner has it.
"""

from __future__ import annotations

import math
import time
import warnings
from collections.abc import Callable, Container, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from edgeprune.database import read_url
from edgeprune.errors import EdgepruneError, RecipeError, missing_package
from edgeprune.records.arena import Finish, Run, State
from edgeprune.records.base import parse

try:
    import optuna
    from optuna.exceptions import ExperimentalWarning, OptunaError, StorageInternalError, UpdateFinishedTrialError
    from optuna.trial import FrozenTrial, Trial, TrialState, create_trial
    from sqlalchemy.engine import URL
    from sqlalchemy.exc import SQLAlchemyError
except ImportError as error:
    raise missing_package("optuna", "search") from error

#: Seconds between beats, and after how many silent ones a worker is taken for dead.
BEAT_S, SILENT_BEATS = 30, 4
#: Silent deaths of one run, out of memory say, before it is given up.
TRIES = 3
#: Better share of the runs that goes on from a rung: one in so many.
REDUCTION = 2
#: Rungs are at this share of the epochs, and at every doubling.
FIRST_RUNG = 0.25
#: Seconds that a writer of SQLite waits for another.
WAIT_S = 60
_Key = tuple[str, int]


class FellBehind(Exception):
    """A run that the halving stops."""


class GivenAway(Exception):
    """A run that was taken for dead while it was alive: another worker has it now."""


class ForAll(Exception):
    """What would fail for every run; the cause is the error itself."""


@dataclass(frozen=True)
class Study:
    """An open study."""

    inner: optuna.Study
    url: URL
    beat_s: int

    def enter(self, keys: Sequence[_Key]) -> None:
        """Enter those that are neither waiting, nor at work, nor decided."""
        with said(self.url):
            self._fail_silent()
            found = _by_key(self.inner.get_trials(deepcopy=False))
            for entrant, seed in keys:
                tries = found.get((entrant, seed), [])
                if any(_state(t) is not None for t in tries):
                    continue
                attributes: dict[str, Any] = {"entrant": entrant, "seed": seed}
                deaths = sum("left" not in t.user_attrs for t in tries)
                if deaths >= TRIES:
                    why = f"given up: its worker died {deaths} times without a word (out of memory?)"
                    self.inner.add_trial(create_trial(state=TrialState.FAIL, user_attrs={**attributes, "why": why}))
                else:
                    self.inner.enqueue_trial({}, user_attrs=attributes)

    def work(self, keys: Sequence[_Key], act: Callable[[Ran], Finish], on_run: Callable[[], None]) -> None:
        """Take one run after another until all are decided, waiting for those that others are at.

        Args:
            keys: All that are to be decided.
            act: Does a run. An error of its own is the run's end, and its sentence; `ForAll` is the worker's.
            on_run: Called after each, and now and then while waiting.

        Raises:
            EdgepruneError: The storage doesn't answer; or what `ForAll` was raised from. The run waits again.
        """
        while True:
            self.enter(keys)
            states = [run.state for run in self.runs(keys)]
            if "waiting" in states:
                self._one(act, frozenset(keys))
            elif "running" in states:
                time.sleep(max(1.0, self.beat_s / 3))
            else:
                return
            on_run()

    def runs(self, keys: Sequence[_Key]) -> list[Run]:
        """What has become of each."""
        with said(self.url):
            found = _by_key(self.inner.get_trials(deepcopy=False))
        return [_run(key, found.get(key, [])) for key in keys]

    def _one(self, act: Callable[[Ran], Finish], keys: frozenset[_Key]) -> None:
        def objective(trial: Trial) -> float:
            ran = Ran(self, trial)
            try:
                if not ran.wanted(keys):
                    raise GivenAway
                finish = act(ran)
            except FellBehind as stop:
                trial.set_user_attr("why", str(stop))
                raise optuna.TrialPruned(str(stop)) from stop
            except (ForAll, GivenAway, KeyboardInterrupt):
                trial.set_user_attr("left", True)  # no silent death
                raise
            except (OptunaError, SQLAlchemyError):
                raise
            except Exception as error:  # one method's failure is its row, whatever it is
                own = str(error) if isinstance(error, EdgepruneError) else f"{type(error).__name__}: {error}"
                trial.set_user_attr("why", " ".join(own.split()) or type(error).__name__)
                raise _Failed from error
            trial.set_user_attr("finish", finish.model_dump(mode="json"))
            return finish.row.map50_95

        with said(self.url):
            try:
                self.inner.optimize(objective, n_trials=1, catch=(_Failed, GivenAway))
            except ForAll as error:
                raise (error.__cause__ or error) from None
            except (UpdateFinishedTrialError, ValueError) as error:
                # what Optuna says of a trial that has been ended from elsewhere
                if isinstance(error, ValueError) and "Cannot tell" not in str(error):
                    raise

    def _fail_silent(self) -> None:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ExperimentalWarning)
            optuna.storages.fail_stale_trials(self.inner)


class _Failed(Exception):
    """A run that has its reason."""


@dataclass(frozen=True)
class Ran:
    """A run that this worker has taken."""

    study: Study
    trial: Trial

    @property
    def entrant(self) -> str:
        return str(self.trial.user_attrs["entrant"])

    @property
    def seed(self) -> int:
        return int(self.trial.user_attrs["seed"])

    def wanted(self, keys: Container[_Key]) -> bool:
        """Whether it is one of these, and nobody else's: no earlier entry of the same is open or decided. One that a
        worker was told nothing of, who was started with fewer methods, is entered again by those that know it."""
        if "entrant" not in self.trial.user_attrs or (self.entrant, self.seed) not in keys:
            return False  # the former where none waited any more
        others = _by_key(self.study.inner.get_trials(deepcopy=False))[self.entrant, self.seed]
        return not any(_state(t) is not None for t in others if t.number < self.trial.number)

    def trained(self, epoch: int, of: int, fitness: float, *, kept: bool) -> None:
        """Report an epoch, and stop if it has fallen behind.

        Args:
            epoch: From 1, counted towards the end.
            of: Epochs in all; who has come so far isn't stopped.
            fitness: On val.
            kept: Whether it goes on whatever it scores.

        Raises:
            FellBehind: Others were better at this rung.
            GivenAway: Another worker has it.
        """
        if self.study.inner.get_trials(deepcopy=False)[self.trial.number].state != TrialState.RUNNING:
            raise GivenAway
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # after an epoch that another machine reported before
            self.trial.report(fitness, epoch)
        if epoch < of and self.trial.should_prune() and not kept:
            raise FellBehind(
                f"fell behind: fitness {fitness:.3f} after {epoch} of {of} epochs is not among the better half that far"
            )


def open_study(
    url: URL,
    name: str,
    about: Mapping[str, str],
    epochs: int,
    *,
    halving: bool = True,
    beat_s: int = BEAT_S,
    begin: bool = True,
) -> Study:
    """Open a study, or begin it.

    Args:
        about: What it is of: word -> value or hash.
        epochs: That every run trains: rungs lie within.
        halving: Whether those who fall behind are stopped.
        begin: Whether it may be a new one.

    Raises:
        RecipeError: It is of something else, or there is none.
        EdgepruneError: The storage can't be used.
    """
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    sqlite = url.get_backend_name() == "sqlite"
    if sqlite:
        assert url.database is not None
        Path(url.database).parent.mkdir(parents=True, exist_ok=True)
    first = max(1, math.ceil(epochs * FIRST_RUNG))
    pruner = optuna.pruners.SuccessiveHalvingPruner(first, REDUCTION, 0) if halving else optuna.pruners.NopPruner()
    with said(url), warnings.catch_warnings():
        warnings.simplefilter("ignore", ExperimentalWarning)
        storage = optuna.storages.RDBStorage(
            url.render_as_string(hide_password=False), heartbeat_interval=beat_s, grace_period=SILENT_BEATS * beat_s,
            engine_kwargs={"connect_args": {"timeout": WAIT_S}} if sqlite else {"pool_pre_ping": True},
        )  # fmt: skip
        if not begin and name not in optuna.get_all_study_names(storage):
            raise RecipeError("There is no such study yet.", where=url.render_as_string(), got=name)
        inner = optuna.create_study(
            storage=storage, study_name=name, direction="maximize", load_if_exists=True, pruner=pruner,
            sampler=optuna.samplers.RandomSampler(),
        )  # fmt: skip
        known = inner.user_attrs.get("of")
        if known is None:
            inner.set_user_attr("of", dict(about))
            known = inner.user_attrs["of"]
    for word, value in about.items():
        if known.get(word) != value:
            raise RecipeError(
                f"The study was begun with another {word}.", where=f"{name} in {url.render_as_string()}",
                expected=known.get(word), got=value,
                next_step="give what it was begun with, or another --study; what it has found is untouched",
            )  # fmt: skip
    return Study(inner, url, beat_s)


def url_of(given: str | None, folder: Path) -> URL:
    """Which database is meant: a URL, a file's path, or, without either, study.db in the study's folder.

    Raises:
        RecipeError: A URL that isn't one, or of another database.
    """
    if given is None or "://" not in given:
        return URL.create("sqlite", database=str(Path(given).resolve() if given else folder.resolve() / "study.db"))
    return read_url(
        given, option="--storage", what="The storage's URL", refusal="Studies aren't kept in such a database.",
        error=RecipeError,
    )  # fmt: skip


@contextmanager
def said(url: URL) -> Iterator[None]:
    """Turn a storage's errors into one that names it; passwords aren't said."""
    try:
        yield
    except (SQLAlchemyError, StorageInternalError, ImportError) as problem:
        cause = problem.__cause__ or problem
        raise EdgepruneError(
            "The study's storage can't be used.", where=url.render_as_string(), got=str(cause).splitlines()[0],
            next_step="start it, or give another one with --storage; the same command goes on from here",
        ) from problem  # fmt: skip


def _by_key(trials: Sequence[FrozenTrial]) -> dict[_Key, list[FrozenTrial]]:
    found: dict[_Key, list[FrozenTrial]] = {}
    for trial in trials:
        if "entrant" in trial.user_attrs:
            found.setdefault((trial.user_attrs["entrant"], trial.user_attrs["seed"]), []).append(trial)
    return found


def _state(trial: FrozenTrial) -> State | None:
    """None for one that counts no more: its worker died, or was told to stop."""
    if trial.state == TrialState.FAIL:
        return "failed" if "why" in trial.user_attrs else None
    states: dict[TrialState, State] = {
        TrialState.WAITING: "waiting", TrialState.RUNNING: "running", TrialState.COMPLETE: "done",
        TrialState.PRUNED: "stopped",
    }  # fmt: skip
    return states[trial.state]


def _run(key: _Key, tries: Sequence[FrozenTrial]) -> Run:
    counting = [t for t in tries if _state(t) is not None]
    hours = sum(_hours(t) for t in tries)
    if not counting:
        return Run(entrant=key[0], seed=key[1], state="waiting", hours=hours)
    trial = counting[0]
    state, last = _state(trial), trial.last_step
    assert state is not None
    finish = trial.user_attrs.get("finish") if state == "done" else None
    return Run(
        entrant=key[0], seed=key[1], state=state, why=trial.user_attrs.get("why", ""), epochs=last or 0, hours=hours,
        fitness=None if last is None else trial.intermediate_values[last],
        finish=parse(Finish, finish, EdgepruneError, where=f"trial {trial.number}") if finish else None,
    )  # fmt: skip


def _hours(trial: FrozenTrial) -> float:
    if trial.datetime_start is None:
        return 0.0
    end = trial.datetime_complete or datetime.now()
    return max(0.0, (end - trial.datetime_start).total_seconds() / 3600)
