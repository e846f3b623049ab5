"""tick: what cron runs. Metadata that expires soon is signed anew, and every rollout takes its next step, if it is due.

Rules:
- Run twice, it does nothing the second time. Killed anywhere, the next one goes on: what was published counts, and the
  history is brought up to it.
- Metadata come first: a status database that is down stops rollouts, never the signatures that devices wait for.

Source: facts on fleets (the controller is an idempotent tick).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime

from edgeprune.fleet.moving import moving, publish
from edgeprune.fleet.repository import Repository
from edgeprune.fleet.rollout import TERMINAL, Counts, Event, advance
from edgeprune.fleet.store import Store


@dataclass(frozen=True)
class Ticked:
    """What a tick did.

    Attributes:
        events: That the history learnt, those of an interrupted mover before it among them.
        renewed: Roles that were signed anew.
        counts: Channel -> what its rollout was judged by, of those that aren't over.
    """

    events: tuple[Event, ...]
    renewed: tuple[str, ...]
    counts: dict[str, Counts]


def tick(repository: Repository, open_store: Callable[[], Store], now: datetime) -> Ticked:
    """Renew metadata and move every rollout on, once.

    Args:
        open_store: Called when metadata have been renewed.

    Raises:
        UpdateError: No online key, or a status database that doesn't answer.
    """
    renewed = repository.renew(now)
    store = open_store()
    with moving(repository) as there:
        going = {channel: rollout for channel, rollout in sorted(there.items()) if rollout.state not in TERMINAL}
        counts = {channel: store.counts(rollout) for channel, rollout in going.items()}
        looked_at = [advance(rollout, counts[channel], now) for channel, rollout in going.items()]
        events = publish(repository, store, there, [after for after, event in looked_at if event is not None], now)
    return Ticked(tuple(events), renewed, counts)
