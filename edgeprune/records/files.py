"""Writing a file so that it is either whole or not there, and hashing what was read.

Rules:
- A file is written under a temporary name in its own folder, flushed to the disk, and renamed; then the
  folder is flushed. Who looks sees the old file or the new one.
- No space left is the user's to mend: `DeviceError`, and nothing half-written stays behind.

Source: rename(2): 'If newpath already exists, it will be atomically replaced'; fsync(2) on the directory.
"""

from __future__ import annotations

import errno
import hashlib
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from edgeprune.errors import DeviceError


def write_bytes(path: Path, content: bytes, mode: int = 0o644) -> None:
    """Write `content` to `path`, whole or not at all; nobody may read it meanwhile whom `mode` keeps from it.

    Raises:
        DeviceError: No space left, or the folder can't be written.
    """
    with no_space(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".part")
        try:
            with os.fdopen(handle, "wb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            os.chmod(temporary, mode)
            os.replace(temporary, path)
        except BaseException:
            Path(temporary).unlink(missing_ok=True)
            raise
        sync_folder(path.parent)


def move(source: Path, destination: Path) -> None:
    """Move a finished file or folder to its place on the same disk, replacing what is there."""
    with no_space(destination):
        destination.parent.mkdir(parents=True, exist_ok=True)
        for file in [source] if source.is_file() else sorted(p for p in source.rglob("*") if p.is_file()):
            with open(file, "rb") as handle:
                os.fsync(handle.fileno())
        if destination.is_dir():
            remove(destination)
        os.replace(source, destination)
        sync_folder(destination.parent)


def remove(path: Path) -> None:
    """Remove a file, or a folder so that no reader sees half of it: renamed first."""
    if path.is_dir():
        doomed = path.with_name(f".{path.name}.removed")
        shutil.rmtree(doomed, ignore_errors=True)
        os.replace(path, doomed)
        shutil.rmtree(doomed)
    else:
        path.unlink(missing_ok=True)


def sync_folder(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def sha256_file(path: Path) -> str:
    """Hex SHA-256 of a file, or of a folder's file names and contents in order."""
    digest = hashlib.sha256()
    if path.is_dir():
        for file in sorted(p for p in path.rglob("*") if p.is_file()):
            digest.update(f"{file.relative_to(path).as_posix()}\0{sha256_file(file)}\n".encode())
        return digest.hexdigest()
    with open(path, "rb") as handle:
        while block := handle.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


@contextmanager
def no_space(path: Path) -> Iterator[None]:
    """Turn a full disk into an error that names it."""
    try:
        yield
    except OSError as error:
        if error.errno not in {errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES}:
            raise
        raise DeviceError(
            "The file can't be written.",
            where=path,
            got=error.strerror,
            next_step="free some space or give another folder with --out; finished stages are kept",
        ) from error
