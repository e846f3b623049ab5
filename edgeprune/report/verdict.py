"""The acceptance gate. Pure: measurements and a goal in, a verdict out.

Rules:
- The build is set against its parent's *best* engine of the same run: the precision with the lowest p50.
- The build's best engine is the fastest of those whose mAP holds; if none holds, the fastest.
- Faster means that the whole confidence interval of the ratio lies under 1.
- mAP is that of the runtime itself. A drop equal to the agreed one holds.
"""

from __future__ import annotations

from collections.abc import Sequence

from edgeprune.bench.measure import compare
from edgeprune.records import Accuracy, Comparison, Goal, Measurement, Verdict

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
        return map_of[parent.engine] - map_of[build.engine] <= goal.max_map_drop + _EPSILON

    build = min(builds, key=lambda b: (not holds(b), _p50(b)))
    comparison = compare(build, parent)
    drop = map_of[parent.engine] - map_of[build.engine]
    speed = (
        f"{1 / comparison.ratio:.2f} times the parent's speed ({build.engine} against {parent.engine}, "
        f"{comparison.confidence:.0%} interval {1 / comparison.high:.2f} to {1 / comparison.low:.2f})"
    )
    reasons = (
        f"faster: {speed}" if comparison.faster else f"NOT faster beyond the interval: {speed}",
        f"{'as good' if holds(build) else 'NOT good enough'}: mAP50-95 {map_of[build.engine]:.4f} against "
        f"{map_of[parent.engine]:.4f}, a drop of {drop:+.4f} where {goal.max_map_drop:.4f} is agreed",
    )
    same_precision = tuple(compare(b, next((p for p in parents if p.precision == b.precision), parent)) for b in builds)
    accepted = comparison.faster and holds(build)
    return Verdict(accepted=accepted, reasons=reasons, comparison=comparison, map_drop=drop), same_precision


def _p50(measurement: Measurement) -> float:
    return measurement.latency_ms.p50
