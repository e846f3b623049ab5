"""Who may sign what: products, the rotation of keys, and changes that several holders sign one after another.

Rules:
- A rotation replaces keys by as many new ones, or adds some; the threshold stays unless another is given. What the
  keys have signed is signed anew in the same publication, and readers never see one without the other.
- Keys that sign nothing any more are removed from the folder of keys once the rotation is published. New keys of one
  that was refused are removed too.
- A proposal holds all metadata that it changes. A holder's machine verifies it from the root that it knows, and shows
  what changes; the description is made there, not by who proposes.

Sources: TUF specification 1.0.33, 5.3.4 and 6.1; TUF TAP 8 (not used: a rotation needs its delegator's keys).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path

from securesystemslib.signer import Key
from tuf.api.exceptions import RepositoryError
from tuf.api.metadata import DelegatedRole, Metadata, Root, Targets

from edgeprune.errors import UpdateError
from edgeprune.fleet.draft import ROLLOUTS, Draft
from edgeprune.fleet.keys import Keyring, name_of
from edgeprune.fleet.repository import Repository
from edgeprune.fleet.trusted import delegations, follow
from edgeprune.records.base import read_json
from edgeprune.records.release import is_name, models_role
from edgeprune.records.signing import KeyRole, Proposal


@dataclass(frozen=True)
class Seat:
    """A role's keys, and how many of them must sign.

    Attributes:
        role: TUF's.
    """

    role: str
    threshold: int
    keys: tuple[Key, ...]


def seats(root: Root, targets: Targets) -> tuple[Seat, ...]:
    """All roles of a repository."""
    by: list[tuple[Root | Targets, str]] = [(root, role) for role in ("root", "targets", "snapshot", "timestamp")]
    by += [(targets, role) for role in delegations(targets).roles or {}]
    found = []
    for delegator, role in by:
        seat = delegator.get_delegated_role(role)
        found.append(Seat(role, seat.threshold, tuple(delegator.get_key(keyid) for keyid in seat.keyids)))
    return tuple(found)


def add_product(
    repository: Repository, product: str, *, own_key: bool = False, now: datetime | None = None,
    propose: Path | None = None,
) -> None:  # fmt: skip
    """Give a product its role, signed for with the release keys that are at hand. Needs these and the targets keys.

    Args:
        own_key: Make a release key for this product alone.

    Raises:
        UpdateError: A name that can't stand in a path, a product that is there, or a key that isn't.
    """
    if not is_name(product):
        raise UpdateError(
            "The product can't be called that.", expected="a to z, 0 to 9, '.', '_', '-'; 64 at most", got=product
        )
    role = models_role(product)
    if role in repository.published().trusted.roles:
        raise UpdateError("The product is there already.", where=repository.folder, got=product)
    keyring = repository.keyring
    public = keyring.public("release")
    if not public and not own_key:
        raise UpdateError("There is no release key here.", where=keyring.folder, next_step="--own-key makes one")
    for key in () if own_key else public:  # before the lock: it signs the role's first metadata
        keyring.signer(key.keyid)
    with _new_keys(keyring, "release", int(own_key)) as made, repository.change(now, "targets", propose=propose) as (
        draft, _,
    ):  # fmt: skip
        targets: Targets = draft.edit("targets")
        roles = delegations(targets).roles
        assert roles is not None
        roles[role] = DelegatedRole(role, [], 1, terminating=True, paths=[f"models/{product}/*/*"])
        for key in made or public:
            targets.add_key(key, role)
        draft.add(role, Targets())


def rotate(
    repository: Repository, role: KeyRole, *, replace: Sequence[str] | None = None, add: int = 0,
    given: Sequence[Key] = (), threshold: int | None = None, product: str | None = None,
    now: datetime | None = None, propose: Path | None = None,
) -> tuple[str, ...]:  # fmt: skip
    """Replace a role's keys, or add to them.

    Args:
        role: root, targets, online, or release.
        replace: Names of the keys that leave; None: all, or none where `add`, `given` or `threshold` says what changes.
        add: New keys beyond those that replace others.
        given: Keys that other holders have made; they take the places of those that leave first.
        threshold: How many must sign from now on.
        product: Of a release key: for this product alone.
        propose: Write a proposal instead of publishing.

    Returns:
        Names of the new keys.

    Raises:
        UpdateError: An unknown key or product, a threshold that can't be met, or too few signatures.
    """
    base = repository.published().trusted
    roles = _roles(role, product, base.targets)
    if not roles:
        raise repository.published().unknown(product or "that has a release key")
    seated = [seat for seat in seats(base.root, base.targets) if seat.role in roles]
    now_there = {name_of(key): key for seat in seated for key in seat.keys}
    if role == "release" and len({frozenset(key.keyid for key in seat.keys) for seat in seated}) > 1:
        raise UpdateError(
            "The products have release keys of their own.", next_step="say whose with --product",
            expected=", ".join(seat.role.removeprefix("models-") for seat in seated),
        )  # fmt: skip
    leaving = set(replace or () if replace is not None or add or given or threshold else now_there)
    if leaving - set(now_there):
        raise UpdateError(
            f"No {role} key is called that.", expected=", ".join(sorted(now_there)),
            got=", ".join(sorted(leaving - set(now_there))),
        )  # fmt: skip
    resigned = {"root": ("root",), "targets": ("root", "targets"), "online": ("root", "targets")}
    signed = resigned.get(role, ("targets", *roles))
    keyring = repository.keyring
    for key in now_there.values():  # whose password is right: a new key gets it too
        keyring.signer(key.keyid)
    count = max(0, len(leaving) - len(given)) + add
    with _new_keys(keyring, role, count) as made, repository.change(now, *signed, propose=propose) as (draft, _):
        for changed in signed:
            draft.edit(changed)
        for seat in (seat for seat in seats(draft.root, draft.targets) if seat.role in roles):
            delegator = draft.root if seat.role in draft.root.roles else draft.targets
            for key in seat.keys:
                if name_of(key) in leaving:
                    delegator.revoke_key(key.keyid, seat.role)
            for key in (*given, *made):
                delegator.add_key(key, seat.role)
            _set_threshold(delegator, seat.role, threshold)
    if propose is None:
        keyring.forget({now_there[name].keyid for name in leaving} - _used(repository))
    return tuple(name_of(key) for key in (*given, *made))


def sign(path: Path, keyring: Keyring) -> Draft:
    """Add this folder's signatures to a proposal.

    Returns:
        What it changes, with all signatures so far.

    Raises:
        UpdateError: A proposal for another repository, or that none of these keys may sign.
    """
    draft = read_proposal(path, keyring)
    before = sum(len(document.signatures) for document in draft.changed.values())
    draft.sign(keyring)
    if sum(len(document.signatures) for document in draft.changed.values()) == before:
        who = {name_of(d.get_key(k)) for r in draft.changed for d in draft.delegators(r) for k in draft.keyids(r)
               if k in d.get_delegated_role(r).keyids}  # fmt: skip
        raise UpdateError(
            "None of these keys adds a signature.", where=keyring.folder, expected=", ".join(sorted(who)),
            got=", ".join(sorted(key.name for key in keyring.keys.values())) or "no keys",
        )  # fmt: skip
    keyring.know("root.json", draft.base.roots[-1].to_bytes())
    draft.write(path)
    return draft


def apply(repository: Repository, path: Path, now: datetime | None = None) -> None:
    """Publish a proposal; signs it first with what keys are here. Needs the online key.

    Raises:
        UpdateError: Too few signatures, or the repository isn't any more what was signed for.
    """
    proposed = read_proposal(path, repository.keyring)
    with repository.change(now) as (draft, _):
        for role, document in proposed.changed.items():
            there = draft.base.roots[-1] if role == "root" else draft.base.roles.get(role)
            version = there.signed.version if there else 0
            if document.signed.version != version + 1:
                raise UpdateError(
                    "The repository has changed since this was proposed.", where=path,
                    expected=f"{role} {document.signed.version - 1}", got=f"{role} {version}",
                    next_step="propose it again",
                )  # fmt: skip
        draft.changed.update(proposed.changed)
    had = {key.keyid for key in _keys(proposed.base.root, proposed.base.targets)}
    repository.keyring.forget(had - _used(repository))


def read_proposal(path: Path, keyring: Keyring | None = None) -> Draft:
    """A proposal, with what it changes verified from the root that these keys know."""
    proposal = read_json(path, Proposal, UpdateError)

    def read(name: str) -> bytes:
        if name not in proposal.published:
            raise FileNotFoundError(2, "not in the proposal")
        return proposal.published[name].encode()

    base = follow(read, path, keyring)
    try:
        changed = {role: Metadata.from_dict(dict(document)) for role, document in proposal.documents.items()}
    except (RepositoryError, ValueError, KeyError, TypeError) as error:
        raise UpdateError("The proposal holds no TUF metadata.", where=path, got=str(error)) from error
    for role, document in changed.items():
        if role in ("snapshot", "timestamp") or not isinstance(document.signed, Root if role == "root" else Targets):
            raise UpdateError("Metadata of another role.", where=path, expected=role, got=document.signed.type)
    return Draft(base, datetime.now(timezone.utc), changed)


def describe(draft: Draft) -> tuple[str, ...]:
    """What a draft changes, in sentences: keys, thresholds, products, expiries."""
    said = []
    before = {seat.role: seat for seat in seats(draft.base.root, draft.base.targets)}
    for seat in seats(draft.root, draft.targets):
        old = before.pop(seat.role, None)
        had = {key.keyid: key for key in old.keys} if old else {}
        has = {key.keyid: key for key in seat.keys}
        comes = [f"{name_of(has[k])} ({k[:8]})" for k in has if k not in had]
        goes = [f"{name_of(had[k])} ({k[:8]})" for k in had if k not in has]
        if comes:
            said.append(f"{seat.role}: {', '.join(comes)} may sign")
        if goes:
            said.append(f"{seat.role}: {', '.join(goes)} may not sign any more")
        if old is None or old.threshold != seat.threshold:
            said.append(f"{seat.role}: {seat.threshold} of {len(seat.keys)} must sign")
    said += [f"{role}: no such role any more" for role in before]
    for role, document in draft.changed.items():
        said.append(f"{role}: version {document.signed.version}, until {document.signed.expires:%Y-%m-%d}")
        there = draft.base.roles.get(role)
        if isinstance(document.signed, Targets) and document.signed.targets != (there.signed.targets if there else {}):
            said.append(f"{role}: other TUF target files")
    return tuple(said)


@contextmanager
def _new_keys(keyring: Keyring, role: KeyRole, count: int) -> Iterator[list[Key]]:
    """Keys made for a change; they go if it is refused. After a full disk they stay: they may be in use already."""
    made: list[Key] = []
    try:
        made.extend(keyring.generate(role) for _ in range(count))
        yield made
    except UpdateError:
        keyring.forget({key.keyid for key in made})
        raise


def _roles(role: KeyRole, product: str | None, targets: Targets) -> tuple[str, ...]:
    """TUF roles that a kind of key signs."""
    if role != "release":
        return {"root": ("root",), "targets": ("targets",), "online": ("snapshot", "timestamp", ROLLOUTS)}[role]
    there = [name for name in delegations(targets).roles or {} if name != ROLLOUTS]
    return tuple(name for name in there if product is None or name == models_role(product))


def _set_threshold(delegator: Root | Targets, role: str, threshold: int | None) -> None:
    seat = delegator.get_delegated_role(role)
    seat.threshold = threshold or seat.threshold
    if not 1 <= seat.threshold <= len(seat.keyids):
        raise UpdateError(f"The threshold of {role} can't be met.", got=f"{seat.threshold} of {len(seat.keyids)}")


def _keys(root: Root, targets: Targets) -> list[Key]:
    return [key for seat in seats(root, targets) for key in seat.keys]


def _used(repository: Repository) -> set[str]:
    trusted = repository.published().trusted
    return {key.keyid for key in _keys(trusted.root, trusted.targets)}
