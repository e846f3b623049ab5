"""How an engine is loaded: single-stream, multi-stream, offline. Knows no engine: it times a callable.

Rules (MLPerf Inference's edge scenarios; results here are not MLPerf results):
- single-stream: one image a query, the next query when the last one is answered; its figure is p90. p99 is bounded too:
  a tail of one query in a hundred stands on its very edge, and only the bound shows it for sure.
- multi-stream: a query is eight images, neighbours in the set (LoadGen shuffles it once before; here it stays in the
  order of its files); its figure is the p99 of whole queries.
- offline: all images are there at once; its figure is images a second. A session here takes one image at a time, so
  its one query is kept sample by sample.
- A run lasts as long and has as many queries as asked for, and goes on until early stopping can say something.
- Images are drawn with replacement, by seed: no cache learns the order, and the same run can be had again.
- What looks on (sensors) looks between queries, outside of every latency.

Source: MLPerf Inference Rules, section 'Scenarios'; loadgen.cc `GenerateQueries` for multi-stream's contiguous samples.
"""

from __future__ import annotations

import time
from array import array
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np

from edgeprune.bench.early_stopping import estimate, min_queries, of_sorted
from edgeprune.records import Latency
from edgeprune.records.benchmark import Load, Part, Scenario, ScenarioResult, Window

#: Percentiles that early stopping bounds, the scenario's own figure first; offline has none.
PERCENTILES: dict[Scenario, tuple[float, ...]] = {"single-stream": (0.9, 0.99), "multi-stream": (0.99,), "offline": ()}
SAMPLES_PER_QUERY: dict[Scenario, int] = {"single-stream": 1, "multi-stream": 8, "offline": 1}
#: Windows that a run is cut into to see it over time: ten minutes in steps of ten seconds.
WINDOWS = 60
#: Images drawn at a time.
DRAW = 4096

#: Columns of `Timed.parts`.
PARTS: tuple[Part, ...] = ("preprocess", "inference", "postprocess", "capture")

#: Nanoseconds of pre-processing, inference and post-processing of the image with that index; with a camera, fourth, of
#: its capture.
Sample = Callable[[int], tuple[int, ...]]


@dataclass
class Timed:
    """Everything that was timed, in nanoseconds, as compact as it can be: the process's memory is measured too."""

    started: array[int] = field(default_factory=lambda: array("q"))
    queries: array[int] = field(default_factory=lambda: array("q"))
    image: array[int] = field(default_factory=lambda: array("q"))
    parts: tuple[array[int], ...] = field(default_factory=lambda: tuple(array("q") for _ in PARTS))
    duration: int = 0


def run(
    load: Load,
    sample: Sample,
    images: int,
    *,
    between: Callable[[float], None] = lambda _: None,
    clock: Callable[[], int] = time.perf_counter_ns,
) -> Timed:
    """Load the engine.

    Args:
        load: The scenario, how long, how many queries, and the seed.
        sample: Answers one image and says how long each part took.
        images: How many there are to draw from.
        between: Called between queries with the seconds since the start.
        clock: Nanoseconds.
    """
    timed, size = Timed(), SAMPLES_PER_QUERY[load.scenario]
    own = [] if load.quick else PERCENTILES[load.scenario][:1]
    fewest = max([load.min_queries, *map(min_queries, own)])
    draws = _draws(load.seed, images)
    begin = clock()
    while timed.duration < load.min_duration_s * 1e9 or len(timed.queries) < fewest:
        between(timed.duration / 1e9)
        first = next(draws)
        start = clock()
        for index in range(first, first + size):
            for column, part in zip(timed.parts, sample(index % images), strict=False):  # capture stays empty
                column.append(part)
            timed.image.append(index % images)
        end = clock()
        timed.started.append(start - begin)
        timed.queries.append(end - start)
        timed.duration = end - begin
    return timed


def result(load: Load, timed: Timed) -> ScenarioResult:
    """What was timed as the record, with its percentiles."""
    query_ms = [ns / 1e6 for ns in timed.queries]
    parts = [[ns / 1e6 for ns in column] for column in timed.parts]
    return ScenarioResult(
        scenario=load.scenario,
        samples_per_query=SAMPLES_PER_QUERY[load.scenario],
        duration_s=timed.duration / 1e9,
        started_s=tuple(ns / 1e9 for ns in timed.started),
        query_ms=tuple(query_ms),
        image=tuple(timed.image),
        preprocess_ms=tuple(parts[0]),
        inference_ms=tuple(parts[1]),
        postprocess_ms=tuple(parts[2]),
        capture_ms=tuple(parts[3]) or None,
        latency_ms=percentiles(query_ms),
        parts_ms={name: percentiles(part) for name, part in zip(PARTS, parts, strict=True) if part},
        early_stopping=tuple(estimate(query_ms, percentile) for percentile in PERCENTILES[load.scenario]),
        throughput_per_s=len(timed.image) / (timed.duration / 1e9),
        over_time=tuple(_windows(timed)),
    )  # fmt: skip


def percentiles(samples_ms: Sequence[float]) -> Latency:
    """Percentiles as LoadGen takes them, so that figures agree with it to the sample."""
    ordered = sorted(samples_ms)
    middle = of_sorted(ordered, 0.5)
    return Latency(
        p50=middle, p90=of_sorted(ordered, 0.9), p99=of_sorted(ordered, 0.99),
        mad=float(np.median(np.abs(np.asarray(ordered) - middle))), samples=len(ordered),
    )  # fmt: skip


def _draws(seed: int, images: int) -> Iterator[int]:
    generator = np.random.default_rng(seed)
    while True:
        yield from generator.integers(0, images, DRAW).tolist()


def _windows(timed: Timed) -> Iterator[Window]:
    length = timed.duration / WINDOWS
    numbers = np.minimum(np.asarray(timed.started) // max(length, 1), WINDOWS - 1).astype(int)
    latencies = np.asarray(timed.queries) / 1e6
    for number in np.unique(numbers).tolist():
        own = percentiles(latencies[numbers == number].tolist())
        yield Window(start_s=number * length / 1e9, queries=own.samples, p50_ms=own.p50, p90_ms=own.p90)
