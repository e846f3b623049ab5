"""The acceptance gate. Pure: measurements and a goal in, a verdict out.

Rules:
- The build is set against its parent's *best* engine of the same run: the precision with the lowest p50.
- The build's best engine is the fastest of those that are faster beyond the interval and whose mAP and tail hold: where
  any engine counts, one that doesn't is never taken for it. Else the fastest of those whose mAP and tail hold; else of
  those whose mAP holds; else the fastest of all.
- Faster means that the whole confidence interval of the ratio lies under 1.
- Never slower counts for the tail too (bench/tail.py): a build whose slowest calls are slower than its parent's beyond
  an interval is not accepted, however fast its median is. A tail that too few samples were taken of is said to be
  unknown, and doesn't decide.
- mAP is that of the runtime itself. A drop equal to the agreed one holds.
"""

from __future__ import annotations

from collections.abc import Sequence

from edgeprune.bench.early_stopping import min_queries
from edgeprune.bench.measure import compare
from edgeprune.bench.tail import PERCENTILES
from edgeprune.records import Accuracy, Comparison, Goal, Measurement, Verdict
from edgeprune.records.measurement import Tail

#: Room for the rounding of figures that are compared with 'at most'.
_EPSILON = 1e-9


def judge(
    parents: Sequence[Measurement], builds: Sequence[Measurement], accuracy: Sequence[Accuracy], goal: Goal
) -> tuple[Verdict, tuple[Comparison, ...]]:
    """Decide whether a build counts.

    Args:
        parents: The parent's engines, one a precision.
        builds: The build's engines from the same run.
        accuracy: mAP of every engine.
        goal: What was agreed.

    Returns:
        The verdict, and every build engine against the parent's in its own precision, or against the parent's best
        where the parent hasn't got that one.
    """
    map_of = {a.engine: a.map50_95 for a in accuracy}
    parent = min(parents, key=_p50)

    def holds(build: Measurement) -> bool:
        return drop_holds(map_of[parent.engine] - map_of[build.engine], goal)

    against = {build.engine: compare(build, parent) for build in builds}

    def slow_tail(build: Measurement) -> bool:
        tail = against[build.engine].tail
        return tail is not None and tail.slower

    def counts(build: Measurement) -> bool:
        return against[build.engine].faster and holds(build) and not slow_tail(build)

    build = min(builds, key=lambda b: (not counts(b), not holds(b), slow_tail(b), _p50(b)))
    comparison = against[build.engine]
    drop = map_of[parent.engine] - map_of[build.engine]
    speed = (
        f"{1 / comparison.ratio:.2f} times the parent's speed ({build.engine} against {parent.engine}, "
        f"{comparison.confidence:.0%} interval {1 / comparison.high:.2f} to {1 / comparison.low:.2f})"
    )
    reasons = (
        f"faster: {speed}" if comparison.faster else f"NOT faster beyond the interval: {speed}",
        f"{'as good' if holds(build) else 'NOT good enough'}: mAP50-95 {map_of[build.engine]:.4f} against "
        f"{map_of[parent.engine]:.4f}, a drop of {drop:+.4f} where {goal.max_map_drop:.4f} is agreed",
        _of_tail(comparison.tail, min(m.latency_ms.samples for m in (build, parent))),
    )
    same_precision = tuple(compare(b, next((p for p in parents if p.precision == b.precision), parent)) for b in builds)
    return Verdict(accepted=counts(build), reasons=reasons, comparison=comparison, map_drop=drop), same_precision


def drop_holds(drop: float, goal: Goal) -> bool:
    """Whether mAP50-95 that was lost is within what was agreed."""
    return drop <= goal.max_map_drop + _EPSILON


def _of_tail(tail: Tail | None, samples: int) -> str:
    """What the slow end says, or why it says nothing."""
    if tail is None:
        return f"tail unknown: {samples} samples of an engine, and p90 asks for {min_queries(PERCENTILES[-1])}"
    name, share = f"p{tail.percentile * 100:.0f}", f"{1 - tail.percentile:.0%}"
    said = (
        f"{name} {tail.build_ms:.2f} ms against {tail.parent_ms:.2f} (ratio {tail.low:.2f} to {tail.high:.2f}), "
        f"slowest {share} on average {tail.build_behind_ms:.2f} ms against {tail.parent_behind_ms:.2f} "
        f"(ratio {tail.behind_low:.2f} to {tail.behind_high:.2f}; {tail.confidence:.0%} intervals)"
    )
    if tail.percentile < PERCENTILES[0]:
        said += f"; {samples} samples can't tell p99, which asks for {min_queries(PERCENTILES[0])}"
    return f"NOT as quick at its slowest: {said}" if tail.slower else f"tail not slower beyond the interval: {said}"


def _p50(measurement: Measurement) -> float:
    return measurement.latency_ms.p50
