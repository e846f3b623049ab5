"""Bad networks: a server that drops, delays, cuts short, spoils, lies about ranges and asks for peace, by a seeded
plan. A device ends at the old version or at the new one; once the network is well, at the new one.

Two runs of a seed meet the same plan; `-m slow` does 200, the default tests 10.
"""

from __future__ import annotations

import random
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from edgeprune.agent.exits import Exit
from tests.agent.cuts import forked_self_tests
from tests.agent.simulator import Device, Repository
from tests.agent.web import Server, serve

Bundles = Callable[[int], Path]
LIMITS = {
    "test_images": 1, "backoff_s": 0.0, "retries": 2, "window_s": 0.4, "gap_s": 0.3, "min_bytes_per_s": 20_000,
}  # fmt: skip


def drop(request: Any, content: bytes, dice: random.Random) -> None:
    """No answer at all."""
    request.close_connection = True


def delay(request: Any, content: bytes, dice: random.Random) -> None:
    """An answer that comes a little late, or too late."""
    time.sleep(dice.choice([0.02, 0.05, 0.4]))
    request.answer(200 if content else 404, content)


def truncate(request: Any, content: bytes, dice: random.Random) -> None:
    """Less than was promised."""
    request.close_connection = True
    request.answer(200, content[: dice.randrange(len(content) + 1)], {"Content-Length": str(len(content) + 1)})


def truncate_unsaid(request: Any, content: bytes, dice: random.Random) -> None:
    """Less, and nothing was promised."""
    request.close_connection = True
    request.answer(200, content[: dice.randrange(len(content) + 1)], length=False)


def corrupt(request: Any, content: bytes, dice: random.Random) -> None:
    """Some bytes are others."""
    spoiled = bytearray(content or b"?")
    for _ in range(dice.randrange(1, 5)):
        spoiled[dice.randrange(len(spoiled))] ^= dice.randrange(1, 256)
    request.answer(200, bytes(spoiled))


def longer(request: Any, content: bytes, dice: random.Random) -> None:
    """More than there is."""
    request.answer(200, content + bytes(dice.randrange(1, 100_000)))


def busy(request: Any, content: bytes, dice: random.Random) -> None:
    """429 or 503, with Retry-After as a number, as a date, as nonsense, or without."""
    said = dice.choice(["0", "Fri, 31 Dec 1999 23:59:59 GMT", "soon", "-5", ""])
    request.answer(dice.choice([429, 503]), b"", {"Retry-After": said} if said else {})


def broken(request: Any, content: bytes, dice: random.Random) -> None:
    """A server's own error."""
    request.answer(dice.choice([500, 502, 504, 400, 410]), b"oh")


def wrong_range(request: Any, content: bytes, dice: random.Random) -> None:
    """206 for what wasn't asked: without Content-Range, malformed, shifted, of another length."""
    start, end = dice.randrange(len(content) + 1), len(content)
    said = dice.choice(
        [
            "",
            "bytes",
            f"bytes {start}-{end - 1}/{end}",
            f"bytes {start + 1}-{end}/{end}",
            f"bytes 0-{end}/*",
            "bytes */9",
        ]
    )
    request.answer(206, content[start:], {"Content-Range": said} if said else {})


def no_ranges(request: Any, content: bytes, dice: random.Random) -> None:
    """The whole file, whatever was asked for."""
    request.answer(200 if content else 404, content)


def garbage(request: Any, content: bytes, dice: random.Random) -> None:
    """Not even HTTP."""
    request.close_connection = True
    request.wfile.write(dice.randbytes(200))


def redirect(request: Any, content: bytes, dice: random.Random) -> None:
    """To itself, for ever."""
    request.answer(302, b"", {"Location": request.path})


FAULTS = (
    drop, delay, truncate, truncate_unsaid, corrupt, longer, busy, broken, wrong_range, no_ranges, garbage, redirect,
)  # fmt: skip


class Plan:
    """What happens to each request of one run.

    Attributes:
        met: How often each fault was met.
    """

    def __init__(self, seed: int) -> None:
        self.dice = random.Random(seed)
        self.share = self.dice.choice([0.1, 0.3, 0.6])
        self.met: Counter[str] = Counter()

    def __call__(self, request: Any, content: bytes) -> bool:
        if self.dice.random() >= self.share:
            return False
        fault = self.dice.choice(FAULTS)
        self.met[fault.__name__] += 1
        fault(request, content, self.dice)
        return True


def run(seeds: range, tmp_path: Path, bundles: Bundles) -> Counter[str]:
    """Updates over bad networks; returns how they ended."""
    fleet = Repository(tmp_path / "repo")
    fleet.release(1, bundles(1))
    fleet.release(2, bundles(2), base=1)
    fleet.rollout(1)
    fleet.publish()
    with serve(fleet.folder) as server, forked_self_tests():
        first = Device(tmp_path / "first", fleet, url=server.url, limits=LIMITS)
        assert first.once().code == Exit.UPDATED
        fleet.rotate("root", "timestamp", "snapshot")
        fleet.rollout(2, serial=2)
        fleet.publish()
        ended: Counter[str] = Counter()
        met: Counter[str] = Counter()
        for seed in seeds:
            one(seed, first.copy(tmp_path / f"run-{seed}"), server, ended, met)
    print(f"\nbad networks: {len(seeds)} runs: {dict(ended)}; faults met: {dict(met)}")
    assert len(seeds) < 100 or set(met) == {fault.__name__ for fault in FAULTS}
    return ended


def one(seed: int, device: Device, server: Server, ended: Counter[str], met: Counter[str]) -> None:
    server.trick = plan = Plan(seed)
    for _ in range(4):
        ending = device.once()
        assert ending.code in (Exit.UPDATED, Exit.DEFERRED, Exit.NOTHING), (seed, ending)
        assert device.counter in (1, 2), (seed, ending)  # whole, file by file
        assert device.state.rejected == (), (seed, ending)
        if device.counter == 2:
            break
    ended[f"at release {device.counter} while the network was bad"] += 1
    met.update(plan.met)
    server.trick = None
    while device.counter == 1:
        ending = device.once()
        assert ending.code == Exit.UPDATED, (seed, ending)
    ended["at release 2 in the end"] += 1
    assert not list((device.folder / "staging").iterdir())


def test_ten_bad_networks_end_at_the_old_or_the_new_version(tmp_path: Path, bundles: Bundles) -> None:
    assert run(range(10), tmp_path, bundles)["at release 2 in the end"] == 10


@pytest.mark.slow
def test_two_hundred_bad_networks_end_at_the_old_or_the_new_version(tmp_path: Path, bundles: Bundles) -> None:
    assert run(range(200), tmp_path, bundles)["at release 2 in the end"] == 200
