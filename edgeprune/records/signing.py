"""SigningKey: where one private key of a fleet is; Proposal: metadata that waits for signatures of several holders.

Rules:
- A key is two files that go together, NAME.json (this record) and, where the key is a file and no HSM's or KMS's,
  NAME.pem (encrypted). Whoever holds a key carries these two away.
- Nothing in either record is secret.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field

from edgeprune.records.base import Record
from edgeprune.records.release import Name

#: Whom a key signs for. `online`: snapshot, timestamp and rollouts; `release`: the models of products.
KeyRole = Literal["root", "targets", "release", "online"]
KEY_ROLES: tuple[KeyRole, ...] = ("root", "targets", "release", "online")


class SigningKey(Record):
    """NAME.json in a folder of keys."""

    format: Literal[1] = 1
    name: Name
    """'root-3f09ac'."""
    role: KeyRole
    keyid: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
    """TUF's: SHA-256 of the public key as canonical JSON."""
    public: dict[str, Any]
    """TUF's: keytype, scheme, keyval."""
    uri: str = Field(min_length=1)
    """'encrypted:root-3f09ac.pem' beside this file, or a signer's URI as securesystemslib has them (hsm:, gcpkms:,
    awskms:, azurekms:, hv:, gnupg:, file2:)."""


class Proposal(Record):
    """A change of offline metadata that needs more signatures than one holder has."""

    format: Literal[1] = 1
    published: dict[str, str]
    """Name -> content of the metadata that it changes, all of it: a holder checks that it is their repository's."""
    documents: dict[str, dict[str, Any]] = Field(min_length=1)
    """Role -> its next metadata, with the signatures so far."""
