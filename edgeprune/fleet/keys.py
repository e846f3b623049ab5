"""A folder of signing keys: where they are, how their passwords are come by, and which repository they have known.

Rules:
- A private key is an encrypted PEM, or stays in an HSM or KMS and is named by a signer's URI. An unencrypted one is
  never written.
- The folder is the owner's alone (0700, files 0600), and never lies inside the folder that is served.
- A password is asked for once a role and process. It comes from EDGEPRUNE_KEY_PASSWORD_ROLE (ROOT, TARGETS, RELEASE,
  ONLINE) or EDGEPRUNE_KEY_PASSWORD, or from the file that the same name with _FILE gives; the command line asks on a
  terminal.
- `known/` holds root, timestamp and snapshot as these keys last signed for them. What is no continuation of that root,
  or older than the others, is not signed for: else who holds the served folder (and the online key) could have a root
  of their own, or a counter twice, signed by us.

Sources: securesystemslib 1.x (signer URIs); PKCS #8 / PBES2 (RFC 8018) for the files.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgeprune.errors import UpdateError
from edgeprune.records import files
from edgeprune.records.base import read_json, to_json
from edgeprune.records.signing import KeyRole, SigningKey

if TYPE_CHECKING:
    from securesystemslib.signer import Key, Signer

#: Role of a key, and whether the key is new (who types asks twice) -> its password.
Password = Callable[[KeyRole, bool], str]

VARIABLE = "EDGEPRUNE_KEY_PASSWORD"
#: What a key's own name is called in the metadata, for people.
NAME_FIELD = "x-edgeprune-name"
#: Shorter ones are guessed from a stolen file in an afternoon.
MIN_PASSWORD = 8
#: Mode of a key's files.
SECRET = 0o600
_ENCRYPTED = "encrypted:"


def from_environment(role: KeyRole, new: bool = False) -> str:
    """A role's password from the environment.

    Raises:
        UpdateError: No variable has it, or the file that one names can't be read.
    """
    found = find_password(role)
    if found is None:
        raise UpdateError(
            f"There is no password for the {role} key.", expected=f"{VARIABLE}_{role.upper()}, {VARIABLE}, or "
            f"{VARIABLE}_FILE with the name of a file", next_step="set one, or run it on a terminal",
        )  # fmt: skip
    return found


def find_password(role: KeyRole) -> str | None:
    """The same; None where nothing is set."""
    for name in (f"{VARIABLE}_{role.upper()}", VARIABLE):
        if os.environ.get(name):
            return os.environ[name]
        if path := os.environ.get(f"{name}_FILE"):
            try:
                return Path(path).read_text(encoding="utf-8").rstrip("\r\n")
            except (OSError, UnicodeDecodeError) as error:
                raise UpdateError(
                    "The file with the password can't be read.", where=f"{name}_FILE={path}", got=str(error)
                ) from error
    return None


class Keyring:
    """The keys of one folder. A controller's holds the online key alone, a holder's on another machine one root key."""

    def __init__(self, folder: Path, password: Password = from_environment) -> None:
        """Read what keys there are; none is opened yet.

        Raises:
            UpdateError: No such folder, or a file in it that isn't a key's.
        """
        if not folder.is_dir():
            raise UpdateError(
                "There is no folder of keys.", where=folder, next_step="give the one that fleet init made with --keys"
            )
        self.folder = folder
        self.keys = {key.keyid: key for key in (_read(path) for path in sorted(folder.glob("*.json")))}
        self._password = password
        self._passwords: dict[KeyRole, bytes] = {}
        self._signers: dict[str, Signer] = {}

    @classmethod
    def make(cls, folder: Path, password: Password = from_environment) -> Keyring:
        """An empty one in a new folder."""
        if folder.exists():
            raise UpdateError("The folder for the keys is there already.", where=folder, expected="a new one")
        with files.no_space(folder):
            folder.mkdir(mode=0o700, parents=True)
        return cls(folder, password)

    def signer(self, keyid: str) -> Signer | None:
        """What signs with a key; None where this folder doesn't have it.

        Raises:
            UpdateError: A wrong password, or a file, HSM or KMS that doesn't have the key.
        """
        if keyid in self.keys and keyid not in self._signers:
            self._signers[keyid] = self._open(self.keys[keyid])
        return self._signers.get(keyid)

    def generate(self, role: KeyRole) -> Key:
        """Make an Ed25519 key, write it encrypted, and return its public half."""
        from cryptography.hazmat.primitives import serialization
        from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
        from securesystemslib.signer import CryptoSigner, SSlibKey

        password = self._password_of(role, new=True)
        if len(password) < MIN_PASSWORD:
            raise UpdateError(f"The password of the {role} key is too short.", expected=f"{MIN_PASSWORD} bytes or more")
        private = Ed25519PrivateKey.generate()
        pem = private.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8,
            serialization.BestAvailableEncryption(password),
        )  # fmt: skip
        public = SSlibKey.from_crypto(private.public_key())
        name = _name(role, public)
        files.write_bytes(self.folder / f"{name}.pem", pem, SECRET)
        self._write(name, role, public, f"{_ENCRYPTED}{name}.pem")
        self._signers[public.keyid] = CryptoSigner(private, public)
        return public

    def public(self, role: KeyRole) -> list[Key]:
        """The public halves of a role's keys, in the order of their names."""
        from securesystemslib.signer import Key

        found = sorted((key for key in self.keys.values() if key.role == role), key=lambda key: key.name)
        return [Key.from_dict(key.keyid, {**key.public, NAME_FIELD: key.name}) for key in found]

    def fill(self, role: KeyRole, count: int) -> list[Key]:
        """The same, with as many new ones as it takes to have `count`."""
        while len(self.public(role)) < count:
            self.generate(role)
        return self.public(role)

    def adopt(self, role: KeyRole, public_pem: Path, uri: str) -> Key:
        """Add a key that stays where it is: in an HSM or KMS that securesystemslib has a signer for.

        Args:
            role: What it is to sign for.
            public_pem: Its public half.
            uri: Of its private half.

        Raises:
            UpdateError: No such kind of signer, or it can't be reached, or it doesn't have that key.
        """
        from cryptography.hazmat.primitives.serialization import load_pem_public_key
        from securesystemslib.signer import SSlibKey

        try:
            public = SSlibKey.from_crypto(load_pem_public_key(public_pem.read_bytes()))
        except (OSError, ValueError) as error:
            raise UpdateError("The public key can't be read.", where=public_pem, got=str(error)) from error
        name = _name(role, public)
        signer = self._open(SigningKey(name=name, role=role, keyid=public.keyid, public=_public(public), uri=uri))
        try:
            public.verify_signature(signer.sign(b"edgeprune"), b"edgeprune")
        except Exception as error:  # signers have errors of their own
            raise UpdateError("The signer doesn't sign with that key.", where=uri, got=str(error)) from error
        self._write(name, role, public, uri)
        self._signers[public.keyid] = signer
        return public

    def forget(self, keyids: set[str]) -> None:
        """Remove keys that sign for nothing any more."""
        for keyid in keyids & set(self.keys):
            key = self.keys.pop(keyid)
            self._signers.pop(keyid, None)
            for path in (self.folder / f"{key.name}.json", self.folder / f"{key.name}.pem"):
                path.unlink(missing_ok=True)
        with files.no_space(self.folder):
            files.sync_folder(self.folder)

    def hand_over(self, name: str, folder: Path) -> None:
        """Move a key, and what it knows of the repository, into another folder: a stick, for its holder's machine."""
        key = next((key for key in self.keys.values() if key.name == name), None)
        if key is None:
            have = ", ".join(sorted(key.name for key in self.keys.values()))
            raise UpdateError("There is no such key here.", where=self.folder, expected=have, got=name)
        other = Keyring(folder, self._password) if folder.is_dir() else Keyring.make(folder, self._password)
        for known in ("root.json", "timestamp.json", "snapshot.json"):
            if (content := self.known(known)) is not None:
                other.know(known, content)
        for path in (self.folder / f"{name}.pem", self.folder / f"{name}.json"):
            if path.exists():
                files.write_bytes(folder / path.name, path.read_bytes(), SECRET)
        self.forget({key.keyid})

    def known(self, name: str) -> bytes | None:
        """What was last signed for (root.json, timestamp.json, snapshot.json); None before the first time."""
        path = self.folder / "known" / name
        return path.read_bytes() if path.is_file() else None

    def know(self, name: str, content: bytes) -> None:
        """Keep it."""
        if self.known(name) != content:
            files.write_bytes(self.folder / "known" / name, content)

    def _open(self, key: SigningKey) -> Signer:
        from cryptography.hazmat.primitives.serialization import load_pem_private_key
        from securesystemslib.signer import CryptoSigner, Key, Signer, SSlibKey

        public = Key.from_dict(key.keyid, {**key.public, NAME_FIELD: key.name})
        if not key.uri.startswith(_ENCRYPTED):
            try:
                return Signer.from_priv_key_uri(key.uri, public, lambda what: self._password_of(key.role).decode())
            except UpdateError:
                raise
            except Exception as error:  # each signer has errors of its own
                raise UpdateError(f"The key {key.name} can't be used.", where=key.uri, got=str(error)) from error
        path = self.folder / key.uri.removeprefix(_ENCRYPTED)
        try:
            content = path.read_bytes()
        except OSError as error:
            raise UpdateError(
                f"The private half of the key {key.name} is missing.", where=path, got=error.strerror,
                next_step=f"{key.name}.json and {key.name}.pem go together",
            ) from error  # fmt: skip
        try:
            private = load_pem_private_key(content, self._password_of(key.role))
            assert isinstance(public, SSlibKey)
            return CryptoSigner(private, public)
        except (ValueError, TypeError) as error:
            self._passwords.pop(key.role, None)
            raise UpdateError(
                f"The password of the key {key.name} is wrong.", where=path,
                next_step=f"{VARIABLE}_{key.role.upper()} or {VARIABLE} holds it, where it isn't asked for",
            ) from error  # fmt: skip

    def _password_of(self, role: KeyRole, new: bool = False) -> bytes:
        if role not in self._passwords:
            self._passwords[role] = self._password(role, new).encode()
        return self._passwords[role]

    def _write(self, name: str, role: KeyRole, public: Key, uri: str) -> None:
        public.unrecognized_fields[NAME_FIELD] = name
        key = SigningKey(name=name, role=role, keyid=public.keyid, public=_public(public), uri=uri)
        files.write_bytes(self.folder / f"{name}.json", to_json(key), SECRET)
        self.keys[key.keyid] = key


def read_key(path: Path) -> Key:
    """The public half of a key that somebody else holds, of its NAME.json.

    Raises:
        UpdateError: It isn't a key's, or not under its own id: one key under two would count twice.
    """
    from securesystemslib.formats import encode_canonical
    from securesystemslib.signer import Key

    key = _read(path)
    own = hashlib.sha256(str(encode_canonical(key.public)).encode()).hexdigest()
    if key.keyid != own:
        raise UpdateError("The key isn't the one of its id.", where=path, expected=own, got=key.keyid)
    return Key.from_dict(key.keyid, {**key.public, NAME_FIELD: key.name})


def name_of(key: Key) -> str:
    """What people call a key of the metadata."""
    return str(key.unrecognized_fields.get(NAME_FIELD, key.keyid[:8]))


def refuse_served(keys: Path, repository: Path) -> None:
    """Raise UpdateError for a folder of keys inside the one that is served."""
    inside, outside = keys.resolve(), repository.resolve()
    if inside == outside or outside in inside.parents:
        raise UpdateError(
            "The keys would lie inside the folder that is served.", where=keys, expected=f"a folder outside {outside}"
        )


def _name(role: KeyRole, public: Key) -> str:
    """Its keyid is in it: two holders who each make a key make two names."""
    return f"{role}-{public.keyid[:6]}"


def _public(key: Key) -> dict[str, Any]:
    return {"keytype": key.keytype, "scheme": key.scheme, "keyval": key.keyval}


def _read(path: Path) -> SigningKey:
    return read_json(path, SigningKey, UpdateError)
