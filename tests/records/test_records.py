"""Records refuse what they can't mean, with file, line and the nearest key."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from edgeprune.errors import ProfileError, RecipeError
from edgeprune.job import find_target, list_targets
from edgeprune.records import Goal, PrunedGroup, Recipe, TargetProfile, read_yaml, write_json
from edgeprune.records.base import to_json
from tests.conftest import ROOT


def written(folder: Path, text: str) -> Path:
    file = folder / "some.yaml"
    file.write_text(text)
    return file


def test_typo_is_refused_with_file_line_and_nearest_key(tmp_path: Path) -> None:
    file = written(tmp_path, "goal:\n  macs_ratio: 0.5\n\nepoch: 12\n")
    with pytest.raises(RecipeError) as caught:
        read_yaml(file, Recipe, RecipeError)
    assert f"{file}:4" in str(caught.value)
    assert "unknown key 'epoch'" in str(caught.value)
    assert "'epochs'?" in str(caught.value)


def test_typo_in_a_nested_record_names_its_own_keys(tmp_path: Path) -> None:
    file = written(tmp_path, "epochs: 3\ngoal:\n  mac_ratio: 0.5\n")
    with pytest.raises(RecipeError) as caught:
        read_yaml(file, Recipe, RecipeError)
    assert f"{file}:3" in str(caught.value)
    assert "'macs_ratio'?" in str(caught.value)


@pytest.mark.parametrize(
    ("line", "field"),
    [
        ("goal: {macs_ratio: 1.5}", "goal.macs_ratio"),
        ("goal: {macs_ratio: 0}", "goal.macs_ratio"),
        ("goal: {max_map_drop: -0.1}", "goal.max_map_drop"),
        ("goal: {max_map_drop: .nan}", "goal.max_map_drop"),
        ("importance: magic", "importance"),
        ("epochs: 0", "epochs"),
        ("rounds: 99", "rounds"),
    ],
)
def test_goal_out_of_range_is_refused_with_its_line(tmp_path: Path, line: str, field: str) -> None:
    file = written(tmp_path, f"# a recipe\n{line}\n")
    with pytest.raises(RecipeError) as caught:
        read_yaml(file, Recipe, RecipeError)
    assert f"'{field}' is not right" in str(caught.value)
    assert f"{file}:2" in str(caught.value)


@pytest.mark.parametrize(
    ("goal", "says"),
    [
        (
            "{macs_ratio: 0.5, speedup: 2}",
            "one of macs_ratio, latency_ms, speedup, fps, sparsity; macs_ratio and speedup are given",
        ),
        ("{latency_ms: 4, fps: 200}", "latency_ms and fps are given"),
        ("{speedup: 1}", "greater than 1"),
        ("{speedup: 0.5}", "greater than 1"),
        ("{latency_ms: 0}", "greater than 0"),
        ("{fps: -3}", "greater than 0"),
        ("{fps: .inf}", "finite"),
    ],
)
def test_goal_is_said_in_one_way_that_makes_sense(tmp_path: Path, goal: str, says: str) -> None:
    with pytest.raises(RecipeError) as caught:
        read_yaml(written(tmp_path, f"# a recipe\ngoal: {goal}\n"), Recipe, RecipeError)
    assert says in str(caught.value)
    assert "some.yaml:2" in str(caught.value)


def test_goal_of_before_is_half_of_the_macs_and_one_in_time_has_none() -> None:
    assert Goal() == Goal(macs_ratio=0.5) == Goal(max_map_drop=0.01)
    assert Recipe().goal.macs_ratio == 0.5
    for goal in (Goal(speedup=2.0), Goal(latency_ms=4.0), Goal(fps=250.0)):
        assert goal.in_time
        assert goal.macs_ratio is None
        assert Recipe.model_validate(json.loads(to_json(Recipe(goal=goal)))).goal == goal
    assert not Goal().in_time


def test_goal_in_time_becomes_a_budget_and_rounds_take_equal_factors_of_it() -> None:
    for goal in (Goal(speedup=4.0), Goal(latency_ms=5.0), Goal(fps=200.0)):
        assert goal.budget_ms(20.0) == 5.0
        assert goal.budget_ms(20.0, 0.5) == pytest.approx(10.0)
    with pytest.raises(RecipeError, match="nothing to cut") as caught:
        Goal(fps=50.0).budget_ms(20.0)
    assert "fps 50, which is 20.000 ms" in str(caught.value)
    assert Goal(macs_ratio=0.25).macs_after(0.5) == 0.5


@pytest.mark.parametrize("text", ["{", "- 1\n- 2\n", "", "a: [1\nb: 2"])
def test_file_that_is_no_mapping_is_refused(tmp_path: Path, text: str) -> None:
    with pytest.raises(RecipeError, match=r"some\.yaml"):
        read_yaml(written(tmp_path, text), Recipe, RecipeError)


def test_missing_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match="can't be read"):
        read_yaml(tmp_path / "none.yaml", Recipe, RecipeError)


@pytest.mark.parametrize(
    "change",
    [
        {"input_shape": [1, 3, 100, 320]},
        {"input_shape": [2, 3, 320, 320]},
        {"precisions": ["bf16"]},
        {"precisions": []},
        {"runtime": "tflite"},
        {"threads": -1},
    ],
)
def test_target_that_makes_no_sense_is_refused(change: dict[str, object]) -> None:
    good = {"description": "d", "runtime": "onnxruntime", "input_shape": [1, 3, 320, 320]}
    TargetProfile.model_validate(good)
    with pytest.raises(ValueError):
        TargetProfile.model_validate(good | change)


def test_every_shipped_target_is_valid_and_commented() -> None:
    names = list_targets()
    assert {"onnxruntime-x86", "openvino-x86"} <= set(names)
    for name, file in names.items():
        assert find_target(name).description
        assert file.read_text().startswith("#")
    assert {p.stem for p in (ROOT / "targets").glob("*.yaml")} <= set(names)


def test_unknown_target_names_the_nearest() -> None:
    with pytest.raises(ProfileError, match="did you mean 'openvino-x86'"):
        find_target("openvino-x68")


def test_keep_must_be_ascending_and_in_range() -> None:
    for keep in ((), (1, 1), (2, 1), (0, 4)):
        with pytest.raises(ValueError):
            PrunedGroup(size=4, keep=keep)


def test_same_record_gives_same_bytes(tmp_path: Path) -> None:
    recipe = Recipe(goal=Goal(macs_ratio=0.4))
    write_json(tmp_path / "a.json", recipe)
    assert (tmp_path / "a.json").read_bytes() == to_json(Recipe.model_validate(json.loads(to_json(recipe))))


def test_records_are_frozen() -> None:
    with pytest.raises(ValueError):
        Recipe().epochs = 3  # type: ignore[misc]
