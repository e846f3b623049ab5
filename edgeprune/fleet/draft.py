"""The next state of a repository, before it is published: what changes, who signs it, and whether enough did.

Rules:
- A role that changes gets the next version, a new expiry, and no signature but new ones.
- Signed with every key of the role that the folder of keys has. Fewer than the threshold: refused by name, and nothing
  is written; or kept as a proposal that other holders sign on their machines.
- A new root needs the old root's threshold and its own. What else the root's keys sign is signed by the old keys too,
  so far as they are there: a reader may have either root, for as long as the publication takes.

Source: TUF specification 1.0.33, 5.3.4 (root rotation), 6.1 (key management).
"""

from __future__ import annotations

import copy
from dataclasses import dataclass, field
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

from tuf.api.exceptions import UnsignedMetadataError
from tuf.api.metadata import Metadata, MetaFile, Root, Snapshot, TargetFile, Targets, Timestamp

from edgeprune.errors import UpdateError
from edgeprune.fleet.keys import Keyring, name_of
from edgeprune.fleet.trusted import Trusted, signed_by
from edgeprune.records.base import write_json
from edgeprune.records.signing import Proposal

#: How long what is signed by whom counts. Offline keys are taken out once a year.
ROOT_LASTS = TARGETS_LASTS = timedelta(days=365)
#: A product's models: the release key is at hand more often, but a fleet may be left alone for a year.
MODELS_LASTS = timedelta(days=365)
#: Rollouts and snapshot are signed by the online key whenever `tick` runs.
ROLLOUTS_LASTS = SNAPSHOT_LASTS = timedelta(days=14)
#: For how long a device can be kept from hearing of anything new without noticing (a freeze): a weekend without `tick`
#: is still well.
TIMESTAMP_LASTS = timedelta(days=4)
#: Longest metadata of a role that devices read (python-tuf's own limit is 5 MB).
MAX_ROLE_BYTES = 4_000_000

ROLLOUTS = "rollouts"


@dataclass
class Draft:
    """Changes on top of a published state.

    Attributes:
        files: TUF target files, each with its bytes, or the file that is moved to its place.
    """

    base: Trusted
    now: datetime
    changed: dict[str, Metadata[Any]] = field(default_factory=dict)
    files: list[tuple[TargetFile, bytes | Path]] = field(default_factory=list)

    @property
    def root(self) -> Root:
        """The root that will count."""
        return self.changed["root"].signed if "root" in self.changed else self.base.root

    @property
    def targets(self) -> Targets:
        """The targets metadata that will count."""
        return self.changed["targets"].signed if "targets" in self.changed else self.base.targets

    def edit(self, role: str) -> Any:
        """A role's metadata, to be changed in place."""
        if role not in self.changed:
            base = self.base
            there: dict[str, Metadata[Any]] = {
                **base.roles, "root": base.roots[-1], "snapshot": base.snapshot, "timestamp": base.timestamp
            }  # fmt: skip
            signed = copy.deepcopy(there[role].signed)
            signed.version += 1
            self.add(role, signed)
        return self.changed[role].signed

    def add(self, role: str, signed: Any) -> None:
        """A role's next metadata; a role that is new has its first."""
        signed.expires = expiry(role, self.now)
        self.changed[role] = Metadata(signed)

    def add_file(self, role: str, path: str, content: bytes | Path) -> TargetFile:
        """A TUF target file that a role is to name."""
        if isinstance(content, bytes):
            target = TargetFile.from_data(path, content, ["sha256"])
        else:
            target = TargetFile.from_file(path, str(content), ["sha256"])
        self.edit(role).targets[path] = target
        self.files.append((target, content))
        return target

    def delegators(self, role: str) -> tuple[Root | Targets, ...]:
        """Who says which keys sign a role: those that must be content first, and those that may be."""
        if role not in ("root", "targets", "snapshot", "timestamp"):
            return (self.targets,)
        return (self.root,) if self.root is self.base.root else (self.root, self.base.root)

    def sign(self, keyring: Keyring, roles: tuple[str, ...] | None = None) -> None:
        """Sign with every key that is there.

        Raises:
            UpdateError: A wrong password, or a key that can't be used.
        """
        for role in roles or tuple(self.changed):
            document = self.changed[role]
            for keyid in self.keyids(role):
                signer = keyring.signer(keyid) if keyid not in document.signatures else None
                if signer is not None:
                    try:
                        document.sign(signer, append=True)
                    except UnsignedMetadataError as error:
                        name = keyring.keys[keyid].name
                        raise UpdateError(f"The key {name} doesn't sign.", got=str(error.__cause__)) from error

    def keyids(self, role: str) -> list[str]:
        """Keys that sign a role, of the old root's too."""
        try:
            return list(dict.fromkeys(k for d in self.delegators(role) for k in d.get_delegated_role(role).keyids))
        except ValueError:
            return []  # nobody delegates to it (yet): who changes it says so

    def lacking(self, role: str) -> str | None:
        """What a role's signatures lack, in words; None where they do."""
        document = self.changed[role]
        needed = self.delegators(role) if role == "root" else self.delegators(role)[:1]
        for delegator in needed:
            result = delegator.get_verification_result(role, document.signed_bytes, document.signatures)
            if not result.verified:
                by = " of the root so far" if len(needed) > 1 and delegator is self.base.root else ""
                missing = sorted(map(name_of, result.unsigned.values()))
                found = f"{len(result.signed)} of {result.threshold} signatures{by}"
                return f"{role}: {found}; {', '.join(missing)} can sign"
        return None

    def require(self) -> None:
        """Raise UpdateError where a role has fewer signatures than its threshold."""
        lacking = [found for role in self.changed if (found := self.lacking(role))]
        if lacking:
            raise UpdateError(
                "There aren't enough signatures.", got="; ".join(lacking),
                next_step="bring the keys, or let their holders sign it one after another: --propose FILE, fleet sign",
            )  # fmt: skip
        for role, document in self.changed.items():
            if isinstance(document.signed, Targets) and (size := len(document.to_bytes())) > MAX_ROLE_BYTES:
                raise UpdateError(
                    f"The metadata of {role} is too large for devices.", expected=f"{MAX_ROLE_BYTES} bytes at most",
                    got=f"{size} bytes", next_step="begin a new product",
                )  # fmt: skip

    def outdated(self) -> list[str]:
        """Roles that don't change, but whose signatures won't count any more."""
        delegated = {role for role in self.base.roles if role != "targets" and role not in self.changed}
        return sorted(self.base.stale | {r for r in delegated if not signed_by(self.targets, r, self.base.roles[r])})

    def write(self, path: Path) -> None:
        """Write it as a proposal, with the signatures so far."""
        published = {name: data.decode() for name, data in self.base.files.items()}
        documents = {role: document.to_dict() for role, document in self.changed.items()}
        write_json(path, Proposal(published=published, documents=documents))

    def suits_old_root(self) -> bool:
        """Whether a reader with the old root takes all that changes."""
        return all(
            signed_by(self.base.root, role, document)
            for role, document in self.changed.items()
            if role in ("targets", "snapshot", "timestamp")
        )

    def complete(self, keyring: Keyring) -> None:
        """Add a timestamp, and a snapshot where one is due, both signed.

        Raises:
            UpdateError: The online key isn't here, or its password is wrong.
        """
        targets = {role: document for role, document in self.changed.items() if isinstance(document.signed, Targets)}
        if targets:
            self.edit("snapshot")
        if "snapshot" in self.changed:
            snapshot: Snapshot = self.changed["snapshot"].signed
            for role, document in targets.items():
                meta = MetaFile.from_data(document.signed.version, document.to_bytes(), ["sha256"])
                snapshot.meta[f"{role}.json"] = meta
            self._sign_anew(keyring, "snapshot")
            timestamp: Timestamp = self.edit("timestamp")
            data = self.changed["snapshot"].to_bytes()
            timestamp.snapshot_meta = MetaFile.from_data(snapshot.version, data, ["sha256"])
        self.edit("timestamp")
        self._sign_anew(keyring, "timestamp")

    def _sign_anew(self, keyring: Keyring, role: str) -> None:
        self.changed[role].signatures.clear()
        self.sign(keyring, (role,))


def expiry(role: str, now: datetime) -> datetime:
    """When a role's metadata that is signed now expires, to the second."""
    lasts = {
        "root": ROOT_LASTS, "targets": TARGETS_LASTS, "snapshot": SNAPSHOT_LASTS, "timestamp": TIMESTAMP_LASTS,
        ROLLOUTS: ROLLOUTS_LASTS,
    }.get(role, MODELS_LASTS)  # fmt: skip
    return now.astimezone(timezone.utc).replace(microsecond=0) + lasts
