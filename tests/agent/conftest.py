"""Bundles for the agent's tests, made once."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.agent.simulator import Repository
from tests.fleet.bundles import make_bundle


@pytest.fixture(scope="session")
def bundles(tmp_path_factory: pytest.TempPathFactory) -> Callable[[int], Path]:
    """Seed -> a bundle, with 40 kB beside the engine that no seed changes."""
    made: dict[int, Path] = {}

    def bundle(seed: int) -> Path:
        if seed not in made:
            made[seed] = make_bundle(tmp_path_factory.mktemp(f"bundle-{seed}"), seed=seed, pad_bytes=40_000)
        return made[seed]

    return bundle


@pytest.fixture
def fleet(tmp_path: Path, bundles: Callable[[int], Path]) -> Repository:
    """A repository with releases 1 and 2, and a rollout of release 1 to all."""
    made = Repository(tmp_path / "repo")
    made.release(1, bundles(1))
    made.release(2, bundles(2), base=1)
    made.rollout(1)
    made.publish()
    return made
