"""Short cuts for tests that look at no figure: a quick recipe, accepted whatever it scores; a small latency table."""

import pytest

from edgeprune.latency import table
from edgeprune.records import Goal, Recipe

SHORT = Recipe(
    goal=Goal(macs_ratio=0.5, max_map_drop=0.5),
    epochs=1,
    batch=8,
    importance="l2",
    allocation="global",
    torch_device="cpu",
)


def shorten_tables(patch: pytest.MonkeyPatch) -> None:
    """Latency tables of few engines and short passes. A busy machine isn't refused, since nothing is timed twice."""
    shorter = {
        "SMALL_S": 1e-3, "WHOLE_S": 0.02, "PASSES": 1, "WHOLE_PASSES": 1, "MOST_PASSES": 1, "FITTED": 3, "HELD_OUT": 2,
    }  # fmt: skip
    for name, value in shorter.items():
        patch.setattr(table, name, value)
