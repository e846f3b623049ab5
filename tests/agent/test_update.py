"""An update from a repository on disk to a model that is kept, with everything real: TUF, tar, ONNX Runtime."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
from collections.abc import Callable
from datetime import datetime, timedelta, timezone
from pathlib import Path

import onnx
import pytest

from edgeprune.agent.exits import Ending, Exit
from edgeprune.records.release import Release
from tests.agent.simulator import ROOT, SKU, Device, Repository, now
from tests.fleet.bundles import make_bundle

Bundles = Callable[[int], Path]


def test_a_device_without_a_model_takes_the_first_and_then_the_next_as_a_delta(
    tmp_path: Path, fleet: Repository
) -> None:
    device = Device(tmp_path, fleet)
    assert device.once().code == Exit.UPDATED
    assert device.counter == 1
    assert device.state.floor.counter == 1
    assert device.once().code == Exit.NOTHING
    fleet.rollout(2, serial=2)
    fleet.publish()
    assert device.once().code == Exit.UPDATED
    assert device.counter == 2
    assert "installing release 2 (archive: delta)" in device.said
    word = device.state.word
    assert word is not None
    assert (word.state, word.release, word.rollout, word.counter) == ("committed", 2, 2, 2)
    assert word.latency_ms is not None
    assert not list((device.folder / "staging").iterdir())


def test_the_factory_model_runs_until_there_is_another(tmp_path: Path, fleet: Repository, bundles: Bundles) -> None:
    device = Device(tmp_path, fleet)
    done = device.command("factory", str(bundles(0)))
    assert done.returncode == 0, done.stderr
    assert device.counter == 0
    done = device.command("once")
    assert done.returncode == Exit.UPDATED, done.stderr
    assert device.counter == 1
    assert "release 1 is kept" in done.stdout
    shown = device.command("status")
    assert shown.returncode == 0
    assert "release 1 is kept" in shown.stdout
    assert "committed" in shown.stdout
    assert json.loads(device.command("status", "--json").stdout)["installed"]["counter"] == 1


def test_a_steady_poll_asks_twice_and_writes_no_status(tmp_path: Path, fleet: Repository) -> None:
    device = Device(tmp_path, fleet)
    device.once()
    seq = device.state.seq
    agent = device.agent()
    assert agent.once().code == Exit.NOTHING
    assert agent._fetcher is not None
    assert agent._fetcher.requests == 2
    assert agent._fetcher.received < 2000
    assert device.state.seq == seq


def refused(device: Device, fleet: Repository) -> Ending:
    """Release 3 is rolled out, and the device doesn't take it."""
    fleet.rollout(3, serial=2)
    fleet.publish()
    ending = device.once()
    assert ending.code == Exit.REFUSED
    return ending


def test_a_slow_model_is_refused_by_its_self_test_and_not_tried_again(
    tmp_path: Path, fleet: Repository, bundles: Bundles
) -> None:
    device = Device(tmp_path, fleet)
    device.once()
    fleet.release(3, bundles(3), latency_ms=1e-6, latency_tolerance=1.0)
    ending = refused(device, fleet)
    assert "latency:" in ending.said
    assert device.counter == 1
    requests = device.agent()
    assert requests.once().code == Exit.NOTHING
    word = device.state.word
    assert word is not None
    assert (word.state, word.release, word.rollout) == ("refused", 3, 2)
    assert word.reason.startswith("latency:")
    # the same bytes under a new number are another release
    fleet.release(4, bundles(3))
    fleet.rollout(4, serial=3)
    fleet.publish()
    assert device.once().code == Exit.UPDATED
    assert device.counter == 4


def test_a_model_that_finds_something_else_than_it_did_when_it_was_measured_is_refused(
    tmp_path: Path, fleet: Repository
) -> None:
    def turned(graph: onnx.ModelProto) -> None:
        weight = next(w for w in graph.graph.initializer if w.name == "k0")
        weight.CopyFrom(onnx.numpy_helper.from_array(-onnx.numpy_helper.to_array(weight), "k0"))

    device = Device(tmp_path, fleet)
    device.once()
    fleet.release(3, make_bundle(tmp_path / "turned", seed=9, altered=turned))
    ending = refused(device, fleet)
    assert "golden: 100% of the golden detections differ" in ending.said
    assert device.counter == 1


def test_a_model_that_crashes_or_hangs_is_refused(tmp_path: Path, fleet: Repository, bundles: Bundles) -> None:
    device = Device(tmp_path, fleet)
    device.once()
    broken = make_bundle(tmp_path / "broken", seed=9)
    (broken / "model.onnx").write_bytes(b"no model")
    manifest = json.loads((broken / "manifest.json").read_text())
    engine = next(file for file in manifest["files"] if file["path"] == "model.onnx")
    engine |= {"sha256": hashlib.sha256(b"no model").hexdigest(), "bytes": 8}
    (broken / "manifest.json").write_text(json.dumps(manifest))
    fleet.release(3, broken)
    ending = refused(device, fleet)
    assert "can't load the engine" in ending.said
    hanging = Device(tmp_path / "hanging", fleet, limits={"self_test_s": 0.05, "test_images": 3})
    fleet.rollout(2, serial=3)
    fleet.publish()
    ending = hanging.once()
    assert ending.code == Exit.REFUSED
    assert "hang:" in ending.said
    assert hanging.counter is None


def test_memory_over_the_limit_is_refused(tmp_path: Path, fleet: Repository) -> None:
    device = Device(tmp_path, fleet, limits={"memory_bytes": 20 << 20})
    ending = device.once()
    assert ending.code == Exit.REFUSED
    assert "memory:" in ending.said


def test_a_device_that_no_wave_reaches_takes_what_everybody_else_has(tmp_path: Path, fleet: Repository) -> None:
    device = Device(tmp_path, fleet)
    fleet.rollout(2, serial=1, percent=1e-6, stable=1)
    fleet.publish()
    assert device.once().code == Exit.UPDATED
    assert device.counter == 1
    fleet.rollout(2, serial=1, percent=100.0, stable=1)
    fleet.publish()
    assert device.once().code == Exit.UPDATED
    assert device.counter == 2
    # taken back for those that it hasn't reached, not for those that kept it
    fleet.rollout(2, serial=1, percent=100.0, stable=1, state="aborted")
    fleet.publish()
    assert device.once().code == Exit.NOTHING
    assert device.counter == 2


def test_a_revert_is_a_new_release_of_old_bytes(tmp_path: Path, fleet: Repository) -> None:
    device = Device(tmp_path, fleet)
    fleet.rollout(2)
    fleet.publish()
    device.once()
    assert device.counter == 2
    old = fleet.releases[1]
    fleet.put(Release(product="cells", counter=3, builds=old.builds, reverts_to=1), 3)
    fleet.rollout(3, serial=2)
    fleet.publish()
    assert device.once().code == Exit.UPDATED
    assert device.counter == 3
    assert device.state.installed is not None
    assert device.state.installed.manifest_sha256 == old.builds[0].manifest_sha256


def test_a_damaged_model_gives_way_to_the_one_before_and_comes_again(
    tmp_path: Path, fleet: Repository, bundles: Bundles
) -> None:
    device = Device(tmp_path, fleet)
    device.once()
    fleet.rollout(2, serial=2)
    fleet.publish()
    device.once()
    model = device.folder / "current" / "bundle" / "model.onnx"
    model.write_bytes(model.read_bytes()[:100])
    (tmp_path / "repo").rename(tmp_path / "away")
    assert device.once().code == Exit.DEFERRED
    assert device.counter == 1
    (tmp_path / "away").rename(tmp_path / "repo")
    assert device.once().code == Exit.UPDATED
    assert device.counter == 2


def test_a_lost_memory_is_read_off_the_slots(tmp_path: Path, fleet: Repository) -> None:
    device = Device(tmp_path, fleet)
    device.once()
    fleet.rollout(2, serial=2)
    fleet.publish()
    device.once()
    (device.folder / "state.json").write_bytes(b"")
    fleet.rollout(1, serial=3)
    fleet.publish()
    ending = device.once()
    assert ending.code == Exit.REFUSED
    assert "rollback" in ending.said
    assert device.counter == 2
    assert device.state.floor.counter == 2


def test_a_clock_of_1970_defers_and_says_so(tmp_path: Path, fleet: Repository) -> None:
    device = Device(tmp_path, fleet)
    device.once()
    fleet.rollout(2, serial=2)
    fleet.publish()
    for wrong in (datetime(1970, 1, 1, tzinfo=timezone.utc), now() - timedelta(days=2)):
        ending = device.once(now=lambda wrong=wrong: wrong)
        assert ending.code == Exit.DEFERRED
        assert ending.said.startswith("clock:")
        assert device.counter == 1
    word = device.state.word
    assert word is not None
    assert (word.state, word.reason[:6]) == ("deferred", "clock:")
    assert device.once().code == Exit.UPDATED


def test_a_device_that_was_off_for_a_year_comes_back_over_three_roots(tmp_path: Path, fleet: Repository) -> None:
    device = Device(tmp_path, fleet)
    device.once()
    # its cache is a year old: everything in it has expired
    for document in (fleet.models, fleet.rollouts, fleet.targets, fleet.snapshot, fleet.timestamp):
        document.expires = now() - timedelta(days=1)
    fleet.publish()
    ending = device.once()
    assert ending.code == Exit.DEFERRED
    assert ending.said.startswith("freeze:")
    for roles in (("root",), ("root", "snapshot", "timestamp"), ("root", "targets", "models", "rollouts")):
        fleet.rotate(*roles)
    for document in (fleet.models, fleet.rollouts, fleet.targets, fleet.snapshot, fleet.timestamp):
        document.expires = now() + timedelta(days=1)
    fleet.rollout(2, serial=2)
    fleet.publish()
    assert len(fleet.roots) == 4
    assert device.once().code == Exit.UPDATED
    assert device.counter == 2


def test_an_update_that_nobody_asks_for_any_more_is_dropped(tmp_path: Path, fleet: Repository) -> None:
    device = Device(tmp_path, fleet)
    device.once()
    fleet.rollout(2, serial=2)
    fleet.publish()
    archive = next((tmp_path / "repo/targets/models/cells/2").glob(f"*.{SKU}.tar"))
    content = archive.read_bytes()
    archive.unlink()
    for patch in (tmp_path / "repo/targets/models/cells/2").glob("*.bsdiff"):
        patch.unlink()
    assert device.once().code == Exit.DEFERRED
    assert device.state.update is not None
    word = device.state.word
    assert word is not None
    assert (word.state, word.release) == ("deferred", 2)
    archive.write_bytes(content)
    fleet.rollout(2, serial=2, state="halted")
    fleet.publish()
    assert device.once().code == Exit.NOTHING
    assert device.state.update is None
    assert device.counter == 1


def test_bad_input_is_named_and_changes_nothing(tmp_path: Path, fleet: Repository, bundles: Bundles) -> None:
    device = Device(tmp_path, fleet)
    device.once()
    before = device.state
    good = device.file.read_text()
    for wrong, said in (
        (good + "chanel: x\n", "'channel'?"),
        (good.replace("repository: file://", "repository: ftp://"), "https://"),
        (good.replace("root: root.json", "root: none.json"), "root of trust"),
    ):
        device.file.write_text(wrong)
        done = device.command("once")
        assert done.returncode == 2, done.stdout
        assert said in done.stderr
    device.file.write_text(good)
    (device.file.parent / "root.json").write_text("{}")
    done = device.command("once")
    assert done.returncode == 2
    assert "root of trust is none" in done.stderr
    (device.file.parent / "root.json").write_bytes(fleet.roots[0].to_bytes())
    other = make_bundle(tmp_path / "other", sku="other")
    done = device.command("factory", str(other))
    assert done.returncode == 2
    assert "another SKU" in done.stderr
    assert device.command("confirm").returncode == 2
    assert device.state == before
    assert device.counter == 1


def test_run_goes_on_until_it_is_stopped(tmp_path: Path, fleet: Repository) -> None:
    device = Device(tmp_path, fleet, poll_s=0.1)
    command = [sys.executable, "-m", "edgeprune.agent", "--config", str(device.file), "run"]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment)
    try:
        assert process.stdout is not None
        for line in process.stdout:
            if line.startswith("release 1 is kept"):
                fleet.rollout(2, serial=2)
                fleet.publish()
            if line.startswith("release 2 is kept"):
                break
        process.terminate()
        assert process.wait(60) == 0
    finally:
        process.kill()
        process.wait()
    assert device.counter == 2


def test_a_device_without_tuf_is_told_the_extra() -> None:
    code = (
        "import sys; sys.modules['tuf'] = None\n"
        "from edgeprune.agent.update import need_tuf\n"
        "from edgeprune.errors import DeviceError\n"
        "try:\n    need_tuf()\nexcept DeviceError as error:\n    print(error)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert "pip install 'edgeprune[agent]'" in done.stdout, done.stderr


def test_a_second_agent_stays_away(tmp_path: Path, fleet: Repository) -> None:
    device = Device(tmp_path, fleet)
    with device.agent().slots.alone():
        assert device.command("once").returncode == Exit.BUSY


@pytest.mark.parametrize("seed", [1, 2])
def test_archives_are_the_same_bytes_whoever_packs_them(tmp_path: Path, bundles: Bundles, seed: int) -> None:
    from edgeprune.records.archive import pack, unpack

    pack(bundles(seed), tmp_path / "a.tar")
    unpack(tmp_path / "a.tar", tmp_path / "out", 1 << 30)
    pack(tmp_path / "out", tmp_path / "b.tar")
    assert (tmp_path / "a.tar").read_bytes() == (tmp_path / "b.tar").read_bytes()


def test_a_heartbeat_of_before_a_power_cut_keeps_no_model(
    tmp_path: Path, fleet: Repository, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its seconds are of another boot, and may be ahead of this one's for hours: the application has to speak again."""
    device = Device(tmp_path, fleet, watch={"by": "heartbeat", "seconds": 0, "start_s": 60})
    assert device.once(wait=False).code == Exit.WATCHING
    device.beat(1)
    monkeypatch.setattr("edgeprune.agent.update.boot", lambda: ("another", 5.0))
    assert device.once(wait=False).code == Exit.WATCHING
    update = device.state.update
    assert update is not None
    assert update.watched is not None
    assert (update.watched.boot, update.watched.pid, update.watched.starts) == ("another", 0, 1)
    monkeypatch.setattr("edgeprune.agent.update.boot", lambda: ("another", 66.0))
    ending = device.once(wait=False)
    assert ending.code == Exit.REVERTED
    assert "heartbeat: none of release 1 within 60 s" in ending.said
