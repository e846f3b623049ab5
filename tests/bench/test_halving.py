"""Successive halving on recorded runs: who goes on, who wins, what it costs, and what a heat changes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest

from edgeprune.bench.halving import (
    FIRST_ROUNDS,
    HEAT,
    LAST_ROUNDS,
    MOST_ROUNDS,
    Placed,
    Ran,
    halve,
    heats,
    places,
    planned,
    rounds_of,
    survivors,
)
from edgeprune.bench.measure import measure, summarise
from edgeprune.records import BenchRun, Choice, Measurement, Settings
from edgeprune.records.form import Form
from edgeprune.stages.tune import judged
from tests.bench.test_measure import IMAGES, engine, net

Told = list[tuple[list[int], int]]


def recorded(medians: Sequence[float], noise: float = 0.01, drift: Callable[[int], float] = lambda heat: 1.0) -> tuple:
    """A race whose candidates take so many milliseconds, with noise by seed, and what it was asked."""
    told: Told = []

    def race(heat: Sequence[int], rounds: int) -> BenchRun:
        generator = np.random.default_rng(len(told))
        machine = drift(len(told))
        told.append((list(heat), rounds))
        found = []
        for index in heat:
            ms = medians[index] * machine * generator.lognormal(0, noise, (rounds, 9))
            found.append(
                Measurement(
                    engine=str(index), artifact_sha256="a" * 64, runtime="onnxruntime 1.0", precision="fp32", threads=1,
                    blocks_ms=tuple(map(tuple, ms.tolist())), latency_ms=summarise(ms.ravel().tolist()),
                    cold_start_ms=1.0,
                )
            )  # fmt: skip
        return BenchRun(measurements=tuple(found), environment={}, order=tuple(range(len(heat))) * rounds)

    return race, told


def test_the_fastest_of_many_wins_and_rounds_grow_as_candidates_fall() -> None:
    medians = [5.0, 4.0, 9.0, 3.0, 6.0, 8.0, 7.0, 3.3]
    race, told = recorded(medians)
    placed = halve(8, race)
    assert placed[0].index == 3
    assert (placed[0].ratio, placed[0].low, placed[0].high) == (1, 1, 1)
    assert sorted(p.index for p in placed) == list(range(8))
    assert [len(heat) for heat, _ in told] == [8, 4, 2]
    assert [rounds for _, rounds in told] == [4, 8, 16]
    assert {p.index for p in placed if p.rung == 1} == {2, 4, 5, 6}
    assert [p.rung for p in placed] == sorted((p.rung for p in placed), reverse=True)
    assert placed[1].index == 7
    assert placed[1].ratio == pytest.approx(1.1, rel=0.03)
    assert placed[1].apart


def test_the_better_half_stays_in_the_first_rung_and_the_rest_fall_with_figures() -> None:
    race, _ = recorded([1.0, 2.0, 3.0, 4.0, 5.0, 6.0])
    placed = halve(6, race)
    assert {p.index for p in placed if p.rung == 1} == {3, 4, 5}
    for fallen in (p for p in placed if p.rung == 1):
        assert fallen.ratio == pytest.approx(fallen.index + 1, rel=0.05)
        assert (fallen.field, fallen.winner, fallen.rounds) == (6, 0, FIRST_ROUNDS)
        assert fallen.apart


def test_those_that_cant_be_told_from_the_first_rungs_winner_go_on_as_far_as_it_still_halves() -> None:
    def stay(apart: Sequence[bool], rung: int = 1) -> int:
        latency = summarise([1.0])
        return survivors([Placed(i, rung, 4, len(apart), 0, latency, 1.1, 1.05 if a else 0.95, 1.2) for i, a in
                          enumerate(apart)])  # fmt: skip

    assert stay([False, True, True, True, True, True, True, True]) == 4  # half
    assert stay([False] * 5 + [True] * 3) == 5  # five alike
    assert stay([False] * 8) == 6  # all alike: no more than three quarters
    assert stay([False] * 8, rung=2) == 4  # later rungs have the rounds to tell
    assert stay([False] * 3) == 2
    for count in range(3, 60):
        assert 1 <= stay([False] * count) < count


def test_a_race_of_two_has_rounds_enough_to_tell_and_one_candidate_wins_alone() -> None:
    race, told = recorded([1.02, 1.0])
    assert [p.index for p in halve(2, race)] == [1, 0]
    assert told == [([0, 1], LAST_ROUNDS)]
    race, told = recorded([1.0])
    assert [p.index for p in halve(1, race)] == [0]
    assert rounds_of(9, 30) == MOST_ROUNDS


def test_of_alike_candidates_the_first_wins() -> None:
    def race(heat: Sequence[int], rounds: int) -> BenchRun:
        same = recorded([1.0] * 6, noise=0)[0]
        return same(heat, rounds)

    placed = halve(6, race)
    assert placed[0].index == 0
    assert not any(p.apart for p in placed)


def test_heats_are_equal_hold_everyone_once_and_the_leader_each_time() -> None:
    for count in range(1, 50):
        found = heats(range(count))
        assert all(heat[0] == 0 and len(heat) <= HEAT for heat in found)
        assert sorted([0, *(i for heat in found for i in heat[1:])]) == list(range(count))
        assert max(map(len, found)) - min(map(len, found)) <= 1


def test_a_machine_that_slows_down_between_heats_changes_nothing() -> None:
    """24 candidates are four heats; the second runs on a machine of half the speed, and holds the fastest."""
    medians = [4.0 + 0.2 * i for i in range(24)]
    medians[22] = 2.0  # in the second heat: places 2, 6, 10 … 22
    race, told = recorded(medians, drift=lambda heat: 2.0 if heat == 1 else 1.0)
    placed = halve(24, race)
    assert 22 in told[1][0]
    assert placed[0].index == 22
    for fallen in (p for p in placed if p.rung == 1):
        assert fallen.winner == 22
        assert fallen.ratio == pytest.approx(medians[fallen.index] / 2.0, rel=0.04)
        assert fallen.low <= fallen.ratio <= fallen.high
        assert fallen.apart


def test_a_race_that_isnt_worth_it_ends_after_its_first_rung() -> None:
    race, told = recorded([8.0, 9.0, 10.0, 11.0, 12.0])
    placed = halve(5, race, enough=lambda p50_ms: p50_ms > 2 * 3.0)
    assert [p.index for p in placed] == [0, 1, 2, 3, 4]
    assert told == [([0, 1, 2, 3, 4], FIRST_ROUNDS)]
    race, told = recorded([8.0, 9.0, 10.0, 11.0, 12.0])
    halve(5, race, enough=lambda p50_ms: p50_ms > 20.0)
    assert len(told) > 1


def test_halving_24_costs_less_than_half_of_a_full_race() -> None:
    race, told = recorded([1.0 + 0.1 * i for i in range(24)])
    halve(24, race)
    blocks = sum(len(heat) * rounds for heat, rounds in told)
    assert blocks <= 1.1 * planned(24)
    assert blocks < 24 * 40 / 2


def test_a_winner_of_another_heat_is_compared_by_way_of_the_pacer_with_both_heats_noise() -> None:
    """The same two candidates: told apart by fewer, when they never ran side by side."""
    race, _ = recorded([3.0, 2.0, 2.2], noise=0.05)
    one, two, both = race([0, 1], 10), race([0, 2], 10), race([0, 1, 2], 10)
    across = places(
        [Ran(0, one.measurements[0], one.measurements[0]), Ran(1, one.measurements[1], one.measurements[0]),
         Ran(2, two.measurements[1], two.measurements[0])], 1, 10,
    )  # fmt: skip
    beside = places([Ran(i, m, both.measurements[0]) for i, m in enumerate(both.measurements)], 1, 10)
    assert [p.index for p in across] == [p.index for p in beside] == [1, 2, 0]
    assert across[1].ratio == pytest.approx(1.1, rel=0.06)
    assert across[1].high - across[1].low > beside[1].high - beside[1].low


def test_every_candidate_says_what_became_of_it() -> None:
    field = [
        Choice(settings=Settings(threads=t), form=f) for f in (Form(), Form(input="pixels")) for t in (1, 2)
    ]  # fmt: skip
    race, _ = recorded([2.0, 4.0, 1.0, 1.001])
    found = judged("pruned fp32", field, halve(4, race))
    assert [c.chosen for c in found] == [True, False, False, False]
    assert found[0].choice in field[2:]
    assert found[0].why.startswith("the fastest of 4; rung 2 of ")
    assert "no different from pixels in, " in found[1].why
    slowest = found[-1]
    assert slowest.choice == field[1]
    assert slowest.why.startswith("slower than pixels in, ")
    assert f"{slowest.low:.3f} to {slowest.high:.3f}" in slowest.why
    assert "rung 1 of 4 candidates, 4 rounds" in slowest.why


def test_the_fastest_of_real_engines_wins(tmp_path: Path) -> None:
    """Nets of 20, 2 and 10 layers, each in a process: two go on, and are raced again."""
    layers = (20, 2, 10)
    engines = [engine(f"{n} layers", net(tmp_path / f"{n}.onnx", n)) for n in layers]
    first, second, third = halve(
        3, lambda heat, rounds: measure([engines[i] for i in heat], IMAGES, rounds=rounds // 2)
    )
    assert [layers[p.index] for p in (first, second, third)] == [2, 10, 20]
    assert (first.rung, second.rung, third.rung) == (2, 2, 1)
    assert (first.ratio, first.low) == (1, 1)
    assert second.apart
    assert third.ratio > second.ratio > 1.5
