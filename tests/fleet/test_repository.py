"""The repository as devices and other publishers see it: rollouts, expiry, what is refused, and what is not ours."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from tuf.api.exceptions import DownloadError, ExpiredMetadataError, RepositoryError
from tuf.api.metadata import Metadata, MetaFile

from edgeprune.errors import UpdateError
from edgeprune.fleet.draft import ROLLOUTS_LASTS, TIMESTAMP_LASTS
from edgeprune.fleet.init import Holders, init
from edgeprune.fleet.keys import Keyring
from edgeprune.fleet.publication import KEPT
from edgeprune.fleet.repository import Repository
from edgeprune.records.rollout import Wave
from tests.fleet.clients import client, get, get_release, get_rollout
from tests.fleet.fleets import NOW, days, make_fleet, password, release_of, reopen, rollout_of, state_of


def test_a_new_repository_is_static_files_and_no_key_is_among_them(tmp_path: Path) -> None:
    repository = make_fleet(tmp_path, root=Holders(3, 2))
    assert repository.products() == ("cells",)
    assert repository.newest("cells") == 0
    assert repository.rollouts() == {}
    served = b"".join(path.read_bytes() for path in repository.folder.rglob("*") if path.is_file())
    assert b"PRIVATE" not in served
    pems = list((tmp_path / "keys").glob("*.pem"))
    assert len(pems) == 6
    for pem in pems:
        assert b"ENCRYPTED PRIVATE KEY" in pem.read_bytes()
        assert pem.stat().st_mode & 0o777 == 0o600
    assert (tmp_path / "keys").stat().st_mode & 0o777 == 0o700
    root = Metadata.from_file(str(repository.folder / "metadata" / "1.root.json")).signed
    assert root.roles["root"].threshold == 2
    assert len(root.roles["root"].keyids) == 3
    assert set(root.roles["root"].keyids).isdisjoint(root.roles["timestamp"].keyids)


def test_rollouts_reach_a_device_and_replace_one_another(tmp_path: Path) -> None:
    repository = make_fleet(tmp_path)
    release_of(repository, tmp_path, 1, 2)
    first = rollout_of(1)
    repository.put_rollouts(first, rollout_of(2, channel="beta"))
    assert repository.rollouts() == {"stable": first, "beta": rollout_of(2, channel="beta")}
    assert get_rollout(repository.folder, tmp_path / "device", "stable") == first
    second = rollout_of(2, serial=2, stable=1, waves=(Wave(percent=5), Wave(percent=100)))
    repository.put_rollouts(second)
    assert get_rollout(repository.folder, tmp_path / "device", "stable") == second
    repository.put_rollouts(second.model_copy(update={"wave": 1}))
    assert reopen(repository).rollout("stable") == second.model_copy(update={"wave": 1})
    assert repository.rollout("nightly") is None


def test_the_same_rollout_again_publishes_nothing(tmp_path: Path) -> None:
    repository = make_fleet(tmp_path)
    release_of(repository, tmp_path, 1)
    repository.put_rollouts(rollout_of(1))
    before = state_of(tmp_path)
    repository.put_rollouts(rollout_of(1))
    assert state_of(tmp_path) == before


def test_a_steady_poll_is_one_small_file(tmp_path: Path) -> None:
    repository = make_fleet(tmp_path)
    release_of(repository, tmp_path, 1, 2, 3)
    assert (repository.folder / "metadata" / "timestamp.json").stat().st_size < 600


@pytest.mark.parametrize(
    ("rollout", "said"),
    [
        (rollout_of(2, serial=1), "A newer rollout is there already"),
        (rollout_of(2, serial=2, salt="another-salt"), "The serial is another rollout's"),
        (rollout_of(1, serial=3), "older than the current one"),
        (rollout_of(9, serial=3), "has no release 9"),
        (rollout_of(2, serial=3, product="toasters"), "Nobody knows the product toasters"),
    ],
)
def test_rollouts_that_are_refused_change_nothing(tmp_path: Path, rollout: object, said: str) -> None:
    repository = make_fleet(tmp_path)
    release_of(repository, tmp_path, 1, 2)
    repository.put_rollouts(rollout_of(2, serial=2))
    before = state_of(tmp_path)
    with pytest.raises(UpdateError, match=said):
        repository.put_rollouts(rollout_of(2, channel="beta"), rollout)  # type: ignore[arg-type]
    assert state_of(tmp_path) == before


def test_renewal_signs_what_has_half_of_its_time_left_and_only_once(tmp_path: Path) -> None:
    repository = make_fleet(tmp_path)
    before = state_of(tmp_path)
    assert repository.renew() == ()
    assert state_of(tmp_path) == before
    assert repository.renew(NOW + TIMESTAMP_LASTS * 0.6) == ("timestamp",)
    assert repository.renew(NOW + TIMESTAMP_LASTS * 0.6) == ()
    assert set(repository.renew(NOW + ROLLOUTS_LASTS * 0.6)) == {"snapshot", "timestamp", "rollouts"}


def test_a_repository_that_lay_for_months_is_renewed(tmp_path: Path) -> None:
    repository = make_fleet(tmp_path, now=NOW - days(90))
    with pytest.raises(ExpiredMetadataError):
        client(repository.folder, tmp_path / "device").refresh()
    assert "timestamp has expired" in repository.published().problems(NOW)
    assert set(repository.renew()) == {"snapshot", "timestamp", "rollouts"}
    client(repository.folder, tmp_path / "device").refresh()
    assert repository.published().problems(NOW) == ()


def test_offline_roles_are_renewed_by_name(tmp_path: Path) -> None:
    repository = make_fleet(tmp_path, now=NOW - days(300))
    release_of(repository, tmp_path, 1)
    repository.renew(roles=("root", "targets", "models-cells"))
    expiries = repository.published().expiries()
    assert {expiries[role].date() for role in ("root", "targets", "models-cells")} == {(NOW + days(365)).date()}
    assert get_release(repository.folder, tmp_path / "device", "cells", 1) is not None
    with pytest.raises(UpdateError, match="Nobody knows the product cels"):
        repository.renew(roles=("models-cels",))


def test_old_files_go_and_what_is_published_stays(tmp_path: Path) -> None:
    repository = make_fleet(tmp_path)
    release_of(repository, tmp_path, 1)
    for serial in range(1, 6):
        repository.put_rollouts(rollout_of(1, serial=serial))
    rollouts = repository.folder / "targets" / "rollouts"
    assert len(list(rollouts.iterdir())) == 5
    repository.renew()
    assert len(list(rollouts.iterdir())) == 5  # a reader may be in the midst of them
    repository.renew(NOW + KEPT * 1.1)
    assert len(list(rollouts.iterdir())) == 1
    assert not (repository.folder / "metadata" / "1.snapshot.json").exists()
    assert (repository.folder / "metadata" / "1.root.json").exists()
    assert repository.published().problems(NOW + KEPT) == ()
    assert get_release(repository.folder, tmp_path / "device", "cells", 1) is not None


def _without(role: str) -> Callable[[Path], None]:
    def remove(keys: Path) -> None:
        for path in keys.glob(f"{role}-*"):
            path.unlink()

    return remove


def _wrong_password(keys: Path) -> None:
    """The release key is one that another password encrypts."""
    other = Keyring.make(keys / "other", lambda role, new: "another password")
    other.generate("release")
    (pem,) = (keys / "other").glob("*.pem")
    (mine,) = keys.glob("release-*.pem")
    shutil.copy(pem, mine)
    shutil.rmtree(keys / "other")


@pytest.mark.parametrize(
    ("broken", "said"),
    [
        (_wrong_password, r"password of the key release-\w+ is wrong"),
        (_without("release"), r"models-cells: 0 of 1 signatures; release-\w+ can sign"),
        (_without("online"), r"0 of 1 signatures; online-\w+ can sign"),
        (lambda keys: next(keys.glob("release-*.pem")).unlink(), "private half of the key release-.* is missing"),
        (lambda keys: next(keys.glob("online-*.json")).write_text("{}"), "not right"),
    ],
)
def test_keys_that_are_missing_or_wrong(tmp_path: Path, broken: Callable[[Path], None], said: str) -> None:
    repository = make_fleet(tmp_path)
    release_of(repository, tmp_path / "work", 1)
    broken(tmp_path / "keys")
    before = state_of(repository.folder, tmp_path / "keys")
    with pytest.raises(UpdateError, match=said) as raised:
        release_of(reopen(repository), tmp_path / "work", 2)
    assert raised.value.code == 2
    assert state_of(repository.folder, tmp_path / "keys") == before


def test_an_online_key_can_not_publish_a_release(tmp_path: Path) -> None:
    repository = make_fleet(tmp_path)
    release_of(repository, tmp_path, 1)
    online = tmp_path / "controller"
    (name,) = (path.stem for path in (tmp_path / "keys").glob("online-*.json"))
    repository.keyring.hand_over(name, online)
    controller = reopen(repository, online)
    controller.put_rollouts(rollout_of(1))
    with pytest.raises(UpdateError, match="0 of 1 signatures; release-"):
        release_of(controller, tmp_path, 2)
    with pytest.raises(UpdateError, match="0 of 1 signatures; targets-"):
        controller.renew(roles=("targets",))
    assert get_rollout(repository.folder, tmp_path / "device", "stable") == rollout_of(1)


def test_keys_inside_the_served_folder_are_refused(tmp_path: Path) -> None:
    repository = make_fleet(tmp_path)
    shutil.copytree(tmp_path / "keys", repository.folder / "keys")
    with pytest.raises(UpdateError, match="inside the folder that is served"):
        reopen(repository, repository.folder / "keys")
    (tmp_path / "link").symlink_to(repository.folder / "keys")
    with pytest.raises(UpdateError, match="inside the folder that is served"):
        reopen(repository, tmp_path / "link")


def test_init_takes_no_folder_that_is_there_and_no_threshold_that_cannot_be_met(tmp_path: Path) -> None:
    repository = make_fleet(tmp_path)
    before = state_of(tmp_path)
    with pytest.raises(UpdateError, match="belong to a repository already"):
        init(tmp_path / "second", repository.keyring)
    other = Keyring.make(tmp_path / "others", password)
    with pytest.raises(UpdateError, match="isn't empty"):
        init(repository.folder, other)
    with pytest.raises(UpdateError, match="can't be met"):
        init(tmp_path / "second", other, root=Holders(2, 3))
    (tmp_path / "others").rmdir()
    assert state_of(tmp_path) == before
    with pytest.raises(UpdateError, match="password of the root key is too short"):
        init(tmp_path / "third", Keyring.make(tmp_path / "weak", lambda role, new: "short"))
    with pytest.raises(UpdateError, match="no fleet repository here"):
        Repository.open(tmp_path / "nothing")


def _signed(folder: Path, name: str, change: Callable[[dict], None]) -> None:  # type: ignore[type-arg]
    path = folder / "metadata" / name
    content = json.loads(path.read_bytes())
    change(content["signed"])
    path.write_text(json.dumps(content))


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("timestamp.json", "isn't signed by its role's keys"),
        ("3.snapshot.json", "metadata was changed"),
        ("2.targets.json", "metadata was changed"),
        ("2.models-cells.json", "metadata was changed"),
        ("1.root.json", "isn't signed by those who may"),
    ],
)
def test_metadata_that_was_changed_on_disk_is_not_built_on(tmp_path: Path, name: str, said: str) -> None:
    repository = make_fleet(tmp_path)
    release_of(repository, tmp_path / "work", 1)
    _signed(repository.folder, name, lambda signed: signed.update(expires="2099-01-01T00:00:00Z"))
    before = state_of(repository.folder)
    with pytest.raises(UpdateError, match=said):
        release_of(repository, tmp_path / "work", 2)
    assert state_of(repository.folder) == before
    with pytest.raises((RepositoryError, DownloadError)):
        get(repository.folder, tmp_path / "device", "models/cells/1/release.json")


def forge(repository: Repository, change: Callable[[dict[str, MetaFile]], None]) -> None:
    """What a stolen online key can do: a newer timestamp and snapshot that lead to other versions."""
    trusted = repository.published().trusted
    (keyid,) = trusted.root.roles["snapshot"].keyids
    signer = repository.keyring.signer(keyid)
    assert signer is not None
    trusted.snapshot.signed.version += 1
    change(trusted.snapshot.signed.meta)
    trusted.snapshot.sign(signer)
    data = trusted.snapshot.to_bytes()
    trusted.timestamp.signed.version += 1
    trusted.timestamp.signed.snapshot_meta = MetaFile.from_data(trusted.snapshot.signed.version, data, ["sha256"])
    trusted.timestamp.sign(signer)
    metadata = repository.folder / "metadata"
    (metadata / f"{trusted.snapshot.signed.version}.snapshot.json").write_bytes(data)
    (metadata / "timestamp.json").write_bytes(trusted.timestamp.to_bytes())


def test_a_role_that_the_snapshot_drops_is_missed(tmp_path: Path) -> None:
    repository = make_fleet(tmp_path)
    release_of(repository, tmp_path, 1)
    forge(repository, lambda meta: meta.pop("models-cells.json"))
    with pytest.raises(UpdateError, match=r"dropped a role(.|\n)*models-cells"):
        reopen(repository)
    with pytest.raises(RepositoryError, match="models-cells"):
        get(repository.folder, tmp_path / "device", "models/cells/1/release.json")


def test_a_stolen_online_key_cannot_have_a_counter_given_out_twice(tmp_path: Path) -> None:
    """It leads to the product's models as they were one release ago."""
    repository = make_fleet(tmp_path)
    release_of(repository, tmp_path, 1)
    before = repository.published().trusted.snapshot.signed.meta["models-cells.json"]
    release_of(repository, tmp_path, 2)
    forge(repository, lambda meta: meta.update({"models-cells.json": before}))
    with pytest.raises(UpdateError, match=r"older than what these keys have signed(.|\n)*models-cells\.json 3"):
        release_of(reopen(repository), tmp_path, 3)


def test_a_restored_backup_is_not_published_on(tmp_path: Path) -> None:
    """A counter given out twice would be two releases, and devices that had the first would refuse the second."""
    repository = make_fleet(tmp_path)
    release_of(repository, tmp_path, 1)
    shutil.copytree(repository.folder, tmp_path / "backup")
    release_of(repository, tmp_path, 2)
    shutil.rmtree(repository.folder)
    (tmp_path / "backup").rename(repository.folder)
    with pytest.raises(UpdateError, match="older than what these keys have signed"):
        release_of(reopen(repository), tmp_path, 3)


def test_somebody_elses_repository_in_our_folder_is_not_signed_for(tmp_path: Path) -> None:
    """Who holds the server lays a repository of their own there, with our keys among theirs: else our next targets
    metadata would delegate to their key, under our signature."""
    repository = make_fleet(tmp_path / "ours")
    attacker = make_fleet(tmp_path / "theirs")
    shutil.rmtree(repository.folder)
    shutil.copytree(attacker.folder, repository.folder)
    with pytest.raises(UpdateError, match="not the repository that these keys belong to"):
        reopen(repository)
    with pytest.raises(UpdateError, match="not the repository that these keys belong to"):
        repository.renew(roles=("targets",))
