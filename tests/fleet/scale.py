"""A million devices through the real rollout code: `python -m tests.fleet.scale [--devices N] [--db URL]`.

A PostgreSQL of our own, a repository with one release, every device enrolled; then `edgeprune fleet rollout start` and
`edgeprune fleet tick` as processes of their own, wave after wave, with the statuses of each wave's newcomers taken in
between. What is measured is each process whole: interpreter, imports, keys, counting, signing, publishing.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path

from sqlalchemy.engine import make_url
from sqlalchemy.exc import ArgumentError

from edgeprune.fleet.authority import add_product
from edgeprune.fleet.credentials import token_sha256
from edgeprune.fleet.database import url_of
from edgeprune.fleet.init import init
from edgeprune.fleet.keys import Keyring
from edgeprune.fleet.publish import examine, publish
from edgeprune.fleet.repository import Repository
from edgeprune.fleet.store import Enrollment, Store
from edgeprune.records.rollout import Rollout, bucket
from tests.fleet import postgres
from tests.fleet.bundles import make_bundle
from tests.fleet.told import committed, reverted

_PASSWORD = "a million devices"
_WAVES = "1,10,50,100"
#: One in so many of a wave's devices reverts: 2 %, under the threshold of 5 % in each wave, whatever salt is drawn.
_REVERTS = 50
_BATCH = 10_000


@dataclass(frozen=True)
class Ran:
    """A process from start to end.

    Attributes:
        wall_s, cpu_s: Seconds; of the process alone.
        database_s: CPU seconds of the database's processes meanwhile; 0 where they aren't ours to look at.
        memory_mib: The most that it held at once.
    """

    wall_s: float
    cpu_s: float
    database_s: float
    memory_mib: float
    said: str


@dataclass(frozen=True)
class Measured:
    """All ticks, and how fast statuses went in."""

    ticks: tuple[Ran, ...]
    enrolled_per_s: float
    taken_per_s: float
    rollout: Rollout

    @property
    def slowest(self) -> Ran:
        return max(self.ticks, key=lambda ran: ran.wall_s)


def measure(devices: int, db: str, folder: Path, at_rest: int = 1) -> Measured:
    """Roll one release out to so many devices.

    Args:
        at_rest: Ticks while nobody has said anything yet: they count all devices too.
    """
    keyring = Keyring.make(folder / "fleet.keys", lambda role, new: _PASSWORD)
    repository = init(folder / "fleet", keyring)
    add_product(repository, "cells")
    publish(repository, "cells", [examine(make_bundle(folder / "pi", "pi"))])
    store = Store(url_of(db, folder / "fleet"))
    now = datetime.now(timezone.utc)
    names = [f"press-{number:07d}" for number in range(devices)]

    begun = time.perf_counter()
    for some in _batches(names):
        store.enroll([
            Enrollment(name, "pi", token_sha256(name), "onnxruntime 1.30.0", ("hall-1",), "cells", "stable")
            for name in some
        ], now)  # fmt: skip
    enrolled_s = time.perf_counter() - begun
    _say(f"enrolled {devices:,} devices in {enrolled_s:.1f} s")

    def edgeprune(*arguments: str) -> Ran:
        ran = _run(folder, db, *arguments)
        _say(
            f"{' '.join(arguments[:2])}: {ran.wall_s:.2f} s, CPU {ran.cpu_s:.2f} s and {ran.database_s:.2f} s of the "
            f"database's, {ran.memory_mib:.0f} MiB (load {os.getloadavg()[0]:.1f})"
        )
        _say("\n".join(f"    {line}" for line in ran.said.splitlines()))
        return ran

    edgeprune("rollout", "start", "--product", "cells", "--waves", _WAVES, "--dwell", "0")
    ticks, seq, taken, taken_s = [edgeprune("tick") for _ in range(at_rest)], 0, 0, 0.0
    done: set[str] = set()
    while (rollout := _rollout(folder)).state == "running":
        newcomers = [n for n in names if n not in done and bucket(rollout.salt, n) * 100.0 < rollout.percent]
        done.update(newcomers)
        seq += 1
        begun = time.perf_counter()
        for some in _batches(newcomers):
            store.take([
                (reverted if place % _REVERTS == _REVERTS - 1 else committed)(
                    name, seq, rollout, runtime="onnxruntime 1.30.0", tags=("hall-1",)
                )
                for place, name in enumerate(some)
            ], now)  # fmt: skip
        taken, taken_s = taken + len(newcomers), taken_s + time.perf_counter() - begun
        ticks.append(edgeprune("tick"))
        if ticks[-1].said == "nothing to do":
            raise AssertionError(f"a wave of {len(newcomers)} ended, and the rollout stands still: {rollout}")
    ticks.append(edgeprune("tick"))
    edgeprune("status")
    store.close()
    return Measured(tuple(ticks), devices / enrolled_s, taken / taken_s, rollout)


def _run(folder: Path, db: str, *arguments: str) -> Ran:
    environment = os.environ | {
        "EDGEPRUNE_KEY_PASSWORD": _PASSWORD, "EDGEPRUNE_FLEET_REPO": str(folder / "fleet"), "EDGEPRUNE_FLEET_DB": db,
    }  # fmt: skip
    begun, database_s = time.perf_counter(), _database_s(db)
    with open(folder / "said", "w+", encoding="utf-8") as said:
        process = subprocess.Popen(
            [sys.executable, "-m", "edgeprune", "fleet", *arguments], stdout=said, stderr=subprocess.STDOUT,
            env=environment,
        )  # fmt: skip
        peak_kib = 0
        while True:  # not ru_maxrss: that of a child begins with what its parent held when it was made
            peak_kib = max(peak_kib, _peak_kib(process.pid))
            done, ended, used = os.wait4(process.pid, os.WNOHANG)
            if done:
                break
            time.sleep(0.01)
        process.returncode = os.waitstatus_to_exitcode(ended)
        wall_s = time.perf_counter() - begun
        said.seek(0)
        text = said.read().strip()
    if process.returncode != 0:
        raise AssertionError(f"{' '.join(arguments)} ended with {process.returncode}:\n{text}")
    time.sleep(0.5)  # the server counts a process of its own when it has seen it end
    return Ran(wall_s, used.ru_utime + used.ru_stime, _database_s(db) - database_s, peak_kib / 1024, text)


def _database_s(db: str) -> float:
    """CPU seconds of all processes of a PostgreSQL of our own that have ended so far."""
    try:
        pid_file = Path(str(make_url(db).query["host"])) / "data" / "postmaster.pid"
        pid = int(pid_file.read_text().split()[0])
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except (ArgumentError, KeyError, OSError, ValueError):  # SQLite, or somebody else's
        return 0.0
    return (int(fields[13]) + int(fields[14])) / os.sysconf("SC_CLK_TCK")  # cutime, cstime


def _peak_kib(pid: int) -> int:
    """The most that a process has held in memory since it was started, as Linux counts it."""
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except OSError:
        return 0
    return next((int(line.split()[1]) for line in lines if line.startswith("VmHWM:")), 0)


def _rollout(folder: Path) -> Rollout:
    found = Repository.open(folder / "fleet").rollout("stable")
    assert found is not None
    return found


def _batches(names: list[str]) -> Iterator[list[str]]:
    for first in range(0, len(names), _BATCH):
        yield names[first : first + _BATCH]


def _say(text: str) -> None:
    print(text, flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--devices", type=int, default=1_000_000)
    parser.add_argument("--db", help="another database than a PostgreSQL of our own")
    parser.add_argument("--at-rest", type=int, default=5, help="ticks before anybody has said anything")
    asked = parser.parse_args()
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="edgeprune-scale-")))
        measured = measure(asked.devices, asked.db or stack.enter_context(postgres.postgres()), folder, asked.at_rest)
    slowest, quickest = measured.slowest, min(ran.wall_s for ran in measured.ticks[:-1])
    memory_mib = max(ran.memory_mib for ran in measured.ticks)
    _say(
        f"{asked.devices:,} devices, {len(measured.ticks)} ticks: {quickest:.2f} to {slowest.wall_s:.2f} s (CPU "
        f"{slowest.cpu_s:.2f} s), most memory {memory_mib:.0f} MiB; enrolled {measured.enrolled_per_s:,.0f} a second, "
        f"statuses taken {measured.taken_per_s:,.0f} a second"
    )


if __name__ == "__main__":
    main()
