"""A whole emulated machine whose plug is pulled in ten updates: Debian with systemd, which starts the agent by its own
units; the example as its application; releases that `fleet/` signs, over a network.

Two cuts in each part of an update, at moments drawn by a seed: before it is downloading, while it downloads, installs,
tests and watches. How long each part takes is measured in an update that is let alone. After every cut the model that
is current is whole on the disk that is off (the journal played back in a copy); after the next start the application
detects with it; and the update ends with the new release.
"""

from __future__ import annotations

import random
import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from edgeprune.fleet.publish import examine, publish
from tests.agent import card
from tests.agent.machine import EMULATOR, Found, Machine
from tests.agent.web import Server, serve
from tests.fleet.bundles import make_bundle
from tests.fleet.fleets import make_fleet, rollout_of
from tests.pi.userland import CannotBeMadeError
from tests.scenes import NAMES

CUTS, SEED = 10, 20261125
#: What the agent says when a part of an update begins; {0} is the release.
PARTS = {
    "polling": "",
    "downloading": "downloading release {0} ",
    "installing": "installing release {0} ",
    "testing": "testing it",
    "watching": "watching release {0},",
    "kept": "release {0} is kept",
}
#: Of every release alone, so that no patch pays; and how it comes: in bytes and seconds between them.
BALLAST, CHUNK, PAUSE_S = 2_000_000, 50_000, 0.1
#: Two heartbeats. An emulator may stand still for minutes: nothing is stale before.
WATCH = {"seconds": 11.0, "start_s": 900.0, "stale_s": 900.0}
LIMITS = {"gap_s": 300.0, "self_test_s": 1800.0, "test_images": 3, "min_bytes_per_s": 0.0, "window_s": 600.0}


class Fleet:
    """The machine's repository."""

    def __init__(self, place: Path) -> None:
        self._place, self.repository = place, make_fleet(place)

    def bundle(self, release: int) -> Path:
        ballast = {"ballast.bin": np.random.default_rng(release).bytes(BALLAST)}
        return make_bundle(
            self._place / f"build-{release}", "board", release, latency_ms=20.0, architecture="aarch64",
            runtime=card.runtime(), files=ballast,
        )  # fmt: skip

    def publish(self, release: int) -> None:
        """A release; without a rollout it is nobody's."""
        made = publish(self.repository, "cells", [examine(self.bundle(release))], latency_tolerance=100.0)
        assert made.counter == release

    def roll_out(self, release: int) -> None:
        self.repository.put_rollouts(rollout_of(release, serial=release))

    def config(self, url: str) -> bytes:
        return yaml.safe_dump(
            {
                "device": "dev-1", "product": "cells", "channel": "stable", "sku": "board", "runtime": "onnxruntime",
                "folder": card.FOLDER, "root": "root.json", "repository": url, "watch": WATCH, "limits": LIMITS,
            }
        ).encode()  # fmt: skip

    def root(self) -> bytes:
        return (self.repository.folder / "metadata" / "1.root.json").read_bytes()


@pytest.fixture
def machine(tmp_path: Path) -> Iterator[Machine]:
    """A machine that is off, without a card yet; its folder goes with it."""
    if shutil.which(EMULATOR) is None:
        pytest.skip(f"left out: no {EMULATOR} here (Debian: apt-get install qemu-system-arm)")
    made = Machine(card.Card(*(tmp_path / "machine" / name for name in ("kernel", "initrd", "card.img"))), tmp_path)
    (tmp_path / "machine").mkdir()
    try:
        yield made
    finally:
        made.cut()
        shutil.rmtree(tmp_path / "machine")


def slowly(answer: Any, content: bytes) -> bool:
    """Archives come as over a thin line, from where they are asked for."""
    if not answer.path.endswith(".tar"):
        return False
    start = int(answer.headers.get("Range", "bytes=0-").removeprefix("bytes=").rstrip("-"))
    answer.send_response(206)
    answer.send_header("Content-Range", f"bytes {start}-{len(content) - 1}/{len(content)}")
    answer.send_header("Content-Length", str(len(content) - start))
    answer.end_headers()
    for place in range(start, len(content), CHUNK):
        answer.wfile.write(content[place : place + CHUNK])
        answer.wfile.flush()
        time.sleep(PAUSE_S)
    return True


def moments() -> list[tuple[str, float]]:
    """Part of an update -> the share of it that is over when the plug is pulled: every part equally often, shuffled."""
    drawn, parts = random.Random(SEED), list(PARTS)[:-1]
    chosen = [(parts[number % len(parts)], drawn.random()) for number in range(CUTS)]
    drawn.shuffle(chosen)
    return chosen


def let_alone(machine: Machine, fleet: Fleet, release: int) -> dict[str, float]:
    """Update it without a cut; returns how long each part took in seconds."""
    begun, took, before = time.monotonic(), dict[str, float](), "polling"
    fleet.roll_out(release)
    for part, said in list(PARTS.items())[1:]:
        machine.wait(said.format(release), alarm="is taken back|is refused")
        took[before], begun, before = time.monotonic() - begun, time.monotonic(), part
    return took


def detects(machine: Machine) -> int:
    """The release that the application answers with, which found what is there."""
    answer = machine.answer()
    assert [(*box[:4], box[5]) for box in answer["boxes"]] == [(20.0, 20.0, 44.0, 44.0, NAMES[0])], answer
    assert "trouble" not in answer, answer
    return int(answer["release"])


@pytest.mark.slow
def test_plug_pulled_in_ten_updates(machine: Machine, tmp_path: Path) -> None:
    fleet = Fleet(tmp_path)
    said: Callable[..., None] = lambda *words: print(*words, flush=True)  # noqa: E731
    begun = time.monotonic()
    with serve(fleet.repository.folder) as server:
        server.trick = slowly
        make_card(machine, fleet, server)
        machine.start()
        machine.wait("set up")
        assert detects(machine) == 0
        fleet.publish(1)
        machine.wait("nothing to do: release 0 runs")
        took = let_alone(machine, fleet, 1)
        said(f"\nan update that is let alone: {', '.join(f'{part} {each:.1f} s' for part, each in took.items())}")
        steps = list[str]()
        for release, (part, share) in enumerate(moments(), start=2):
            fleet.publish(release)
            found = pulled(machine, fleet, release, part, share * took[part])
            assert found.release in (release - 1, release)
            assert found.state is not None
            assert found.state.floor.counter in (release - 1, found.release)
            machine.start()
            runs = detects(machine)
            assert runs in (release - 1, release)
            assert runs >= found.release
            machine.wait(f"nothing to do: release {release} runs", alarm="is taken back|is refused")
            steps.append(found.step)
            said(
                f"cut {release - 1}: {share:.0%} of {part} of release {release}: the disk has release {found.release}, "
                f"{found.step}, {len(found.left)} files on their way; it starts with release {runs}, ends with "
                f"{release} ({time.monotonic() - begun:.0f} s)"
            )
        machine.cut()
        last = machine.look()
        assert (last.release, last.step, last.left) == (CUTS + 1, "no update", ())
        assert last.state is not None
        assert last.state.word is not None
        assert (last.state.word.state, last.state.word.counter) == ("committed", CUTS + 1)
        assert last.state.floor.counter == CUTS + 1
        assert {"downloading", "testing", "watching"} <= set(steps), steps


def make_card(machine: Machine, fleet: Fleet, server: Server) -> None:
    port = server.url.rpartition(":")[2]
    try:
        made = card.make(
            machine.card.image.parent, fleet.config(f"http://10.0.2.2:{port}"), fleet.root(), fleet.bundle(0)
        )
    except CannotBeMadeError as error:
        pytest.skip(f"left out: {error}")
    assert made == machine.card


def pulled(machine: Machine, fleet: Fleet, release: int, part: str, after_s: float) -> Found:
    """Start an update, pull the plug so many seconds into a part of it; what is on the disk then."""
    fleet.roll_out(release)
    if PARTS[part]:
        machine.wait(PARTS[part].format(release), alarm="is taken back|is refused")
    time.sleep(after_s)
    machine.cut()
    return machine.look()


def test_moments_are_two_in_each_part_and_the_same_every_time() -> None:
    assert moments() == moments()
    assert sorted(part for part, _ in moments()) == sorted([*list(PARTS)[:-1]] * 2)
