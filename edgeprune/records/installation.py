"""Installation: edgeprune's device side as it was installed on a device."""

from __future__ import annotations

from pydantic import Field

from edgeprune.records.base import Record


class Installation(Record):
    """One installation; lies in it as installed.json."""

    name: str
    """Its folder: version, runtime, and hash of what it was made from."""
    runtime: str
    """The library that executes engines there."""
    python: str
    """The device's own Python that it stands on."""
    versions: dict[str, str]
    """Installed package -> version."""
    install_bytes: int = Field(ge=0)
    """Size of its files without the runtime's own package."""
    runtime_bytes: int = Field(ge=0)
    """Size of the runtime's package; 0 where it is the board's own."""
    import_s: float = Field(ge=0)
    """Importing every device room in a fresh process, best of three, seconds; without the runtime."""
    emulated: str | None = None
    """Why the device is taken for an emulated machine, whose times are none; null where nothing speaks for it."""
