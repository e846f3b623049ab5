"""The gate, at its edges."""

from __future__ import annotations

import numpy as np
import pytest

from edgeprune.records import Accuracy, Goal, Measurement
from edgeprune.report.verdict import judge
from tests.bench.test_measure import fake

GOAL = Goal(max_map_drop=0.01)


def engine(name: str, ms: float, spread: float = 0.02) -> Measurement:
    precision = name.split()[1]
    noise = np.random.default_rng(abs(hash(name)) % 1000).lognormal(0, spread, 40)
    return fake(name, ms * noise).model_copy(update={"precision": precision})


def accuracy(**values: float) -> list[Accuracy]:
    return [Accuracy(engine=name.replace("_", " "), map50_95=v, map50=v, images=10) for name, v in values.items()]


def test_faster_and_as_good_is_accepted() -> None:
    verdict, _ = judge(
        [engine("parent fp32", 10)], [engine("pruned fp32", 6)], accuracy(parent_fp32=0.6, pruned_fp32=0.595), GOAL
    )
    assert verdict.accepted
    assert verdict.map_drop == pytest.approx(0.005)


def test_slower_is_rejected_however_good() -> None:
    verdict, _ = judge(
        [engine("parent fp32", 10)], [engine("pruned fp32", 12)], accuracy(parent_fp32=0.6, pruned_fp32=0.7), GOAL
    )
    assert not verdict.accepted
    assert "NOT faster" in verdict.reasons[0]


def test_a_gain_within_the_noise_is_rejected() -> None:
    verdict, _ = judge(
        [engine("parent fp32", 10, 0.3)], [engine("pruned fp32", 9.9, 0.3)],
        accuracy(parent_fp32=0.6, pruned_fp32=0.6), GOAL,
    )  # fmt: skip
    assert not verdict.accepted


@pytest.mark.parametrize(("pruned", "accepted"), [(0.59, True), (0.5899, False)])
def test_drop_exactly_as_agreed_holds(pruned: float, accepted: bool) -> None:
    verdict, _ = judge(
        [engine("parent fp32", 10)], [engine("pruned fp32", 6)], accuracy(parent_fp32=0.6, pruned_fp32=pruned), GOAL
    )
    assert verdict.accepted is accepted


def test_build_is_set_against_the_parents_best_engine() -> None:
    parents = [engine("parent fp32", 10), engine("parent bf16", 5)]
    builds = [engine("pruned fp32", 6), engine("pruned bf16", 5.5)]
    known = accuracy(parent_fp32=0.6, parent_bf16=0.6, pruned_fp32=0.6, pruned_bf16=0.6)
    verdict, comparisons = judge(parents, builds, known, GOAL)
    assert verdict.comparison.parent == "parent bf16"
    assert not verdict.accepted
    assert {(c.build, c.parent) for c in comparisons} == {
        ("pruned fp32", "parent fp32"),
        ("pruned bf16", "parent bf16"),
    }


def test_fast_but_bad_precision_gives_way_to_one_that_holds() -> None:
    builds = [engine("pruned fp32", 6), engine("pruned bf16", 3)]
    known = accuracy(parent_fp32=0.6, pruned_fp32=0.6, pruned_bf16=0.4)
    verdict, _ = judge([engine("parent fp32", 10)], builds, known, GOAL)
    assert verdict.accepted
    assert verdict.comparison.build == "pruned fp32"


def test_an_engine_that_counts_is_taken_before_a_faster_one_that_does_not() -> None:
    """The median of all is lower, and yet it isn't faster beyond the interval: half of its rounds were slow."""
    parent, sure = engine("parent fp32", 10), engine("pruned bf16", 9)
    noise = np.random.default_rng(3).choice([0.5, 1.6], 40)
    wild = fake("pruned fp32", np.sort(noise) * 8).model_copy(update={"precision": "fp32"})
    wild = wild.model_copy(update={"latency_ms": wild.latency_ms.model_copy(update={"p50": 8.0})})
    known = accuracy(parent_fp32=0.6, pruned_fp32=0.6, pruned_bf16=0.6)
    alone, _ = judge([parent], [wild], known, GOAL)
    assert not alone.accepted
    verdict, _ = judge([parent], [wild, sure], known, GOAL)
    assert verdict.accepted
    assert verdict.comparison.build == "pruned bf16"
