"""Arena: pruning methods against each other at one budget, and what the race says. Records, and the arithmetic on them.

Rules:
- An entrant is a recipe that differs from the base recipe in what it is named after. `base` is that recipe itself, and
  `importance=random` the control: both always run, since every other one is set against them.
- A mean is of the seeds that went the whole way. Those that were stopped early fell behind, so the mean of what is left
  flatters: such an entrant says how many of its seeds it is of, and stands below those that are whole.
- Better than the control is a mean that is higher by more than the spread: the standard deviation of the difference of
  two single runs, the root of the sum of both variances over seeds (n - 1). With fewer than two seeds of each nothing
  can be told, and that is what is said.
- Fast enough is judged in a race with the parent: the interval of (parent's time : its own) reaches what was asked. A
  method that leaves zeros is asked for so many zeros instead, and the same race says whether that made it faster.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal

from pydantic import Field

from edgeprune.records.base import Record
from edgeprune.records.goals import GoalKind
from edgeprune.records.measurement import Comparison, Milliseconds
from edgeprune.records.report import Row
from edgeprune.records.sweep import Raced

#: The recipe as it was given, and the control: always in.
BASE, CONTROL = "base", "importance=random"
Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9=.:+_-]*$", max_length=60)]
#: What becomes of an entrant's run with one seed.
State = Literal["waiting", "running", "done", "stopped", "failed"]


class Entrant(Record):
    """Who runs."""

    name: Name
    """'importance=l1'; or what a file of compositions calls it."""
    changes: dict[str, Any] = Field(default_factory=dict)
    """Keys of the recipe that differ from the base recipe's."""
    zeros: float | None = Field(default=None, gt=0, lt=1)
    """Share of zeros that it is asked for, where it leaves zeros and others cut."""
    epochs: int = Field(default=0, ge=0)
    """Of training in all, with those that its method adds."""
    refused: str | None = None
    """Why it can't run on the base recipe; None: it can."""


class LayerShare(Record):
    """One layer's weights: how many there were, and how many are left that aren't zero."""

    layer: str
    parent: int = Field(ge=1)
    build: int = Field(ge=0)

    @property
    def removed(self) -> float:
        """Share that is gone, cut or zero."""
        return max(0.0, 1 - self.build / self.parent)


class Finish(Record):
    """What a run that went the whole way was measured at."""

    row: Row
    """Of the build's best engine, in its own report."""
    against: Comparison
    """That engine against the parent's best, in the build's own race."""
    layers: tuple[LayerShare, ...]
    """In the parent's order."""
    machine: str
    """Where it was built and raced."""
    folder: str
    """Of the build, in the study's folder there."""


class Run(Record):
    """An entrant with one seed."""

    entrant: Name
    seed: int = Field(ge=0)
    state: State
    finish: Finish | None = None
    """Of a run that is done."""
    why: str = ""
    """Of one that failed or was stopped, in a sentence."""
    epochs: int = Field(default=0, ge=0)
    """Counted towards the end of training, so far."""
    fitness: float | None = None
    """After the last of them, on val, as training sees it."""
    hours: float = Field(default=0.0, ge=0)
    """Of all its tries, training and measuring."""
    raced: Raced | None = None
    """In the last race; None where its engine isn't on the machine that held it."""

    @property
    def open(self) -> bool:
        """Whether it is still to come or at work."""
        return self.state in {"waiting", "running"}


class Standing(Record):
    """One entrant's line on the leaderboard."""

    entrant: Entrant
    runs: tuple[Run, ...]
    """One a seed."""
    map50_95: float | None = None
    """Mean over the seeds that are done."""
    spread: float | None = None
    """Standard deviation over them (n - 1); None for fewer than two."""
    speed: tuple[float, float, float] | None = None
    """The parent's time : its own, median over seeds, and the widest ends of their intervals."""
    latency_ms: Milliseconds | None = None
    """Median time that this is, of the parent's in the last race."""
    macs: float | None = None
    bytes: float | None = None
    """Means over seeds, of the file that the runtime loads."""
    hours: float = 0.0
    """Of all its runs."""
    fast_enough: bool | None = None
    """None where nothing was asked of its time, or nothing is done."""
    against_control: str = ""
    against_base: str = ""
    """In words: by how much, and whether that is over the spread."""

    @property
    def done(self) -> tuple[Run, ...]:
        return tuple(run for run in self.runs if run.state == "done")

    @property
    def whole(self) -> bool:
        """Whether all of its seeds went the whole way."""
        return len(self.done) == len(self.runs) > 0


class Arena(Record):
    """arena.json."""

    study: str
    target: str
    kind: GoalKind
    value: float
    """Budget: what every entrant is cut to, in this kind."""
    epochs: int
    seeds: int
    base: dict[str, Any]
    """The base recipe."""
    standings: tuple[Standing, ...]
    """The best first; then those that weren't whole, that failed, that were refused."""
    winner: Name | None = None
    """The best that is whole and fast enough."""
    parent: Raced | None = None
    """The parent's best engine in the last race; None where nothing was raced."""
    environment: dict[str, str] = Field(default_factory=dict)
    """Machine and versions of the last race."""
    inputs: dict[str, str] = Field(default_factory=dict)
    """SHA-256 of model, data set and target."""

    @property
    def open(self) -> int:
        """Runs that are still to come or at work."""
        return sum(run.open for s in self.standings for run in s.runs)


def spread_of(values: Sequence[float]) -> float | None:
    """Standard deviation of a sample (n - 1)."""
    return statistics.stdev(values) if len(values) > 1 else None


def versus(name: str, own: Sequence[float], others: Sequence[float]) -> str:
    """Whether values are better than others, by more than the spread.

    Args:
        name: Of the others.
        own, others: mAP of each seed.
    """
    if not own or not others:
        return ""
    margin = statistics.mean(own) - statistics.mean(others)
    spreads = spread_of(own), spread_of(others)
    if spreads[0] is None or spreads[1] is None:
        return f"{margin:+.4f} of {name}; with fewer than two seeds of each nothing can be told"
    spread = math.hypot(spreads[0], spreads[1])
    if abs(margin) <= spread:
        return f"no better than {name}: {margin:+.4f}, within the spread of {spread:.4f}"
    return f"{'better' if margin > 0 else 'worse'} than {name}: {margin:+.4f}, over the spread of {spread:.4f}"


def standings(
    entrants: Sequence[Entrant], runs: Sequence[Run], kind: GoalKind, value: float, parent_ms: float | None
) -> tuple[Standing, ...]:
    """The leaderboard.

    Args:
        runs: Of all entrants.
        kind, value: The budget.
        parent_ms: p50 of the parent's best engine; None where nothing was raced.
    """
    of = {e.name: [run for run in runs if run.entrant == e.name] for e in entrants}
    maps = {name: [r.finish.row.map50_95 for r in found if r.finish] for name, found in of.items()}
    found = [_standing(e, of[e.name], maps, kind, value, parent_ms) for e in entrants]
    return tuple(sorted(found, key=_place))


def winner(found: Sequence[Standing]) -> str | None:
    """The first that is whole and not too slow."""
    return next((s.entrant.name for s in found if s.whole and s.fast_enough is not False), None)


def _place(standing: Standing) -> tuple[object, ...]:
    classes = standing.entrant.refused is not None, not standing.done, not standing.whole
    return (*classes, standing.fast_enough is False, -(standing.map50_95 or 0.0), standing.entrant.name)


def _standing(
    entrant: Entrant, runs: Sequence[Run], maps: Mapping[str, Sequence[float]], kind: GoalKind, value: float,
    parent_ms: float | None,
) -> Standing:  # fmt: skip
    done = [run.finish for run in runs if run.finish]
    own = maps[entrant.name]
    compared = _comparisons(runs)
    times = [1 / c.ratio for c in compared]
    speed = (
        (statistics.median(times), min(1 / c.high for c in compared), max(1 / c.low for c in compared))
        if compared
        else None
    )
    latency = parent_ms / speed[0] if parent_ms and speed else None
    return Standing(
        entrant=entrant, runs=tuple(runs),
        map50_95=statistics.mean(own) if own else None, spread=spread_of(own), speed=speed, latency_ms=latency,
        macs=statistics.mean(f.row.macs for f in done) if done else None,
        bytes=statistics.mean(f.row.bytes for f in done) if done else None,
        hours=sum(run.hours for run in runs),
        fast_enough=_fast_enough(compared, kind, value, parent_ms),
        against_control=versus("random", own, maps.get(CONTROL, ())) if entrant.name != CONTROL else "",
        against_base=versus("base", own, maps.get(BASE, ())) if entrant.name != BASE else "",
    )  # fmt: skip


def _comparisons(runs: Sequence[Run]) -> list[Comparison]:
    """With the parent: in the last race where a run was in that, else in its own."""
    return [(r.raced.against if r.raced else None) or r.finish.against for r in runs if r.finish]


def _fast_enough(found: Sequence[Comparison], kind: GoalKind, value: float, parent_ms: float | None) -> bool | None:
    """Whether every interval reaches what was asked."""
    if not found or kind == "macs_ratio" or (kind != "speedup" and parent_ms is None):
        return None
    if kind == "speedup":
        return all(1 / c.low >= value for c in found)
    assert parent_ms is not None
    return all(parent_ms * c.low <= (value if kind == "latency_ms" else 1e3 / value) for c in found)
