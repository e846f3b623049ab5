"""Repository: a fleet's TUF repository as a folder of static files: made, read, and changed by whole publications.

    REPO/metadata/  N.root.json, timestamp.json, N.snapshot.json, N.targets.json, N.models-PRODUCT.json, N.rollouts.json
    REPO/targets/   models/PRODUCT/COUNTER/HASH.release.json, ….tar, ….bsdiff; rollouts/HASH.CHANNEL.json

Rules:
- root and targets are signed offline. targets holds nothing but who may sign what: `models-PRODUCT` (release key) for
  models/PRODUCT/*/*, `rollouts` (online key) for rollouts/*.json. The online key signs snapshot and timestamp too.
- Every change is one publication: read and verified, changed, signed, checked, written (publication.py), under a lock.
- Keys are opened before the lock is taken, so that nobody holds it while a password is typed.
- A counter, and a rollout's serial, only rise. What a rollout names has been released.

Sources: TUF specification 1.0.33, sections 3, 4 and 6; Uptane Standard 2.1.0, 5.1 (director and image repository).
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime, timezone
from pathlib import Path

from tuf.api.metadata import (
    DelegatedRole,
    TargetFile,
    Targets,
)

from edgeprune.errors import UpdateError
from edgeprune.fleet.draft import ROLLOUTS, Draft, expiry
from edgeprune.fleet.keys import Keyring, refuse_served
from edgeprune.fleet.publication import clear, locked, publish, target_file
from edgeprune.fleet.trusted import Trusted, load
from edgeprune.records.base import R, parse, to_json
from edgeprune.records.release import Release, models_role, release_path
from edgeprune.records.rollout import Rollout

#: What the online key signs.
ONLINE_ROLES = ("snapshot", "timestamp", ROLLOUTS)
_NAME = re.compile(r"^[a-z0-9](?:[a-z0-9._-]{0,62}[a-z0-9])?$")


class Repository:
    """A repository, with the keys that are at hand."""

    def __init__(self, folder: Path, keyring: Keyring | None = None) -> None:
        self.folder = folder
        self._keyring = keyring

    @classmethod
    def open(cls, folder: Path, keyring: Keyring | None = None) -> Repository:
        """Open one that is there; without keys it can only be read.

        Raises:
            UpdateError: No repository, one that isn't signed as it must be, or keys inside of it.
        """
        if keyring is not None:
            refuse_served(keyring.folder, folder)
        repository = cls(folder, keyring)
        repository.trusted()
        return repository

    @property
    def keyring(self) -> Keyring:
        """The keys.

        Raises:
            UpdateError: It was opened without.
        """
        if self._keyring is None:
            raise UpdateError("This needs keys.", where=self.folder, next_step="give their folder with --keys")
        return self._keyring

    def trusted(self) -> Trusted:
        """What is published now, verified."""
        return load(self.folder, self._keyring)

    def products(self) -> tuple[str, ...]:
        """Products that have a role of their own, with releases or without."""
        return tuple(
            role.removeprefix("models-") for role in sorted(self.trusted().roles) if role.startswith("models-")
        )

    def newest(self, product: str) -> int:
        """The counter of a product's newest release; 0: none.

        Raises:
            UpdateError: No such product.
        """
        return max(counters(self.trusted(), product), default=0)

    def releases(self, product: str) -> tuple[Release, ...]:
        """All releases of a product, the oldest first."""
        trusted = self.trusted()
        return tuple(self._release(trusted, product, counter) for counter in counters(trusted, product))

    def release(self, product: str, counter: int) -> Release:
        """One release.

        Raises:
            UpdateError: No such product or release, or a file that isn't what was signed.
        """
        return self._release(self.trusted(), product, counter)

    def rollouts(self) -> dict[str, Rollout]:
        """Channel -> its rollout."""
        return self._rollouts(self.trusted())

    def rollout(self, channel: str) -> Rollout | None:
        """A channel's rollout; None where it has had none."""
        return self.rollouts().get(channel)

    def target(self, path: str) -> Path:
        """Where the file of a TUF target path lies; what it holds is not checked here."""
        for document in self.trusted().roles.values():
            if path in document.signed.targets:
                return target_file(self.folder, document.signed.targets[path])
        raise UpdateError("The repository has no such file.", where=self.folder, got=path)

    def put_rollouts(self, *rollouts: Rollout, now: datetime | None = None) -> None:
        """Publish rollouts of different channels at once, signed with the online key.

        Raises:
            UpdateError: A serial below the channel's, a serial given to another rollout, a release that isn't there or
                is older than what the channel has, or no online key.
        """
        with self.change(now, ROLLOUTS) as (draft, _):
            there = self._rollouts(draft.base)
            for rollout in rollouts:
                self._refuse_rollout(draft.base, rollout, there.get(rollout.channel))
                if rollout != there.get(rollout.channel):
                    draft.add_file(ROLLOUTS, f"rollouts/{rollout.channel}.json", to_json(rollout))

    def renew(self, now: datetime | None = None, roles: Sequence[str] = ()) -> tuple[str, ...]:
        """Sign anew what the online key signs and what has less than half of its time left; clear old files away.

        Args:
            now: The time; the clock's.
            roles: Renew these too, however long they last; offline ones need their keys.

        Returns:
            Roles that were signed anew; empty where there was nothing to do.

        Raises:
            UpdateError: A key that isn't here.
        """
        moment = now or datetime.now(timezone.utc)
        trusted = self.trusted()
        left = remaining(trusted, moment)
        due = [role for role in ONLINE_ROLES if left[role] < 0.5]
        wanted = tuple(dict.fromkeys([*roles, *due, *sorted(trusted.stale)]))
        for role in wanted:
            if role not in left:
                raise unknown(trusted, role.removeprefix("models-"))
        if wanted:
            with self.change(moment, *wanted, always=True) as (draft, _):
                for role in set(wanted) - {"snapshot", "timestamp"}:
                    draft.edit(role)
        with locked(self.folder):
            clear(self.folder, self.trusted(), moment)
        return wanted

    def add_product(self, product: str, *, own_key: bool = False, now: datetime | None = None) -> None:
        """Give a product its role, signed for with the release key. Needs the targets keys.

        Args:
            own_key: Make a release key for this product alone.

        Raises:
            UpdateError: A name that can't stand in a path, a product that is there, or a key that isn't.
        """
        if not _NAME.match(product):
            raise UpdateError(
                "The product can't be called that.",
                got=product,
                expected="a to z, 0 to 9, '.', '_' and '-', at most 64",
            )
        role = models_role(product)
        trusted = self.trusted()
        if role in trusted.roles:
            raise UpdateError("The product is there already.", where=self.folder, got=product)
        with self.change(now, "targets") as (draft, _):
            key = self.keyring.generate("release") if own_key else None
            public = [key] if key is not None else self.keyring.public("release")
            targets = draft.edit("targets")
            targets.delegations.roles[role] = DelegatedRole(
                role, [key.keyid for key in public], 1, terminating=True, paths=[f"models/{product}/*/*"]
            )
            for key in public:
                targets.delegations.keys[key.keyid] = key
            draft.add(role, Targets())

    @contextmanager
    def change(self, now: datetime | None, *roles: str, always: bool = False) -> Iterator[tuple[Draft, Path]]:
        """One publication: yields what to change, and an empty folder for files; publishes at the end.

        Args:
            now: The time; the clock's.
            roles: What will be signed, so that their keys are opened first.
            always: Publish even if nothing but the timestamp changes.
        """
        base = self.trusted()
        for role in dict.fromkeys([*roles, "snapshot", "timestamp"]):
            if role in base.roles or role in ("root", "snapshot", "timestamp"):
                for keyid in Draft(base, datetime.now(timezone.utc)).keyids(role):
                    self.keyring.signer(keyid)
        with locked(self.folder) as staged:
            draft = Draft(self.trusted(), now or datetime.now(timezone.utc))
            yield draft, staged
            if draft.changed or always:
                for role in draft.base.stale - {"snapshot", "timestamp"}:
                    draft.edit(role)
                draft.sign(self.keyring)
                publish(self.folder, draft, self.keyring)

    def _release(self, trusted: Trusted, product: str, counter: int) -> Release:
        self._require_role(trusted, models_role(product))
        target = trusted.roles[models_role(product)].signed.targets.get(release_path(product, counter))
        if target is None:
            there = counters(trusted, product)
            raise UpdateError(
                f"The product {product} has no release {counter}.", where=self.folder,
                expected=f"one of {', '.join(map(str, there))}" if there else "none yet: edgeprune fleet publish",
            )  # fmt: skip
        return self._read(target, Release)

    def _rollouts(self, trusted: Trusted) -> dict[str, Rollout]:
        targets = trusted.roles[ROLLOUTS].signed.targets
        return {Path(path).stem: self._read(target, Rollout) for path, target in sorted(targets.items())}

    def _read(self, target: TargetFile, record: type[R]) -> R:
        path = target_file(self.folder, target)
        try:
            data = path.read_bytes()
            target.verify_length_and_hashes(data)
        except Exception as error:
            raise UpdateError("A file of the repository is not what was signed.", where=path, got=str(error)) from error
        return parse(record, json.loads(data), UpdateError, where=path)

    def _require_role(self, trusted: Trusted, role: str) -> None:
        if role not in trusted.roles and role != "root":
            raise unknown(trusted, role.removeprefix("models-"))

    def _refuse_rollout(self, trusted: Trusted, rollout: Rollout, there: Rollout | None) -> None:
        for counter in (rollout.counter, rollout.stable):
            if counter is not None:
                self._release(trusted, rollout.product, counter)
        if there is None:
            return
        where = f"channel {rollout.channel}"
        if rollout.serial < there.serial:
            raise UpdateError(
                "A newer rollout is there already.", where=where, expected=f"a serial over {there.serial}",
                got=rollout.serial,
            )  # fmt: skip
        same = (rollout.product, rollout.counter, rollout.salt) == (there.product, there.counter, there.salt)
        if rollout.serial == there.serial and not same:
            raise UpdateError(
                "The serial is another rollout's.", where=where, expected=f"a serial over {there.serial}",
                got=rollout.serial,
            )  # fmt: skip
        if rollout.product == there.product and rollout.counter < there.counter:
            raise UpdateError(
                "The release is older than the current one: devices refuse it.", where=where,
                expected=f"{there.counter} or newer", got=rollout.counter,
                next_step=f"edgeprune fleet revert --product {rollout.product} --to {rollout.counter}",
            )  # fmt: skip


def counters(trusted: Trusted, product: str) -> tuple[int, ...]:
    """Counters of a product's releases, rising.

    Raises:
        UpdateError: No such product.
    """
    document = trusted.roles.get(models_role(product))
    if document is None:
        raise unknown(trusted, product)
    found = (re.fullmatch(r"models/[^/]+/([0-9]+)/release\.json", path) for path in document.signed.targets)
    return tuple(sorted(int(match[1]) for match in found if match))


def products(trusted: Trusted) -> tuple[str, ...]:
    """Products that have a role."""
    return tuple(role.removeprefix("models-") for role in sorted(trusted.roles) if role.startswith("models-"))


def unknown(trusted: Trusted, product: str) -> UpdateError:
    """The error for a product that nobody knows."""
    return UpdateError(
        f"Nobody knows the product {product}.", expected=", ".join(products(trusted)) or "no product yet",
        next_step=f"edgeprune fleet product add {product}",
    )  # fmt: skip


def remaining(trusted: Trusted, now: datetime) -> dict[str, float]:
    """Role -> how much of its time is left, 1 right after signing; below 0 where it has expired."""
    signed = {
        "root": trusted.root, "timestamp": trusted.timestamp.signed, "snapshot": trusted.snapshot.signed,
        **{role: document.signed for role, document in trusted.roles.items()},
    }  # fmt: skip
    return {role: (s.expires - now) / (expiry(role, now) - now) for role, s in signed.items()}
