"""A new repository: keys, the first metadata of every role, and a folder that is there when all of it is.

Rules:
- The keys are made first, then the folder, by one rename. Killed in between, the same command goes on with these keys.
- Nothing is delegated to products yet: each is added with the targets keys.

Source: TUF specification 1.0.33, sections 4 and 6.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from securesystemslib.signer import Key
from tuf.api.metadata import DelegatedRole, Delegations, Metadata, MetaFile, Root, Snapshot, Targets, Timestamp

from edgeprune.errors import UpdateError
from edgeprune.fleet.draft import ROLLOUTS, expiry
from edgeprune.fleet.keys import Keyring, refuse_served
from edgeprune.fleet.repository import Repository
from edgeprune.fleet.trusted import metadata_file
from edgeprune.records import files
from edgeprune.records.signing import KeyRole

#: Who signs which role, in the order in which they are made.
_SIGNED_BY: dict[str, KeyRole] = {
    "root": "root", ROLLOUTS: "online", "targets": "targets", "snapshot": "online", "timestamp": "online",
}  # fmt: skip


@dataclass(frozen=True)
class Holders:
    """How many keys a role begins with, and how many of them must sign."""

    keys: int = 1
    threshold: int = 1


def init(
    folder: Path, keyring: Keyring, *, root: Holders = Holders(), targets: Holders = Holders(),
    online: Holders = Holders(), release_keys: int = 1, now: datetime | None = None,
) -> Repository:  # fmt: skip
    """Make a repository in a new folder, and what keys the keyring lacks for it.

    Raises:
        UpdateError: The folder is there and not empty, a threshold that can't be met, or no password.
    """
    refuse_served(keyring.folder, folder)
    if keyring.known("root.json"):
        raise UpdateError("These keys belong to a repository already.", where=keyring.folder, expected="a new folder")
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise UpdateError("The folder isn't empty.", where=folder, expected="a new one")
    wanted: dict[KeyRole, Holders] = {"root": root, "targets": targets, "online": online}
    for name, holders in wanted.items():
        if not 1 <= holders.threshold <= holders.keys:
            raise UpdateError(
                f"The threshold of the {name} keys can't be met.", got=f"{holders.threshold} of {holders.keys}"
            )
    moment = now or datetime.now(timezone.utc)
    public = {name: keyring.fill(name, holders.keys) for name, holders in wanted.items()}
    keyring.fill("release", release_keys)
    documents: dict[str, Metadata[Any]] = {}
    made = folder.with_name(f".{folder.name}.part")
    if made.exists():
        files.remove(made)
    for role, holder in _SIGNED_BY.items():
        content = _first(role, public, wanted, documents)
        content.expires = expiry(role, moment)
        documents[role] = Metadata(content)
        for key in public[holder]:
            signer = keyring.signer(key.keyid)
            assert signer is not None
            documents[role].sign(signer, append=True)
        files.write_bytes(metadata_file(made, role, 1), documents[role].to_bytes())
    (made / "targets").mkdir()
    files.move(made, folder)
    for role in ("root", "timestamp", "snapshot"):
        keyring.know(f"{role}.json", documents[role].to_bytes())
    return Repository.open(folder, keyring)


def _first(
    role: str, public: dict[KeyRole, list[Key]], holders: dict[KeyRole, Holders], made: dict[str, Metadata[Any]]
) -> Root | Targets | Snapshot | Timestamp:
    """A role's first metadata; those of the roles that it is about are made before."""
    if role == "root":
        root = Root(consistent_snapshot=True)
        for top in ("root", "targets", "snapshot", "timestamp"):
            for key in public[_SIGNED_BY[top]]:
                root.add_key(key, top)
            root.roles[top].threshold = holders[_SIGNED_BY[top]].threshold
        return root
    if role == "targets":
        keys = {key.keyid: key for key in public["online"]}
        rollouts = DelegatedRole(
            ROLLOUTS, list(keys), holders["online"].threshold, terminating=True, paths=["rollouts/*.json"]
        )
        return Targets(delegations=Delegations(keys, {ROLLOUTS: rollouts}))
    if role == "snapshot":
        about = ("targets", ROLLOUTS)
        return Snapshot(meta={f"{n}.json": MetaFile.from_data(1, made[n].to_bytes(), ["sha256"]) for n in about})
    if role == "timestamp":
        return Timestamp(snapshot_meta=MetaFile.from_data(1, made["snapshot"].to_bytes(), ["sha256"]))
    return Targets()
