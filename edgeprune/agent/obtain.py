"""An archive on the device: of a patch where the device has what the patch is for, else whole.

Rules:
- What a patch is for is made anew of the slot's bundle, byte by byte as it was published (records/archive.py), and
  known by its hash: no second copy of every model lies on the device.
- A patch is tried where it is smaller; whatever goes wrong with it, the whole file is fetched. Both end at one hash.
- A patch says how long its result is before anything is made of it.

Source: bsdiff 4.3 (format: 'BSDIFF40', lengths of control and diff blocks, length of the new file).
"""

from __future__ import annotations

import struct
from pathlib import Path

from edgeprune.agent.client import Client, NotNowError
from edgeprune.records.archive import pack
from edgeprune.records.files import sha256_file
from edgeprune.records.release import ReleaseBuild


def obtain(client: Client, build: ReleaseBuild, bundle: Path | None, staging: Path) -> tuple[Path, str]:
    """A build's archive in the staging folder, as it was signed.

    Args:
        bundle: Of the model that the device has; None: it has none.

    Returns:
        The archive, and how it came: 'here', 'delta' or 'full'.

    Raises:
        NotNowError: It can't be had, or isn't what was signed.
        OSError: It can't be written.
    """
    whole = staging / build.archive.sha256
    if whole.is_file():
        if sha256_file(whole) == build.archive.sha256:
            return whole, "here"
        whole.unlink()
    begun = (staging / f"{build.archive.sha256}.part").is_file()
    if bundle is not None and build.deltas and not begun and _patched(client, build, bundle, staging, whole):
        return whole, "delta"
    return client.fetch(build.archive, staging), "full"


def _patched(client: Client, build: ReleaseBuild, bundle: Path, staging: Path, whole: Path) -> bool:
    try:
        import bsdiff4
    except ImportError:  # of the extra `agent`; without it, whole files
        return False
    base, made = staging / "base.tar", staging / "patched.tar"
    try:
        pack(bundle, base)
        delta = next((one for one in build.deltas if one.base_sha256 == sha256_file(base)), None)
        if delta is None or delta.file.bytes >= build.archive.bytes or not client.signed(delta.file):
            return False
        patch = client.fetch(delta.file, staging).read_bytes()
        if patch[:8] != b"BSDIFF40" or struct.unpack("<q", patch[24:32])[0] != build.archive.bytes:
            return False
        made.write_bytes(bsdiff4.patch(base.read_bytes(), patch))
        if sha256_file(made) != build.archive.sha256:
            return False
        made.replace(whole)
        return True
    except (NotNowError, ValueError, struct.error, MemoryError):
        return False
    finally:
        base.unlink(missing_ok=True)
        made.unlink(missing_ok=True)
