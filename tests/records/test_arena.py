"""The leaderboard's arithmetic, against figures worked out by hand."""

from __future__ import annotations

import pytest

from edgeprune.records import Comparison, Latency, Row
from edgeprune.records.arena import Entrant, Finish, LayerShare, Run, Standing, spread_of, standings, versus, winner
from edgeprune.records.goals import GoalKind
from edgeprune.records.sweep import Raced


def against(ratio: float, width: float = 0.02) -> Comparison:
    return Comparison(
        build="pruned fp32", parent="parent fp32", ratio=ratio, low=ratio - width, high=ratio + width, confidence=0.99,
        pairs=40,
    )  # fmt: skip


def run(entrant: str, seed: int, map50_95: float, ratio: float = 0.5, macs: int = 1_000_000) -> Run:
    latency = Latency(p50=5.0, p90=6.0, p99=7.0, mad=0.1, samples=100)
    row = Row(
        variant="pruned", runtime="onnxruntime 1", precision="fp32", map50_95=map50_95, map50=0.9, latency_ms=latency,
        macs=macs, parameters=10, bytes=2_000_000,
    )  # fmt: skip
    layers = tuple(LayerShare(layer=f"model.{n}.conv", parent=100, build=b) for n, b in enumerate((25, 0)))
    finish = Finish(row=row, against=against(ratio), layers=layers, machine="here", folder=f"{entrant}-s{seed}")
    return Run(entrant=entrant, seed=seed, state="done", finish=finish, hours=0.25)


NAMES = ("base", "importance=random", "importance=l1", "granularity=weights", "pruning=gradual", "importance=bn")
ENTRANTS = [Entrant(name=name, zeros=0.5 if name == "granularity=weights" else None) for name in NAMES]
ENTRANTS[5] = ENTRANTS[5].model_copy(update={"refused": "no BatchNorm"})
RUNS = [
    # base: mean 0.60, deviations -0.01 and 0.01: variance 0.0002 / 1
    run("base", 0, 0.59), run("base", 1, 0.61),
    # random: mean 0.50, variance 0.0008
    run("importance=random", 0, 0.48), run("importance=random", 1, 0.52),
    # l1: mean 0.61, the same variance as base's; a third of it is slower than asked
    run("importance=l1", 0, 0.60, ratio=0.6), run("importance=l1", 1, 0.62),
    run("granularity=weights", 0, 0.63, ratio=1.0), run("granularity=weights", 1, 0.63, ratio=1.0),
    run("pruning=gradual", 0, 0.70),
    Run(entrant="pruning=gradual", seed=1, state="stopped", why="fell behind", hours=0.1),
]  # fmt: skip


def board(kind: GoalKind = "speedup", value: float = 2.0, parent_ms: float | None = 10.0) -> dict[str, Standing]:
    return {s.entrant.name: s for s in standings(ENTRANTS, RUNS, kind, value, parent_ms)}


def test_means_and_spreads_are_over_seeds() -> None:
    base = board()["base"]
    assert base.map50_95 == pytest.approx(0.60)
    assert base.spread == pytest.approx(0.0002**0.5)
    assert base.macs == 1_000_000
    assert base.bytes == 2_000_000
    assert base.hours == pytest.approx(0.5)
    assert base.speed == pytest.approx((2.0, 1 / 0.52, 1 / 0.48))
    assert base.latency_ms == pytest.approx(5.0)
    slower = board()["importance=l1"]
    assert slower.speed == pytest.approx(((2 + 1 / 0.6) / 2, 1 / 0.62, 1 / 0.48))
    assert slower.latency_ms == pytest.approx(10 / ((2 + 1 / 0.6) / 2))


def test_better_is_by_more_than_the_spread() -> None:
    """0.60 - 0.50 = 0.10 against the root of 0.0002 + 0.0008, 0.0316; 0.61 - 0.60 = 0.01 against that of 0.0004."""
    found = board()
    assert found["base"].against_control == "better than random: +0.1000, over the spread of 0.0316"
    assert found["importance=l1"].against_base == "no better than base: +0.0100, within the spread of 0.0200"
    assert found["importance=random"].against_base == "worse than base: -0.1000, over the spread of 0.0316"
    assert found["importance=random"].against_control == found["base"].against_base == ""
    assert "nothing can be told" in found["pruning=gradual"].against_control  # one seed is left
    assert versus("random", [], [0.5]) == versus("random", [0.5], []) == ""
    assert spread_of([0.5]) is None


def test_the_best_that_is_whole_and_fast_enough_wins() -> None:
    found = standings(ENTRANTS, RUNS, "speedup", 2.0, 10.0)
    assert [s.entrant.name for s in found] == [
        "base", "importance=random", "granularity=weights", "importance=l1", "pruning=gradual", "importance=bn",
    ]  # fmt: skip
    assert winner(found) == "base"  # zeros are better and no faster, l1 is slower in one seed, gradual isn't whole
    assert [s.fast_enough for s in found] == [True, True, False, False, True, None]


@pytest.mark.parametrize(
    ("kind", "value", "expected"),
    [
        ("speedup", 2.08, True),  # 1 / (0.5 - 0.02) = 2.0833
        ("speedup", 2.09, False),
        ("latency_ms", 4.81, True),  # 10 ms x 0.48 = 4.8
        ("latency_ms", 4.79, False),
        ("fps", 208.0, True),
        ("fps", 209.0, False),
        ("macs_ratio", 0.5, None),
    ],
)
def test_fast_enough_is_judged_by_the_end_of_the_interval(kind: GoalKind, value: float, expected: bool | None) -> None:
    assert board(kind, value)["base"].fast_enough is expected


def test_without_a_race_here_times_are_not_known_but_ratios_are() -> None:
    base = board(parent_ms=None)["base"]
    assert base.latency_ms is None
    assert base.fast_enough is True
    assert board("latency_ms", 4.0, None)["base"].fast_enough is None


def test_the_last_race_goes_before_a_builds_own() -> None:
    own = run("base", 0, 0.6, ratio=0.5)
    assert own.finish is not None
    raced = Raced(
        engine="base-s0 pruned fp32", row=own.finish.row, artifact_sha256="a" * 64, p50_interval_ms=(4.0, 6.0),
        against=against(0.8),
    )  # fmt: skip
    (found,) = standings(ENTRANTS[:1], [own.model_copy(update={"raced": raced})], "speedup", 2.0, 10.0)
    assert found.speed is not None
    assert found.speed[0] == pytest.approx(1.25)
    assert found.fast_enough is False


def test_a_layer_that_is_gone_is_gone_whole() -> None:
    assert [LayerShare(layer="a", parent=4, build=n).removed for n in (4, 1, 0)] == [0.0, 0.75, 1.0]
