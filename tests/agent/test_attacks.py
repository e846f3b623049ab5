"""The attacks of the TUF specification and those on a fleet, each under its name, against the whole agent: a device
keeps its model, says why, and comes back when the attack is over.

Sources: TUF specification 1.0.33, 1.5.2 (attacks); Uptane Standard 2.1.0, 4; facts on fleets.
"""

from __future__ import annotations

import shutil
import tarfile
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from securesystemslib.signer import CryptoSigner
from tuf.api.metadata import Metadata, MetaFile

from edgeprune.agent.exits import Exit
from edgeprune.records.release import Release
from tests.agent.simulator import PRODUCT, Device, Repository, now
from tests.agent.web import Server, serve
from tests.fleet.bundles import make_bundle

Bundles = Callable[[int], Path]


@pytest.fixture
def device(tmp_path: Path, fleet: Repository) -> Device:
    """A device on release 1, and a repository that is about to bring release 2."""
    made = Device(tmp_path, fleet)
    assert made.once().code == Exit.UPDATED
    fleet.rollout(2, serial=2)
    fleet.publish()
    return made


@pytest.fixture
def web(fleet: Repository) -> Iterator[Server]:
    with serve(fleet.folder) as server:
        yield server


def quick(tmp_path: Path, fleet: Repository, web: Server, **limits: float) -> Device:
    """A device on release 1 that has little patience, over http; the repository brings release 2."""
    wanted = {"test_images": 3, "backoff_s": 0.01, "retries": 1, "window_s": 0.3, "gap_s": 0.3} | limits
    made = Device(tmp_path, fleet, url=web.url, limits=wanted)
    assert made.once().code == Exit.UPDATED
    fleet.rollout(2, serial=2)
    fleet.publish()
    return made


def refused(device: Device, kind: str, code: Exit = Exit.DEFERRED, counter: int = 1) -> None:
    """The device keeps its model and says why, on its standard output and in its status."""
    ending = device.once()
    assert ending.code == code, ending.said
    assert f"{kind}:" in ending.said, ending.said
    assert device.counter == counter
    word = device.state.word
    assert word is not None
    assert word.state == ("deferred" if code == Exit.DEFERRED else "refused")
    assert word.reason.startswith(f"{kind}:")
    assert word.counter == counter


def updates(device: Device, counter: int = 2) -> None:
    ending = device.once()
    assert ending.code == Exit.UPDATED, ending.said
    assert device.counter == counter


def test_arbitrary_software_metadata_of_another_key(device: Device, fleet: Repository) -> None:
    mine = fleet.keys["timestamp"]
    fleet.keys["timestamp"] = CryptoSigner.generate_ed25519()
    fleet.publish()
    refused(device, "arbitrary software")
    fleet.keys["timestamp"] = mine
    fleet.publish()
    updates(device)


def test_arbitrary_software_a_model_that_no_key_signed(device: Device, fleet: Repository, bundles: Bundles) -> None:
    """Whoever holds the web server puts other bytes under a signed name."""
    archives = {file: file.read_bytes() for file in fleet.folder.glob("targets/models/cells/2/*colours*")}
    for file, content in archives.items():
        file.write_bytes(bytes(len(content)))
    refused(device, "arbitrary software")
    for file, content in archives.items():
        file.write_bytes(content)
    updates(device)


def test_arbitrary_software_a_rollout_that_no_key_signed(device: Device, fleet: Repository) -> None:
    file = next(
        fleet.folder.glob(f"targets/rollouts/{fleet.rollouts.targets['rollouts/stable.json'].hashes['sha256']}.*")
    )
    content = file.read_bytes()
    file.write_bytes(content.replace(b'"counter": 2', b'"counter": 1'))
    refused(device, "arbitrary software")
    file.write_bytes(content)
    updates(device)


def test_rollback_of_the_repository(device: Device, fleet: Repository, tmp_path: Path) -> None:
    """An older repository, whole and well signed."""
    shutil.copytree(fleet.folder, tmp_path / "old")
    updates(device)
    fleet.publish()
    assert device.once().code == Exit.NOTHING
    shutil.rmtree(fleet.folder)
    shutil.copytree(tmp_path / "old", fleet.folder)
    refused(device, "rollback", counter=2)


def test_rollback_to_an_older_release(device: Device, fleet: Repository) -> None:
    updates(device)
    fleet.rollout(1, serial=3)
    fleet.publish()
    refused(device, "rollback", Exit.REFUSED, counter=2)


def test_freeze(device: Device, fleet: Repository) -> None:
    """Nothing new is let through, until what there is has expired."""
    fleet.timestamp.expires = now() - timedelta(seconds=1)
    fleet.publish()
    refused(device, "freeze")
    fleet.timestamp.expires = now() + timedelta(days=1)
    fleet.publish()
    updates(device)


@pytest.mark.parametrize("role", ["snapshot", "targets", "rollouts"])
def test_freeze_of_one_role(device: Device, fleet: Repository, role: str) -> None:
    document = getattr(fleet, role)
    document.expires = now() - timedelta(seconds=1)
    fleet.publish()
    refused(device, "freeze")
    document.expires = now() + timedelta(days=1)
    fleet.publish()
    updates(device)


def test_fast_forward_and_recovery(device: Device, fleet: Repository) -> None:
    """A stolen online key counts everything up to the end. New keys end it: versions and serials begin again."""
    fleet.timestamp.version = fleet.snapshot.version = fleet.rollouts.version = 2**31
    fleet.rollout(1, serial=2**40)
    fleet.sign()
    assert device.once().code == Exit.NOTHING
    assert device.state.floor.serial == 2**40
    fleet.timestamp.version = fleet.snapshot.version = fleet.rollouts.version = 50
    fleet.rollout(2, serial=3)
    fleet.sign()
    refused(device, "rollback")
    fleet.rotate("root", "snapshot", "timestamp", "rollouts")
    fleet.publish()
    updates(device)
    assert device.state.floor.serial == 3


def test_fast_forward_of_serials_is_refused_under_the_same_key(device: Device, fleet: Repository) -> None:
    updates(device)
    fleet.rollout(2, serial=1)
    fleet.publish()
    refused(device, "rollback", counter=2)


def test_mix_and_match(device: Device, fleet: Repository) -> None:
    """Metadata of one state beside that of another: a snapshot that names an older rollouts role than it must."""
    old = fleet.folder / "metadata" / f"{fleet.rollouts.version}.rollouts.json"
    fleet.rollout(2, serial=3)
    fleet.publish()
    new = fleet.folder / "metadata" / f"{fleet.rollouts.version}.rollouts.json"
    content = new.read_bytes()
    new.write_bytes(old.read_bytes())
    refused(device, "rollback")
    new.write_bytes(content)
    updates(device)


def test_mix_and_match_by_hash(device: Device, fleet: Repository) -> None:
    fleet.publish()
    content = (fleet.folder / "metadata" / f"{fleet.snapshot.version}.snapshot.json").read_bytes()
    fleet.timestamp.version += 1
    fleet.timestamp.snapshot_meta = MetaFile.from_data(fleet.snapshot.version, content, ["sha256"])
    fleet.write("timestamp.json", fleet.timestamp, "timestamp")
    fleet.snapshot.expires += timedelta(days=1)
    fleet.write(f"{fleet.snapshot.version}.snapshot.json", fleet.snapshot, "snapshot")
    refused(device, "mix-and-match")


def test_a_role_that_is_dropped_from_the_snapshot(device: Device, fleet: Repository) -> None:
    fleet.publish()
    del fleet.snapshot.meta["rollouts.json"]
    fleet.snapshot.version += 1
    fleet.timestamp.version += 1
    fleet.timestamp.snapshot_meta = MetaFile(version=fleet.snapshot.version)
    fleet.write(f"{fleet.snapshot.version}.snapshot.json", fleet.snapshot, "snapshot")
    fleet.write("timestamp.json", fleet.timestamp, "timestamp")
    refused(device, "repository")


@pytest.mark.parametrize("role", ["timestamp", "snapshot", "targets", "rollouts", "models-cells"])
def test_a_role_that_is_not_there(device: Device, fleet: Repository, role: str) -> None:
    fleet.publish()
    file = max(
        fleet.folder.glob(f"metadata/*{role}.json"), key=lambda path: int(path.name.split(".")[0].strip("timesap") or 0)
    )
    content = file.read_bytes()
    file.unlink()
    refused(device, "network")
    file.write_bytes(content)
    updates(device)


def test_under_threshold_and_duplicate_signatures(device: Device, fleet: Repository) -> None:
    """Two keys of two must sign; one of them twice is one."""
    fleet.root.roles["timestamp"].threshold = 2
    fleet.root.add_key(CryptoSigner.generate_ed25519().public_key, "timestamp")
    fleet.root.version += 1
    fleet.sign_root([fleet.keys["root"]])
    fleet.publish()
    refused(device, "arbitrary software")
    document = Metadata[Any](fleet.timestamp)
    document.sign(fleet.keys["timestamp"])
    twice = document.to_dict()
    twice["signatures"] = twice["signatures"] * 2
    import json

    (fleet.folder / "metadata" / "timestamp.json").write_text(json.dumps(twice))
    refused(device, "repository")


def test_endless_metadata(tmp_path: Path, fleet: Repository, web: Server) -> None:
    device = quick(tmp_path, fleet, web)

    def endless(request: Any, content: bytes) -> bool:
        if "timestamp" not in request.path:
            return False
        request.close_connection = True
        request.answer(200, b"", length=False)
        while not web.stopping.is_set():
            request.wfile.write(bytes(1 << 16))
        return True

    web.trick = endless
    refused(device, "endless data")
    web.trick = None
    updates(device)


def test_endless_model(tmp_path: Path, fleet: Repository, web: Server) -> None:
    device = quick(tmp_path, fleet, web)
    sent = [0]

    def endless(request: Any, content: bytes) -> bool:
        if "/models/cells/2/" not in request.path or request.path.endswith("release.json"):
            return False
        request.close_connection = True
        request.answer(200, content, length=False)
        while not web.stopping.is_set():
            sent[0] += request.wfile.write(bytes(1 << 16))
        return True

    web.trick = endless
    refused(device, "endless data")
    assert sum(file.stat().st_size for file in (device.folder / "staging").iterdir()) < 1 << 20
    web.trick = None
    updates(device)


@pytest.mark.parametrize("where", ["body", "head", "chunk"])
def test_slow_retrieval(tmp_path: Path, fleet: Repository, web: Server, where: str) -> None:
    """A byte now and then keeps every gap's timer quiet, in the body, in the head, and in a chunk's head."""
    device = quick(tmp_path, fleet, web)

    def drip(request: Any, content: bytes) -> bool:
        if "timestamp" not in request.path:
            return False
        if where == "body":
            request.close_connection = True
            request.answer(200, b"", {"Content-Length": str(len(content))})
            request.drip(content, 0.05)
        elif where == "head":
            request.drip(b"HTTP/1.1 200 OK\r\n" + b"X-Slow: " + b"x" * 1000, 0.05)
        else:
            request.close_connection = True
            request.answer(200, b"", {"Transfer-Encoding": "chunked"}, length=False)
            request.drip(b"0" * 1000, 0.05)
        return True

    web.trick = drip
    refused(device, "slow retrieval")
    web.trick = None
    updates(device)


def test_slow_retrieval_of_a_model_goes_on_where_it_broke_off(tmp_path: Path, fleet: Repository, web: Server) -> None:
    device = quick(tmp_path, fleet, web)
    for patch in fleet.folder.glob("targets/models/cells/2/*.bsdiff"):
        patch.unlink()

    def drip(request: Any, content: bytes) -> bool:
        if not request.path.endswith(".tar"):
            return False
        request.close_connection = True
        request.answer(200, content[:30_000], {"Content-Length": str(len(content))})
        request.drip(content[30_000:], 0.05)
        return True

    web.trick = drip
    refused(device, "slow retrieval")
    web.trick = None
    web.asked.clear()
    updates(device)
    assert next(given for path, given in web.asked if path.endswith(".tar")) >= "bytes=30000-"


def test_wrong_software_of_another_sku(device: Device, fleet: Repository, tmp_path: Path) -> None:
    """A model of the same product for another kind of device: by the release, and by the bundle itself."""
    other = make_bundle(tmp_path / "other", sku="jetson")
    fleet.release(3, other, sku="jetson")
    fleet.rollout(3, serial=3)
    fleet.publish()
    refused(device, "wrong software", Exit.REFUSED)
    fleet.release(4, other)  # labelled as this device's
    fleet.rollout(4, serial=4)
    fleet.publish()
    refused(device, "wrong software", Exit.REFUSED)
    fleet.rollout(2, serial=5)
    fleet.publish()
    updates(device)


def test_wrong_software_of_another_product_or_number(device: Device, fleet: Repository) -> None:
    fleet.put(Release(product="other", counter=3, builds=fleet.releases[2].builds), 3)
    fleet.rollout(3, serial=3)
    fleet.publish()
    refused(device, "wrong software", Exit.REFUSED)
    fleet.put(fleet.releases[2], 4)
    fleet.rollout(4, serial=4)
    fleet.publish()
    refused(device, "wrong software", Exit.REFUSED)
    fleet.rollout(2, serial=5, product="other")
    fleet.publish()
    refused(device, "wrong software")


@pytest.mark.parametrize(("field", "kind"), [("architecture", "architecture"), ("runtime", "runtime")])
def test_wrong_software_of_another_machine(
    device: Device, fleet: Repository, bundles: Bundles, field: str, kind: str
) -> None:
    fleet.release(3, bundles(3), **{field: "other 1.0"})
    fleet.rollout(3, serial=3)
    fleet.publish()
    refused(device, kind, Exit.REFUSED)


def test_key_compromise_of_the_online_key_can_not_bring_a_model(
    device: Device, fleet: Repository, bundles: Bundles
) -> None:
    """Its holder signs timestamps, snapshots and rollouts as he likes. He has no release key."""
    thief = fleet.keys["rollouts"]
    fleet.keys["models"] = thief
    fleet.release(66, bundles(6))
    fleet.rollout(66, serial=3)
    fleet.publish()
    refused(device, "arbitrary software")


def test_key_compromise_of_the_online_key_can_not_name_models_in_its_own_role(
    device: Device, fleet: Repository, bundles: Bundles
) -> None:
    made = fleet.release(66, bundles(6))
    for path in [path for path in fleet.models.targets if "/66/" in path]:
        fleet.rollouts.targets[path] = fleet.models.targets.pop(path)
    assert made.counter == 66
    fleet.rollout(66, serial=3)
    fleet.publish()
    refused(device, "arbitrary software")


def test_key_compromise_of_the_online_key_can_not_downgrade(device: Device, fleet: Repository) -> None:
    updates(device)
    fleet.rollout(1, serial=99)
    fleet.publish()
    refused(device, "rollback", Exit.REFUSED, counter=2)


def test_replayed_rollout(device: Device, fleet: Repository) -> None:
    """A rollout of before, signed and all, under newer metadata."""
    fleet.rollout(2, serial=7, state="halted")
    fleet.publish()
    assert device.once().code == Exit.NOTHING
    fleet.rollout(2, serial=6)
    fleet.publish()
    refused(device, "rollback")


def test_lost_cache_replay(device: Device, fleet: Repository, tmp_path: Path) -> None:
    """A power cut zeroes what python-tuf cached, and an older repository is served: the floor doesn't give way."""
    shutil.copytree(fleet.folder, tmp_path / "old")
    updates(device)
    for file in (device.folder / "metadata").rglob("*.json"):
        if not file.is_symlink():
            file.write_bytes(b"")
    shutil.rmtree(device.folder / "cache")
    fleet.rollout(1, serial=1)
    fleet.publish()
    refused(device, "rollback", counter=2)
    shutil.rmtree(fleet.folder)
    shutil.copytree(tmp_path / "old", fleet.folder)
    assert device.once().code != Exit.UPDATED
    assert device.counter == 2


def test_extraneous_files_in_an_archive(device: Device, fleet: Repository, tmp_path: Path, bundles: Bundles) -> None:
    """Signed by the release key, and still no way out of the slot: links, devices, paths outside, unnamed files."""
    kinds: dict[str, Callable[[tarfile.TarInfo], None]] = {
        "link": lambda member: setattr(member, "type", tarfile.SYMTYPE) or setattr(member, "linkname", "/etc/passwd"),
        "hard link": lambda member: (
            setattr(member, "type", tarfile.LNKTYPE) or setattr(member, "linkname", "model.onnx")
        ),
        "device": lambda member: setattr(member, "type", tarfile.CHRTYPE),
        "outside": lambda member: setattr(member, "name", "../../outside"),
        "absolute": lambda member: setattr(member, "name", "/tmp/h-c-outside"),
        "unnamed": lambda member: setattr(member, "name", "unnamed.bin"),
    }
    for counter, (kind, change) in enumerate(kinds.items(), start=10):
        build = fleet.build(counter, bundles(2))
        packed = fleet.folder.parent / "repo.tar"
        with tarfile.open(packed, "a") as tar:
            member = tarfile.TarInfo("more")
            change(member)
            tar.addfile(member)
        archive = fleet.add(fleet.models, build.archive.path, packed.read_bytes())
        fleet.put(
            Release(product=PRODUCT, counter=counter, builds=(build.model_copy(update={"archive": archive}),)), counter
        )
        fleet.rollout(counter, serial=counter)
        fleet.publish()
        ending = device.once()
        assert (ending.code, "bundle:" in ending.said) == (Exit.REFUSED, True), (kind, ending.said)
        assert device.counter == 1
    assert not (device.folder.parent / "outside").exists()


def test_a_patch_that_makes_something_else_is_left_for_the_whole_file(device: Device, fleet: Repository) -> None:
    release = fleet.releases[2]
    patch = fleet.add(fleet.models, release.builds[0].deltas[0].file.path, b"BSDIFF40" + bytes(24))
    delta = release.builds[0].deltas[0].model_copy(update={"file": patch})
    build = release.builds[0].model_copy(update={"deltas": (delta,)})
    fleet.put(Release(product=PRODUCT, counter=2, builds=(build,)), 2)
    fleet.publish()
    updates(device)
    assert "installing release 2 (archive: full)" in device.said


def test_a_server_that_asks_for_peace_is_left_alone(tmp_path: Path, fleet: Repository, web: Server) -> None:
    device = quick(tmp_path, fleet, web)

    def busy(request: Any, content: bytes) -> bool:
        request.answer(429, b"", {"Retry-After": "3600"})
        return True

    web.trick = busy
    refused(device, "network")
    asked = len(web.asked)
    assert device.once().code == Exit.DEFERRED
    assert len(web.asked) == asked
    web.trick = None
    updates_at = now() + timedelta(seconds=3700)
    ending = device.once(now=lambda: updates_at)
    assert ending.code == Exit.UPDATED, ending.said
