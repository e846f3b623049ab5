"""An archive: a bundle's folder as a deterministic tar, and back.

Rules:
- Same folder, same bytes: files alone, the manifest first and the others by name, in pax format, mode 0644, owner and
  time zero, not compressed: a patch between two archives sees what changed.
- Unpacking takes files and nothing else: no link, no device, no path that is absolute or leads outside, none twice; no
  more bytes than were announced. What is written is on the disk when it returns.

Sources: POSIX.1-2001, pax format; CPython issue 73974 and PEP 706 (what tar files can do).
"""

from __future__ import annotations

import os
import tarfile
from pathlib import Path, PurePosixPath

from edgeprune.errors import BundleError
from edgeprune.records.files import sync_folder

#: Files of a bundle, at most.
MOST_FILES = 10_000


def pack(folder: Path, archive: Path) -> None:
    """Write a bundle's archive: its manifest first, then all other files by name."""
    names = {path.relative_to(folder).as_posix(): path for path in folder.rglob("*") if path.is_file()}
    with tarfile.open(archive, "w", format=tarfile.PAX_FORMAT) as tar:
        for name in sorted(names, key=lambda name: (name != "manifest.json", name)):
            entry = tarfile.TarInfo(name)  # mode 0644, owner and time zero
            entry.size = names[name].stat().st_size
            with open(names[name], "rb") as content:
                tar.addfile(entry, content)


def unpack(archive: Path, folder: Path, most_bytes: int) -> None:
    """Unpack an archive into a folder that isn't there yet.

    Raises:
        BundleError: It isn't an archive as `pack` writes them.
        OSError: The folder can't be written.
    """
    folder.mkdir(parents=True)
    folders, names, total = {folder}, set[str](), 0
    try:
        with tarfile.open(archive, "r:") as tar:
            for member in tar:
                parts = PurePosixPath(member.name).parts
                total += member.size
                wrong = (
                    "no file" if not member.isreg() or member.issparse()
                    else "outside" if not parts or member.name.startswith("/") or ".." in parts or "\\" in member.name
                    else "twice" if "/".join(parts) in names
                    else "more bytes than were announced" if total > most_bytes
                    else "too many files" if len(names) >= MOST_FILES
                    else ""
                )  # fmt: skip
                if wrong:
                    raise BundleError(
                        "The archive isn't one of a bundle.", where=f"{archive}, {member.name}", got=wrong
                    )
                names.add("/".join(parts))
                source = tar.extractfile(member)
                assert source is not None
                path = folder.joinpath(*parts)
                path.parent.mkdir(parents=True, exist_ok=True)
                folders.update(p for p in path.parents if p.is_relative_to(folder))
                with open(path, "xb") as file:
                    while block := source.read(1 << 20):
                        file.write(block)
                    file.flush()
                    os.fsync(file.fileno())
    except (tarfile.TarError, FileExistsError, NotADirectoryError, IsADirectoryError, UnicodeError) as error:
        raise BundleError("The archive can't be unpacked.", where=archive, got=str(error)) from error
    for one in folders:
        sync_folder(one)
