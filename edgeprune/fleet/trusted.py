"""What a repository's folder says, read the way a device reads it: from a known root, timestamp first, hash by hash.

Rules:
- Files that the timestamp doesn't lead to are not there: what a killed publication left is never taken for published.
- Everything is verified but expiry: who renews must be able to read what has expired.
- What is signed by the root before the current one only, and not by the current one, is `stale`: a rotation was killed,
  or a key was lost. The next publication signs it anew.
- The chain of roots leads through the one that is known already, else it is another repository.

Source: TUF specification 1.0.33, 5.3 to 5.6.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tuf.api.exceptions import RepositoryError
from tuf.api.metadata import Delegations, Metadata, MetaFile, Root, Snapshot, Targets, Timestamp

from edgeprune.errors import UpdateError
from edgeprune.fleet.keys import Keyring

#: Name of a metadata file ('3.snapshot.json') -> its bytes; OSError where there is none.
Read = Callable[[str], bytes]


@dataclass(frozen=True)
class Trusted:
    """One published state.

    Attributes:
        roots: All root metadata, the current one last.
        roles: 'targets' and every delegated role.
        files: What was read for it: name -> bytes.
        stale: Roles that the current root's keys haven't signed.
    """

    roots: tuple[Metadata[Root], ...]
    timestamp: Metadata[Timestamp]
    snapshot: Metadata[Snapshot]
    roles: dict[str, Metadata[Targets]]
    files: dict[str, bytes]
    stale: frozenset[str]

    @property
    def root(self) -> Root:
        return self.roots[-1].signed

    @property
    def targets(self) -> Targets:
        return self.roles["targets"].signed


def file_name(role: str, version: int) -> str:
    """What a role's metadata is called under metadata/; timestamp.json has no version in its name."""
    return f"{role}.json" if role == "timestamp" else f"{version}.{role}.json"


def metadata_file(folder: Path, role: str, version: int = 0) -> Path:
    """Where it lies."""
    return folder / "metadata" / file_name(role, version)


def load(folder: Path, keyring: Keyring | None = None) -> Trusted:
    """Read and verify what is published in a folder; raises as `follow` does, and for what is older than is known."""
    if not metadata_file(folder, "root", 1).is_file():
        raise UpdateError(
            "There is no fleet repository here.", where=folder, expected="metadata/1.root.json",
            next_step="edgeprune fleet init makes one",
        )  # fmt: skip
    known = _known_versions(keyring) if keyring else {}  # first: others publish while this is read
    trusted = follow(lambda name: (folder / "metadata" / name).read_bytes(), folder / "metadata", keyring)
    found = {"timestamp.json": trusted.timestamp.signed.version}
    found |= {name: meta.version for name, meta in trusted.snapshot.signed.meta.items()}
    for name, version in known.items():
        if found.get(name, 0) < version:
            raise _older(folder / "metadata", f"{name} {version}", f"{name} {found.get(name)}")
    return trusted


def _known_versions(keyring: Keyring) -> dict[str, int]:
    """Name of a role's file -> its version when these keys last signed: a stolen online key can't go back behind it."""
    timestamp, snapshot = keyring.known("timestamp.json"), keyring.known("snapshot.json")
    versions = {}
    if timestamp is not None:
        versions["timestamp.json"] = parsed(timestamp, Timestamp, "known/timestamp.json").signed.version
    if snapshot is not None:
        listed = parsed(snapshot, Snapshot, "known/snapshot.json").signed.meta
        versions |= {name: meta.version for name, meta in listed.items()}
    return versions


def follow(read: Read, where: object, keyring: Keyring | None = None) -> Trusted:
    """Read and verify what is published.

    Args:
        read: The metadata files.
        where: Where they are, for people.
        keyring: Whose known root it must continue; None: whatever root it begins with.

    Raises:
        UpdateError: A file that is missing, changed or not signed, or another repository.
    """
    files: dict[str, bytes] = {}

    def get(role: str, kind: type[Any], meta: MetaFile | int) -> Metadata[Any]:
        name = file_name(role, meta if isinstance(meta, int) else meta.version)
        try:
            files[name] = read(name)
            if isinstance(meta, MetaFile):
                meta.verify_length_and_hashes(files[name])
        except OSError as error:
            raise UpdateError("The repository lacks a file.", where=f"{where}/{name}", got=error.strerror) from error
        except RepositoryError as error:
            raise UpdateError("The metadata was changed.", where=f"{where}/{name}", got=str(error)) from error
        return parsed(files[name], kind, f"{where}/{name}")

    roots = _roots(read, files, where, keyring)
    stale: set[str] = set()

    def top(role: str, kind: type[Any], meta: MetaFile | int) -> Metadata[Any]:
        found = get(role, kind, meta)
        if not signed_by(roots[-1].signed, role, found):
            if len(roots) == 1 or not signed_by(roots[-2].signed, role, found):
                raise UpdateError("The metadata isn't signed by its role's keys.", where=f"{where}: {role}")
            stale.add(role)
        return found

    timestamp = top("timestamp", Timestamp, 0)
    snapshot = top("snapshot", Snapshot, timestamp.signed.snapshot_meta)
    targets = top("targets", Targets, _listed(snapshot.signed, "targets", where))
    roles = {"targets": targets}
    for role in delegations(targets.signed).roles or {}:
        roles[role] = get(role, Targets, _listed(snapshot.signed, role, where))
        if not signed_by(targets.signed, role, roles[role]):
            raise UpdateError("The metadata isn't signed by its role's keys.", where=f"{where}: {role}")
    return Trusted(roots, timestamp, snapshot, roles, files, frozenset(stale))


def delegations(targets: Targets) -> Delegations:
    """Who signs what else; there from the first version on."""
    assert targets.delegations is not None
    return targets.delegations


def signed_by(delegator: Root | Targets, role: str, document: Metadata[Any]) -> bool:
    """Whether enough of a role's keys have signed."""
    return delegator.get_verification_result(role, document.signed_bytes, document.signatures).verified


def parsed(data: bytes, kind: type[Any], where: object) -> Metadata[Any]:
    """Metadata of a kind, not verified; UpdateError for anything else."""
    try:
        found: Metadata[Any] = Metadata.from_bytes(data)
    except RepositoryError as error:
        raise UpdateError("The file is no TUF metadata.", where=where, got=str(error)) from error
    if not isinstance(found.signed, kind):
        raise UpdateError("The metadata is another role's.", where=where, expected=kind.type, got=found.signed.type)
    return found


def _listed(snapshot: Snapshot, role: str, where: object) -> MetaFile:
    if f"{role}.json" not in snapshot.meta:
        raise UpdateError("The snapshot has dropped a role.", where=f"{where}: snapshot", expected=role)
    return snapshot.meta[f"{role}.json"]


def _roots(read: Read, files: dict[str, bytes], where: object, keyring: Keyring | None) -> tuple[Metadata[Root], ...]:
    """The chain of roots, each signed by the one before and by itself; the known one is of them."""
    known = keyring.known("root.json") if keyring else None
    found: list[Metadata[Root]] = []
    while True:
        name = file_name("root", len(found) + 1)
        try:
            data = read(name)
        except OSError:
            break
        root = parsed(data, Root, f"{where}/{name}")
        if root.signed.version != len(found) + 1:
            raise UpdateError("The version isn't the file's.", where=f"{where}/{name}", got=root.signed.version)
        if not all(signed_by(delegator.signed, "root", root) for delegator in (*found[-1:], root)):
            raise UpdateError("The root metadata isn't signed by those who may.", where=f"{where}/{name}")
        found.append(root)
        files[name] = data
    if not found:
        raise UpdateError("There is no root metadata.", where=where, expected="1.root.json")
    if known is not None:
        _refuse_another(found, parsed(known, Root, "known/root.json"), where)
    return tuple(found)


def _refuse_another(roots: Sequence[Metadata[Root]], known: Metadata[Root], where: object) -> None:
    version = known.signed.version
    if len(roots) < version:
        raise _older(where, f"root metadata {version}", f"root metadata {len(roots)}")
    if roots[version - 1].signed_bytes != known.signed_bytes:
        raise UpdateError(
            "This is not the repository that these keys belong to.", where=where,
            expected=f"root metadata {version} as they last signed for it",
            next_step="find out who changed the folder; nothing was signed",
        )  # fmt: skip


def _older(where: object, expected: str, got: str) -> UpdateError:
    return UpdateError(
        "The repository is older than what these keys have signed.", where=where, expected=expected, got=got,
        next_step="bring the newest copy back: a counter given out twice would be two releases",
    )  # fmt: skip
