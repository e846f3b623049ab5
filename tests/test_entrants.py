"""Who runs in the arena: one method at a time, compositions by name, refusals with their sentence."""

from __future__ import annotations

from pathlib import Path

import pytest

from edgeprune import entrants as module
from edgeprune.entrants import budget, compositions, entrants, recipe_of, slug
from edgeprune.errors import RecipeError
from edgeprune.records import Goal, Recipe
from edgeprune.records.methods import METHODS

BASE = Recipe(goal=Goal(macs_ratio=0.5), importance="l2", allocation="global", epochs=4, rounds=2, round_epochs=3)


def test_all_is_every_method_that_the_base_recipe_hasnt() -> None:
    found = entrants(BASE, "all")
    assert [e.name for e in found[:2]] == ["base", "importance=random"]
    expected = {
        f"{row}={name}" for row, known in METHODS.items() for name in known if getattr(BASE, row) != name
    }  # fmt: skip
    assert {e.name for e in found} == expected | {"base"}
    for entrant in found[1:]:
        row, _, name = entrant.name.partition("=")
        assert entrant.changes == {row: name}
        if entrant.refused is None:
            recipe = recipe_of(BASE, entrant, seed=7)
            assert getattr(recipe, row) == name
            assert (recipe.seed, recipe.epochs) == (7, 4)


def test_names_may_be_short_where_one_row_has_them_and_base_and_control_are_in() -> None:
    assert [e.name for e in entrants(BASE, "l1, importance=bn")] == [
        "base", "importance=random", "importance=l1", "importance=bn",
    ]  # fmt: skip
    assert [e.name for e in entrants(BASE, "l2")] == ["base", "importance=random"]  # that is the base recipe
    assert entrants(BASE, "l1")[2].epochs == 3 + 4  # both rounds


def test_a_control_of_the_same_recipe_stands_for_itself() -> None:
    found = entrants(BASE.model_copy(update={"importance": "random"}), "l1")
    assert [e.name for e in found] == ["base", "importance=random", "importance=l1"]


def test_a_method_that_needs_more_epochs_is_refused_and_one_that_adds_some_says_so() -> None:
    found = {e.name: e for e in entrants(BASE.model_copy(update={"epochs": 1, "rounds": 1}), "gradual,slimming")}
    assert "too few epochs" in (found["pruning=gradual"].refused or "")
    assert found["regularization=slimming"].epochs == 1 + BASE.regularization_epochs


@pytest.mark.parametrize(
    ("asked", "says"),
    [("taylr", "expected: taylor"), ("none", "More than one row"), ("importance=speed", "no such entrant")],
)
def test_names_that_there_arent_are_refused(asked: str, says: str) -> None:
    with pytest.raises(RecipeError, match=says):
        entrants(BASE, asked)


def test_compositions_have_names_and_a_recipe_that_is_refused_stays_with_its_sentence(tmp_path: Path) -> None:
    file = tmp_path / "mine.yaml"
    file.write_text("narrow: {importance: l1, allocation: uniform}\nwrong: {importance: l7}\n")
    found = entrants(BASE, "narrow,wrong", compositions(file))
    assert [e.name for e in found] == ["base", "importance=random", "narrow", "wrong"]
    assert recipe_of(BASE, found[2]).allocation == "uniform"
    assert found[2].refused is None
    assert "importance" in (found[3].refused or "")
    assert {"narrow", "wrong"} < {e.name for e in entrants(BASE, "all", compositions(file))}


@pytest.mark.parametrize(
    "text",
    ["- a\n", "a: 3\n", "a: [\n", "a: {epochs: 100}\n", "a: {seed: 1}\n", "a: {goal: {}}\n", "base: {rounds: 2}\n"],
)
def test_files_that_arent_compositions_are_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "x.yaml").write_text(text)
    with pytest.raises(RecipeError):
        compositions(tmp_path / "x.yaml")
    with pytest.raises(RecipeError, match="can't be read"):
        compositions(tmp_path / "nowhere.yaml")


def test_entrants_that_would_share_a_folder_are_refused() -> None:
    with pytest.raises(RecipeError, match="one folder"):
        entrants(BASE, "all", {"importance-l1": {"rounds": 1}})
    assert slug("granularity=2:4") == "granularity-2-4"


def test_zeros_are_raced_with_what_scores_and_shares_them_out() -> None:
    """The default recipe scores channels and chooses widths; neither says anything of single weights."""
    base = Recipe(goal=Goal(speedup=2.0), epochs=4)
    found = {e.name: e for e in entrants(base, "granularity=weights,granularity=2:4,taylor,global")}
    weights = found["granularity=weights+allocation=global"]  # taylor scores single weights, too
    assert weights.refused is None
    assert recipe_of(base, weights).goal.sparsity == 0.5
    both = entrants(base.model_copy(update={"importance": "bn"}), "granularity=weights")[2]
    assert both.name == "granularity=weights+importance=l1+allocation=global"
    assert both.refused is None
    assert "allocation=global" in found


@pytest.mark.parametrize(
    ("text", "goal"),
    [
        ("2x", Goal(speedup=2.0)),
        ("8ms", Goal(latency_ms=8.0)),
        ("30fps", Goal(fps=30.0)),
        ("0.5macs", Goal(macs_ratio=0.5)),
    ],
)
def test_a_budget_is_a_goal_with_its_unit(text: str, goal: Goal) -> None:
    assert budget(text, 0.01) == goal
    assert budget(text, 0.2).max_map_drop == 0.2


@pytest.mark.parametrize("text", ["", "2", "x", "twox", "0.5x", "-2x", "nanx", "7macs"])
def test_budgets_that_arent_are_refused(text: str) -> None:
    with pytest.raises(RecipeError):
        budget(text, 0.01)


@pytest.mark.parametrize(
    ("goal", "shares"),
    [(Goal(speedup=4.0), (0.75, 0.5)), (Goal(macs_ratio=0.3), (0.7, 0.5)), (Goal(latency_ms=5.0), ())],
)
def test_zeros_are_asked_for_as_the_budget_asks_for_time(goal: Goal, shares: tuple[float, ...]) -> None:
    assert module._zeros(goal) == pytest.approx(shares)


def test_a_method_that_refuses_the_base_recipes_importance_has_its_companion_in_its_name(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """As single weights do, which taylor can't score; they leave zeros, and 2:4 leaves half whatever was asked."""
    plain = module.parse

    def choosy(record: type[Recipe], given: dict[str, object], *rest: object, **named: object) -> object:
        goal = given.pop("goal", {})
        if record is Recipe and given["allocation"] == "uniform":
            asked = dict(goal).get("sparsity")  # type: ignore[call-overload]
            if given["importance"] != "l1" or asked != 0.5:
                raise RecipeError("not with that")
            goal = {"macs_ratio": 0.5}
        return plain(record, {**given, **({"goal": goal} if goal else {})}, *rest, **named)  # type: ignore[arg-type]

    monkeypatch.setattr(module, "parse", choosy)
    found = entrants(BASE.model_copy(update={"goal": Goal(speedup=4.0)}), "uniform")[2]
    assert found.name == "allocation=uniform+importance=l1"
    assert found.changes == {"allocation": "uniform", "importance": "l1"}
    assert found.zeros == 0.5
    assert found.refused is None
