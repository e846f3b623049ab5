"""The agent against the repository that `edgeprune fleet` publishes: both sides real, a release to its revert."""

from __future__ import annotations

import re
from datetime import datetime, timedelta, timezone
from pathlib import Path

from edgeprune.agent.exits import Exit
from edgeprune.fleet import archive as fleet_archive
from edgeprune.fleet.publish import examine, publish, revert
from edgeprune.fleet.repository import Repository
from edgeprune.records import Rollout, Wave
from edgeprune.records.archive import pack
from edgeprune.runtime.bundle import open_bundle
from tests.agent.simulator import Device
from tests.fleet.bundles import make_bundle
from tests.fleet.fleets import make_fleet


def rollout(repository: Repository, serial: int, counter: int) -> None:
    since = datetime.now(timezone.utc).replace(microsecond=0) - timedelta(minutes=1)
    repository.put_rollouts(
        Rollout(
            channel="stable", product="cells", serial=serial, counter=counter, salt="saltsalt",
            waves=(Wave(percent=100.0),), since=since,
        )
    )  # fmt: skip


def test_a_release_a_patched_one_and_the_revert_of_it(tmp_path: Path) -> None:
    repository = make_fleet(tmp_path, now=datetime.now(timezone.utc))
    bundles = [make_bundle(tmp_path / str(seed), seed=seed, pad_bytes=60_000) for seed in (1, 2)]
    for serial, bundle in enumerate(bundles, start=1):
        publish(repository, "cells", [examine(bundle)], latency_tolerance=100.0)
        rollout(repository, serial, serial)
        if serial == 1:
            device = Device(tmp_path / "place", Published(repository))
        assert device.once().code == Exit.UPDATED, device.said
        assert device.counter == serial
    assert "installing release 2 (archive: delta)" in device.said
    revert(repository, "cells", 1)
    rollout(repository, 3, 3)
    assert device.once().code == Exit.UPDATED, device.said
    assert device.counter == 3
    assert device.state.installed is not None
    assert device.slot_bundle() == open_bundle(bundles[0])
    assert device.once().code == Exit.NOTHING


class Published:
    """What `Device` wants to know of a repository."""

    def __init__(self, repository: Repository) -> None:
        self.url = repository.folder.as_uri()
        self.roots = [(repository.folder / "metadata" / "1.root.json").read_bytes()]


def test_both_sides_pack_the_same_bytes(tmp_path: Path) -> None:
    made = make_bundle(tmp_path / "made", pad_bytes=1000, files={"a.txt": b"a", "zz.txt": b"z"})
    fleet_archive.pack(made, open_bundle(made), tmp_path / "fleet.tar")
    pack(made, tmp_path / "device.tar")
    assert (tmp_path / "fleet.tar").read_bytes() == (tmp_path / "device.tar").read_bytes()


def test_rooms_don_t_know_each_other() -> None:
    root = Path(fleet_archive.__file__).parents[1]
    for room, other in (("agent", "fleet"), ("fleet", "agent")):
        for file in (root / room).rglob("*.py"):
            assert not re.search(rf"^\s*(from|import) edgeprune\.{other}\b", file.read_text(), re.MULTILINE), file
