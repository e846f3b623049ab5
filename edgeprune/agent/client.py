"""What the repository says, verified: python-tuf's `Updater` with the device's embedded root. No decisions.

Rules:
- All trust begins at the root.json that the device was made with, never at the cached one, which a power cut may have
  taken away.
- A poll that finds nothing new asks for two things: the next root, which isn't there, and the timestamp.
- Files are fetched here and not by `Updater.download_target`, which writes over the live file: to a name of their own
  in the staging folder, resumed, hashed, and only then anybody's.
- Small files (rollouts, releases) lie in a cache under their hash. What python-tuf caches isn't fsynced; whatever is
  lost of it is fetched again, and the floor (states.py) is what older metadata comes up against.
- Every way in which a repository can be wrong has its word: the reason of a deferred update.

Sources: TUF specification 1.0.33, 5.3 to 5.7; python-tuf 7.0.1; facts on fleets, 1 to 5.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime, timedelta
from pathlib import Path
from typing import TypeVar

from tuf.api import exceptions as tuf
from tuf.api.metadata import Metadata, TargetFile, Targets
from tuf.ngclient import Updater, UpdaterConfig

from edgeprune.agent.fetch import BusyError, Fetcher
from edgeprune.errors import UpdateError
from edgeprune.records.agent import AgentConfig
from edgeprune.records.base import Record, parse
from edgeprune.records.files import sha256_file, sync_folder, write_bytes
from edgeprune.records.release import FleetFile, Release, release_path
from edgeprune.records.rollout import Rollout

#: A rollout or a release in bytes, at most.
SMALL = 1 << 20
R = TypeVar("R", bound=Record)


class NotNowError(Exception):
    """Why the repository can't be followed now: kind, colon, what happened; how long it asked for peace."""

    def __init__(self, reason: str, retry_after: timedelta | None = None) -> None:
        super().__init__(reason)
        self.reason, self.retry_after = reason, retry_after


class Client:
    """One look at the repository."""

    def __init__(self, config: AgentConfig, folder: Path, fetcher: Fetcher) -> None:
        """
        Args:
            folder: The agent's.

        Raises:
            UpdateError: The embedded root can't be read, or isn't one.
        """
        self._config, self._fetcher = config, fetcher
        self._metadata, self._cache = folder / "metadata", folder / "cache"
        try:
            root = Path(config.root).read_bytes()
        except OSError as error:
            raise UpdateError(
                "The device's root of trust can't be read.", where=config.root, got=error.strerror,
                next_step="copy the repository's first root.json onto the device when it is made",
            ) from error  # fmt: skip
        for made in (self._metadata, self._cache):
            made.mkdir(parents=True, exist_ok=True)
        for left in self._metadata.glob("tmp*"):  # of an Updater that was cut off
            left.unlink()
        base = config.repository.rstrip("/")
        self._targets_url = f"{base}/targets"
        try:
            with in_words():
                self._updater = Updater(
                    str(self._metadata), f"{base}/metadata", fetcher=fetcher, bootstrap=root,
                    config=UpdaterConfig(app_user_agent="edgeprune"),
                )  # fmt: skip
        except NotNowError as error:
            raise UpdateError(
                "The device's root of trust is none.", where=config.root, expected="a signed root.json",
                got=error.reason,
            ) from error  # fmt: skip

    def refresh(self) -> None:
        """Bring the metadata up to date.

        Raises:
            NotNowError: It can't be had, or isn't in order.
        """
        before = self._stamp()
        with in_words():
            self._updater.refresh()
        self._sync(before)

    def rollout(self) -> Rollout | None:
        """The channel's rollout, signed by the online key; None: it has none. Raises NotNowError."""
        found = self._info(f"rollouts/{self._config.channel}.json")
        return None if found is None else self._small(found, Rollout)

    def rollout_keys(self) -> tuple[str, ...]:
        """Identifiers of the keys that may sign rollouts."""
        with in_words():
            top = Metadata[Targets].from_file(str(self._metadata / "targets.json")).signed
        roles = top.delegations.roles if top.delegations and top.delegations.roles else {}
        return tuple(sorted(roles["rollouts"].keyids)) if "rollouts" in roles else ()

    def release(self, counter: int) -> Release | None:
        """A release of the product, signed by its release key; None: there is none. Raises NotNowError."""
        found = self._info(release_path(self._config.product, counter))
        return None if found is None else self._small(found, Release)

    def signed(self, file: FleetFile) -> bool:
        """Whether a file that a release names is signed as just that. Raises NotNowError."""
        found = self._info(file.path)
        return found is not None and (found.length, found.hashes.get("sha256")) == (file.bytes, file.sha256)

    def fetch(self, file: FleetFile, staging: Path) -> Path:
        """Fetch a signed file into the staging folder, whole.

        Raises:
            NotNowError: It can't be had, or isn't what was signed.
            OSError: It can't be written.
        """
        whole, part = staging / file.sha256, staging / f"{file.sha256}.part"
        if whole.is_file() and sha256_file(whole) == file.sha256:
            return whole
        folder, _, name = file.path.rpartition("/")
        url = f"{self._targets_url}/{folder}/{file.sha256}.{name}"
        for resumed in (part.is_file(), False):
            with in_words():
                self._fetcher.download(url, part, file.bytes)
            found = sha256_file(part)
            if found == file.sha256:
                part.replace(whole)
                return whole
            part.unlink()
            if not resumed:
                break
        raise NotNowError(f"arbitrary software: {file.path} has sha256 {found}, {file.sha256} is signed")

    def _info(self, path: str) -> TargetFile | None:
        before = self._stamp()
        with in_words():
            found = self._updater.get_targetinfo(path)
        self._sync(before)
        return found

    def _small(self, info: TargetFile, record: type[R]) -> R:
        content = self._cached(info)
        try:
            return parse(record, json.loads(content), UpdateError, where=info.path)
        except (UpdateError, ValueError) as error:
            said = " ".join(str(error).split())
            raise NotNowError(f"repository: {info.path} can't be read by this agent: {said}") from error

    def _cached(self, info: TargetFile) -> bytes:
        if info.length > SMALL or "sha256" not in info.hashes:
            raise NotNowError(f"endless data: {info.path} has {info.length} bytes, {SMALL} at most")
        file = self._cache / info.hashes["sha256"]
        try:
            content = file.read_bytes()
            info.verify_length_and_hashes(content)
            return content
        except (OSError, tuf.LengthOrHashMismatchError):
            pass
        folder, _, name = info.path.rpartition("/")
        with in_words():
            content = self._fetcher.download_bytes(
                f"{self._targets_url}/{folder}/{info.hashes['sha256']}.{name}", info.length
            )
            try:
                info.verify_length_and_hashes(content)
            except tuf.LengthOrHashMismatchError as error:
                raise NotNowError(f"arbitrary software: {info.path}: {error}") from error
        for old in sorted(self._cache.iterdir(), key=lambda one: one.stat().st_mtime)[:-7]:
            old.unlink()
        write_bytes(file, content)
        return content

    def _stamp(self) -> set[tuple[str, int]]:
        """The cached files, told apart by their inodes; of roots, which are written at every start, by their names."""
        roots = {(file.name, 0) for file in self._metadata.glob("root_history/*.json")}
        return roots | {(f.name, f.stat().st_ino) for f in self._metadata.glob("*.json") if not f.is_symlink()}

    def _sync(self, before: set[tuple[str, int]]) -> None:
        """Bring what python-tuf has cached since to the disk."""
        if self._stamp() == before:
            return
        for file in (*self._metadata.glob("*.json"), *self._metadata.glob("root_history/*.json")):
            with open(file, "rb") as handle:
                os.fsync(handle.fileno())
        sync_folder(self._metadata)


@contextmanager
def in_words() -> Iterator[None]:
    """What python-tuf and the fetcher stop with, as a reason to defer."""
    try:
        yield
    except BusyError as busy:
        after = None if busy.retry_after_s is None else timedelta(seconds=min(busy.retry_after_s, 86400.0))
        raise NotNowError(f"network: {busy}", after) from busy
    except (tuf.DownloadError, tuf.RepositoryError, tuf.StorageError) as error:
        raise NotNowError(f"{_kind(error)}: {_said(error)}") from error


#: An error of python-tuf's and the attack that it would be, the most special first.
_KINDS: tuple[tuple[type[Exception], str], ...] = (
    (tuf.ExpiredMetadataError, "freeze"),
    (tuf.UnsignedMetadataError, "arbitrary software"),
    (tuf.LengthOrHashMismatchError, "mix-and-match"),
    (tuf.BadVersionNumberError, "rollback"),
    (tuf.DownloadLengthMismatchError, "endless data"),
    (tuf.SlowRetrievalError, "slow retrieval"),
    (tuf.DownloadError, "network"),
)


def _kind(error: Exception) -> str:
    return next((kind for one, kind in _KINDS if isinstance(error, one)), "repository")


def _said(error: Exception) -> str:
    return " ".join(str(error).split()) or type(error).__name__


def too_early(now: datetime, floor: datetime | None) -> str | None:
    """Why a clock can't be right; None where it may be. A wrong one would take expired metadata for fresh."""
    earliest = max(filter(None, (floor, WRITTEN)))
    if now >= earliest - SLACK:
        return None
    return f"clock: {now:%Y-%m-%d %H:%M} is before {earliest:%Y-%m-%d %H:%M}, which this device has seen"


#: Nobody's clock is before this was written.
WRITTEN = datetime.fromisoformat("2026-11-01T00:00:00+00:00")
#: Clocks are set back by so much without anything being wrong.
SLACK = timedelta(hours=1)
