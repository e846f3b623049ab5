"""Files that a host has sent, on the device: `python -m edgeprune.bench.store ROOT ARCHIVE.tar` puts them in place.

Rules:
- ROOT/files/SHA256.SUFFIX is a file, ROOT/files/SHA256 a folder, each of that content. What is there is whole: it is
  unpacked beside, hashed, and only then renamed.
- It is a cache: images stay for thirty days, engines for one; who needs one again sends it again.
- What a host that died left behind (requests, archives, halves) goes after a day.
- The archive goes with its end, well or not.

Exit code 0: all there. Else in words on standard error: 16 for a full disk, 2.

Source: tarfile; members are taken one by one, since the filters of PEP 706 came with 3.11.4 and a device may be older.
"""

from __future__ import annotations

import errno
import shutil
import sys
import tarfile
import time
from pathlib import Path, PurePosixPath

from edgeprune.errors import DeviceError, EdgepruneError, ExitCode
from edgeprune.records import files
from edgeprune.records.dataset import IMAGE_SUFFIXES

DAY_S = 86_400.0


def unpack(root: Path, archive: Path) -> None:
    """Put an archive's entries in their place, and drop what is old.

    Raises:
        DeviceError: An entry that isn't what its name says; a full disk.
    """
    store = root / "files"
    work = root / f"{archive.name}.unpacked"
    try:
        with files.no_space(store):
            shutil.rmtree(work, ignore_errors=True)
            try:
                _extract(archive, work)
            except OSError as error:
                if error.errno not in {errno.ENOSPC, errno.EDQUOT}:
                    raise
                raise DeviceError(
                    "The device's disk is full.", where=store, got=error.strerror,
                    next_step="free some space there; nothing was left behind", code=ExitCode.DISK_FULL,
                ) from error  # fmt: skip
            for entry in sorted(work.iterdir()):
                found = files.sha256_file(entry)
                if found != entry.stem:
                    raise DeviceError(
                        "A file arrived differently.", where=entry, expected=f"sha256 {entry.stem}", got=found
                    )
                if not (store / entry.name).exists():
                    files.move(entry, store / entry.name)
    finally:
        shutil.rmtree(work, ignore_errors=True)
        archive.unlink(missing_ok=True)
        clean(root, time.time())


def clean(root: Path, now: float) -> None:
    """Drop what nobody has sent again for its time."""
    for entry in (root / "files").glob("*"):
        _drop(entry, now - DAY_S * (30 if entry.suffix.lower() in IMAGE_SUFFIXES else 1))
    for left in [*root.glob("requests/*"), *root.glob("*.tar"), *root.glob("*.tar.part"), *root.glob("*.unpacked")]:
        _drop(left, now - DAY_S)


def _drop(path: Path, before: float) -> None:
    try:
        if path.stat().st_mtime < before:
            files.remove(path)
    except FileNotFoundError:
        return  # another command was quicker


def _extract(archive: Path, work: Path) -> None:
    work.mkdir(parents=True)
    with tarfile.open(archive) as tar:
        for member in tar:
            parts = PurePosixPath(member.name).parts
            source = tar.extractfile(member)
            if source is None or not parts or ".." in parts or parts[0] == "/":
                raise DeviceError("The archive holds what isn't a file of its own.", where=archive, got=member.name)
            path = work.joinpath(*parts)
            path.parent.mkdir(parents=True, exist_ok=True)
            with source, open(path, "wb") as file:
                shutil.copyfileobj(source, file)


def main(arguments: list[str]) -> int:
    if len(arguments) != 2:
        sys.stderr.write("usage: python -m edgeprune.bench.store ROOT ARCHIVE.tar\n")
        return 2
    try:
        unpack(*map(Path, arguments))
    except EdgepruneError as error:
        sys.stderr.write(f"{error}\n")
        return int(error.code)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
