"""A bundle as one file, and the difference between two of them.

Rules:
- What is packed (records/archive.py) is looked at again: it is the bundle that was opened, whatever happened to its
  folder meanwhile. A device that packs what it has unpacked gets the same bytes, which deltas are applied to.
- A delta (bsdiff) is kept where it is much smaller than the archive: quantized weights whose scales stay mostly do,
  floats never. Large archives have none: making one takes seventeen times their size in memory.

Sources: C. Percival 2003, 'Naive differences of executable code' (bsdiff); facts on fleets
(0.025 of the size with frozen scales, 0.154 with 1 % of the weights moved).
"""

from __future__ import annotations

import hashlib
import json
import tarfile
from pathlib import Path

from edgeprune.errors import BundleError, missing_package
from edgeprune.records import Bundle, files
from edgeprune.records.archive import pack as pack_folder
from edgeprune.records.base import parse
from edgeprune.runtime.bundle import MANIFEST

#: A delta over this share of the archive isn't worth the memory and time that it takes on a device.
PAYS = 0.6
#: Largest archive that a delta is made of: 64 MiB take about 1.1 GB.
MAX_DELTA_BYTES = 64 << 20


def pack(folder: Path, bundle: Bundle, archive: Path) -> str:
    """Write a bundle's archive; returns the SHA-256 of the manifest in it.

    Raises:
        BundleError: What was read isn't what the manifest says: the bundle changed since it was opened.
        DeviceError: No space left.
    """
    with files.no_space(archive):
        pack_folder(folder, archive)
    with tarfile.open(archive) as tar:
        manifest = _content(tar, MANIFEST)
        if parse(Bundle, json.loads(manifest), BundleError, where=folder / MANIFEST) != bundle:
            raise _changed(folder / MANIFEST)
        if {*tar.getnames()} != {MANIFEST, *(file.path for file in bundle.files)}:
            raise _changed(folder)
        for file in bundle.files:
            if hashlib.sha256(_content(tar, file.path)).hexdigest() != file.sha256:
                raise _changed(folder / file.path)
    return hashlib.sha256(manifest).hexdigest()


def difference(base: Path, archive: Path, patch: Path) -> bool:
    """Write the patch that makes `archive` of `base`; whether it pays, else there is none."""
    if max(base.stat().st_size, archive.stat().st_size) > MAX_DELTA_BYTES:
        return False
    try:
        import bsdiff4
    except ImportError as error:
        raise missing_package("bsdiff4", "fleet") from error
    content: bytes = bsdiff4.diff(base.read_bytes(), archive.read_bytes())
    if len(content) >= PAYS * archive.stat().st_size:
        return False
    files.write_bytes(patch, content)
    return True


def _content(tar: tarfile.TarFile, name: str) -> bytes:
    member = tar.extractfile(name)
    assert member is not None
    return member.read()


def _changed(path: Path) -> BundleError:
    return BundleError("The bundle changed while it was packed.", where=path, next_step="publish it again")
