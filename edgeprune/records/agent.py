"""Agent: what a device's own agent is told (agent.yaml), and what it keeps of an update (state.json).

Rules:
- Paths in agent.yaml are relative to it. What a device must never lose stands in state.json alone, one file, so that it
  changes whole or not at all.
- The floor is the device's own memory: TUF's cache may be lost or zeroed by a power cut, and an older repository would
  then be as good as a new one.

Sources: TUF specification 1.0.33, 5.3 to 5.7; facts on fleets (python-tuf neither fsyncs nor keeps a floor);
CLOCK_BOOTTIME in clock_gettime(2); /proc/sys/kernel/random/boot_id in random(4).
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal
from urllib.parse import urlsplit

from pydantic import AwareDatetime, Field, field_validator, model_validator

from edgeprune.records.base import Record, read_yaml
from edgeprune.records.calibration import Sha256
from edgeprune.records.device_status import DeviceStatus
from edgeprune.records.release import Name
from edgeprune.records.target import Runtime

#: In the agent's folder: the link to the slot that is current, and what the application says of itself.
CURRENT, HEARTBEAT = "current", "heartbeat.json"
#: In a slot: the bundle, the release that it is of, and the engine where the device builds its own.
BUNDLE, RELEASE, ENGINE = "bundle", "release.json", "engine"
STATE, CONFIRMED = "state.json", "confirmed.json"

Slot = Literal["a", "b", "factory"]
Step = Literal["downloading", "installing", "testing", "watching"]
Positive = Annotated[float, Field(gt=0)]


class StatusTo(Record):
    """Where a device says how it is."""

    kind: Literal["none", "mqtt", "http"] = "none"
    url: str = ""
    """http: the address that `/status/DEVICE` is put behind. mqtt: mqtt://HOST[:PORT] or mqtts://HOST[:PORT]."""
    username: str = ""
    """mqtt: none = the device's id, which the broker's rule for topics is about."""
    secret: str = ""
    """File with the password (mqtt) or the token (http), one line."""
    ca: str = ""
    """File with the certificates that the server's is signed by; none = the system's."""
    certificate: str = ""
    """mqtts: file with the device's own certificate, where the broker asks for one."""
    key: str = ""
    """File with its key."""
    timeout_s: float = Field(default=20.0, gt=0, le=600)

    @model_validator(mode="after")
    def _addressed(self) -> StatusTo:
        schemes = {"none": ("",), "mqtt": ("mqtt", "mqtts"), "http": ("http", "https")}[self.kind]
        if urlsplit(self.url).scheme not in schemes or (self.kind != "none" and not urlsplit(self.url).hostname):
            wanted = " or ".join(f"{scheme}://HOST" for scheme in schemes if scheme) or "none"
            raise ValueError(f"url of status kind {self.kind}: {wanted}; got '{self.url}'")
        if bool(self.certificate) != bool(self.key):
            raise ValueError("certificate and key go together")
        return self


class WatchRules(Record):
    """When a new model that passed its self-test is kept, and when it is taken back."""

    by: Literal["heartbeat", "confirm", "self-test"] = "heartbeat"
    """heartbeat: the application writes heartbeat.json. confirm: somebody says `python -m edgeprune.agent confirm`.
    self-test: nobody is asked."""
    seconds: float = Field(default=600.0, ge=0, le=86400)
    """How long it is watched; with `confirm`, how long is waited for the word."""
    start_s: float = Field(default=60.0, gt=0, le=3600)
    """In which the application must have taken the model over."""
    stale_s: float = Field(default=30.0, gt=0, le=3600)
    """A heartbeat that is older is one that stopped."""
    errors: float = Field(default=0.05, ge=0, le=1)
    """Failed images : images, at most."""
    min_images: int = Field(default=20, ge=1)
    """Images from which on the share of errors counts before the time is over."""
    restarts: int = Field(default=2, ge=0)
    """Times that the application, or the device, may start again meanwhile."""


class Limits(Record):
    """What an update may take of the device."""

    min_bytes_per_s: float = Field(default=1000.0, ge=0)
    """Slower, over `window_s`, is no download but an attack, or a line that is as bad as none."""
    window_s: float = Field(default=30.0, gt=0, le=600)
    gap_s: float = Field(default=30.0, gt=0, le=600)
    """Between two packets, and until an answer begins."""
    retries: int = Field(default=3, ge=0, le=20)
    """Of one file in one go; after them the update waits for the next."""
    backoff_s: float = Field(default=1.0, ge=0, le=600)
    """Before the first retry; twice as long before each next."""
    patience_s: float = Field(default=60.0, ge=0, le=3600)
    """Longest that a server's Retry-After is waited for here; a longer one defers until then."""
    bundle_bytes: int = Field(default=2 << 30, ge=1)
    """Of an archive, at most."""
    self_test_s: float = Field(default=120.0, gt=0, le=3600)
    """A self-test that takes longer hangs."""
    build_s: float = Field(default=3600.0, gt=0)
    """Building an engine of a kit."""
    memory_bytes: int | None = Field(default=None, ge=1 << 20)
    """Resident memory of a process with the model, at most; none = what there is."""
    test_images: int = Field(default=20, ge=1, le=1000)
    """Images of the self-test that are timed."""
    attempts: int = Field(default=3, ge=1, le=100)
    """Self-tests of one release that may be cut off from outside (power, out of memory) before it is refused."""


class AgentConfig(Record):
    """agent.yaml."""

    device: Name
    product: Name
    channel: Name
    sku: Name
    tags: tuple[Name, ...] = ()
    runtime: Runtime
    """The library that executes engines on this device."""
    folder: str
    """The agent's own, with room for three models and a download."""
    repository: str
    """The TUF repository: https://…, http://…, file:///…, or a path."""
    ca: str = ""
    """File with the certificates that https is checked by; none = the system's."""
    root: str
    """The root.json that the device was made with: all trust begins there."""
    status: StatusTo = StatusTo()
    watch: WatchRules = WatchRules()
    limits: Limits = Limits()
    poll_s: float = Field(default=3600.0, gt=0)
    """`run` alone: seconds between polls, a tenth more or less. A timer has its own."""
    metrics: str = ""
    """File for node_exporter's textfile collector; none = none is written."""

    @field_validator("repository")
    @classmethod
    def _addressed(cls, repository: str) -> str:
        if urlsplit(repository).scheme not in ("", "file", "http", "https") or not repository:
            raise ValueError("https://…, http://…, file:///… or a path")
        return repository

    def placed(self, beside: Path) -> AgentConfig:
        """The same with its paths absolute.

        Args:
            beside: The folder that they are relative to.
        """

        def at(path: str) -> str:
            return str(beside.absolute() / path) if path else ""

        to = self.status
        local = not urlsplit(self.repository).scheme
        return self.model_copy(
            update={
                "folder": at(self.folder), "root": at(self.root), "ca": at(self.ca), "metrics": at(self.metrics),
                "repository": (beside.absolute() / self.repository).as_uri() if local else self.repository,
                "status": to.model_copy(
                    update={
                        "secret": at(to.secret), "ca": at(to.ca), "certificate": at(to.certificate), "key": at(to.key)
                    }
                ),
            }
        )  # fmt: skip


def read_config(file: Path) -> AgentConfig:
    """Read an agent.yaml, its paths made absolute.

    Raises:
        UpdateError: It is missing, isn't YAML, or doesn't fit.
    """
    from edgeprune.errors import UpdateError

    return read_yaml(file, AgentConfig, UpdateError).placed(file.absolute().parent)


class Installed(Record):
    """A model in a slot, whole and tried."""

    slot: Slot
    counter: int = Field(ge=0)
    """Its release; 0: the factory model."""
    manifest_sha256: Sha256


class Watched(Record):
    """Since when a new model is watched."""

    boot: str
    """Of the boot that `since_s` counts in: a device that starts again is watched anew."""
    since_s: float = Field(ge=0)
    """CLOCK_BOOTTIME."""
    starts: int = Field(default=0, ge=0)
    """Times that the device or the application has started again."""
    pid: int = Field(default=0, ge=0)
    """Of the application; 0: none yet."""
    images: int = Field(default=0, ge=0)
    errors: int = Field(default=0, ge=0)


class Update(Record):
    """An update on its way."""

    release: int = Field(ge=1)
    rollout: int = Field(ge=0)
    """Serial of the rollout that asked for it."""
    step: Step
    slot: Slot
    manifest_sha256: str = ""
    attempts: int = Field(default=0, ge=0)
    """Self-tests that were begun."""
    latency_ms: float | None = Field(default=None, gt=0)
    watched: Watched | None = None


class Outcome(Record):
    """How the last update ended."""

    state: Literal["committed", "reverted", "refused"]
    release: int = Field(ge=0)
    rollout: int = Field(ge=0)
    reason: str = ""
    latency_ms: float | None = Field(default=None, gt=0)


class Rejected(Record):
    """A release that this device doesn't try again."""

    release: int = Field(ge=1)
    outcome: Outcome


class Floor(Record):
    """Under which nothing goes any more."""

    counter: int = Field(default=0, ge=0)
    """Highest release that was kept."""
    serial: int = Field(default=0, ge=0)
    """Highest rollout that was seen …"""
    keys: tuple[str, ...] = ()
    """… signed for by these keys: who loses the online key must not have the last word on serials for ever."""
    time: AwareDatetime | None = None
    """Latest moment at which the repository was found in order: it isn't earlier than that now."""


class AgentState(Record):
    """state.json."""

    format: Literal[1] = 1
    installed: Installed | None = None
    """What was kept last; None: this device never had a model."""
    previous: Installed | None = None
    """What was kept before, as long as its slot holds it."""
    update: Update | None = None
    outcome: Outcome | None = None
    deferred: str = ""
    """Why nothing is done now, though there may be something to do: kind, colon, what happened."""
    rejected: tuple[Rejected, ...] = ()
    floor: Floor = Floor()
    retry_at: AwareDatetime | None = None
    """A server asked not to be asked before."""
    seq: int = Field(default=0, ge=0)
    """Of the last status."""
    word: DeviceStatus | None = None
    """The last status, heard or not."""
    heard: int = Field(default=0, ge=0)
    """Sequence number of the last status that got through."""
