"""An update as a state machine: what the agent's state becomes of what happened. No disk, network or clock.

    idle -> downloading -> installing -> testing -> watching -> committed
                  |             |            |          |
                  '-------- refused ---------'      reverted

Rules:
- The slot that is current follows from the state alone (`active`): the new one while it is watched, else the one that
  was kept. So one write decides, the link is set after it, and a cut between the two is mended by setting it again.
- Before `watching` an update may start over at any time: nothing that runs has been touched.
- Deferred is what may be otherwise tomorrow: the network, the clock, the disk, metadata that isn't in order. It isn't
  the release's fault and isn't counted against it. Refused and reverted are: such a release isn't tried again here.
- Nothing goes under the floor. It rises when a release is kept.

Sources: Mender's client states (ArtifactInstall, ArtifactReboot, ArtifactCommit, ArtifactRollback); Uptane Standard
2.1.0, 5.4.4.2 (release counters); facts on fleets.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Literal

from edgeprune.records.agent import (
    AgentConfig,
    AgentState,
    Floor,
    Installed,
    Outcome,
    Rejected,
    Slot,
    Step,
    Update,
    Watched,
    WatchRules,
)
from edgeprune.records.device_status import DeviceState, DeviceStatus, Heartbeat
from edgeprune.records.rollout import Rollout

#: Releases that a device remembers not to try again; they rise, and older ones are under the floor soon.
REMEMBERED = 32
#: Characters of a reason in a status: a line of a log, not the log.
REASON = 500


@dataclass(frozen=True)
class Choice:
    """What a rollout asks of a device.

    Attributes:
        kind: stay: nothing; take: this release; refuse: this release, for `reason`; defer: not now, for `reason`.
        release: Its counter; 0 for none.
    """

    kind: Literal["stay", "take", "refuse", "defer"]
    release: int = 0
    reason: str = ""


def active(state: AgentState) -> Slot | None:
    """The slot that is to be current."""
    if state.update is not None and state.update.step == "watching":
        return state.update.slot
    return state.installed.slot if state.installed else None


def spare(state: AgentState) -> Slot:
    """The slot that the next model goes into."""
    return "b" if state.installed is not None and state.installed.slot == "a" else "a"


def running(state: AgentState) -> int:
    """Counter of the release that is current; 0: the factory model, or none."""
    if state.update is not None and state.update.step == "watching":
        return state.update.release
    return state.installed.counter if state.installed else 0


def choose(
    state: AgentState, config: AgentConfig, runtime: str, rollout: Rollout | None, keys: tuple[str, ...]
) -> Choice:
    """What a verified rollout asks of this device.

    Args:
        runtime: Library and version that the device has.
        rollout: The channel's; None: it has none.
        keys: Identifiers of the keys that may sign rollouts.
    """
    if rollout is None:
        return Choice("stay")
    if (rollout.product, rollout.channel) != (config.product, config.channel):
        return Choice("defer", reason=f"wrong software: the rollout is for {rollout.product} on {rollout.channel}")
    if keys == state.floor.keys and rollout.serial < state.floor.serial:
        return Choice("defer", reason=f"rollback: rollout {rollout.serial}, after {state.floor.serial} was seen")
    wanted, have = rollout.release_for(config.device, config.sku, runtime, config.tags), running(state)
    if wanted is None or wanted == have or any(one.release == wanted for one in state.rejected):
        return Choice("stay", wanted or 0)
    lowest = max(state.floor.counter, have)
    if wanted < lowest:
        if wanted != rollout.counter:  # what everybody else has is older than what this device has: it keeps its own
            return Choice("stay")
        return Choice("refuse", wanted, f"rollback: release {wanted}, after {lowest} was kept here")
    return Choice("take", wanted)


def seen(state: AgentState, rollout: Rollout | None, keys: tuple[str, ...], now: datetime) -> AgentState:
    """The repository was found in order."""
    floor = state.floor
    serial = rollout.serial if rollout else 0
    time = now if floor.time is None or now > floor.time else floor.time
    if keys == floor.keys:
        serial = max(serial, floor.serial)
    return state.model_copy(
        update={
            "floor": Floor(counter=floor.counter, serial=serial, keys=keys, time=time), "deferred": "", "retry_at": None
        }
    )  # fmt: skip


def settled(state: AgentState, release: int, rollout: Rollout | None) -> AgentState:
    """Nothing to do: drop an update that nobody asks for any more; answer a new rollout of what was decided before."""
    state = state.model_copy(update={"update": None})
    if rollout is None or release == 0 or release != rollout.counter:
        return state
    before = next((one.outcome for one in state.rejected if one.release == release), None)
    if before is None and state.outcome is not None and state.outcome.release == release:
        before = state.outcome
    if before is None:
        before = Outcome(state="committed", release=release, rollout=rollout.serial)
    return state.model_copy(update={"outcome": before.model_copy(update={"rollout": rollout.serial})})


def begin(state: AgentState, release: int, rollout: int) -> AgentState:
    """Start an update, or go on with the one that was cut off."""
    slot, before = spare(state), state.update
    attempts = before.attempts if before and before.release == release else 0
    update = Update(release=release, rollout=rollout, step="downloading", slot=slot, attempts=attempts)
    return state.model_copy(update={"update": update})


def going(state: AgentState, step: Step, **known: object) -> AgentState:
    """An update's next step. The spare slot's old model is given up with `installing`."""
    assert state.update is not None
    tests = {"attempts": state.update.attempts + 1} if step == "testing" else {}
    update = state.update.model_copy(update={"step": step, **tests, **known})
    kept = state.previous if step == "downloading" else None
    if kept is None and state.previous is not None and state.previous.slot == "factory":
        kept = state.previous
    return state.model_copy(update={"update": update, "previous": kept})


def watching(state: AgentState, manifest_sha256: str, latency_ms: float | None, boot: str, now_s: float) -> AgentState:
    """The new model is switched to."""
    watched = Watched(boot=boot, since_s=now_s)
    return going(state, "watching", manifest_sha256=manifest_sha256, latency_ms=latency_ms, watched=watched)


def committed(state: AgentState) -> AgentState:
    """The new model is kept."""
    update = state.update
    assert update is not None
    outcome = Outcome(
        state="committed", release=update.release, rollout=update.rollout, latency_ms=update.latency_ms
    )  # fmt: skip
    floor = state.floor.model_copy(update={"counter": max(state.floor.counter, update.release)})
    return state.model_copy(
        update={
            "installed": Installed(
                slot=update.slot, counter=update.release, manifest_sha256=update.manifest_sha256
            ),
            "previous": state.installed, "update": None, "outcome": outcome, "deferred": "", "floor": floor,
            "rejected": tuple(one for one in state.rejected if one.release >= floor.counter),
        }
    )  # fmt: skip


def rejected(
    state: AgentState, how: Literal["reverted", "refused"], release: int, rollout: int, reason: str
) -> AgentState:
    """A release isn't kept, and isn't tried again."""
    latency = state.update.latency_ms if state.update else None
    outcome = Outcome(state=how, release=release, rollout=rollout, reason=reason, latency_ms=latency)
    others = [one for one in state.rejected if one.release != release]
    return state.model_copy(
        update={
            "update": None, "outcome": outcome, "deferred": "",
            "rejected": (*others, Rejected(release=release, outcome=outcome))[-REMEMBERED:],
        }
    )  # fmt: skip


def deferred(state: AgentState, reason: str, retry_at: datetime | None = None) -> AgentState:
    """Not now."""
    return state.model_copy(update={"deferred": reason, "retry_at": retry_at})


def fallen_back(state: AgentState, to: Installed | None, reason: str) -> AgentState:
    """What was current is damaged; another model takes its place, and the release is taken anew at the next poll."""
    release, rollout = running(state), state.update.rollout if state.update else 0
    outcome = Outcome(state="reverted", release=release, rollout=rollout, reason=reason)
    return state.model_copy(update={"installed": to, "previous": None, "update": None, "outcome": outcome})


def look(
    watched: Watched, rules: WatchRules, beat: Heartbeat | None, release: int, boot: str, now_s: float, said: bool
) -> tuple[Watched, Literal["go on", "commit"] | str]:
    """One look at a new model that runs.

    Args:
        beat: The application's heartbeat; None: none that can be read.
        release: Counter of the new model.
        boot: Of now.
        now_s: CLOCK_BOOTTIME.
        said: Whether somebody has confirmed it.

    Returns:
        What is known now; and 'commit', 'go on', or the reason to take it back.
    """
    if watched.boot != boot:
        watched = Watched(boot=boot, since_s=now_s, starts=watched.starts + 1)
    if said or rules.by == "self-test":
        return watched, "commit"
    if watched.starts > rules.restarts:
        return watched, f"crash: the device started again {watched.starts} times while it was watched"
    over = now_s - watched.since_s >= rules.seconds
    if rules.by == "confirm":
        return watched, f"confirm: nobody did within {rules.seconds:g} s" if over else "go on"
    if beat is None or beat.counter != release or beat.at_monotonic_s < watched.since_s:
        since, allowed = now_s - watched.since_s, rules.start_s if watched.pid == 0 else rules.stale_s
        if watched.pid == 0 and since <= rules.start_s:
            return watched, "go on"
        if watched.pid == 0 or since > allowed:
            return watched, f"heartbeat: none of release {release} within {allowed:g} s"
        return watched, "go on"
    starts = watched.starts + (watched.pid not in (0, beat.pid))
    watched = watched.model_copy(
        update={"pid": beat.pid, "starts": starts, "images": beat.images, "errors": beat.errors}
    )  # fmt: skip
    if starts > rules.restarts:
        return watched, f"crash: the application started again {starts} times"
    if now_s - beat.at_monotonic_s > rules.stale_s:
        return watched, f"heartbeat: none for {now_s - beat.at_monotonic_s:.0f} s, {rules.stale_s:g} allowed"
    share = beat.errors / beat.images if beat.images else 0.0
    if share > rules.errors and (beat.images >= rules.min_images or over):
        return watched, f"errors: {beat.errors} of {beat.images} images, {rules.errors:.1%} allowed"
    # images are told of by the next heartbeat: a watch that is shorter than one waits for it
    patience_s = rules.seconds if beat.images else max(rules.seconds, rules.stale_s)
    if now_s - watched.since_s < patience_s:
        return watched, "go on"
    return watched, "commit" if beat.images else f"heartbeat: no image within {patience_s:g} s"


def word(
    state: AgentState, config: AgentConfig, runtime: str, agent: str, manifest_sha256: str, at: datetime
) -> AgentState:
    """The state with the status that says it, where that is another than the last one.

    Args:
        runtime: Library and version that the device has.
        agent: Version of edgeprune.
        manifest_sha256: Of the bundle that is current; empty: none.
        at: Now, by the device's clock.
    """
    update, outcome = state.update, state.outcome
    about: DeviceState = "idle"
    release, rollout, reason, latency = 0, 0, "", None
    if outcome is not None:
        about, reason, latency = outcome.state, outcome.reason, outcome.latency_ms
        release, rollout = outcome.release, outcome.rollout
    if update is not None:
        about, reason, latency, release, rollout = (
            update.step, "", update.latency_ms, update.release, update.rollout
        )  # fmt: skip
    if state.deferred:
        about, reason = "deferred", state.deferred
        if update is None:
            release, rollout, latency = 0, 0, None
    status = DeviceStatus(
        device=config.device, seq=state.seq + 1, at=at, product=config.product, channel=config.channel, sku=config.sku,
        runtime=runtime, tags=config.tags, agent=agent, counter=running(state), model_sha256=manifest_sha256,
        state=about, rollout=rollout, release=release, reason=reason[:REASON], latency_ms=latency,
    )  # fmt: skip
    if state.word is not None and state.word.model_copy(update={"seq": status.seq, "at": at}) == status:
        return state
    return state.model_copy(update={"seq": status.seq, "word": status})
