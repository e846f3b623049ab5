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

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime, timezone
from pathlib import Path

from edgeprune.errors import UpdateError
from edgeprune.fleet.draft import ROLLOUTS, Draft
from edgeprune.fleet.keys import Keyring, refuse_served
from edgeprune.fleet.publication import clear, locked, publish
from edgeprune.fleet.published import Published
from edgeprune.fleet.trusted import load
from edgeprune.records.base import to_json
from edgeprune.records.release import Release
from edgeprune.records.rollout import Rollout

#: What the online key signs.
ONLINE_ROLES = ("snapshot", "timestamp", ROLLOUTS)


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
        repository.published()
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

    def published(self) -> Published:
        """What is published now, verified, for more than one question."""
        return Published(self.folder, load(self.folder, self._keyring))

    def products(self) -> tuple[str, ...]:
        """Products that have a role of their own, with releases or without."""
        return self.published().products()

    def newest(self, product: str) -> int:
        """The counter of a product's newest release; 0: none. UpdateError: no such product."""
        return max(self.published().counters(product), default=0)

    def releases(self, product: str) -> tuple[Release, ...]:
        """All releases of a product, the oldest first; raises as `release` does."""
        return self.published().releases(product)

    def release(self, product: str, counter: int) -> Release:
        """One release. UpdateError: no such product or release, or a file that isn't what was signed."""
        return self.published().release(product, counter)

    def rollouts(self) -> dict[str, Rollout]:
        """Channel -> its rollout."""
        return self.published().rollouts()

    def rollout(self, channel: str) -> Rollout | None:
        """A channel's rollout; None where it has had none."""
        return self.rollouts().get(channel)

    def put_rollouts(self, *rollouts: Rollout, now: datetime | None = None) -> None:
        """Publish rollouts of different channels at once, signed with the online key.

        Raises:
            UpdateError: A serial below the channel's, a serial given to another rollout, a release that isn't there or
                is older than what the channel has, or no online key.
        """
        with self.change(now, ROLLOUTS) as (draft, _):
            published = Published(self.folder, draft.base)
            there = published.rollouts()
            for rollout in rollouts:
                _refuse(published, rollout, there.get(rollout.channel))
                if rollout != there.get(rollout.channel):
                    draft.add_file(ROLLOUTS, f"rollouts/{rollout.channel}.json", to_json(rollout))

    def renew(
        self, now: datetime | None = None, roles: Sequence[str] = (), propose: Path | None = None
    ) -> tuple[str, ...]:
        """Sign anew what the online key signs and what has less than half of its time left; clear old files away.

        Args:
            now: The time; the clock's.
            roles: Renew these too, however long they last; offline ones need their keys.
            propose: Write `roles` as a proposal, and publish nothing.

        Returns:
            Roles that were signed anew; empty where there was nothing to do.

        Raises:
            UpdateError: A key that isn't here.
        """
        moment = now or datetime.now(timezone.utc)
        published = self.published()
        left = published.remaining(moment)
        due = [role for role in ONLINE_ROLES if left[role] < 0.5]
        wanted = tuple(dict.fromkeys([*roles, *(() if propose else (*due, *sorted(published.trusted.stale)))]))
        for role in wanted:
            if role not in left:
                raise published.unknown(role.removeprefix("models-"))
        if wanted:
            with self.change(moment, *wanted, always=True, propose=propose) as (draft, _):
                for role in wanted:
                    draft.edit(role)
        if propose is None:
            with locked(self.folder):
                clear(self.folder, self.published().trusted, moment)
        return wanted

    @contextmanager
    def change(
        self, now: datetime | None, *roles: str, always: bool = False, propose: Path | None = None
    ) -> Iterator[tuple[Draft, Path]]:
        """One publication: yields what to change, and an empty folder for files; publishes at the end.

        Args:
            now: The time; the clock's.
            roles: What will be signed, so that their keys are opened first.
            always: Publish even if nothing but snapshot and timestamp changes.
            propose: Write it into this file for others to sign, and publish nothing.

        Raises:
            UpdateError: A wrong password, a key that isn't here, too few signatures, or somebody published meanwhile.
            DeviceError: No space left.
        """
        moment = now or datetime.now(timezone.utc)
        base = self.published().trusted
        for role in dict.fromkeys([*roles, *(() if propose else ("snapshot", "timestamp"))]):
            for keyid in Draft(base, moment).keyids(role):
                self.keyring.signer(keyid)
        with locked(self.folder) as staged:
            draft = Draft(self.published().trusted, moment)
            yield draft, staged
            if not draft.changed and not always:
                return
            if propose is not None:
                draft.sign(self.keyring)
                draft.write(propose)
                return
            for role in draft.outdated():
                draft.edit(role)
            draft.sign(self.keyring)
            publish(self.folder, draft, self.keyring)


def _refuse(published: Published, rollout: Rollout, there: Rollout | None) -> None:
    for counter in (rollout.counter, rollout.stable):
        if counter is not None:
            published.release(rollout.product, counter)
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
