"""Moving rollouts: read what the repository has, decide, publish, write the history; one mover at a time.

Rules:
- The repository is the truth. A mover reads it under a lock, so that a tick that began before an abort can't undo it.
- The history comes after the publication. Killed in between, the next mover writes what is missing.
- A rollout is for the SKUs that its release has builds for, and says so: others keep what they have. SKUs that are
  asked for must be among them.
- The salt is random. Where devices are enrolled and none would be in the first wave, another one is drawn: a rollout
  without a canary is a leap.
"""

from __future__ import annotations

import fcntl
import secrets
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime

from edgeprune.errors import UpdateError
from edgeprune.fleet.repository import Repository
from edgeprune.fleet.rollout import Counts, Event, RolloutRecipe, count, refuse_backwards, start
from edgeprune.fleet.store import Store
from edgeprune.records.files import no_space
from edgeprune.records.rollout import Rollout

#: Salts that are tried at most, and devices hashed for it in all: enough for a canary of 1 % among ten devices.
SALTS, HASHED = 200, 1_000_000


@dataclass(frozen=True)
class Begun:
    """A rollout that has started.

    Attributes:
        counts: The devices of each wave, as they are enrolled.
        left_out: SKU -> enrolled devices that it has no build for.
    """

    rollout: Rollout
    counts: Counts
    left_out: dict[str, int]


@contextmanager
def moving(repository: Repository) -> Iterator[dict[str, Rollout]]:
    """Hold all rollouts of a repository; yields what each channel has."""
    path = repository.folder / ".rollouts.lock"
    with no_space(path), open(path, "a") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield repository.rollouts()


def begin(
    repository: Repository, store: Store, product: str, channel: str, recipe: RolloutRecipe, now: datetime,
    counter: int | None = None,
) -> Begun:  # fmt: skip
    """Start a rollout, over whatever the channel has.

    Args:
        counter: Of the release; the newest one's.

    Raises:
        UpdateError: No such product or release, a SKU that it has no build for, or what `rollout.start` refuses.
    """
    chosen = counter if counter is not None else repository.newest(product)
    if chosen == 0:
        raise UpdateError(
            "The product has no release yet.", where=product, next_step="edgeprune fleet publish makes one"
        )  # fmt: skip
    built = [build.sku for build in repository.release(product, chosen).builds]
    unknown = sorted(set(recipe.selector.skus) - set(built))
    if unknown:
        raise UpdateError(
            "The release has no build for this SKU.", where=f"{product} {chosen}", expected=", ".join(built),
            got=", ".join(unknown),
        )  # fmt: skip
    skus = recipe.selector.skus or tuple(built)
    wanted = recipe.model_copy(update={"selector": recipe.selector.model_copy(update={"skus": skus})})
    with moving(repository) as there:
        before = there.get(channel)
        begun, counts = _with_canary(
            store, lambda salt: start(channel, product, chosen, before, salt, wanted, now)[0]
        )  # fmt: skip
        publish(repository, store, there, [begun], now)
    return Begun(begun, counts, {sku: n for sku, n in sorted(store.skus().items()) if sku not in skus})


def move(
    repository: Repository, store: Store, channel: str, how: Callable[[Rollout], tuple[Rollout, Event]], now: datetime
) -> Rollout:
    """Pause, resume or abort a channel's rollout.

    Raises:
        UpdateError: The channel has none, or one that can't be moved so.
    """
    with moving(repository) as there:
        if channel not in there:
            raise UpdateError(
                "The channel has no rollout.", got=channel, expected=", ".join(sorted(there)) or "none has one yet"
            )
        after, _ = how(there[channel])
        publish(repository, store, there, [after], now)
    return after


def publish(
    repository: Repository, store: Store, there: dict[str, Rollout], moved: list[Rollout], now: datetime
) -> list[Event]:
    """Publish what has moved, then bring the history up to date; the lock is held."""
    for rollout in moved:
        refuse_backwards(there.get(rollout.channel), rollout)
    if moved:
        repository.put_rollouts(*moved, now=now)
    return store.record([*(there | {rollout.channel: rollout for rollout in moved}).values()], now)


def _with_canary(store: Store, begin_with: Callable[[str], Rollout]) -> tuple[Rollout, Counts]:
    """A rollout whose first wave isn't empty, if that can be had."""
    first = begin_with(secrets.token_hex(16))
    counts = store.counts(first)
    tries = min(SALTS, HASHED // max(counts.selected, 1))
    if counts.waves[0].devices or not counts.selected or tries < 2:
        return first, counts
    names = [row[0] for row in store.each(first, counts.selected)]
    for _ in range(tries):
        other = begin_with(secrets.token_hex(16))
        if count(other, ((name, None, "") for name in names)).waves[0].devices:
            return other, store.counts(other)
    return first, counts
