"""Phases of a build."""

from __future__ import annotations

import pytest

from edgeprune.records import Goal, Recipe
from edgeprune.schedule import Phase, phases

GOAL = Goal(macs_ratio=0.25)


def summary(listed: tuple[Phase, ...]) -> list[tuple[object, ...]]:
    return [(p.calibrate, p.share and round(GOAL.macs_after(p.share), 4), p.epochs, p.quantized) for p in listed]


@pytest.mark.parametrize(
    ("schedule", "expected"),
    [
        ("qap", [(True, 0.5, 2, True), (False, 0.25, 4, True), (True, None, 4, True)]),
        ("prune-then-qat", [(False, 0.5, 2, False), (False, 0.25, 4, False), (True, None, 4, True)]),
        ("ptq", [(False, 0.5, 2, False), (False, 0.25, 8, False), (True, None, 0, True)]),
    ],
)
def test_the_three_schedules_differ_in_when_quantization_begins(schedule: str, expected: list[object]) -> None:
    recipe = Recipe(goal=GOAL, schedule=schedule, rounds=2, round_epochs=2, epochs=8)
    listed = phases(recipe, int8=True)
    assert summary(listed) == expected
    assert {p.all_epochs for p in listed} == {10}  # equal epochs, one learning-rate schedule
    assert [p.number for p in listed] == list(range(1, len(listed) + 1))


def test_qap_follows_ranges_until_they_are_observed_for_the_last_time() -> None:
    recipe = Recipe(goal=GOAL, rounds=2, round_epochs=2, epochs=8)
    assert [p.follow for p in phases(recipe, int8=True)] == [True, True, False]
    assert [p.follow for p in phases(recipe.model_copy(update={"epochs": 1}), int8=True)] == [True, False]
    for schedule in ("ptq", "prune-then-qat"):
        assert not any(p.follow for p in phases(recipe.model_copy(update={"schedule": schedule}), int8=True))


def test_a_float_target_knows_no_quantization_whatever_the_schedule() -> None:
    for schedule in ("qap", "prune-then-qat", "ptq"):
        listed = phases(Recipe(goal=GOAL, schedule=schedule, epochs=8), int8=False)
        assert summary(listed) == [(False, 0.25, 8, False)]


def test_another_activation_has_a_phase_of_its_own_before_anything_is_cut() -> None:
    recipe = Recipe(goal=GOAL, activation="relu", activation_epochs=3, epochs=8)
    listed = phases(recipe, int8=False)
    assert [(p.swap, p.share, p.epochs, p.first_epoch) for p in listed] == [
        (True, None, 3, 0), (False, 1.0, 8, 3),
    ]  # fmt: skip
    assert [p.swap for p in phases(recipe, int8=True)] == [True, False, False]


def test_only_the_last_of_each_kind_lies_in_the_build_s_own_folder() -> None:
    listed = phases(Recipe(goal=GOAL, schedule="prune-then-qat", rounds=2, epochs=8), int8=True)
    assert [p.folder("cut") for p in listed] == ["phases/1/", "", "phases/3/"]
    assert [p.folder("train") for p in listed] == ["phases/1/", "phases/2/", ""]
    assert listed[2].folder("calibrate") == ""


def test_epochs_add_up_whatever_the_share() -> None:
    for share in (0.1, 0.5, 0.9):
        recipe = Recipe(goal=GOAL, schedule="prune-then-qat", epochs=7, qat_share=share)
        assert sum(p.epochs for p in phases(recipe, int8=True)) == 7
