"""The search for the fewest layers in float."""

from __future__ import annotations

import pytest

from edgeprune.export.mix import _fewest


@pytest.mark.parametrize("total", [2, 5, 57])
def test_the_smallest_number_that_holds_is_found(total: int) -> None:
    for needed in range(1, total):
        asked: list[int] = []

        def holds(count: int, needed: int = needed, asked: list[int] = asked) -> bool:
            asked.append(count)
            return count >= needed

        assert _fewest(total, holds) == needed
        assert len(asked) <= 13  # an evaluation each: doubling, then halving


def test_none_is_said_where_none_holds() -> None:
    assert _fewest(57, lambda count: False) == 0
