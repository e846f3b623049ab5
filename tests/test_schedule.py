"""Phases of a build."""

from __future__ import annotations

from itertools import pairwise

import pytest
from pydantic import ValidationError

from edgeprune.errors import RecipeError
from edgeprune.records import Goal, Recipe
from edgeprune.records.methods import METHODS, function_at
from edgeprune.schedule import Phase, epochs_of, phases

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


# what trains before it cuts


def places(listed: tuple[Phase, ...]) -> list[tuple[object, ...]]:
    return [(p.share, p.chooses, p.point, p.first_epoch, p.epochs, p.all_epochs, p.widths) for p in listed]


@pytest.mark.parametrize(
    ("pruning", "expected"),
    [
        ("one-shot", [(1.0, False, 0, 0, 10, 10, 0)]),
        ("gradual", [(1.0, True, 0, 0, 4, 10, 1), (1.0, False, 0, 4, 6, 10, 1)]),
        # three epochs are the point; after the cut six more, at the rates from the third on
        ("rewind-weights", [(None, False, 0, 0, 3, 4, 0), (None, False, 0, 3, 1, 4, 0), (1.0, False, 2, 3, 6, 9, 0)]),
        ("rewind-rate", [(None, False, 0, 0, 4, 4, 0), (1.0, False, 0, 0, 6, 6, 0)]),
    ],
)
def test_every_pruning_shares_out_the_same_epochs(pruning: str, expected: list[object]) -> None:
    recipe = Recipe(goal=GOAL, pruning=pruning, pruning_share=0.4, rewind_epochs=3, epochs=10)
    listed = phases(recipe, int8=False)
    assert places(listed) == expected
    for int8, schedule in ((False, "ptq"), (True, "ptq"), (True, "qap")):
        assert epochs_of(recipe.model_copy(update={"schedule": schedule}), int8=int8) == 10


@pytest.mark.parametrize("pruning", ["gradual", "soft", "regrowth"])
def test_who_stays_is_decided_while_training(pruning: str) -> None:
    deciding, cutting = phases(Recipe(goal=GOAL, pruning=pruning, epochs=4), int8=False)
    assert METHODS["pruning"][pruning].at == f"schedule:{pruning}"
    assert function_at(deciding.keeper).__name__ == pruning
    assert not cutting.keeper
    assert deciding.followed
    assert not cutting.followed


def test_quantization_aware_pruning_quantizes_what_trains_before_the_cut_too() -> None:
    listed = phases(Recipe(goal=GOAL, pruning="gradual", epochs=8), int8=True)
    assert summary(listed) == [(True, 0.25, 4, True), (False, 0.25, 2, True), (True, None, 2, True)]
    assert [p.widths for p in listed] == [1, 1, 0]
    assert [p.follow for p in listed] == [True, True, False]


def test_rewinding_the_rate_does_so_after_every_round() -> None:
    listed = phases(Recipe(goal=GOAL, pruning="rewind-rate", rounds=2, round_epochs=3, epochs=8), int8=False)
    assert [(p.share, p.first_epoch, p.epochs, p.all_epochs) for p in listed] == [
        (None, 0, 4, 4), (0.5, 0, 3, 3), (1.0, 0, 4, 4),
    ]  # fmt: skip


@pytest.mark.parametrize("regularization", ["slimming", "group-lasso", "growing", "l0"])
def test_regularization_is_a_phase_of_the_whole_model_in_front(regularization: str) -> None:
    recipe = Recipe(goal=GOAL, regularization=regularization, regularization_epochs=2, epochs=8, rounds=2)
    first, *rest = phases(recipe, int8=True)
    assert (first.epochs, first.quantized, first.calibrate, first.first_epoch) == (2, False, False, 0)
    assert rest[0].calibrate
    assert rest[0].first_epoch == 2
    assert first.chooses == (regularization == "growing")  # alone in pressing only those that will go
    assert [p.widths for p in rest] == ([1] if regularization == "growing" else [0]) + [0] * (len(rest) - 1)


def test_too_few_epochs_are_refused() -> None:
    with pytest.raises(RecipeError, match="too few epochs"):
        phases(Recipe(goal=GOAL, pruning="soft", epochs=1), int8=False)
    with pytest.raises(RecipeError, match="rewind_epochs"):
        phases(Recipe(goal=GOAL, pruning="rewind-weights", epochs=4, rewind_epochs=2), int8=False)


@pytest.mark.parametrize(
    "given", [{"pruning": "gradual", "rounds": 2}, {"regularization_strength": 0.1}, {"pruning": "slowly"}]
)
def test_what_makes_no_sense_together_is_refused(given: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        Recipe(**given)


@pytest.mark.parametrize("pruning", METHODS["pruning"])
def test_what_is_left_to_train_counts_down_to_nothing(pruning: str) -> None:
    recipe = Recipe(goal=GOAL, pruning=pruning, epochs=8, rewind_epochs=1, regularization="slimming", schedule="ptq")
    listed = phases(recipe, int8=True)
    assert listed[-1].left == 0
    assert listed[0].left + listed[0].epochs == epochs_of(recipe, int8=True)
    assert [a.left - b.left for a, b in pairwise(listed)] == [p.epochs for p in listed[1:]]
