"""A million devices: a tick under 5 s and 1 GiB, each a process of its own (`python -m tests.fleet.scale`)."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.fleet.scale import measure


@pytest.mark.slow
def test_a_tick_of_a_million_devices(postgres: str, tmp_path: Path) -> None:
    measured = measure(1_000_000, postgres, tmp_path)
    assert measured.rollout.state == "done"
    assert max(ran.memory_mib for ran in measured.ticks) < 1024
    assert measured.slowest.wall_s < 5


def test_the_measurement_itself(tmp_path: Path) -> None:
    measured = measure(2000, str(tmp_path / "fleet.db"), tmp_path)
    assert measured.rollout.state == "done"
    assert [ran.said.split(" cells 1 ")[-1] for ran in measured.ticks] == [
        "nothing to do", "advanced to 10 %", "advanced to 50 %", "advanced to 100 %", "done at 100 %", "nothing to do",
    ]  # fmt: skip
