"""The agent's folder: two slots and the factory model, and the link to the one that is current.

    FOLDER/current -> slots/a | slots/b | factory      replaced by one rename
    FOLDER/slots/a/bundle/, release.json, engine/      engine/ where the device builds its own
    FOLDER/factory/bundle/                             what the device was made with
    FOLDER/state.json, heartbeat.json                  the agent's memory; the application's word
    FOLDER/metadata/, cache/, staging/, incoming/      of the repository; on their way

Rules:
- A slot is filled under another name, flushed to the disk and put in place by a rename; what was there goes by a rename
  before. A slot that is there is whole, and `open_slot` says whether it still is.
- The current slot is never touched.
- What a cut left behind is cleared at the next start.

Sources: rename(2), symlink(2), fsync(2): a name is on the disk when its folder is.
"""

from __future__ import annotations

import errno
import fcntl
import os
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from edgeprune.errors import BundleError, EdgepruneError, UpdateError
from edgeprune.records.agent import BUNDLE, CURRENT, RELEASE, STATE, AgentState, Floor, Installed, Slot
from edgeprune.records.archive import unpack
from edgeprune.records.base import read_json, write_json
from edgeprune.records.bundle import Bundle
from edgeprune.records.files import remove, sha256_file, sync_folder
from edgeprune.records.release import Release
from edgeprune.runtime.bundle import MANIFEST, open_bundle, open_slot

_PLACES: dict[Slot, str] = {"a": "slots/a", "b": "slots/b", "factory": "factory"}


class BusyAgentError(Exception):
    """Another agent has the folder."""


class Slots:
    """The folder of an agent.

    Attributes:
        folder: Its path.
        staging: Where downloads lie.
    """

    def __init__(self, folder: Path) -> None:
        self.folder, self.staging = folder, folder / "staging"

    @contextmanager
    def alone(self) -> Iterator[None]:
        """Hold the folder; the lock dies with its process. Raises BusyAgentError, UpdateError, OSError."""
        try:
            self.staging.mkdir(parents=True, exist_ok=True)
            (self.folder / "slots").mkdir(exist_ok=True)
            lock = open(self.folder / ".lock", "w")  # noqa: SIM115 (closed below)
        except OSError as error:
            if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EIO):
                raise
            raise UpdateError(
                "The agent's folder can't be written.", where=self.folder, got=error.strerror,
                next_step="run the agent as the user that the folder belongs to",
            ) from error  # fmt: skip
        with lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise BusyAgentError from None
            yield

    def at(self, slot: Slot) -> Path:
        """A slot's folder."""
        return self.folder / _PLACES[slot]

    def current(self) -> Slot | None:
        """The slot that the link leads to."""
        try:
            place = os.readlink(self.folder / CURRENT)
        except OSError:
            return None
        return next((slot for slot, there in _PLACES.items() if there == place), None)

    def point(self, slot: Slot | None) -> bool:
        """Make a slot the current one, by one rename; returns whether it wasn't."""
        link = self.folder / CURRENT
        if self.current() == slot and (slot is not None or not link.is_symlink()):
            return False
        if slot is None:
            link.unlink(missing_ok=True)
        else:
            part = self.folder / f".{CURRENT}.part"
            part.unlink(missing_ok=True)
            part.symlink_to(_PLACES[slot])
            os.replace(part, link)
        sync_folder(self.folder)
        return True

    def open(self, slot: Slot) -> Bundle | None:
        """A slot's bundle where it is whole; None where it isn't."""
        try:
            return open_slot(self.at(slot))[0]
        except (EdgepruneError, OSError):
            return None

    def manifest_sha256(self, slot: Slot | None) -> str:
        """Of a slot's manifest.json; empty where there is none."""
        file = None if slot is None else self.at(slot) / BUNDLE / MANIFEST
        return sha256_file(file) if file is not None and file.is_file() else ""

    def release(self, slot: Slot) -> Release | None:
        """The release that a slot is of; None for the factory model, and where it can't be read."""
        try:
            return read_json(self.at(slot) / RELEASE, Release, UpdateError)
        except UpdateError:
            return None

    def install(self, slot: Slot, archive: Path, release: Release, most_bytes: int) -> None:
        """Unpack an archive into a slot that isn't current.

        Raises:
            BundleError: The archive is none of a bundle, or the bundle isn't whole.
            OSError: It can't be written.
        """
        assert slot != "factory"
        assert slot != self.current()
        incoming = self.folder / "incoming"
        shutil.rmtree(incoming, ignore_errors=True)
        unpack(archive, incoming / BUNDLE, most_bytes)
        open_bundle(incoming / BUNDLE)
        write_json(incoming / RELEASE, release)
        self._place(incoming, self.at(slot))

    def factory(self, bundle: Path) -> str:
        """Copy a bundle to where the factory model lies; returns its manifest's hash.

        Raises:
            BundleError: It isn't whole, or needs an engine that only an update builds.
            UpdateError: The device has a factory model that is another one.
        """
        opened = open_bundle(bundle)
        if opened.kit is not None:
            raise BundleError(
                "A bundle with a kit can't be the factory model: its engine is built by the device.", where=bundle,
                next_step="leave the factory model out; the first update brings a model",
            )  # fmt: skip
        manifest = sha256_file(bundle / MANIFEST)
        there = self.manifest_sha256("factory")
        if there and there != manifest and self.open("factory") is not None:
            raise UpdateError(
                "The device has a factory model, which stays what it is.", where=self.at("factory"), expected=there,
                got=manifest, next_step="publish a release instead",
            )  # fmt: skip
        incoming = self.folder / "incoming"
        shutil.rmtree(incoming, ignore_errors=True)
        shutil.copytree(bundle, incoming / BUNDLE)
        open_bundle(incoming / BUNDLE)
        self._place(incoming, self.at("factory"))
        return manifest

    def sync(self, slot: Slot) -> None:
        """Bring all of a slot to the disk."""
        _sync(self.at(slot))

    def clear(self, *, staging: bool = True) -> None:
        """Remove what is on its way to nowhere; downloads too, or not."""
        shutil.rmtree(self.folder / "incoming", ignore_errors=True)
        for place in (self.folder, self.folder / "slots"):
            for left in place.glob(".*.removed"):
                shutil.rmtree(left)
        for place in (self.folder, self.folder / "cache"):
            for left in place.glob(".*.part"):
                left.unlink()
        for left in self.staging.iterdir() if staging else ():
            left.unlink()

    def read_state(self) -> tuple[AgentState, bool]:
        """The agent's memory, and whether it is what was kept. Where that can't be read, it is what the slots say; a
        floor that was higher is then lost."""
        try:
            return read_json(self.folder / STATE, AgentState, UpdateError), True
        except UpdateError:
            pass
        if not (self.folder / STATE).exists() and self.current() is None:
            return AgentState(), False
        pair: tuple[Slot, ...] = ("a", "b")
        whole = {slot: self.release(slot) for slot in pair if self.open(slot) is not None}
        floor = Floor(counter=max((one.counter for one in whole.values() if one), default=0))
        slot = self.current()
        if slot is None or (slot != "factory" and whole.get(slot) is None):
            slot = "factory" if self.open("factory") else None
        release = None if slot in (None, "factory") else whole.get(slot)
        installed = slot and Installed(
            slot=slot, counter=release.counter if release else 0, manifest_sha256=self.manifest_sha256(slot)
        )
        return AgentState(installed=installed or None, floor=floor, seq=_next_seq()), False

    def write_state(self, state: AgentState) -> None:
        """Keep the agent's memory: on the disk when it returns."""
        write_json(self.folder / STATE, state)

    def _place(self, incoming: Path, there: Path) -> None:
        _sync(incoming)
        if there.exists():
            remove(there)
        there.parent.mkdir(parents=True, exist_ok=True)
        os.replace(incoming, there)
        sync_folder(there.parent)
        sync_folder(self.folder)


def _sync(folder: Path) -> None:
    for path in folder.rglob("*"):
        if path.is_file():
            with open(path, "rb") as handle:
                os.fsync(handle.fileno())
        elif path.is_dir():
            sync_folder(path)
    sync_folder(folder)


def _next_seq() -> int:
    """Where statuses go on when their number is lost: above every one that was."""
    return int(time.time())
