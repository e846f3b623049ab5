"""The stage that finds out how each engine is best run on the device: parent and build, each at its best.

Rules:
- Each engine's forms and settings are raced among themselves, all with all, by successive halving (bench/halving.py);
  the fastest is kept, and everything after it is done with that: accuracy, the full race, the verdict. The parent has
  the same choice as the build: else settings would win, not pruning.
- An engine that takes more than `HOPELESS` times as long as a faster one of the same model, in another precision, isn't
  raced any further than the first rung: what would be found out changes nothing. It keeps that rung's winner, and is
  verified and raced against the others as every engine is, so that no row is missing from the report.
- What doesn't run on the device is left out with what the device said. A race of one asks nothing.
- Figures of all are kept.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgeprune.errors import DeviceError
from edgeprune.job import Job
from edgeprune.records import BenchRun, Choice, Tune, TuneCandidate, read_json, write_json
from edgeprune.records.request import AboutAnswer, Engine
from edgeprune.records.settings import Settings
from edgeprune.stages.common import VARIANTS, engine_files, engines, forms_of, probe_images, run_as

if TYPE_CHECKING:
    from edgeprune.bench.halving import Placed

#: What is known of the parent's engines.
PARENTS = "tune-parent.json"
#: Times the time of the fastest engine of the same model. What forms and settings bring beyond the first rung's winner
#: is some per cent.
HOPELESS = 2.0
#: Rounds in which a candidate shows whether it runs at all.
TRIAL_ROUNDS = 2
#: An engine's part of the stage's progress.
UNITS = 1000


@dataclass(frozen=True)
class Fastest:
    """The fastest engine of a model so far: its p50 in milliseconds, and its name."""

    p50_ms: float
    engine: str


def tune(job: Job, again: bool = False) -> None:
    """tune.json: the form and the settings that every engine runs with from here on."""
    tune_parent(job, again)

    def act(work: Path) -> None:
        parents = read_json(job.shop / PARENTS, Tune, DeviceError)
        write_json(work / "tune.json", _with(parents, _raced(job, "pruned", "tune")))

    job.shop.stage(
        "tune", act,
        reads={**_reads(job, VARIANTS), "parent's": job.shop / PARENTS}, makes=("tune.json",), force=again,
    )  # fmt: skip


def tune_parent(job: Job, again: bool = False) -> None:
    """tune-parent.json: the same for the parent alone, whatever becomes of it."""
    job.shop.stage(
        "tune parent", lambda work: write_json(work / PARENTS, _raced(job, "parent", "tune parent")),
        reads=_reads(job, ("parent",)), makes=(PARENTS,), force=again,
    )  # fmt: skip


def _reads(job: Job, variants: Sequence[str]) -> dict[str, Any]:
    keys = {"threads", "affinity", "spinning", "optimization", "arena", "hints", "streams", "cache", "rest", "forms"}
    return {
        **engine_files(job, variants), "data": job.sha256["data"], "seed": job.recipe.seed,
        "settings": job.profile.model_dump(mode="json", include=keys),
    }  # fmt: skip


def _raced(job: Job, variant: str, stage: str) -> Tune:
    """All engines of a variant, each at its best."""
    from edgeprune.bench.ask import about

    profile = job.profile
    there = about(job.bench, profile.runtime, profile.precisions, profile.plugin)
    settings, left_out = settings_of(job, there)
    raced = engines(job, there.lacking, (variant,))
    found = Tune(chosen={}, left_out=left_out)
    fastest: Fastest | None = None
    for number, engine in enumerate(raced):

        def tell(share: float, engine: Engine = engine, number: int = number) -> None:
            done = round((number + min(share, 1.0)) * UNITS)
            job.shop.listener.progress(stage, done, len(raced) * UNITS, engine.name)

        own = choose(job, engine, settings, fastest, tell)
        found = _with(found, own)
        if own.candidates:
            p50 = own.candidates[0].latency_ms.p50
            fastest = Fastest(p50, engine.name) if fastest is None or p50 < fastest.p50_ms else fastest
    return found


def choose(
    job: Job, engine: Engine, settings: Sequence[Settings], fastest: Fastest | None,
    tell: Callable[[float], None] = lambda share: None,
) -> Tune:  # fmt: skip
    """Race one engine's forms and settings.

    Args:
        engine: In its stock form.
        settings: To race in every form; the first is preferred where all are alike.
        fastest: The fastest engine of the same model so far, if there is one.
        tell: Told how much of it is done, as a share.

    Raises:
        DeviceError: None of them runs there.
    """
    from edgeprune.bench.halving import halve

    variant, precision = engine.name.split()
    field = [Choice(settings=s.of(precision), form=f) for f, s in product(forms_of(job, variant, precision), settings)]
    if len(field) == 1:
        return Tune(chosen={engine.name: field[0]})
    limit = HOPELESS * fastest.p50_ms if fastest else float("inf")
    race = _Race(job, engine, field, tell)
    left_out: tuple[str, ...] = ()
    try:
        placed = halve(len(field), race, lambda p50_ms: p50_ms > limit)
    except DeviceError:
        field, left_out = that_run(job, engine, field)
        if len(field) == 1:
            return Tune(chosen={engine.name: field[0]}, left_out=left_out)
        race = _Race(job, engine, field, tell)
        placed = halve(len(field), race, lambda p50_ms: p50_ms > limit)
    own, notes = judged(engine.name, field, placed), []
    if fastest and own[0].latency_ms.p50 > limit and own[0].rung == 1 and len(field) > 2:
        times = own[0].latency_ms.p50 / fastest.p50_ms
        notes.append(
            f"{engine.name} takes {times:.1f} times the time of {fastest.engine} after the first rung; its race ended "
            "there"
        )
    return Tune(
        chosen={engine.name: own[0].choice}, candidates=tuple(own), left_out=left_out, notes=tuple(notes),
        environment=race.environment,
    )  # fmt: skip


def that_run(job: Job, engine: Engine, field: Sequence[Choice]) -> tuple[list[Choice], tuple[str, ...]]:
    """Candidates that run on the device, each tried alone, after a race of all was refused; and why others don't.

    Raises:
        DeviceError: None runs, or each does by itself and all together don't.
    """
    runs, refused, errors = [], [], []
    for choice in field:
        try:
            _Race(job, engine, [choice])([0], TRIAL_ROUNDS)
            runs.append(choice)
        except DeviceError as error:
            refused.append(f"{engine.name}, {choice.words()}: {str(error).splitlines()[0]}")
            errors.append(error)
    if not runs:
        raise errors[0]
    if not errors:
        raise DeviceError(
            "The engine's candidates can't be raced together.", where=engine.name,
            expected=f"{len(field)} that run alone", next_step="race fewer: `threads`, `affinity`, … of the target",
        )  # fmt: skip
    return runs, tuple(refused)


def judged(engine: str, field: Sequence[Choice], placed: Sequence[Placed]) -> list[TuneCandidate]:
    """Every candidate of one engine's race with what became of it, in the order in which they were placed."""
    from edgeprune.bench.measure import CONFIDENCE

    found = []
    for place, at in enumerate(placed):
        winner = field[at.winner].words()
        times = f"{at.ratio:.3f} times its time ({CONFIDENCE:.0%} interval {at.low:.3f} to {at.high:.3f})"
        fell = f"rung {at.rung} of {at.field} candidates, {at.rounds} rounds"
        if place == 0:
            why = f"the fastest of {len(placed)}; {fell}"
        elif at.apart:
            why = f"slower than {winner}: {times}; {fell}"
        else:
            why = f"no different from {winner} as far as {at.rounds} rounds can tell: {times}; {fell}"
        found.append(
            TuneCandidate(
                engine=engine, settings=field[at.index].settings, form=field[at.index].form, latency_ms=at.latency_ms,
                rung=at.rung, rounds=at.rounds, ratio=at.ratio, low=at.low, high=at.high, chosen=place == 0, why=why,
            )
        )  # fmt: skip
    return found


class _Race:
    """Races some of an engine's candidates; remembers how many blocks have run, and the machine."""

    def __init__(
        self, job: Job, engine: Engine, field: Sequence[Choice], tell: Callable[[float], None] = lambda share: None
    ) -> None:
        from edgeprune.bench.halving import planned

        self._job, self._engine, self._field, self._tell = job, engine, field, tell
        self._planned, self._blocks = planned(len(field)), 0
        self.environment: dict[str, str] = {}

    def __call__(self, heat: Sequence[int], rounds: int) -> BenchRun:
        from edgeprune.bench.ask import race

        entered = [run_as(self._job, self._engine, self._field[index]) for index in heat]
        named = [
            e.model_copy(update={"name": f"{e.name}, {self._field[i].words()}"})
            for e, i in zip(entered, heat, strict=True)
        ]
        run = race(
            self._job.bench, named, probe_images(self._job), self._job.profile.input_shape,
            seed=self._job.recipe.seed, rounds=rounds,
            on_round=lambda done, _: self._tell((self._blocks + done * len(heat)) / self._planned),
        )  # fmt: skip
        self._blocks += rounds * len(heat)
        self.environment = run.environment
        return run


def settings_of(job: Job, there: AboutAnswer) -> tuple[tuple[Settings, ...], tuple[str, ...]]:
    """Settings to race on a device, and sentences on what it can't have.

    Raises:
        DeviceError: It can have none of them.
    """
    from edgeprune.bench.candidates import asks_for_choice, candidates

    if not asks_for_choice(job.profile):
        return (job.profile.settings,), ()
    settings, left_out = candidates(job.profile, there.places)
    if not settings:
        raise DeviceError(
            "None of the target's settings can be had on the device.", where=job.profile.device,
            got="; ".join(left_out), next_step="`threads`, `affinity` and `streams` of the target",
        )  # fmt: skip
    return settings, left_out


def _with(found: Tune, own: Tune) -> Tune:
    """What was found out so far, and of one more engine."""
    return Tune(
        chosen={**found.chosen, **own.chosen}, candidates=(*found.candidates, *own.candidates),
        left_out=tuple(dict.fromkeys((*found.left_out, *own.left_out))), notes=(*found.notes, *own.notes),
        environment=own.environment or found.environment,
    )  # fmt: skip
