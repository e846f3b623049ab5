"""Letting devices in: tokens, the store, and the broker's password file, all or nothing."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from pathlib import Path

from edgeprune.errors import EdgepruneError
from edgeprune.fleet.credentials import new_token, token_sha256, write_passwords
from edgeprune.fleet.store import Enrollment, Store


def enroll(
    store: Store, devices: Sequence[str], sku: str, now: datetime, *, product: str | None = None,
    channel: str | None = None, runtime: str = "", tags: tuple[str, ...] = (), again: bool = False,
    passwords: Path | None = None,
) -> dict[str, str]:  # fmt: skip
    """Enrol devices of one SKU.

    Args:
        product, channel, runtime, tags: What is expected of them until they speak.
        again: They were installed anew: those that are enrolled get a new token.
        passwords: mosquitto's password file; their tokens go in.

    Returns:
        Device -> its token, which isn't kept anywhere.

    Raises:
        UpdateError: A device that is enrolled already, or stands there twice.
        DeviceError: The password file can't be written; nobody was enrolled then, except again.
    """
    tokens = {device: new_token() for device in devices}
    store.enroll(
        [
            Enrollment(device, sku, token_sha256(tokens[device]), runtime, tags, product, channel)
            for device in devices
        ],
        now, again=again,
    )  # fmt: skip
    if passwords is not None:
        try:
            write_passwords(passwords, tokens)
        except EdgepruneError:
            if not again:
                store.retire(devices)
            raise
    return tokens
