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

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tuf.api.exceptions import RepositoryError, UnsignedMetadataError
from tuf.api.metadata import Delegations, Metadata, Root, Snapshot, Targets, Timestamp

from edgeprune.errors import UpdateError
from edgeprune.fleet.keys import Keyring


@dataclass(frozen=True)
class Trusted:
    """One published state.

    Attributes:
        roots: All root metadata, the current one last.
        roles: 'targets' and every delegated role.
        timestamp_bytes: timestamp.json as it lies there: whether somebody published meanwhile.
        stale: Roles that the current root's keys haven't signed.
    """

    roots: tuple[Metadata[Root], ...]
    timestamp: Metadata[Timestamp]
    snapshot: Metadata[Snapshot]
    roles: dict[str, Metadata[Targets]]
    timestamp_bytes: bytes
    stale: frozenset[str] = field(default_factory=frozenset)

    @property
    def root(self) -> Root:
        return self.roots[-1].signed

    @property
    def targets(self) -> Targets:
        return self.roles["targets"].signed

    @property
    def delegations(self) -> Delegations:
        found = self.targets.delegations
        assert found is not None, "fleet init makes them"
        return found


def metadata_file(folder: Path, role: str, version: int | None = None) -> Path:
    """Where a role's metadata lies; timestamp.json has no version in its name."""
    return folder / "metadata" / (f"{role}.json" if version is None else f"{version}.{role}.json")


def load(folder: Path, keyring: Keyring | None = None) -> Trusted:
    """Read and verify what is published in a folder.

    Args:
        folder: The repository.
        keyring: Whose known root and timestamp it must continue; None: whatever root it begins with.

    Raises:
        UpdateError: No repository, a file that is missing, changed or not signed, or an older state than is known.
    """
    roots = _roots(folder, keyring.known("root.json") if keyring else None)
    current, previous = roots[-1].signed, [root.signed for root in roots[-2:-1]]
    stale: set[str] = set()

    def verified(role: str, data: bytes, kind: type[Any], path: Path) -> Metadata[Any]:
        found = parsed(data, kind, path)
        for delegator in (current, *previous):
            try:
                delegator.verify_delegate(role, found.signed_bytes, found.signatures)
            except UnsignedMetadataError as error:
                problem = error
            else:
                if delegator is not current:
                    stale.add(role)
                return found
        raise UpdateError("The metadata isn't signed by the keys of its role.", where=path, got=str(problem))

    path = metadata_file(folder, "timestamp")
    timestamp_bytes = _bytes(path)
    timestamp = verified("timestamp", timestamp_bytes, Timestamp, path)
    _refuse_older(timestamp.signed, keyring, path)
    meta = timestamp.signed.snapshot_meta
    path = metadata_file(folder, "snapshot", meta.version)
    data = _matching(path, meta)
    snapshot = verified("snapshot", data, Snapshot, path)
    listed = snapshot.signed.meta
    path = metadata_file(folder, "targets", listed["targets.json"].version)
    targets = verified("targets", _matching(path, listed["targets.json"]), Targets, path)
    roles = {"targets": targets}
    for role in targets.signed.delegations.roles or {}:
        path = metadata_file(folder, role, listed[f"{role}.json"].version)
        found = parsed(_matching(path, listed[f"{role}.json"]), Targets, path)
        try:
            targets.signed.verify_delegate(role, found.signed_bytes, found.signatures)
        except UnsignedMetadataError as error:
            raise UpdateError(
                "The metadata isn't signed by the keys of its role.", where=path, got=str(error)
            ) from error
        roles[role] = found
    return Trusted(roots, timestamp, snapshot, roles, timestamp_bytes, frozenset(stale))


def chain(documents: tuple[Metadata[Root], ...], known: Metadata[Root] | None, where: object) -> None:
    """Raise UpdateError unless each root is signed by the one before and by itself, and the known one is of them."""
    for before, root in zip((None, *documents), documents, strict=False):
        if before is not None and root.signed.version != before.signed.version + 1:
            raise UpdateError(
                "A root metadata is missing.", where=where, expected=f"version {before.signed.version + 1}"
            )
        try:
            for delegator in (before, root):
                if delegator is not None:
                    delegator.signed.verify_delegate("root", root.signed_bytes, root.signatures)
        except UnsignedMetadataError as error:
            raise UpdateError(
                f"Root metadata {root.signed.version} isn't signed by those who may.", where=where, got=str(error)
            ) from error
    if known is not None and not any(root.signed_bytes == known.signed_bytes for root in documents):
        raise UpdateError(
            "This is not the repository that these keys belong to.", where=where,
            expected=f"the root metadata {known.signed.version} that they last signed for, or one that follows it",
            next_step="look who changed the folder; nothing was signed",
        )  # fmt: skip


def parsed(data: bytes, kind: type[Any], where: object) -> Metadata[Any]:
    """Metadata of a kind, not verified; UpdateError for anything else."""
    try:
        found: Metadata[Any] = Metadata.from_bytes(data)
    except RepositoryError as error:
        raise UpdateError("The file is no TUF metadata.", where=where, got=str(error)) from error
    if not isinstance(found.signed, kind):
        raise UpdateError("The metadata is another role's.", where=where, expected=kind.type, got=found.signed.type)
    return found


def _roots(folder: Path, known: bytes | None) -> tuple[Metadata[Root], ...]:
    if not metadata_file(folder, "root", 1).is_file():
        raise UpdateError(
            "There is no fleet repository here.", where=folder, expected="metadata/1.root.json",
            next_step="edgeprune fleet init makes one",
        )  # fmt: skip
    found: list[Metadata[Root]] = []
    while (path := metadata_file(folder, "root", len(found) + 1)).is_file():
        found.append(parsed(_bytes(path), Root, path))
    chain(tuple(found), parsed(known, Root, "known/root.json") if known else None, folder / "metadata")
    return tuple(found)


def _refuse_older(timestamp: Timestamp, keyring: Keyring | None, path: Path) -> None:
    known = keyring.known("timestamp.json") if keyring else None
    if keyring is None or known is None:
        return
    version = parsed(known, Timestamp, keyring.folder / "known").signed.version
    if timestamp.version < version:
        raise UpdateError(
            "The repository is older than what these keys have signed.", where=path, expected=f"version {version}",
            got=f"version {timestamp.version}",
            next_step="bring the newest copy back: a counter given out twice would be two releases",
        )  # fmt: skip


def _matching(path: Path, meta: Any) -> bytes:
    data = _bytes(path)
    try:
        meta.verify_length_and_hashes(data)
    except RepositoryError as error:
        raise UpdateError("The metadata was changed.", where=path, got=str(error)) from error
    return data


def _bytes(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise UpdateError("The repository lacks a file.", where=path, got=error.strerror) from error
