"""A second host on this machine: a network namespace with an address of its own, reached over a pair of interfaces."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager

import pytest


@contextmanager
def second_host() -> Iterator[tuple[str, str]]:
    """Name of a namespace and its IPv4 address; it reaches this machine and nobody else."""
    if os.geteuid() != 0 or not shutil.which("ip"):
        pytest.skip("left out: a network namespace needs root and iproute2")
    number = os.getpid() % 16384
    name, link = f"edgeprune-{os.getpid()}", f"ep{number}"
    net = f"10.203.{number // 64}"
    here, there = (f"{net}.{number % 64 * 4 + n}" for n in (1, 2))
    _ip("netns", "add", name)
    try:
        _ip("link", "add", link, "type", "veth", "peer", "name", "eth0", "netns", name)
        _ip("addr", "add", f"{here}/30", "dev", link)
        _ip("link", "set", link, "up")
        for words in (
            ("addr", "add", f"{there}/30", "dev", "eth0"),
            ("link", "set", "eth0", "up"),
            ("link", "set", "lo", "up"),
        ):
            _ip("-n", name, *words)
        yield name, there
    finally:
        subprocess.run(["ip", "link", "del", link], capture_output=True)
        subprocess.run(["ip", "netns", "del", name], capture_output=True)


def _ip(*words: str) -> None:
    done = subprocess.run(["ip", *words], capture_output=True, text=True)
    if done.returncode:
        pytest.skip(f"left out: no network namespace can be made here: {done.stderr.strip()}")
