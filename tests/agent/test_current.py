"""An application that follows its agent: without a restart, without a gap, and never onto a model that isn't whole."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from edgeprune.agent.exits import Exit
from edgeprune.errors import BundleError
from edgeprune.runtime.current import CurrentModel
from tests.agent.simulator import ROOT, Device, Repository
from tests.fleet.bundles import make_bundle, scene

Bundles = Callable[[int], Path]
WATCHED = {"by": "heartbeat", "seconds": 1.5, "start_s": 20.0, "stale_s": 10.0, "min_images": 5}


def test_a_model_is_followed_without_a_restart(tmp_path: Path, fleet: Repository, bundles: Bundles) -> None:
    device = Device(tmp_path, fleet)
    device.factory(bundles(0))
    device.agent().slots.point("factory")
    model = CurrentModel(device.folder)
    assert model.counter == 0
    before = model(scene())
    assert len(before.boxes) >= 1
    assert not model.follow()
    assert device.once().code == Exit.UPDATED
    detector = model.detector()
    assert model.counter == 1
    assert model.detector() is detector
    assert np.allclose(model(scene()).boxes[0], before.boxes[0], atol=2)


def test_no_model_is_an_error_that_says_so(tmp_path: Path, fleet: Repository) -> None:
    with pytest.raises(BundleError, match="no bundle here"):
        CurrentModel(tmp_path)


def test_a_damaged_model_is_not_taken_and_the_old_one_goes_on(tmp_path: Path, fleet: Repository) -> None:
    device = Device(tmp_path, fleet)
    device.once()
    model = CurrentModel(device.folder)
    fleet.rollout(2, serial=2)
    fleet.publish()
    device.once()
    engine = device.folder / "current" / "bundle" / "model.onnx"
    content = engine.read_bytes()
    engine.write_bytes(content[:-1] + b"x")
    assert len(model(scene()).boxes) >= 1
    assert model.counter == 1
    assert model.trouble is not None
    assert "not the one that was measured" in model.trouble
    engine.write_bytes(content)
    slots = device.agent().slots
    slots.point("a")
    slots.point("b")
    model(scene())
    assert (model.counter, model.trouble) == (2, None)


def test_images_that_fail_are_counted_and_raised(tmp_path: Path, fleet: Repository) -> None:
    device = Device(tmp_path, fleet)
    device.once()
    model = CurrentModel(device.folder, heartbeat_every_s=0.0)
    model(scene())
    with pytest.raises(Exception):  # noqa: B017
        model(np.zeros((0, 0, 3), np.uint8))
    beat = json.loads((device.folder / "heartbeat.json").read_text())
    assert (beat["counter"], beat["images"], beat["errors"], beat["pid"]) == (1, 2, 1, os.getpid())


def application(device: Device, model: CurrentModel, stop: threading.Event, spoil: Callable[[int], bool]) -> None:
    """An application's loop; `spoil` says on which releases its images fail."""
    while not stop.is_set():
        model.follow()
        if spoil(model.counter):
            model.count(failed=True)
        else:
            model(scene())
        time.sleep(0.01)


@pytest.mark.parametrize(("bad", "end"), [(False, Exit.UPDATED), (True, Exit.REVERTED)])
def test_an_update_is_watched_by_a_real_application(
    tmp_path: Path, fleet: Repository, bundles: Bundles, bad: bool, end: Exit
) -> None:
    device = Device(tmp_path, fleet, watch=WATCHED)
    device.factory(bundles(0))
    device.agent().slots.point("factory")
    model, stop = CurrentModel(device.folder, heartbeat_every_s=0.1), threading.Event()
    thread = threading.Thread(target=application, args=(device, model, stop, lambda counter: bad and counter == 1))
    thread.start()
    try:
        done = device.command("once")
    finally:
        stop.set()
        thread.join()
    assert done.returncode == end, done.stdout + done.stderr
    model.follow()
    assert device.counter == model.counter == (0 if bad else 1)
    word = device.state.word
    assert word is not None
    assert word.state == ("reverted" if bad else "committed")
    if bad:
        assert word.reason.startswith("errors:")
        assert device.once().code == Exit.NOTHING  # it isn't tried again


def test_an_application_that_does_not_come_reverts(tmp_path: Path, fleet: Repository, bundles: Bundles) -> None:
    device = Device(tmp_path, fleet, watch=WATCHED | {"start_s": 0.5})
    device.factory(bundles(0))
    done = device.command("once")
    assert done.returncode == Exit.REVERTED
    assert "heartbeat: none of release 1 within 0.5 s" in done.stdout
    assert device.counter == 0


def test_a_watch_goes_on_over_goes_and_ends_with_a_word(tmp_path: Path, fleet: Repository) -> None:
    device = Device(tmp_path, fleet, watch={"by": "confirm", "seconds": 1000})
    for _ in range(2):
        done = device.command("once", "--no-wait")
        assert done.returncode == Exit.WATCHING
        assert device.counter == 1
    assert device.command("confirm").returncode == 0
    assert device.command("once").returncode == Exit.UPDATED
    assert device.state.floor.counter == 1
    assert not (device.folder / "confirmed.json").exists()


def test_the_example_application_follows(tmp_path: Path, fleet: Repository) -> None:
    device = Device(tmp_path, fleet)
    device.once()
    images = tmp_path / "images"
    images.mkdir()
    Image.fromarray(scene()).save(images / "scene.png")
    command = [sys.executable, "-m", "edgeprune.agent.example", str(device.folder), "--images", str(images)]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    process = subprocess.Popen([*command, "--every", "0.02"], stdout=subprocess.PIPE, text=True, env=environment)
    try:
        assert process.stdout is not None
        first = json.loads(process.stdout.readline())
        assert first["release"] == 1
        assert first["boxes"][0][5] == "flat"
        fleet.rollout(2, serial=2)
        fleet.publish()
        assert device.once().code == Exit.UPDATED
        for line in process.stdout:
            if json.loads(line)["release"] == 2:
                break
        process.terminate()
        assert process.wait(30) == 0
    finally:
        process.kill()
        process.wait()
    done = subprocess.run(
        [*command[:3], str(tmp_path / "nowhere"), *command[4:]], capture_output=True, text=True, env=environment
    )
    assert done.returncode == 2
    assert "no bundle here" in done.stderr


def test_the_factory_model_stays_what_it_is(tmp_path: Path, fleet: Repository, bundles: Bundles) -> None:
    device = Device(tmp_path, fleet)
    for _ in range(2):
        assert device.command("factory", str(bundles(0))).returncode == 0
    done = device.command("factory", str(make_bundle(tmp_path / "other", seed=5)))
    assert done.returncode == 2
    assert "stays what it is" in done.stderr
    assert device.counter == 0
