"""What a rejected build gives instead of a bundle: the best plan that does hold, and what to ask for next. Pure but for
reading the reports that lie beside it.

Rules:
- Within a build the verdict has looked already: of its own engines one that is faster and holds is taken before any
  that doesn't (verdict.py). So what is offered is another build: of the same parent, data set and target, accepted, on
  the same device with the same version of the runtime, and within the drop that is agreed *here*.
- Every figure of an offer is its own report's. Builds are ranked by their ratio to the same parent's best engine, each
  within its own run; no build is divided by another.
- Where accuracy was lost, a milder goal is worth a try: halfway to the hardest goal that held, or to the whole model.
  Where it held and speed didn't come, a harder one. Where neither held, neither helps by itself.

Halfway is the geometric mean: goals are ratios and times.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from edgeprune.errors import EdgepruneError
from edgeprune.records import Goal, Offer, Report, read_json
from edgeprune.records.goals import harder, hardness, kind_and_value, whole, words
from edgeprune.report.verdict import drop_holds

#: What must be the same of two environments for figures of one to hold on the other.
SAME = ("cpu", "cores", "machine")
#: … and of what went in.
INPUTS = ("model", "data", "target")


@dataclass(frozen=True)
class Sibling:
    """Another build under the same `out`."""

    folder: str
    report: Report

    @property
    def goal(self) -> Goal:
        assert self.report.origin is not None
        return self.report.origin.recipe.goal


def siblings(folder: Path, own: Report) -> tuple[Sibling, ...]:
    """Builds beside a folder, of the same parent, data, target, device and versions; unreadable ones are none."""
    found = []
    for file in sorted(folder.absolute().parent.glob("*/report.json")):
        if file.parent == folder.absolute():
            continue
        try:
            report = read_json(file, Report, EdgepruneError)
        except EdgepruneError:
            continue
        if report.origin and comparable(own, report):
            found.append(Sibling(file.parent.name, report))
    return tuple(found)


def comparable(own: Report, other: Report) -> bool:
    """Whether another report's figures hold for this one's parent, data, target and device."""
    runtimes = ({row.runtime for row in report.rows} for report in (own, other))
    return (
        all(own.inputs.get(name) == other.inputs.get(name) for name in INPUTS)
        and all(own.environment.get(name) == other.environment.get(name) for name in SAME)
        and len(set().union(*runtimes)) == 1
    )


def best_offer(own: Report, goal: Goal, others: Iterable[Sibling]) -> Offer | None:
    """The fastest sibling that was accepted and holds what is agreed here.

    Args:
        own: The rejected build's report.
        goal: What was agreed for it.
        others: Comparable builds.
    """
    hold = [s for s in others if s.report.verdict.accepted and drop_holds(s.report.verdict.map_drop, goal)]
    if not hold:
        return None
    best = min(hold, key=lambda s: (s.report.verdict.comparison.ratio, s.folder))
    verdict = best.report.verdict
    row = next(r for r in best.report.rows if f"{r.variant} {r.precision}" == verdict.comparison.build)
    fastest = "the fastest" if len(hold) == 1 else f"the fastest of {len(hold)}"
    why = (
        f"{fastest} that {'holds' if len(hold) == 1 else 'hold'}: {1 / verdict.comparison.ratio:.2f} times the "
        f"parent's speed in its own run, mAP50-95 drop {verdict.map_drop:+.4f} where {goal.max_map_drop:.4f} is agreed"
    )
    return Offer(
        folder=best.folder, goal=best.goal, row=row, comparison=verdict.comparison, map_drop=verdict.map_drop, why=why
    )


def try_next(own: Report, goal: Goal, others: Sequence[Sibling]) -> str:
    """What to ask for instead, in a sentence."""
    kind, value = kind_and_value(goal)
    verdict = own.verdict
    worse = not drop_holds(verdict.map_drop, goal)
    if worse and not verdict.comparison.faster:
        return (
            "neither speed nor accuracy came: more epochs, or another recipe (importance, activation) or precisions of "
            "the target, before another goal"
        )
    if not worse:
        return f"accuracy holds, so a harder goal than {words(kind, value)} is worth a try"
    same = [s.goal for s in others if s.report.verdict.accepted and kind_and_value(s.goal)[0] == kind]
    milder = [v for v in (kind_and_value(g)[1] for g in same) if harder(kind, value, v)]
    start = max(milder, key=lambda v: hardness(kind, v)) if milder else whole(kind, own)
    between = halfway(start, value)
    from_ = f"{words(kind, start)}, which holds," if milder else "the whole model"
    return f"a milder goal, between {from_} and {words(kind, value)}: {words(kind, between)}; or more epochs"


def halfway(one: float, other: float) -> float:
    """The goal between two, to three significant digits."""
    return float(f"{math.sqrt(one * other):.3g}")
