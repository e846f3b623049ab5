"""Stages that are done once: keyed by what they read, finished or not there at all.

Rules:
- A stage's key is a hash of its name, its settings and the contents of what it reads. A stage whose key
  and outputs are as its stamp says is not run again.
- A stage writes into its own work folder, which survives an interruption so that long work can go on;
  what it holds of the outputs themselves doesn't.
  Only when it has ended are its outputs flushed and renamed into place, and only then is the stamp written.
- Another target under the same `out` that has done the same stage lends its outputs (two targets, one
  fine-tuning).
- One build at a time in a folder: a lock that dies with its process.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from edgeprune.errors import BusyError
from edgeprune.records import files


class Listener:
    """Told what happens; says nothing. The command line has one that does."""

    def event(self, stage: str, what: str) -> None:
        """`what`: 'done before', 'taken over', 'runs' or 'done'."""

    def progress(self, stage: str, done: int, total: int, note: str = "") -> None:
        """How far a running stage has come."""

    def trained(self, left: int, fitness: float) -> None:
        """An epoch of training has ended. `left`: epochs that the build has still to train; `fitness`: on val, as
        Ultralytics has it. What this raises ends the build there, and a later one goes on from that epoch."""


class Workshop:
    """The folder of one target's build."""

    def __init__(self, folder: Path, listener: Listener | None = None) -> None:
        self.folder = folder
        self.ran: list[str] = []
        self.listener = listener or Listener()

    @contextmanager
    def open(self) -> Iterator[None]:
        """Hold the folder for the length of a build.

        Raises:
            BusyError: Another build holds it.
            DeviceError: It can't be written.
        """
        with files.no_space(self.folder):
            (self.folder / ".stages").mkdir(parents=True, exist_ok=True)
            lock = open(self.folder / ".stages" / "lock", "w")  # noqa: SIM115  held for the whole build
        with lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                raise BusyError(
                    "Another build is at work in this folder.", where=self.folder,
                    next_step="wait for it, or give another folder with --out",
                ) from error  # fmt: skip
            yield

    def __truediv__(self, name: str) -> Path:
        return self.folder / name

    def stage(
        self,
        name: str,
        act: Callable[[Path], None],
        *,
        reads: Mapping[str, Any],
        makes: tuple[str, ...],
        force: bool = False,
    ) -> None:
        """Run `act` unless it has been done.

        Args:
            name: Of the stage.
            act: Called with the work folder; writes every one of `makes` there.
            reads: Everything that the outputs depend on: plain values, and paths that stand for contents.
            makes: Files or folders, relative to the target's folder.
            force: Run it even if it has been done.
        """
        key = _key(name, reads)
        if not force and self._fresh(name, key, makes):
            self.listener.event(name, "done before")
            return
        if not force and self._take_over(name, key, makes):
            self.listener.event(name, "taken over")
            return
        self.listener.event(name, "runs")
        work = self.folder / ".stages" / f"{name}.work"
        started = work / "key"
        if not started.is_file() or started.read_text() != key or force:
            shutil.rmtree(work, ignore_errors=True)
            files.write_bytes(started, key.encode())
        for made in makes:  # what an interrupted run had begun of the outputs is made anew
            files.remove(work / made)
        with files.no_space(self.folder):
            act(work)
        self._stamp_file(name).unlink(missing_ok=True)
        for made in makes:
            files.move(work / made, self.folder / made)
        self._stamp(name, key, makes)
        shutil.rmtree(work, ignore_errors=True)
        self.ran.append(name)
        self.listener.event(name, "done")

    def _stamp_file(self, name: str) -> Path:
        return self.folder / ".stages" / f"{name}.json"

    def _stamp(self, name: str, key: str, makes: tuple[str, ...]) -> None:
        stamp = {"key": key, "made": {made: files.sha256_file(self.folder / made) for made in makes}}
        files.write_bytes(self._stamp_file(name), json.dumps(stamp, indent=2, sort_keys=True).encode())

    def _fresh(self, name: str, key: str, makes: tuple[str, ...]) -> bool:
        try:
            stamp = json.loads(self._stamp_file(name).read_text())
        except (OSError, json.JSONDecodeError):
            return False
        return stamp["key"] == key and all(
            (self.folder / made).exists() and files.sha256_file(self.folder / made) == stamp["made"].get(made)
            for made in makes
        )

    def _take_over(self, name: str, key: str, makes: tuple[str, ...]) -> bool:
        for sibling in sorted(self.folder.parent.glob("*/.stages")):
            lender = Workshop(sibling.parent)
            if lender.folder == self.folder or not lender._fresh(name, key, makes):
                continue
            for made in makes:
                copy = self.folder / ".stages" / "taken"
                shutil.rmtree(copy, ignore_errors=True)
                copy.mkdir()
                source = lender.folder / made
                (shutil.copytree if source.is_dir() else shutil.copyfile)(source, copy / "made")
                files.move(copy / "made", self.folder / made)
                copy.rmdir()
            self._stamp(name, key, makes)
            return True
        return False


def _key(name: str, reads: Mapping[str, Any]) -> str:
    contents = {k: files.sha256_file(v) if isinstance(v, Path) else v for k, v in reads.items()}
    return hashlib.sha256(json.dumps([name, contents], sort_keys=True).encode()).hexdigest()
