"""`edgeprune methods` lists what a recipe can name, and what it lists a recipe takes."""

from __future__ import annotations

import json

import pytest

from edgeprune.records import Recipe
from edgeprune.records.methods import METHODS, Row
from tests.test_cli import edgeprune, refused


def test_every_method_is_listed_with_its_source_and_its_line() -> None:
    done = edgeprune("methods", COLUMNS="400")
    assert done.returncode == 0, done.stderr
    for row, known in METHODS.items():
        for name, method in known.items():
            line = next(line for line in done.stdout.splitlines() if line.startswith(f"{row}: {name} "))
            assert method.source in line
            assert all(need in line for need in method.needs)


def test_programs_get_json_and_a_row_alone() -> None:
    listed = json.loads(edgeprune("methods", "--row", "importance", "--json").stdout)
    assert [one["name"] for one in listed] == list(METHODS["importance"])
    taylor = next(one for one in listed if one["name"] == "taylor")
    assert taylor["recipe"] == "importance: taylor"
    assert taylor["needs"] == ["data", "gradients"]
    assert "Molchanov" in taylor["source"]


def test_a_row_that_there_isnt_is_refused() -> None:
    assert "There is no such row" in refused("methods", "--row", "speed")


@pytest.mark.parametrize("row", METHODS)
def test_a_row_is_a_key_of_a_recipe_and_its_default_is_in_it(row: Row) -> None:
    assert getattr(Recipe(), row) in METHODS[row]
