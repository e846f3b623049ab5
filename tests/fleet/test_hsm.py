"""Keys that never leave an HSM: SoftHSM, by PKCS#11, holds the root's and the online key."""

from __future__ import annotations

import importlib.util
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from edgeprune.errors import UpdateError
from edgeprune.fleet import authority
from edgeprune.fleet.init import init
from edgeprune.fleet.keys import Keyring
from tests.fleet.clients import get_release, get_rollout
from tests.fleet.fleets import password, release_of, reopen, rollout_of
from tests.fleet.test_authority import names

MODULES = [Path(f"/usr/lib/{where}softhsm/libsofthsm2.so") for where in ("", "x86_64-linux-gnu/", "aarch64-linux-gnu/")]
pytestmark = [
    pytest.mark.skipif(not shutil.which("softhsm2-util"), reason="needs softhsm2 (Debian's softhsm2)"),
    pytest.mark.skipif(not importlib.util.find_spec("pkcs11"), reason="needs the extra hsm"),
]
TOKEN = "edgeprune test"


@pytest.fixture(scope="module")
def token(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder with `root.pem` and `online.pem`, the public halves of P-256 keys 1 and 2 of a token. The library reads
    where tokens are once a process."""
    folder = tmp_path_factory.mktemp("hsm")
    (folder / "tokens").mkdir()
    (folder / "softhsm2.conf").write_text(f"directories.tokendir = {folder / 'tokens'}\nobjectstore.backend = file\n")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SOFTHSM2_CONF", str(folder / "softhsm2.conf"))
        patch.setenv("PYKCS11LIB", str(next(module for module in MODULES if module.exists())))
        pin = password("root", False)
        subprocess.run(
            ["softhsm2-util", "--init-token", "--free", "--label", TOKEN, "--pin", pin, "--so-pin", pin],
            check=True, capture_output=True,
        )  # fmt: skip
        for number, role in ((1, "root"), (2, "online")):
            (folder / f"{role}.pem").write_bytes(_generate(number, pin))
        yield folder


def _generate(number: int, pin: str) -> bytes:
    """Make a key inside; its public half as PEM."""
    import pkcs11
    from cryptography.hazmat.primitives import serialization
    from pkcs11.util.ec import encode_ec_public_key, encode_named_curve_parameters

    with pkcs11.lib(os.environ["PYKCS11LIB"]).get_token(token_label=TOKEN).open(user_pin=pin, rw=True) as session:
        curve = {pkcs11.Attribute.EC_PARAMS: encode_named_curve_parameters("secp256r1")}
        parameters = session.create_domain_parameters(pkcs11.KeyType.EC, curve, local=True)
        public, _ = parameters.generate_keypair(store=True, id=bytes([number]), label=f"edgeprune-{number}")
        key = serialization.load_der_public_key(encode_ec_public_key(public))
    return key.public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)


def uri(number: int) -> str:
    return f"hsm:{number}?label={TOKEN.replace(' ', '+')}"


def test_a_device_trusts_what_an_hsm_signed(token: Path, tmp_path: Path) -> None:
    keyring = Keyring.make(tmp_path / "keys", password)
    keyring.adopt("root", token / "root.pem", uri(1))
    keyring.adopt("online", token / "online.pem", uri(2))
    repository = init(tmp_path / "repo", keyring)
    assert len(names(tmp_path / "keys", "root")) == 1
    assert len(names(tmp_path / "keys", "online")) == 1
    for role in ("root", "online"):
        assert not list((tmp_path / "keys").glob(f"{role}-*.pem"))  # nothing of them on disk
    authority.add_product(reopen(repository), "cells")
    release_of(reopen(repository), tmp_path, 1)
    reopen(repository).put_rollouts(rollout_of(1))  # by the online key
    assert get_release(repository.folder, tmp_path / "device", "cells", 1) is not None
    assert get_rollout(repository.folder, tmp_path / "device", "stable") is not None
    made = authority.rotate(reopen(repository), "online")  # by the root's, to a key in a file
    assert list((tmp_path / "keys").glob("online-*.pem"))
    assert made
    reopen(repository).put_rollouts(rollout_of(1, serial=2))
    rollout = get_rollout(repository.folder, tmp_path / "device", "stable")
    assert rollout is not None
    assert rollout.serial == 2


def test_a_wrong_pin_and_a_key_that_is_not_there_are_refused_by_name(token: Path, tmp_path: Path) -> None:
    keyring = Keyring.make(tmp_path / "keys", password)
    with pytest.raises(UpdateError, match="doesn't sign with that key"):
        keyring.adopt("root", token / "root.pem", uri(2))  # another key's public half
    with pytest.raises(UpdateError, match="could not find"):
        keyring.adopt("root", token / "root.pem", uri(9))
    with pytest.raises(UpdateError, match="No PKCS#11 token"):
        keyring.adopt("root", token / "root.pem", "hsm:1?label=nobody")
    wrong = Keyring.make(tmp_path / "wrong", lambda role, new: "not the pin at all")
    with pytest.raises(UpdateError, match="doesn't sign with that key"):
        wrong.adopt("root", token / "root.pem", uri(1))
    assert not list((tmp_path / "keys").glob("*.json"))
    assert not list((tmp_path / "wrong").glob("*.json"))
