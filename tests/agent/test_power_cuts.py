"""Power cuts, a full disk and a broken one at every point of an update, of a revert and of a key rotation.

After each: what is current is whole (every file's hash) and is the old model or the new one; the next goes end the
update as if nothing had happened.

How many points there are is printed; the default tests take some of them, `-m slow` takes all.
"""

from __future__ import annotations

import json
import random
import shutil
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from edgeprune.agent.exits import Exit
from tests.agent.cuts import Point, calls, cut, cut_command, forked_self_tests, points, strace
from tests.agent.simulator import Device, Repository

pytestmark = pytest.mark.skipif(strace() is None, reason="strace isn't installed")
SOME = 6
LIMITS = {"test_images": 1}
Bundles = Callable[[int], Path]
Cut = Callable[[Device, Point], tuple[int, str]]


class Scenario:
    """A device as it is before a go, in which it goes from `before` to `after`.

    Attributes:
        old, new: Releases that may be current meanwhile.
        end: The release that is current in the end.
        state: Of the last word then.
    """

    def __init__(self, device: Device, old: int, new: int, end: int, state: str) -> None:
        self.device, self.old, self.new, self.end, self.state = device, old, new, end, state


def update(place: Path, bundles: Bundles) -> Scenario:
    """From the factory model to release 2, by a patch of the factory model's archive."""
    fleet = Repository(place / "repo")
    fleet.release(1, bundles(1))
    fleet.release(2, bundles(2), base=1)
    fleet.rollout(2)
    fleet.publish()
    device = Device(place, fleet, limits=LIMITS)
    device.factory(bundles(1))
    device.agent().slots.point("factory")
    return Scenario(device, 0, 2, 2, "committed")


def second_update(place: Path, bundles: Bundles) -> Scenario:
    """From release 1 to release 3 by the whole file, into a slot that holds an older model."""
    fleet = Repository(place / "repo")
    for counter in (1, 2, 3):
        fleet.release(counter, bundles(counter))
    device = Device(place, fleet, limits=LIMITS)
    for counter in (1, 2):
        fleet.rollout(counter, serial=counter)
        fleet.publish()
        assert device.once().code == Exit.UPDATED
    fleet.rollout(3, serial=3)
    fleet.publish()
    return Scenario(device, 2, 3, 3, "committed")


def revert(place: Path, bundles: Bundles) -> Scenario:
    """Release 2 is watched, and its application fails on every other image."""
    fleet = Repository(place / "repo")
    fleet.release(1, bundles(1))
    fleet.release(2, bundles(2))
    fleet.rollout(1)
    fleet.publish()
    device = Device(place, fleet, limits=LIMITS)
    assert device.once().code == Exit.UPDATED
    fleet.rollout(2, serial=2)
    fleet.publish()
    text = device.file.read_text().replace("by: self-test", "by: heartbeat").replace("seconds: 0", "seconds: 600")
    device.file.write_text(text)
    assert device.once(wait=False).code == Exit.WATCHING
    device.beat(2, images=100, errors=50)
    return Scenario(device, 1, 2, 1, "reverted")


def rotation(place: Path, bundles: Bundles) -> Scenario:
    """Every key of the repository is another, the root's twice; and release 2 comes with the new ones."""
    fleet = Repository(place / "repo")
    fleet.release(1, bundles(1))
    fleet.release(2, bundles(2), base=1)
    fleet.rollout(1)
    fleet.publish()
    device = Device(place, fleet, limits=LIMITS)
    assert device.once().code == Exit.UPDATED
    fleet.rotate("root", "timestamp", "snapshot")
    fleet.rotate("root", "targets", "models", "rollouts")
    fleet.rollout(2, serial=2)
    fleet.publish()
    return Scenario(device, 1, 2, 2, "committed")


SCENARIOS: dict[str, Callable[[Path, Bundles], Scenario]] = {
    "revert": revert, "update": update, "rotation": rotation, "second update": second_update,
}  # fmt: skip


def check(scenario: Scenario, point: Point, place: Path, cut: Cut) -> None:
    """Cut one go off at a point, and see that the device is well."""
    device = scenario.device.copy(place)
    code, words = cut(device, point)
    said = f"{point}: {code} {words}"
    assert device.counter in (scenario.old, scenario.new), said
    if point.kind == "signal=SIGKILL":
        assert code in (-9, 137), said
    else:
        assert "Traceback" not in words, said
        assert code in (Exit.NOTHING, Exit.UPDATED, Exit.DEFERRED, Exit.REVERTED, Exit.USER), said
    endings = []
    for _ in range(2):
        endings.append(device.once())
        assert device.counter in (scenario.old, scenario.new), (said, endings)
        if endings[-1].code == Exit.NOTHING:
            break
    word = device.state.word
    assert word is not None
    assert (device.counter, word.state, word.counter) == (scenario.end, scenario.state, scenario.end), (said, endings)
    left = [path.name for path in device.folder.rglob("*") if path.name.endswith((".part", ".removed"))]
    assert not left, (said, left)
    assert not (device.folder / "incoming").exists(), said
    shutil.rmtree(place)


def run(name: str, place: Path, bundles: Bundles, choose: Callable[[list[Point]], list[Point]]) -> int:
    """Try the points of a scenario that `choose` chooses; returns how many."""
    scenario = SCENARIOS[name](place / "first", bundles)
    scenario.device.copy(place / "warm").once()  # what is imported on the way is imported
    every = list(points(calls(scenario.device.copy(place / "traced"), place / "log")))
    chosen = choose(every)
    wrong = []
    for number, point in enumerate(chosen):
        try:
            check(scenario, point, place / f"cut-{number}", cut)
            if number % 50 == 49:
                print(f"{name}: {number + 1} of {len(chosen)}", flush=True)
        except Exception as error:  # all points are tried; what went wrong is told in the end
            wrong.append(f"{point}: {type(error).__name__}: {error}")
            print(wrong[-1], flush=True)
    kinds = Counter(point.call for point in chosen)
    print(f"\npower cuts: {name}: {len(chosen)} of {len(every)} points: {json.dumps(kinds)}", flush=True)
    assert not wrong, "\n\n".join(wrong)
    return len(chosen)


@pytest.mark.parametrize("name", SCENARIOS)
def test_power_cuts_at_some_points(name: str, tmp_path: Path, bundles: Bundles) -> None:
    def some(every: list[Point]) -> list[Point]:
        return random.Random(name).sample(every, SOME)

    with forked_self_tests():
        assert run(name, tmp_path, bundles, some) == SOME


@pytest.mark.slow
@pytest.mark.parametrize("name", SCENARIOS)
def test_power_cuts_at_every_point(name: str, tmp_path: Path, bundles: Bundles) -> None:
    begun = time.monotonic()

    def every(found: list[Point]) -> list[Point]:
        return found

    with forked_self_tests():
        tried = run(name, tmp_path, bundles, every)
    print(f"{name}: {tried} points in {time.monotonic() - begun:.0f} s")
    assert tried > 50


def test_power_cuts_of_the_command(tmp_path: Path, bundles: Bundles) -> None:
    """The command itself, from its first instruction on."""
    scenario = rotation(tmp_path / "first", bundles)
    for number, (call, share) in enumerate((("fsync", 0.5), ("rename", 0.4), ("rename", 0.9), ("unlink", 1.0))):
        point = Point(call, 0, "signal=SIGKILL")
        check(
            scenario,
            point,
            tmp_path / f"cut-{number}",
            lambda device, one, share=share: cut_command(device, one, share),
        )


def test_files_of_no_length_after_a_lost_fsync(tmp_path: Path, bundles: Bundles) -> None:
    """A disk that promised and didn't: each file of the agent's in turn is empty at the next start."""
    scenario = second_update(tmp_path / "first", bundles)
    names: list[Any] = [
        path.relative_to(scenario.device.folder) for path in sorted(scenario.device.folder.rglob("*.json"))
        if path.is_file() and not path.is_symlink() and "factory" not in path.parts
    ]  # fmt: skip
    assert len(names) > 8
    for number, name in enumerate(random.Random(0).sample(names, 8)):
        place = tmp_path / f"cut-{number}"
        device = scenario.device.copy(place)
        (device.folder / name).write_bytes(b"")
        ending = device.once()
        assert ending.code == Exit.UPDATED, (name, ending)
        assert device.counter == 3
        shutil.rmtree(place)
