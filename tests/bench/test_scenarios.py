"""Scenarios under a clock that only the engine moves: what is timed, how long, how many, in which order."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from edgeprune.bench import scenarios
from edgeprune.records.benchmark import Load

MS = 1_000_000


class Engine:
    """Takes 1 ms before, 10 ms for and 2 ms after an image; for the calls that `slow` says, 100 ms for it."""

    def __init__(self, slow: Callable[[int], bool] = lambda call: False) -> None:
        self.now, self.seen, self._slow = 0, list[int](), slow

    def clock(self) -> int:
        return self.now

    def sample(self, index: int) -> tuple[int, int, int]:
        inference = 100 * MS if self._slow(len(self.seen)) else 10 * MS
        self.seen.append(index)
        self.now += MS + inference + 2 * MS
        return MS, inference, 2 * MS


def run(load: Load, engine: Engine, images: int = 7, **options: object) -> scenarios.ScenarioResult:
    return scenarios.result(load, scenarios.run(load, engine.sample, images, clock=engine.clock, **options))


def test_one_call_in_a_hundred_ten_times_slower_shows_in_p99() -> None:
    result = run(Load(min_duration_s=60), Engine(lambda call: call % 100 == 0))
    assert result.latency_ms.p50 == result.latency_ms.p90 == 13
    assert result.latency_ms.p99 == 103
    assert result.parts_ms["inference"].p99 == 100
    assert result.parts_ms["preprocess"].p99 == 1
    assert [(e.percentile, e.estimate_ms) for e in result.early_stopping] == [(0.9, 13), (0.99, 103)]


@pytest.mark.parametrize("seed", range(5))
def test_tail_at_random_shows_in_the_bound_of_p99_whichever_side_of_the_percentile_it_falls(seed: int) -> None:
    chance = np.random.default_rng(seed)
    result = run(Load(min_duration_s=60), Engine(lambda call: bool(chance.random() < 0.01)))
    assert [e.estimate_ms for e in result.early_stopping] == [13, 103]


def test_run_lasts_as_long_and_has_as_many_queries_as_asked_for() -> None:
    result = run(Load(min_duration_s=2.0), Engine())
    assert 2.0 <= result.duration_s < 2.013
    assert len(result.query_ms) == result.latency_ms.samples == 154
    assert len(run(Load(min_duration_s=0.1, min_queries=200), Engine()).query_ms) == 200
    assert result.throughput_per_s == pytest.approx(1 / 0.013)


def test_short_run_goes_on_until_early_stopping_can_say_something_unless_quick() -> None:
    single = run(Load(min_duration_s=0.1, min_queries=1), Engine())
    assert len(single.query_ms) == 64
    assert [e.estimate_ms for e in single.early_stopping] == [13, None]
    multi = run(Load(scenario="multi-stream", min_duration_s=0.1, min_queries=1), Engine())
    assert len(multi.query_ms) == 662
    quick = run(Load(scenario="multi-stream", min_duration_s=0.1, min_queries=3, quick=True), Engine())
    assert len(quick.query_ms) == 3
    assert [(e.estimate_ms, e.needed) for e in quick.early_stopping] == [(None, 662)]


def test_multi_stream_query_is_eight_neighbours() -> None:
    engine = Engine()
    result = run(Load(scenario="multi-stream", min_duration_s=1.0), engine, images=50)
    assert set(result.query_ms) == {8 * 13.0}
    assert len(result.image) == len(result.inference_ms) == 8 * len(result.query_ms)
    for query in np.reshape(engine.seen, (-1, 8)).tolist():
        assert query == [(query[0] + i) % 50 for i in range(8)]


def test_offline_is_throughput_without_early_stopping() -> None:
    result = run(Load(scenario="offline", min_duration_s=1.0, min_queries=1), Engine())
    assert result.early_stopping == ()
    assert result.throughput_per_s == pytest.approx(1 / 0.013)


def test_images_are_drawn_evenly_by_seed() -> None:
    one, same, other = (run(Load(min_duration_s=60, seed=seed), Engine()).image for seed in (0, 0, 1))
    assert one == same != other
    counts = np.bincount(one, minlength=7)
    assert counts.min() > 0.8 * counts.mean()


def test_what_looks_on_between_queries_is_in_no_latency() -> None:
    engine, looked = Engine(), list[float]()

    def look(at_s: float) -> None:
        looked.append(at_s)
        engine.now += 50 * MS

    result = run(Load(min_duration_s=5.0), engine, between=look)
    assert set(result.query_ms) == {13.0}
    assert looked[0] == 0.0
    assert len(looked) == len(result.query_ms)


def test_windows_show_an_engine_that_gets_hot() -> None:
    class Heating(Engine):
        def sample(self, index: int) -> tuple[int, int, int]:
            warm = MS * (10 if self.now < 30e9 else 15)
            self.now += warm
            return 0, warm, 0

    windows = run(Load(min_duration_s=60, sustained=True), Heating()).over_time
    assert len(windows) == 60
    assert (windows[0].p50_ms, windows[-1].p50_ms) == (10, 15)
    assert sum(window.queries for window in windows) == 3000 + 2000
    assert windows[30].start_s == pytest.approx(30, abs=0.01)
