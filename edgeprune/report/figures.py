"""The figures of a build's report, from what its stages measured. Pure, save for pixels: those are in `samples.py`.

Rules:
- Every engine of the race is a candidate, and every one but the chosen build says why it isn't that.
- The interval of p50 is a bootstrap over rounds, as the ratio's is: samples within a block aren't independent.
- Latencies are counted in bins of equal ratio, so that a tail is as wide to look at as it is long.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from edgeprune.bench.measure import CONFIDENCE, compare
from edgeprune.records import (
    Accuracy,
    BenchRun,
    Block,
    Candidate,
    Goal,
    LatencyPicture,
    LayerWidth,
    Measurement,
    PrunePlan,
    Verdict,
)
from edgeprune.report.verdict import drop_holds

#: Resamples of an interval that is drawn, not decided on.
RESAMPLES = 1000
#: Bins of the latency histogram.
BINS = 64
#: The shortest time that a logarithmic axis starts at, milliseconds: clocks tick in nanoseconds.
SHORTEST_MS = 1e-3


def candidates(
    measurements: Sequence[Measurement], accuracy: Sequence[Accuracy], verdict: Verdict, goal: Goal
) -> tuple[Candidate, ...]:
    """Every engine of a race with what became of it.

    Args:
        measurements: Of one run, in the order in which they are to be listed.
        accuracy: mAP of every engine.
        verdict: What the gate said of them.
        goal: What was agreed.
    """
    by_name = {m.engine: m for m in measurements}
    map_of = {a.engine: a.map50_95 for a in accuracy}
    parent, build = by_name[verdict.comparison.parent], by_name[verdict.comparison.build]

    def lost(m: Measurement) -> str:
        against = parent if m.engine.startswith("parent") else build
        result = compare(m, against)
        whose = "the parent's best" if against is parent else "the chosen build's"
        slower = f"{result.ratio:.2f} times {whose} time [{result.low:.2f}, {result.high:.2f}]"
        drop = map_of[parent.engine] - map_of[m.engine]
        if against is build and not drop_holds(drop, goal):
            return f"mAP50-95 drops by {drop:.4f}, {goal.max_map_drop:.4f} is agreed; {slower}"
        if result.low > 1:
            return f"slower: {slower}"
        tail = compare(m, parent).tail if against is build else None
        if tail is not None and tail.slower:
            slowest = f"{tail.build_behind_ms:.2f} ms against {tail.parent_behind_ms:.2f}"
            return f"slower than the parent at its slowest: {slowest}"
        return f"no faster beyond the interval: {slower}"

    def part_and_why(m: Measurement) -> dict[str, str]:
        if m is parent:
            return {"part": "parent", "why": "the parent's fastest engine here: what every build is set against"}
        if m is not build:
            return {"part": "lost", "why": lost(m)}
        if verdict.accepted:
            return {"part": "chosen", "why": "the fastest build of those whose mAP holds: accepted"}
        return {"part": "chosen", "why": "the best of the builds, and rejected all the same: see the verdict"}

    return tuple(
        Candidate.model_validate(
            {
                "engine": m.engine, "artifact_sha256": m.artifact_sha256, "threads": m.threads,
                "cold_start_ms": m.cold_start_ms, "p50_interval_ms": p50_interval(m), **part_and_why(m),
            }
        )
        for m in measurements
    )  # fmt: skip


def p50_interval(measurement: Measurement, seed: int = 0) -> tuple[float, float]:
    """Bootstrap interval of an engine's p50 over its rounds, milliseconds."""
    blocks = [np.asarray(block) for block in measurement.blocks_ms]
    picks = np.random.default_rng(seed).integers(0, len(blocks), (RESAMPLES, len(blocks)))
    medians = [np.median(np.concatenate([blocks[i] for i in pick])) for pick in picks]
    tail = (1 - CONFIDENCE) / 2
    low, high = np.quantile(medians, [tail, 1 - tail])
    return float(low), float(high)


def latency_picture(run: BenchRun) -> LatencyPicture:
    """Counts of every inference, and the blocks in the order they ran."""
    samples = {m.engine: np.concatenate([np.asarray(block) for block in m.blocks_ms]) for m in run.measurements}
    everything = np.maximum(np.concatenate(list(samples.values())), SHORTEST_MS)
    edges = np.geomspace(everything.min(), everything.max() * (1 + 1e-9), BINS + 1)
    edges[0] = everything.min()  # geomspace may round it up, and the fastest inference would fall out
    turns = {m.engine: iter(m.blocks_ms) for m in run.measurements}
    names = [m.engine for m in run.measurements]
    blocks = []
    for index in run.order:
        p50, p90 = np.percentile(next(turns[names[index]]), [50, 90])
        blocks.append(Block(engine=names[index], p50_ms=p50, p90_ms=p90))
    return LatencyPicture(
        edges_ms=tuple(edges.tolist()),
        counts={
            name: tuple(np.histogram(np.maximum(ms, SHORTEST_MS), edges)[0].tolist()) for name, ms in samples.items()
        },
        blocks=tuple(blocks),
    )


def layer_widths(widths: Mapping[str, int], plan: PrunePlan) -> tuple[LayerWidth, ...]:
    """Widths before and after.

    Args:
        widths: Layer of the parent -> output channels, in the model's order; those that the plan doesn't know (they
            have no channels to cut) are left out.
        plan: What stayed.
    """
    build = {plan.name_in_parent(layer): len(keep.out) for layer, keep in plan.layers.items()}
    return tuple(
        LayerWidth(layer=layer, parent=width, build=build[layer]) for layer, width in widths.items() if layer in build
    )
