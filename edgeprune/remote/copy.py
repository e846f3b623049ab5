"""Copying to and from a device: whole and checked, or not there.

Rules:
- What is copied grows under NAME.part. Only when the device's SHA-256 of all of it is that of the original is it
  flushed and renamed; who looks at NAME sees the old one or the new one.
- A .part that is there is gone on with, if what it holds is the beginning of the original (its hash says so); else it
  is begun anew. Its last block is always sent again: its requests were under way together and may have left holes.
- Too little space is found before the first byte. A disk that fills up meanwhile leaves no .part behind.
- A folder is copied file by file into NAME.part/ and changes places as one: for a moment, NAME isn't there.

Source: draft-ietf-secsh-filexfer-02 as OpenSSH extends it (PROTOCOL: posix-rename, fsync, statvfs); sshd reports a full
disk as a plain failure, so the space is looked at again to tell.
"""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from edgeprune.errors import DeviceError, ExitCode
from edgeprune.records import files
from edgeprune.records.address import DeviceAddress
from edgeprune.remote.connect import import_asyncssh

#: Bytes that are in flight together: enough for 40 MB/s at a round trip of 100 ms.
BLOCK = 4 << 20
#: Space that has to stay free on the device besides the copy.
RESERVE = 1 << 20

#: Bytes done, bytes in all.
Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class Copied:
    """What a copy did.

    Attributes:
        total_bytes: Size of what was to be copied.
        resumed_bytes: What was there from an earlier try and wasn't sent again.
    """

    total_bytes: int
    resumed_bytes: int


@dataclass(frozen=True)
class Link:
    """A connection that copies.

    Attributes:
        sftp: asyncssh.SFTPClient.
        run: Device.run.
    """

    address: DeviceAddress
    sftp: Any
    run: Any


async def put(link: Link, source: Path, destination: str, progress: Progress | None = None) -> Copied:
    """Copy a local file or folder; see Device.put."""
    listed = _local_files(source)
    total = sum(path.stat().st_size for path in listed.values())
    part, parent = f"{destination}.part", str(PurePosixPath(destination).parent)
    resumed = done = 0
    with _in_words(link, destination):
        await link.sftp.makedirs(parent, exist_ok=True)
        if await link.sftp.isdir(part) != source.is_dir():  # left by a copy of the other kind
            await _remove(link, part)
        present = {name: size async for name, size in _remote_files(link, part)} if await _exists(link, part) else {}
        await _require_space(link, parent, total - sum(min(s, total) for n, s in present.items() if n in listed))
        for stale in present.keys() - listed.keys():  # of another folder
            await link.sftp.remove(_join(part, stale))
        for name, path in listed.items():
            target = _join(part, name)
            try:
                await link.sftp.makedirs(str(PurePosixPath(target).parent), exist_ok=True)
                resumed += await _send(link, path, target, _from(progress, done, total))
            except import_asyncssh().SFTPFailure as error:
                if await _free(link, parent) > RESERVE:
                    raise
                await _remove(link, part)
                raise _full(link, parent, total, await _free(link, parent)) from error
            done += path.stat().st_size
        if source.is_dir():
            await _swap_folder(link, part, destination)
        else:
            await link.sftp.posix_rename(part, destination)
            await link.run(["sync", parent])
    return Copied(total, resumed)


async def get(link: Link, source: str, destination: Path, progress: Progress | None = None) -> Copied:
    """Copy a file or folder of the device; see Device.get."""
    part = destination.with_name(f"{destination.name}.part")
    resumed = done = 0
    with _in_words(link, source), files.no_space(destination):
        listed = {name: size async for name, size in _remote_files(link, source)}
        total = sum(listed.values())
        destination.parent.mkdir(parents=True, exist_ok=True)
        if part.is_dir() == ("" in listed):  # left by a copy of the other kind
            files.remove(part)
        if "" not in listed:
            part.mkdir(exist_ok=True)
        for name, size in listed.items():
            target = part / name if name else part
            target.parent.mkdir(parents=True, exist_ok=True)
            resumed += await _fetch(link, _join(source, name), target, size, _from(progress, done, total))
            done += size
        for stale in [p for p in part.rglob("*") if p.is_file() and p.relative_to(part).as_posix() not in listed]:
            stale.unlink()
        files.move(part, destination)
    return Copied(total, resumed)


async def _send(link: Link, source: Path, part: str, progress: Callable[[int], None]) -> int:
    """Fill a .part on the device and check it; returns the bytes that were there already."""
    size = source.stat().st_size
    there = await link.sftp.getsize(part) if await _exists(link, part) else 0
    kept = max(0, min(there or 0, size) - BLOCK) if (there or 0) <= size else 0
    if kept and await _sha256_there(link, part, kept) != _sha256_here(source, kept):
        kept = 0
    async with link.sftp.open(part, "r+b" if kept else "wb") as target:
        with open(source, "rb") as file:
            file.seek(kept)
            at = kept
            while block := file.read(BLOCK):
                progress(at)
                await target.write(block, at)
                at += len(block)
        await target.fsync()
    progress(size)
    got, expected = await _sha256_there(link, part, None), _sha256_here(source, None)
    if got != expected:
        await _remove(link, part)
        raise _differs(link, part, expected, f"{got} on the device")
    return kept


async def _fetch(link: Link, source: str, part: Path, size: int, progress: Callable[[int], None]) -> int:
    """Fill a local .part and check it; returns the bytes that were there already."""
    there = part.stat().st_size if part.is_file() else 0
    kept = there if there <= size else 0
    if kept and await _sha256_there(link, source, kept) != _sha256_here(part, kept):
        kept = 0
    async with link.sftp.open(source, "rb") as file:
        with open(part, "r+b" if kept else "wb") as target:
            target.seek(kept)
            at = kept
            while block := await file.read(BLOCK, at):
                progress(at)
                target.write(block)
                at += len(block)
            target.flush()
            os.fsync(target.fileno())
    progress(size)
    got, expected = _sha256_here(part, None), await _sha256_there(link, source, None)
    if got != expected:
        part.unlink()
        raise _differs(link, source, expected, f"{got} here")
    return kept


def _differs(link: Link, path: str, expected: str, got: str) -> DeviceError:
    return DeviceError(
        "The copy is not the original; it was removed again.", where=f"{link.address}: {path}",
        expected=f"sha256 {expected}", got=f"sha256 {got}",
        next_step="copy it again; if it happens again, the memory or the disk of one of the two is faulty",
    )  # fmt: skip


async def _sha256_there(link: Link, path: str, length: int | None) -> str:
    """SHA-256 of a file on the device, or of its first bytes; by its own tools, so that the disk is what is read."""
    script = 'head -c "$2" < "$1" | sha256sum' if length is not None else 'sha256sum < "$1"'
    done = await link.run(["sh", "-c", script, "sh", path, *([str(length)] if length is not None else [])])
    found = re.match(r"[0-9a-f]{64}\b", done.stdout)
    if done.exit_code or found is None:
        raise DeviceError(
            "The device can't hash a file.", where=f"{link.address}: {path}",
            expected="head and sha256sum, of coreutils or busybox", got=done.stderr.strip() or done.stdout.strip(),
        )  # fmt: skip
    return found[0]


def _sha256_here(path: Path, length: int | None) -> str:
    if length is None:
        return files.sha256_file(path)
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while length and (block := file.read(min(length, BLOCK))):
            digest.update(block)
            length -= len(block)
    return digest.hexdigest()


def _local_files(source: Path) -> dict[str, Path]:
    """Path below the source -> file; '' is the source itself."""
    if source.is_file():
        return {"": source}
    if not source.is_dir():
        raise DeviceError("There is no such file or folder to copy.", where=source)
    return {p.relative_to(source).as_posix(): p for p in sorted(source.rglob("*")) if p.is_file()}


async def _remote_files(link: Link, path: str, name: str = "") -> Any:
    """(path below `path`, size) of every file; '' is `path` itself. Links are followed to files, not to folders."""
    if not await link.sftp.isdir(_join(path, name)):
        yield name, await link.sftp.getsize(_join(path, name))
        return
    entries = sorted([e.filename async for e in link.sftp.scandir(_join(path, name))])
    for entry in entries:
        if entry in {".", ".."}:
            continue
        below = f"{name}/{entry}" if name else entry
        if await link.sftp.isdir(_join(path, below)):
            if not await link.sftp.islink(_join(path, below)):
                async for found in _remote_files(link, path, below):
                    yield found
        elif await link.sftp.isfile(_join(path, below)):
            yield below, await link.sftp.getsize(_join(path, below))


async def _swap_folder(link: Link, part: str, destination: str) -> None:
    script = (
        'set -e; mkdir -p "$1"; rm -rf "$2.removed"; if [ -e "$2" ]; then mv "$2" "$2.removed"; fi; '
        'mv "$1" "$2"; sync; rm -rf "$2.removed"'
    )
    done = await link.run(["sh", "-c", script, "sh", part, destination])
    if done.exit_code:
        raise DeviceError(
            "The folder can't be put in its place.", where=f"{link.address}: {destination}", got=done.stderr.strip()
        )


async def _free(link: Link, folder: str) -> int:
    """Bytes left for this user; as many as anyone likes where the server can't say."""
    try:
        found = await link.sftp.statvfs(folder)
    except import_asyncssh().SFTPOpUnsupported:
        return 1 << 62
    return int(found.bavail * found.frsize)


async def _require_space(link: Link, folder: str, needed: int) -> None:
    free = await _free(link, folder)
    if free < needed + RESERVE:
        raise _full(link, folder, needed, free)


def _full(link: Link, folder: str, needed: int, free: int) -> DeviceError:
    return DeviceError(
        "The device's disk is full.", where=f"{link.address}: {folder}",
        expected=f"{(needed + RESERVE) / 1e6:.1f} MB free", got=f"{free / 1e6:.1f} MB",
        next_step="free some space there; nothing was left behind", code=ExitCode.DISK_FULL,
    )  # fmt: skip


async def _exists(link: Link, path: str) -> bool:
    return bool(await link.sftp.exists(path))


async def _remove(link: Link, path: str) -> None:
    await link.run(["rm", "-rf", "--", path])


def _from(progress: Progress | None, before: int, total: int) -> Callable[[int], None]:
    """Progress of one file, as progress of all."""
    return lambda done: progress(before + done, total) if progress else None


def _join(folder: str, name: str) -> str:
    return f"{folder}/{name}" if name else folder


@contextmanager
def _in_words(link: Link, path: str) -> Iterator[None]:
    """What SFTP refuses, as errors; a lost connection passes, since the caller goes on from it."""
    ssh = import_asyncssh()
    try:
        yield
    except (ssh.SFTPConnectionLost, ssh.SFTPNoConnection):
        raise
    except (ssh.SFTPNoSuchFile, ssh.SFTPNoSuchPath) as error:
        raise DeviceError("There is no such file or folder on the device.", where=f"{link.address}: {path}") from error
    except ssh.SFTPPermissionDenied as error:
        raise DeviceError(
            "The device's user may not read or write there.", where=f"{link.address}: {path}", got=error.reason,
            next_step="give a path below its home folder",
        ) from error  # fmt: skip
    except ssh.SFTPError as error:
        raise DeviceError("The device can't copy this.", where=f"{link.address}: {path}", got=error.reason) from error
