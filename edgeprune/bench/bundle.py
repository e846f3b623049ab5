"""Whether an opened bundle (runtime/bundle.py) is for this machine.

Rules:
- An engine that was built and measured on another architecture is refused: its kernels and its form are another's.
- So is one that was measured on another version of the runtime, since kernels and figures are its own; who wants to
  know all the same asks for it, and both versions are said.
"""

from __future__ import annotations

import platform
from pathlib import Path

from edgeprune.errors import BundleError, ExitCode
from edgeprune.records import Bundle


def refuse_architecture(bundle: Bundle, folder: Path, machine: str | None = None) -> None:
    """Raise BundleError for a bundle of another architecture than `machine` (this one's)."""
    here = machine or platform.machine()
    if bundle.architecture not in (None, here):
        raise BundleError(
            "The bundle was built and measured on another architecture.", where=folder, expected=here,
            got=bundle.architecture, next_step=f"build it for a target that is {here}, or measure it where it belongs",
            code=ExitCode.ARCHITECTURE,
        )  # fmt: skip


def refuse_version(bundle: Bundle, folder: Path, runtime: str) -> None:
    """Raise BundleError where the device has another version of the runtime than the bundle was measured on."""
    if runtime != bundle.measured.runtime:
        raise BundleError(
            "The device has another version of the runtime than the bundle was made for.", where=folder,
            expected=bundle.measured.runtime, got=runtime,
            next_step="edgeprune device setup installs edgeprune's own version; to measure all the same: --any-version",
            code=ExitCode.RUNTIME_VERSION,
        )  # fmt: skip


def differences(bundle: Bundle, runtime: str) -> tuple[str, ...]:
    """Sentences on what a bundle ran on that it wasn't made for.

    Args:
        bundle: The bundle.
        runtime: Library and version that it ran on.
    """
    notes = []
    if runtime != bundle.measured.runtime:
        notes.append(f"runtime: the bundle was measured on {bundle.measured.runtime}, this run is on {runtime}")
    if bundle.architecture is None:
        notes.append("architecture: the bundle doesn't say on which it was built")
    return tuple(notes)
