"""Who may sign what: rotation with every kind of key at hand or lost, and holders who sign one after another."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from tuf.api.exceptions import UnsignedMetadataError

from edgeprune.errors import UpdateError
from edgeprune.fleet import authority
from edgeprune.fleet.init import Holders
from edgeprune.fleet.keys import Keyring, read_key
from edgeprune.fleet.repository import Repository
from edgeprune.records.signing import KEY_ROLES, KeyRole
from tests.fleet.clients import client, get_release, get_rollout
from tests.fleet.fleets import make_fleet, password, release_of, reopen, rollout_of, state_of


def names(keys: Path, role: str) -> list[str]:
    return sorted(path.stem for path in keys.glob(f"{role}-*.json"))


def usable(repository: Repository, work: Path, counter: int) -> None:
    """Devices, new and old, take the newest release and rollout; publishing goes on."""
    assert repository.newest("cells") == counter
    for device in ("new", "old"):
        assert get_release(repository.folder, work / device, "cells", counter) is not None
        assert get_rollout(repository.folder, work / device, "stable") is not None
    shutil.rmtree(work / "new")
    release_of(reopen(repository), work, 100 + counter)
    reopen(repository).put_rollouts(rollout_of(counter + 1, serial=counter + 1))
    assert get_release(repository.folder, work / "old", "cells", counter + 1) is not None


def begun(folder: Path, **holders: Holders) -> Repository:
    repository = make_fleet(folder, **holders)
    release_of(repository, folder, 1)
    repository.put_rollouts(rollout_of(1))
    client(repository.folder, folder / "old").refresh()
    return repository


@pytest.mark.parametrize("role", KEY_ROLES)
def test_rotated_keys_take_over_and_the_old_ones_are_nobody(tmp_path: Path, role: KeyRole) -> None:
    repository = begun(tmp_path)
    shutil.copytree(tmp_path / "keys", tmp_path / "stolen")
    old = names(tmp_path / "keys", role)
    made = authority.rotate(repository, role)
    assert set(made).isdisjoint(old)
    assert names(tmp_path / "keys", role) == sorted(made)
    usable(repository, tmp_path, 1)
    stolen = reopen(repository, tmp_path / "stolen")
    tries = {"release": lambda: release_of(stolen, tmp_path, 9), "online": lambda: stolen.renew(roles=("rollouts",))}
    with pytest.raises(UpdateError, match=r"0 of 1 signatures.*can sign"):
        tries.get(role, lambda: stolen.renew(roles=(role,)))()


def test_root_rotated_three_times_is_followed_from_the_first(tmp_path: Path) -> None:
    repository = begun(tmp_path, root=Holders(3, 2))
    for _ in range(3):
        authority.rotate(repository, "root")
    updater = client(repository.folder, tmp_path / "old")
    updater.refresh()
    assert updater._trusted_set.root.version == 4
    usable(repository, tmp_path, 1)


@pytest.mark.parametrize("role", ["targets", "online", "release"])
def test_a_lost_key_is_replaced(tmp_path: Path, role: KeyRole) -> None:
    repository = begun(tmp_path)
    for path in (tmp_path / "keys").glob(f"{role}-*"):
        path.unlink()
    repository = reopen(repository)
    authority.rotate(repository, role)
    usable(repository, tmp_path, 1)


def test_one_of_three_root_keys_is_lost_and_replaced_by_the_other_two(tmp_path: Path) -> None:
    repository = begun(tmp_path, root=Holders(3, 2))
    lost = names(tmp_path / "keys", "root")[0]
    for path in (tmp_path / "keys").glob(f"{lost}*"):
        path.unlink()
    (made,) = authority.rotate(reopen(repository), "root", replace=[lost])
    seats = {seat.role: seat for seat in authority.seats(*_top(repository))}
    assert len(seats["root"].keys) == 3
    assert seats["root"].threshold == 2
    assert made in names(tmp_path / "keys", "root")
    usable(repository, tmp_path, 1)


def _top(repository: Repository):  # type: ignore[no-untyped-def]
    trusted = repository.published().trusted
    return trusted.root, trusted.targets


def test_keys_are_added_and_the_threshold_raised(tmp_path: Path) -> None:
    repository = begun(tmp_path)
    authority.rotate(repository, "root", add=2, threshold=2)
    (seat,) = (seat for seat in authority.seats(*_top(repository)) if seat.role == "root")
    assert (seat.threshold, len(seat.keys)) == (2, 3)
    kept = names(tmp_path / "keys", "root")
    assert authority.rotate(repository, "root", threshold=3) == ()
    assert names(tmp_path / "keys", "root") == kept
    before = state_of(tmp_path)
    with pytest.raises(UpdateError, match="can't be met"):
        authority.rotate(repository, "root", threshold=4)
    with pytest.raises(UpdateError, match="No root key is called that"):
        authority.rotate(repository, "root", replace=["root-nobody"])
    with pytest.raises(UpdateError, match="Nobody knows the product cels"):
        authority.rotate(repository, "release", product="cels")
    assert state_of(tmp_path) == before


def test_a_product_with_a_release_key_of_its_own(tmp_path: Path) -> None:
    repository = begun(tmp_path)
    authority.add_product(repository, "toasters", own_key=True)
    shared, own = (
        next(seat.keys[0].keyid for seat in authority.seats(*_top(repository)) if seat.role == f"models-{product}")
        for product in ("cells", "toasters")
    )
    assert shared != own
    with pytest.raises(UpdateError, match="release keys of their own"):
        authority.rotate(repository, "release")
    authority.rotate(repository, "release", product="toasters")
    assert shared in {key.keyid for seat in authority.seats(*_top(repository)) for key in seat.keys}
    assert own not in {key.keyid for seat in authority.seats(*_top(repository)) for key in seat.keys}
    usable(repository, tmp_path, 1)


@pytest.mark.parametrize("product", ["cells", "Cells", "../x", ""])
def test_products_that_cannot_be_added(tmp_path: Path, product: str) -> None:
    repository = make_fleet(tmp_path)
    before = state_of(tmp_path)
    with pytest.raises(UpdateError):
        authority.add_product(repository, product, own_key=True)
    assert state_of(tmp_path) == before


def test_two_holders_sign_on_their_own_machines(tmp_path: Path) -> None:
    repository = begun(tmp_path, root=Holders(2, 2), targets=Holders(2, 2))
    stick = tmp_path / "stick"
    for role in ("root", "targets"):
        repository.keyring.hand_over(names(tmp_path / "keys", role)[0], stick)
    repository = reopen(repository)
    before = state_of(tmp_path)
    with pytest.raises(UpdateError, match="root: 1 of 2 signatures of the root so far; root-"):
        authority.rotate(repository, "root")
    with pytest.raises(UpdateError, match="targets: 1 of 2 signatures; targets-"):
        authority.add_product(repository, "toasters", own_key=True)
    assert state_of(tmp_path) == before

    published = state_of(repository.folder)
    proposal = tmp_path / "proposal.json"
    authority.rotate(repository, "online", propose=proposal)
    assert state_of(repository.folder) == published
    with pytest.raises(UpdateError, match="root: 1 of 2 signatures"):
        authority.apply(reopen(repository), proposal)
    holder = Keyring(stick, password)
    said = "; ".join(authority.describe(authority.read_proposal(proposal, holder)))
    assert "timestamp: online-" in said
    assert "may not sign any more" in said
    draft = authority.sign(proposal, holder)
    assert [draft.lacking(role) for role in draft.changed] == [None] * 2
    with pytest.raises(UpdateError, match="None of these keys adds a signature"):
        authority.sign(proposal, holder)
    authority.apply(reopen(repository), proposal)
    assert len(names(tmp_path / "keys", "online")) == 1
    usable(repository, tmp_path, 1)
    with pytest.raises(UpdateError, match="older than what these keys have signed"):
        authority.apply(reopen(repository), proposal)


def test_a_proposal_that_came_too_late_is_not_published(tmp_path: Path) -> None:
    repository = begun(tmp_path)
    proposal = tmp_path / "proposal.json"
    authority.add_product(repository, "toasters", propose=proposal)
    authority.add_product(repository, "kettles")
    with pytest.raises(UpdateError, match="changed since this was proposed"):
        authority.apply(reopen(repository), proposal)
    assert repository.products() == ("cells", "kettles")


def test_a_new_holder_brings_their_own_key(tmp_path: Path) -> None:
    repository = begun(tmp_path, root=Holders(2, 1))
    leaving = names(tmp_path / "keys", "root")[0]
    theirs = Keyring.make(tmp_path / "theirs", password)
    theirs.generate("root")
    (name,) = names(tmp_path / "theirs", "root")
    proposal = tmp_path / "proposal.json"
    given = read_key(tmp_path / "theirs" / f"{name}.json")
    assert authority.rotate(repository, "root", replace=[leaving], given=[given], propose=proposal) == (name,)
    authority.sign(proposal, theirs)  # the first time they see it: they trust the repository that is in it
    authority.apply(reopen(repository), proposal)
    assert name in {key.unrecognized_fields["x-edgeprune-name"] for key in authority.seats(*_top(repository))[0].keys}
    assert names(tmp_path / "keys", "root") == [n for n in names(tmp_path / "keys", "root") if n != leaving]
    usable(repository, tmp_path, 1)


def test_a_proposal_of_somebody_elses_repository_is_not_signed(tmp_path: Path) -> None:
    ours, theirs = begun(tmp_path / "ours", root=Holders(2, 2)), begun(tmp_path / "theirs", root=Holders(2, 2))
    proposal = tmp_path / "proposal.json"
    authority.rotate(theirs, "root", propose=proposal)
    with pytest.raises(UpdateError, match="not the repository that these keys belong to"):
        authority.sign(proposal, ours.keyring)


def test_a_proposal_that_was_changed_after_signing_is_not_published(tmp_path: Path) -> None:
    repository = begun(tmp_path)
    proposal = tmp_path / "proposal.json"
    authority.rotate(repository, "release", propose=proposal)
    content = json.loads(proposal.read_text())
    content["documents"]["targets"]["signed"]["delegations"]["roles"][0]["paths"] = ["*/*/*/*"]
    proposal.write_text(json.dumps(content))
    for path in (tmp_path / "keys").glob("targets-*"):
        path.unlink()
    with pytest.raises(UpdateError, match="targets: 0 of 1 signatures"):
        authority.apply(reopen(repository), proposal)
    with pytest.raises(UpdateError, match=r"not right"):
        authority.apply(reopen(repository), tmp_path / "keys" / "known" / "root.json")


def test_a_signers_uri_instead_of_a_file(tmp_path: Path) -> None:
    """A KMS's key goes through securesystemslib, whose signer for plain files stands for it; test_hsm.py has an HSM."""
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

    from edgeprune.fleet.init import init

    private = Ed25519PrivateKey.generate()
    pem = serialization.Encoding.PEM
    plain = serialization.NoEncryption()
    (tmp_path / "hsm.pem").write_bytes(private.private_bytes(pem, serialization.PrivateFormat.PKCS8, plain))
    public = tmp_path / "public.pem"
    public.write_bytes(private.public_key().public_bytes(pem, serialization.PublicFormat.SubjectPublicKeyInfo))
    keyring = Keyring.make(tmp_path / "keys", password)
    for uri in ("hsm:2?label=root", f"file2:{tmp_path}/nothing.pem", "nonsense:x"):
        with pytest.raises(UpdateError, match="can't be used"):
            keyring.adopt("online", public, uri)
    with pytest.raises(UpdateError, match="public key can't be read"):
        keyring.adopt("online", tmp_path / "hsm.pem", f"file2:{tmp_path}/hsm.pem")
    keyring.adopt("online", public, f"file2:{tmp_path}/hsm.pem")
    repository = init(tmp_path / "repo", keyring)
    assert names(tmp_path / "keys", "online") != []
    assert list((tmp_path / "keys").glob("online-*.pem")) == []
    authority.add_product(reopen(repository), "cells")
    client(repository.folder, tmp_path / "device").refresh()
    repository.put_rollouts()
    other = Ed25519PrivateKey.generate()
    (tmp_path / "hsm.pem").write_bytes(other.private_bytes(pem, serialization.PrivateFormat.PKCS8, plain))
    with pytest.raises(UpdateError, match="can't be used"):
        reopen(repository).renew(roles=("rollouts",))


def test_a_device_refuses_what_an_old_online_key_signs(tmp_path: Path) -> None:
    """Key compromise: after the rotation, a timestamp by the stolen key is nothing, whatever its version."""
    repository = begun(tmp_path)
    stolen = Keyring(tmp_path / "keys", password)
    (keyid,) = (key.keyid for key in stolen.keys.values() if key.role == "online")
    signer = stolen.signer(keyid)
    assert signer is not None
    authority.rotate(repository, "online")
    from tuf.api.metadata import Metadata

    path = repository.folder / "metadata" / "timestamp.json"
    forged = Metadata.from_file(str(path))
    forged.signed.version = 1_000_000  # fast-forward
    forged.sign(signer)
    honest = path.read_bytes()
    path.write_bytes(forged.to_bytes())
    with pytest.raises(UnsignedMetadataError):
        client(repository.folder, tmp_path / "old").refresh()
    path.write_bytes(honest)
    client(repository.folder, tmp_path / "old").refresh()


def test_a_fast_forward_by_a_stolen_online_key_ends_with_its_rotation(tmp_path: Path) -> None:
    """TUF 5.3.11: devices that took version 1,000,000 take 10 again once root has changed the online key."""
    repository = begun(tmp_path)
    path = repository.folder / "metadata" / "timestamp.json"
    honest = path.read_bytes()
    from tuf.api.metadata import Metadata

    forged = Metadata.from_bytes(honest)
    forged.signed.version = 1_000_000
    (keyid,) = (key.keyid for key in repository.keyring.keys.values() if key.role == "online")
    signer = repository.keyring.signer(keyid)
    assert signer is not None
    forged.sign(signer)
    path.write_bytes(forged.to_bytes())
    client(repository.folder, tmp_path / "old").refresh()
    path.write_bytes(honest)
    authority.rotate(repository, "online")
    usable(repository, tmp_path, 1)
