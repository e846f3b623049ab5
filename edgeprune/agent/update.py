"""One go of a device's agent: poll, verify, download, unpack, build, test, switch, watch, keep or take back, say so.

Rules:
- It begins where the last one ended, whatever ended it: the link is set as the state says, what is current is checked,
  and where it is damaged another whole model takes its place.
- What can't be done now is deferred with a reason and changes nothing that runs; the state machine is states.py.
- Every file is on the disk before the state says that it is there.

Source: facts on fleets; Uptane Standard 2.1.0, 5.4.4 (full verification).
"""

from __future__ import annotations

import contextlib
import errno
import json
import shutil
import time
from collections.abc import Callable
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import TYPE_CHECKING

from edgeprune.agent import metrics, selftest, states
from edgeprune.agent.exits import Ending, Exit
from edgeprune.agent.slots import BusyAgentError, Slots
from edgeprune.errors import BundleError, DeviceError, EdgepruneError, UpdateError, missing_package
from edgeprune.machine import boot, installed, text
from edgeprune.records.agent import BUNDLE, CONFIRMED, HEARTBEAT, AgentConfig, AgentState, Installed, Slot
from edgeprune.records.base import parse, read_json
from edgeprune.records.device_status import Heartbeat
from edgeprune.records.release import Release, ReleaseBuild
from edgeprune.records.rollout import Rollout
from edgeprune.version import __version__

if TYPE_CHECKING:
    from edgeprune.agent.client import Client
    from edgeprune.agent.fetch import Fetcher

#: Seconds between looks at a new model's application.
LOOK_S = 0.5
#: A rollout that begins so much later than now is of another time.
AHEAD = timedelta(days=1)


class Agent:
    """A device's agent.

    Attributes:
        state: Its memory.
    """

    state: AgentState

    def __init__(
        self, config: AgentConfig, say: Callable[[str], None] = lambda said: None,
        now: Callable[[], datetime] = lambda: datetime.now(timezone.utc), sleep: Callable[[float], None] = time.sleep,
    ) -> None:  # fmt: skip
        self.config, self.slots = config, Slots(Path(config.folder))
        self._say, self._now, self._sleep = say, now, sleep
        self._fetcher: Fetcher | None = None
        self._written: AgentState | None = None
        self._quiet = False
        self._runtime = f"{config.runtime} {installed(config.runtime).get(config.runtime, 'not installed')}"

    def once(self, *, wait: bool = True) -> Ending:
        """One go.

        Args:
            wait: Whether a new model is watched to the end; otherwise the next go goes on with it.

        Raises:
            UpdateError: The folder can't be written, or the root of trust can't be read.
        """
        try:
            with self.slots.alone():
                try:
                    ending = self._once(wait)
                except (OSError, DeviceError) as error:  # the disk, at a place where nothing can be written down
                    return Ending(Exit.DEFERRED, _disk(error))
                self._end(ending)
                return ending
        except OSError as error:
            return Ending(Exit.DEFERRED, _disk(error))
        except BusyAgentError:
            return Ending(Exit.BUSY, f"another agent is at work in {self.config.folder}")

    def _once(self, wait: bool) -> Ending:
        self.state, kept = self.slots.read_state()
        self._written = self.state if kept else None
        self._recover()
        if self.state.update is not None and self.state.update.step == "watching":
            return self._watch(wait)
        return self._poll(wait)

    def _recover(self) -> None:
        """Set what runs as the state has it, whole."""
        state = self.state
        if state.installed is None and state.update is None and self.slots.open("factory") is not None:
            state = state.model_copy(update={"installed": self._factory()})
        slot = states.active(state)
        if slot is not None and self.slots.open(slot) is None:
            state = states.fallen_back(
                state, self._whole(state, slot), f"damaged: the model in slot {slot} isn't whole"
            )
            self._say(f"the model in slot {slot} is damaged; {states.active(state) or 'none'} takes its place")
        self._keep(state)
        update = self.state.update
        self.slots.clear(staging=update is None or update.step == "watching")

    def _factory(self) -> Installed:
        return Installed(slot="factory", counter=0, manifest_sha256=self.slots.manifest_sha256("factory"))

    def _whole(self, state: AgentState, damaged: Slot) -> Installed | None:
        """The model that takes a damaged one's place."""
        for other in (state.installed, state.previous):
            if other is not None and other.slot != damaged and self.slots.open(other.slot) is not None:
                return other
        return self._factory() if damaged != "factory" and self.slots.open("factory") is not None else None

    def _poll(self, wait: bool) -> Ending:
        from edgeprune.agent.client import Client, NotNowError, too_early
        from edgeprune.agent.fetch import Fetcher

        now = self._now()
        early = too_early(now, self.state.floor.time)
        if early:
            return self._defer(early)
        retry_at = self.state.retry_at
        if retry_at is not None and now < retry_at < now + timedelta(days=1):
            return Ending(Exit.DEFERRED, f"{self.state.deferred}; not before {retry_at:%Y-%m-%d %H:%M:%S}")
        try:
            self._fetcher = Fetcher(self.config.limits, self.config.ca, self.slots.staging, self._sleep)
            client = Client(self.config, self.slots.folder, self._fetcher)
            client.refresh()
            rollout, keys = client.rollout(), client.rollout_keys()
            if rollout is not None and rollout.since > now + AHEAD:
                raise NotNowError(f"clock: {now:%Y-%m-%d %H:%M}, and the rollout began {rollout.since:%Y-%m-%d %H:%M}")
            choice = states.choose(self.state, self.config, self._runtime, rollout, keys)
            if choice.kind == "defer":
                raise NotNowError(choice.reason)
            state = states.seen(self.state, rollout, keys, now)
            serial = rollout.serial if rollout else 0
            if choice.kind == "stay":
                self._keep(states.settled(state, choice.release, rollout))
                return Ending(Exit.NOTHING, self._standing(rollout))
            self.state = state
            if choice.kind == "refuse":
                return self._refuse(choice.release, serial, choice.reason)
            return self._update(client, choice.release, serial, wait)
        except NotNowError as error:
            return self._defer(error.reason, None if error.retry_after is None else now + error.retry_after)
        except (OSError, DeviceError) as error:
            if _errno(error) in (errno.ENOSPC, errno.EDQUOT):
                self.slots.clear()  # what is downloaded so far is in the way of everybody else
            return self._defer(_disk(error))

    def _standing(self, rollout: Rollout | None) -> str:
        runs = f"release {states.running(self.state)} runs" if self.state.installed else "there is no model yet"
        return f"nothing to do: {runs}" + (f", rollout {rollout.serial}" if rollout else ", the channel has no rollout")

    def _update(self, client: Client, counter: int, serial: int, wait: bool) -> Ending:
        from edgeprune.agent.agree import RefusedError, agreed
        from edgeprune.agent.obtain import obtain

        self._keep(states.begin(self.state, counter, serial))
        self._tell(f"downloading release {counter} for rollout {serial}")
        try:
            release, build = agreed(client, self.config, self._runtime, counter, self.slots.folder)
            have = None if self.state.installed is None else self.slots.at(self.state.installed.slot) / BUNDLE
            archive, how = obtain(client, build, have, self.slots.staging)
            self._keep(states.going(self.state, "installing"))
            self._tell(f"installing release {counter} (archive: {how})")
            manifest = self._install(release, build, archive)
            self._test(build)
        except RefusedError as refused:
            return self._refuse(counter, serial, str(refused))
        assert self.state.update is not None
        which, now_s = boot()
        self._keep(states.watching(self.state, manifest, self.state.update.latency_ms, which, now_s))
        self._tell(f"watching release {counter}, which is current now")
        self.slots.clear()
        return self._watch(wait)

    def _install(self, release: Release, build: ReleaseBuild, archive: Path) -> str:
        from edgeprune.agent.agree import RefusedError

        assert self.state.update is not None
        slot = self.state.update.slot
        try:
            self.slots.install(slot, archive, release, build.archive.bytes)
        except BundleError as error:
            raise RefusedError(f"bundle: {' '.join(str(error).split())}") from error
        manifest = self.slots.manifest_sha256(slot)
        if manifest != build.manifest_sha256:
            raise RefusedError(f"wrong software: manifest {manifest}, {build.manifest_sha256} in the release")
        bundle = self.slots.open(slot)
        if bundle is None or bundle.kit is not None:
            why = selftest.build(self.slots.at(slot), self.config.limits)
            if why:
                raise RefusedError(why)
            self.slots.sync(slot)
            bundle = self.slots.open(slot)
        if bundle is None or bundle.target != self.config.sku:
            raise RefusedError(f"wrong software: the bundle is for {bundle and bundle.target}, not {self.config.sku}")
        return manifest

    def _test(self, build: ReleaseBuild) -> None:
        from edgeprune.agent.agree import RefusedError

        assert self.state.update is not None
        if self.state.update.attempts >= self.config.limits.attempts:
            raise RefusedError(f"crash: {self.state.update.attempts} self-tests were cut off, and the device with them")
        self._keep(states.going(self.state, "testing"))
        self._tell("testing it")
        assert self.state.update is not None
        tried = selftest.test(self.slots.at(self.state.update.slot), build, self.config.limits)
        self.state = self.state.model_copy(
            update={"update": self.state.update.model_copy(update={"latency_ms": tried.latency_ms})}
        )
        if tried.reason:
            raise RefusedError(tried.reason)

    def _watch(self, wait: bool) -> Ending:
        """Look at a new model until it is kept or taken back."""
        while True:
            update = self.state.update
            assert update is not None
            assert update.watched is not None
            which, now_s = boot()
            if update.watched.boot != which:  # what an application said before counts seconds of another boot
                (self.slots.folder / HEARTBEAT).unlink(missing_ok=True)
            watched, verdict = states.look(
                update.watched, self.config.watch, self._beat(), update.release, which, now_s, self._confirmed()
            )
            self.state = states.going(self.state, "watching", watched=watched)
            if verdict == "commit":
                self._keep(states.committed(self.state))
                (self.slots.folder / CONFIRMED).unlink(missing_ok=True)
                return Ending(Exit.UPDATED, f"release {update.release} is kept")
            if verdict != "go on":
                slot = update.slot
                self._keep(states.rejected(self.state, "reverted", update.release, update.rollout, verdict))
                self._drop(slot)
                return Ending(Exit.REVERTED, f"release {update.release} is taken back: {verdict}")
            known = update.watched
            if (watched.boot, watched.starts, watched.pid) != (known.boot, known.starts, known.pid):
                self._keep(self.state)
            if not wait:
                self._keep(self.state)
                return Ending(Exit.WATCHING, f"release {update.release} is watched")
            self._sleep(min(LOOK_S, self.config.watch.seconds or LOOK_S))

    def _beat(self) -> Heartbeat | None:
        try:
            content = json.loads(text(self.slots.folder / HEARTBEAT) or "null")
            return parse(Heartbeat, content, UpdateError, where=HEARTBEAT)
        except (UpdateError, ValueError):
            return None

    def _confirmed(self) -> bool:
        """Whether somebody has confirmed what is watched."""
        file = self.slots.folder / CONFIRMED
        update = self.state.update
        if update is None or not file.is_file():
            return False
        with contextlib.suppress(EdgepruneError):
            return read_json(file, Installed, UpdateError).counter == update.release
        return False

    def _refuse(self, counter: int, serial: int, reason: str) -> Ending:
        update = self.state.update
        self._keep(states.rejected(self.state, "refused", counter, serial, reason))
        if update is not None:
            self._drop(update.slot)
        self.slots.clear()
        return Ending(Exit.REFUSED, f"release {counter} is refused: {reason}")

    def _drop(self, slot: Slot) -> None:
        """A slot whose model isn't kept."""
        previous = self.state.previous
        if slot != self.slots.current() and (previous is None or previous.slot != slot):
            shutil.rmtree(self.slots.at(slot), ignore_errors=True)

    def _defer(self, reason: str, retry_at: datetime | None = None) -> Ending:
        try:
            self._keep(states.deferred(self.state, reason, retry_at))
        except (OSError, DeviceError) as error:
            reason = f"{reason}; {_disk(error)}"
        return Ending(Exit.DEFERRED, reason)

    def _keep(self, state: AgentState) -> None:
        """Write the state down where it is another one, and set the link as it has it."""
        manifest = self.slots.manifest_sha256(states.active(state))
        state = states.word(state, self.config, self._runtime, __version__, manifest, self._now())
        self._write(state)
        self.slots.point(states.active(state))

    def _write(self, state: AgentState) -> None:
        if state != self._written:
            self.slots.write_state(state)
        self.state = self._written = state

    def _tell(self, said: str) -> None:
        self._say(said)
        self._report()

    def _report(self) -> None:
        """Say the last word, if it wasn't heard; one failure a go is enough."""
        if self._quiet or self.state.word is None or self.state.heard >= self.state.word.seq:
            return
        from edgeprune.agent.report import Answer, UnheardError, send

        try:
            answer = send(self.config, self.state.word)
        except UnheardError as error:
            self._quiet = True
            self._say(f"the status isn't heard: {error}")
            return
        seq = self.state.word.seq
        if answer is Answer.STALE:  # this device's memory of its numbers was lost
            later = max(seq + 1, int(time.time()))
            word = self.state.word.model_copy(update={"seq": later})
            self.state = self.state.model_copy(update={"seq": later, "word": word})
            return
        self.state = self.state.model_copy(update={"heard": seq})

    def _end(self, ending: Ending) -> None:
        """Say the last word, remember whether it was heard, write the metrics."""
        try:
            self._quiet = False
            self._report()
            if self.state.word and self.state.heard < self.state.word.seq and not self._quiet:
                self._report()  # with the number that the last answer asked for
            self._write(self.state)
            if self.config.metrics:
                requests, got = (self._fetcher.requests, self._fetcher.received) if self._fetcher else (0, 0)
                metrics.write(
                    Path(self.config.metrics), self.config, self.state, at=time.time(), code=ending.code,
                    requests=requests, got=got,
                )  # fmt: skip
        except (OSError, DeviceError) as error:
            self._say(_disk(error))


def need_tuf() -> None:
    """Raise DeviceError where python-tuf isn't installed."""
    try:
        import tuf  # noqa: F401
    except ImportError as error:
        raise missing_package("tuf", "agent") from error


def _errno(error: OSError | DeviceError) -> int | None:
    cause = error if isinstance(error, OSError) else error.__cause__
    return cause.errno if isinstance(cause, OSError) else None


def _disk(error: OSError | DeviceError) -> str:
    kind = "space" if _errno(error) in (errno.ENOSPC, errno.EDQUOT) else "disk"
    return f"{kind}: {' '.join(str(error).split())}"
