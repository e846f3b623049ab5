"""How a rollout is asked for, and what a token is worth."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from edgeprune.errors import DeviceError, RecipeError
from edgeprune.fleet.credentials import is_token, mosquitto_line, new_token, token_sha256, write_passwords
from edgeprune.fleet.recipe import recipe_of, seconds
from edgeprune.fleet.rollout import DEFAULT_WAVES
from tests.disk import small_disk


def test_without_anything_there_are_four_waves() -> None:
    assert recipe_of().waves == DEFAULT_WAVES
    assert [wave.percent for wave in DEFAULT_WAVES] == [1, 10, 50, 100]


def test_options_go_over_the_file_and_the_file_over_the_defaults(tmp_path: Path) -> None:
    file = tmp_path / "recipe.yaml"
    file.write_text(
        "waves: [{percent: 5, dwell_s: 60, error: 0.2}, {percent: 100, dwell_s: 7}]\nselector: {tags: [a]}\n"
    )
    recipe = recipe_of(file, waves="2,20%,100", success=0.5, skus=["pi"])
    assert [(w.percent, w.dwell_s, w.error, w.success) for w in recipe.waves] == [
        (2, 60, 0.2, 0.5), (20, 60, 0.2, 0.5), (100, 7, 0.05, 0.5),
    ]  # fmt: skip
    assert (recipe.selector.skus, recipe.selector.tags) == (("pi",), ("a",))
    assert {wave.dwell_s for wave in recipe_of(file, dwell="2h").waves} == {7200}


@pytest.mark.parametrize(("text", "found"), [("90", 90), ("90s", 90), ("15m", 900), ("4h", 14400), ("1d", 86400)])
def test_times(text: str, found: int) -> None:
    assert seconds(text) == found


@pytest.mark.parametrize("text", ["", "soon", "-1", "1.5h", "1w"])
def test_what_is_no_time(text: str) -> None:
    with pytest.raises(RecipeError, match="no time"):
        seconds(text)


def test_a_file_that_is_not_a_recipe(tmp_path: Path) -> None:
    file = tmp_path / "recipe.yaml"
    for text in ("waves: []\n", "wave: []\n", "waves: [{percent: 101}]\n", "- 1\n", "waves: [{percent: 5\n"):
        file.write_text(text)
        with pytest.raises(RecipeError) as refused:
            recipe_of(file)
        assert "recipe.yaml" in str(refused.value)


def test_a_token_is_kept_as_its_hash() -> None:
    token = new_token()
    assert len(token) >= 43
    assert token != new_token()
    assert is_token(token, token_sha256(token))
    assert not is_token(token + "x", token_sha256(token))
    assert not is_token("", token_sha256(token))
    assert token not in mosquitto_line("a", token)
    assert mosquitto_line("a", token) != mosquitto_line("a", token), "salted"


def test_a_full_disk_leaves_the_password_file_as_it_was(tmp_path: Path) -> None:
    with small_disk(tmp_path / "disk", 1) as disk:
        file = disk / "passwords"
        write_passwords(file, {"a": "x"})
        before = file.read_bytes()
        with pytest.raises(DeviceError, match="can't be written"):
            write_passwords(file, {f"device-{n}": "x" for n in range(10_000)})
        assert file.read_bytes() == before
        assert [path.name for path in disk.iterdir()] == ["passwords"]


def test_mosquittos_own_program_reads_the_file(tmp_path: Path) -> None:
    file = tmp_path / "passwords"
    write_passwords(file, {"a": "x", "b": "y"})
    try:
        subprocess.run(["mosquitto_passwd", "-D", str(file), "a"], check=True, capture_output=True)
    except FileNotFoundError:
        pytest.skip("left out: no mosquitto_passwd (apt-get install mosquitto)")
    assert [line.split(":")[0] for line in file.read_text().splitlines()] == ["b"]
