"""Putting a draft into the folder, so that a reader sees the old state or the new one, whenever we are killed.

Rules:
- TUF target files first (their hash is in their name), then metadata with versions in their names, which nobody asks
  for yet; timestamp.json is renamed over the old one last, and that is the publication.
- New root metadata is seen as soon as it is there. It comes last where readers with the old root take everything else
  too (a rotation with the old keys at hand), and else right before timestamp.json.
- One publisher at a time: a lock (flock) on the folder's `.lock`. Somebody who doesn't lock (another host, a
  synchronised folder) is noticed by timestamp.json, and nothing of ours is published.
- What a killed publication left is written over by the next one, or cleared away when it is old.

Sources: TUF specification 1.0.33, 6.2 (consistent snapshots); rename(2), fsync(2), flock(2).
"""

from __future__ import annotations

import fcntl
import os
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

from tuf.api.metadata import Metadata, Root, TargetFile

from edgeprune.errors import UpdateError
from edgeprune.fleet.draft import Draft
from edgeprune.fleet.keys import Keyring
from edgeprune.fleet.trusted import Trusted, metadata_file
from edgeprune.records import files

#: How long a publisher waits for another one; archives and deltas of a release take minutes.
LOCK_WAIT_S = 600.0
#: A file that nothing leads to any more is kept so long: a reader, or a CDN, may be in the midst of it.
KEPT = timedelta(days=2)
#: Where archives are made before they get their names.
STAGED = ".staged"


@contextmanager
def locked(folder: Path, wait_s: float = LOCK_WAIT_S) -> Iterator[Path]:
    """Hold a repository for one publication; yields an empty folder for files in the making.

    Raises:
        UpdateError: Somebody else has held it for `wait_s` seconds.
    """
    with files.no_space(folder), open(folder / ".lock", "a") as lock:
        until = time.monotonic() + wait_s
        while True:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() > until:
                    raise UpdateError(
                        "Somebody else is publishing.", where=folder, next_step="wait for them, and run it again"
                    ) from None
                time.sleep(0.05)
        staged = folder / STAGED
        shutil.rmtree(staged, ignore_errors=True)
        staged.mkdir()
        try:
            yield staged
        finally:
            shutil.rmtree(staged, ignore_errors=True)


def publish(folder: Path, draft: Draft, keyring: Keyring) -> None:
    """Publish a draft that has been signed; the lock is held.

    Raises:
        UpdateError: Signatures are missing, the online key isn't here, or somebody published meanwhile.
        DeviceError: No space left.
    """
    draft.require()
    only_root = set(draft.changed) == {"root"}
    if not only_root:
        draft.complete(keyring)
        draft.require()
    for target, content in draft.files:
        _place(target_file(folder, target), content)
    root = draft.changed.get("root")
    root_last = root is not None and draft.suits_old_root()
    _refuse_meanwhile(folder, draft)
    for role, document in draft.changed.items():
        if role not in ("root", "timestamp"):
            files.write_bytes(metadata_file(folder, role, document.signed.version), document.to_bytes())
    _refuse_meanwhile(folder, draft)
    if root is not None and not root_last:
        _write_root(folder, root)
    if not only_root:
        files.write_bytes(metadata_file(folder, "timestamp"), draft.changed["timestamp"].to_bytes())
    if root is not None and root_last:
        _write_root(folder, root)
    remember(keyring, draft)


def remember(keyring: Keyring, draft: Draft) -> None:
    """Let the keys know what they have signed for."""
    base = draft.base
    there: dict[str, Metadata[Any]] = {"root": base.roots[-1], "timestamp": base.timestamp, "snapshot": base.snapshot}
    for role, document in there.items():
        keyring.know(f"{role}.json", draft.changed.get(role, document).to_bytes())


def target_file(folder: Path, target: TargetFile) -> Path:
    """Where a TUF target file lies."""
    return folder / "targets" / target.get_prefixed_paths()[0]


def clear(folder: Path, trusted: Trusted, now: datetime) -> tuple[Path, ...]:
    """Remove files that nothing has led to for `KEPT`; the lock is held. Roots stay for ever."""
    keep = {metadata_file(folder, "timestamp"), metadata_file(folder, "snapshot", trusted.snapshot.signed.version)}
    keep |= {metadata_file(folder, "root", root.signed.version) for root in trusted.roots}
    for role, document in trusted.roles.items():
        keep.add(metadata_file(folder, role, document.signed.version))
        keep |= {target_file(folder, target) for target in document.signed.targets.values()}
    before = (now - KEPT).timestamp()
    gone = []
    for place in (folder / "metadata", folder / "targets"):
        for path in sorted(place.rglob("*")):
            if path.is_file() and path not in keep and path.stat().st_mtime < before:
                path.unlink()
                gone.append(path)
    return tuple(gone)


def _refuse_meanwhile(folder: Path, draft: Draft) -> None:
    """Raise UpdateError where somebody published who doesn't hold the lock."""
    if metadata_file(folder, "timestamp").read_bytes() != draft.base.files["timestamp.json"]:
        raise UpdateError(
            "Somebody else published meanwhile, without the lock.", where=metadata_file(folder, "timestamp"),
            next_step="run it again; nothing of this was published",
        )  # fmt: skip


def _place(path: Path, content: bytes | Path) -> None:
    if isinstance(content, bytes):
        files.write_bytes(path, content)
        return
    with files.no_space(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(content, "rb") as handle:
            os.fsync(handle.fileno())
        content.chmod(0o644)
        os.replace(content, path)
        files.sync_folder(path.parent)


def _write_root(folder: Path, root: Metadata[Root]) -> None:
    files.write_bytes(metadata_file(folder, "root", root.signed.version), root.to_bytes())
