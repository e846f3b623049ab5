"""Reading a status that came over a network: what isn't one is refused in words.

Rules:
- At most 16 KiB of JSON, whose device is the one that the broker or the token vouches for.
- What a database couldn't hold is no status either: numbers over 2^53, NUL characters, moments outside of 1970 to 9999.
"""

from __future__ import annotations

from datetime import datetime, timezone

from pydantic import ValidationError

from edgeprune.errors import UpdateError
from edgeprune.records.device_status import DeviceStatus

#: An honest one has 600 bytes.
MOST_BYTES = 16 * 1024
_MOST = 2**53
_FIRST = datetime(1970, 1, 1, tzinfo=timezone.utc)


def read_status(content: bytes, device: str) -> DeviceStatus:
    """A device's status from JSON.

    Raises:
        UpdateError: It is malformed, too long, or another device's.
    """
    where = f"status of {device}"
    if len(content) > MOST_BYTES:
        raise UpdateError(
            "The status is too long.", where=where, expected=f"{MOST_BYTES} bytes at most", got=len(content)
        )  # fmt: skip
    try:
        status = DeviceStatus.model_validate_json(content)
    except ValidationError as problem:
        first = problem.errors(include_url=False, include_input=False)[0]
        place = ".".join(str(part) for part in first["loc"]) or "JSON"
        raise UpdateError("The status is malformed.", where=f"{where}: {place}", got=first["msg"]) from problem
    if status.device != device:
        raise UpdateError("The status is another device's.", where=where, expected=device, got=status.device)
    wrong = _unkeepable(status)
    if wrong is not None:
        raise UpdateError("The status is malformed.", where=f"{where}: {wrong}", got="out of range")
    return status


def _unkeepable(status: DeviceStatus) -> str | None:
    """The first field that no database holds."""
    for name in ("seq", "counter", "rollout", "release"):
        if getattr(status, name) > _MOST:
            return name
    for name in ("runtime", "agent", "model_sha256", "reason"):
        if "\0" in getattr(status, name):
            return name
    if any("\0" in tag for tag in status.tags):
        return "tags"
    if len(status.model_sha256) > 64:
        return "model_sha256"
    try:
        early = status.at.astimezone(timezone.utc) < _FIRST
    except OverflowError:
        early = True
    return "at" if early else None
