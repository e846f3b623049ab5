"""A thousand real agents against one nginx: `python -m tests.fleet.thousand [--devices N] [--at-once N]`.

Each is a device of its own, made with release 1. Release 2 comes to all; each runs `python -m edgeprune.agent once`,
which polls, downloads, tests and keeps it, and once more, which is a steady poll. Bytes are nginx's own, headers
included. Ends with 1 where a device isn't on release 2, or a steady poll takes more than is promised.
"""

from __future__ import annotations

import argparse
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from statistics import median

import yaml
from rich.console import Console
from rich.progress import track

from tests.conftest import ROOT
from tests.fleet import nginx
from tests.fleet.fleets import make_fleet, release_of, rollout_of

#: What a steady poll may take.
REQUESTS, BYTES = 2, 2000
#: Exit codes of an agent (edgeprune/agent/exits.py, which is the device's; nothing of it is imported here).
NOTHING, UPDATED = 0, 30
#: Size of what lies beside the small engine: a pruned YOLO in INT8 has about as much.
BALLAST = 1_000_000


def configure(folder: Path, address: str, root: bytes) -> Path:
    folder.mkdir(parents=True)
    (folder / "root.json").write_bytes(root)
    told = {
        "device": folder.name, "product": "cells", "channel": "stable", "sku": "pi", "runtime": "onnxruntime",
        "folder": "edgeprune", "repository": address, "root": "root.json", "watch": {"by": "self-test"},
        "metrics": "agent.prom", "limits": {"gap_s": 300, "window_s": 300, "test_images": 3},
    }  # fmt: skip
    file = folder / "agent.yaml"
    file.write_text(yaml.safe_dump(told))
    return file


def once(config: Path) -> int:
    command = [sys.executable, "-m", "edgeprune.agent", "--config", str(config), "once"]
    return subprocess.run(command, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE).returncode


def figure(config: Path, name: str) -> float:
    found = re.search(rf"^edgeprune_agent_{name}\{{.*\}} (\S+)$", (config.parent / "agent.prom").read_text(), re.M)
    assert found is not None
    return float(found[1])


def sent(log: Path) -> tuple[int, int]:
    """Requests that nginx answered so far, and bytes that it sent."""
    lines = log.read_text().splitlines()
    return len(lines), sum(int(line.split()[3]) for line in lines)


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.fleet.thousand", description=__doc__.splitlines()[0])
    parser.add_argument("--devices", type=int, default=1000)
    parser.add_argument("--at-once", type=int, default=4)
    options = parser.parse_args()
    console = Console()
    with tempfile.TemporaryDirectory(prefix="edgeprune-thousand-") as made:
        work = Path(made)
        repository = make_fleet(work)
        release_of(repository, work / "builds", 1, pad_bytes=BALLAST, latency_ms=20.0)
        repository.put_rollouts(rollout_of(1))
        with nginx.serving(repository.folder, work / "nginx") as address, ThreadPoolExecutor(options.at_once) as pool:
            root = (repository.folder / "metadata" / "1.root.json").read_bytes()
            devices = [
                configure(work / "devices" / f"pi-{number:04}", address, root) for number in range(options.devices)
            ]
            log = work / "nginx" / "access.log"

            def all_of(what: str, act: Callable[[Path], int] = once) -> tuple[list[int], float, int, int]:
                before, begun = sent(log), time.monotonic()
                done: Iterable[int] = track(pool.map(act, devices), what, len(devices), console=console)
                codes, after = list(done), sent(log)
                return codes, time.monotonic() - begun, after[0] - before[0], after[1] - before[1]

            first = all_of("release 1, whole")
            release_of(repository, work / "builds", 2, pad_bytes=BALLAST, latency_ms=20.0)
            repository.put_rollouts(rollout_of(2, serial=2))
            second = all_of("release 2, over release 1")
            took = [(figure(c, "last_run_requests"), figure(c, "last_run_received_bytes")) for c in devices]
            steady = all_of("a steady poll")
            polls = [(figure(c, "last_run_requests"), figure(c, "last_run_received_bytes")) for c in devices]
            on_two = sum(figure(config, "release") == 2 for config in devices)
    count = len(devices)
    for what, (codes, wall, requests, sent_bytes) in (("first", first), ("update", second), ("poll", steady)):
        kept = sum(code == (NOTHING if what == "poll" else UPDATED) for code in codes)
        console.print(
            f"{what:>6}: {kept} of {count} as they should, {wall:.0f} s; a device: {requests / count:.2f} requests, "
            f"{sent_bytes / count:,.0f} bytes sent by nginx"
        )
    console.print(
        f"update, by the agents: {median(t[0] for t in took):g} requests, {median(t[1] for t in took):,.0f} bytes"
    )
    console.print(
        f"poll, by the agents: at most {max(p[0] for p in polls):g} requests, {max(p[1] for p in polls):,.0f} bytes"
    )
    console.print(f"{on_two} of {count} devices are on release 2")
    promised = steady[2] <= REQUESTS * count and steady[3] <= BYTES * count
    return 0 if on_two == count and promised else 1


if __name__ == "__main__":
    sys.exit(main())
