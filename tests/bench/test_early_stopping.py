"""Early stopping: the published counts, exact arithmetic, coverage, and MLPerf's own LoadGen on the same samples."""

from __future__ import annotations

import json
import random
import re
import time
from collections.abc import Callable
from fractions import Fraction
from itertools import pairwise
from math import comb
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgeprune.bench import scenarios
from edgeprune.bench.early_stopping import allowed_slow, estimate, min_queries
from edgeprune.bench.scenarios import percentiles
from edgeprune.records import Load

#: In the set that both draw from.
IMAGES = 16


def test_published_counts() -> None:
    assert (min_queries(0.9), min_queries(0.99)) == (64, 662)
    assert estimate(range(855), 0.9).discarded == 64
    assert estimate(range(64), 0.9).discarded == 0


def test_too_few_queries_say_nothing() -> None:
    found = estimate([1.0] * 63, 0.9)
    assert (found.discarded, found.estimate_ms, found.needed) == (None, None, 64)
    assert estimate([], 0.9).estimate_ms is None


@settings(max_examples=60, deadline=None)
@given(queries=st.integers(1, 1200), hundredths=st.sampled_from([50, 90, 95, 99]))
def test_count_is_the_binomials_in_exact_fractions(queries: int, hundredths: int) -> None:
    slow = Fraction(100 - hundredths, 100)
    seen, t = Fraction(0), -1
    while seen < Fraction(1, 100):
        t += 1
        seen += comb(queries, t) * slow**t * (1 - slow) ** (queries - t)
    assert allowed_slow(queries, hundredths / 100) == max(t - 1, 0)


def test_estimate_is_over_the_percentile_in_99_of_100_runs() -> None:
    runs = np.random.default_rng(0).exponential(1.0, (4000, 300))
    under = sum(found < np.log(10) for found in (estimate(run, 0.9).estimate_ms for run in runs) if found is not None)
    assert 0 < under / len(runs) < 0.015  # 1 % by construction, .16 points of standard error


def test_large_runs_dont_underflow() -> None:
    assert 11_600 < allowed_slow(120_000, 0.9) < 12_000


@pytest.mark.parametrize(
    ("scenario", "queries"),
    [("SingleStream", n) for n in (63, 64, 661, 662, 855, 3000)] + [("MultiStream", n) for n in (661, 662, 1500)],
)
def test_loadgen_agrees_on_its_own_samples(scenario: str, queries: int, tmp_path: Path) -> None:
    summary, latencies_ns = loadgen(scenario, queries, tmp_path)
    assert len(latencies_ns) == queries
    percentile, of = {"SingleStream": (0.9, ""), "MultiStream": (0.99, "per_query_")}[scenario]
    found, ours = estimate(latencies_ns, percentile), percentiles(latencies_ns)
    assert summary[f"result_90.00_percentile_{of}latency_ns"] == ours.p90
    assert summary[f"result_50.00_percentile_{of}latency_ns"] == ours.p50
    assert summary[f"result_99.00_percentile_{of}latency_ns"] == ours.p99
    said = summary["early_stopping_result"]
    if found.discarded is None:
        assert f"Need to process at least {found.needed} queries" in said
        return
    assert f"Processed at least {found.needed} queries ({queries})" in said
    assert int(re.search(r"Would discard (\d+)", said)[1]) == found.discarded
    key = {"SingleStream": "early_stopping_latency_ss", "MultiStream": "early_stopping_latency_ms"}[scenario]
    assert summary[key] == found.estimate_ms
    if scenario == "SingleStream" and queries >= 662:
        assert summary["early_stopping_latency_ms"] == estimate(latencies_ns, 0.99).estimate_ms


@pytest.mark.parametrize("scenario", ["SingleStream", "MultiStream"])
def test_loadgens_queries_are_made_as_ours_are(scenario: str, tmp_path: Path) -> None:
    """One image a query, or eight neighbours: an image is always followed by the same one. LoadGen shuffles the set
    once before, ours stays in the order of its files."""
    issued: list[list[int]] = []
    loadgen(scenario, 64, tmp_path, issued.append)
    ours: list[int] = []

    def sample(index: int) -> tuple[int, int, int]:
        ours.append(index)
        return 1, 1, 1

    name = {"SingleStream": "single-stream", "MultiStream": "multi-stream"}[scenario]
    load = Load.model_validate({"scenario": name, "min_duration_s": 1e-9, "min_queries": 64, "quick": True})
    timed = scenarios.run(load, sample, IMAGES)
    size = len(ours) // len(timed.queries)
    assert {len(query) for query in issued} == {size}
    assert size == {"SingleStream": 1, "MultiStream": 8}[scenario]
    for queries in (issued, np.reshape(ours, (-1, size)).tolist()):
        follower: dict[int, int] = {}
        for query in queries:
            assert len(set(query)) == size
            for image, following in pairwise(query):
                assert follower.setdefault(image, following) == following


def loadgen(
    scenario: str, queries: int, folder: Path, on_query: Callable[[list[int]], None] = lambda _: None
) -> tuple[dict[str, Any], list[float]]:
    """Run LoadGen over an engine that waits; its summary, and every query's latency from its trace.

    Args:
        scenario, queries: In LoadGen's words.
        folder: Where its logs go.
        on_query: Told the images of each query.
    """
    lg = pytest.importorskip("mlperf_loadgen", reason="left out: mlcommons-loadgen has wheels for x86-64 Linux only")
    waits = random.Random(queries)

    def issue(samples: Any) -> None:
        on_query([sample.index for sample in samples])
        end = time.perf_counter() + waits.choice([10e-6] * 9 + [100e-6])
        while time.perf_counter() < end:
            pass
        lg.QuerySamplesComplete([lg.QuerySampleResponse(sample.id, 0, 0) for sample in samples])

    asked = lg.TestSettings()
    asked.scenario, asked.mode = getattr(lg.TestScenario, scenario), lg.TestMode.PerformanceOnly
    asked.min_query_count = asked.max_query_count = queries
    asked.min_duration_ms = 0
    logs, output = lg.LogSettings(), lg.LogOutputSettings()
    output.outdir, output.copy_summary_to_stdout = str(folder), False
    logs.log_output, logs.enable_trace = output, True
    system, library = (
        lg.ConstructSUT(issue, lambda: None),
        lg.ConstructQSL(IMAGES, IMAGES, lambda _: None, lambda _: None),
    )
    lg.StartTestWithLogSettings(system, library, asked, logs)
    lg.DestroyQSL(library)
    lg.DestroySUT(system)
    lines = (folder / "mlperf_log_detail.txt").read_text().splitlines()
    events = [json.loads(line.removeprefix(":::MLLOG ")) for line in lines if line.startswith(":::MLLOG ")]
    trace = (folder / "mlperf_log_trace.json").read_text()
    slowest: dict[str, float] = {}  # the trace isn't always whole as JSON; a sample's own event is
    for query, complete_ns in re.findall(r'"query_seq":(\d+),"sample_idx":\d+,.*"complete_ns":(\d+)', trace):
        slowest[query] = max(slowest.get(query, 0.0), float(complete_ns))
    return {event["key"]: event["value"] for event in events}, list(slowest.values())
