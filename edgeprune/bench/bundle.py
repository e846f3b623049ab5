"""A bundle, opened: nothing is run whose hash isn't the manifest's.

Rules:
- Every file that the manifest names is there with its size and hash, and no other file is: what isn't named wasn't
  measured by anyone.
- A path that leads out of the bundle is refused before anything is read.
- An engine that was built and measured on another architecture is refused: its kernels and its form are another's.
- So is one that was measured on another version of the runtime, since kernels and figures are its own; who wants to
  know all the same asks for it, and both versions are said.

Source: Bundle (edgeprune/records/bundle.py); python-tuf's order, hash before use.
"""

from __future__ import annotations

import platform
from pathlib import Path, PurePosixPath

from edgeprune.errors import BundleError, ExitCode
from edgeprune.records import Bundle, read_json
from edgeprune.records.files import sha256_file

MANIFEST = "manifest.json"


def open_bundle(folder: Path) -> Bundle:
    """Read a bundle's manifest and check all of its files.

    Raises:
        BundleError: No manifest, or a file that is missing, changed, unnamed, or outside.
    """
    if not (folder / MANIFEST).is_file():
        raise BundleError(
            "There is no bundle here.", where=folder, expected=f"a folder with {MANIFEST}",
            next_step="an accepted build lies in OUT/TARGET/bundle",
        )  # fmt: skip
    bundle = read_json(folder / MANIFEST, Bundle, BundleError)
    for file in bundle.files:
        if ".." in PurePosixPath(file.path).parts:
            raise BundleError("A file lies outside the bundle.", where=folder / MANIFEST, got=file.path)
        path = folder / file.path
        found = sha256_file(path) if path.is_file() and not path.is_symlink() else "no such file"
        if found != file.sha256:
            raise BundleError(
                "A file of the bundle is not the one that was measured.", where=path, expected=f"sha256 {file.sha256}",
                got=found, next_step="copy the whole bundle again from where it was built",
            )  # fmt: skip
    named = {MANIFEST, *(file.path for file in bundle.files)}
    there = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if not path.is_dir()}
    if there - named:
        raise BundleError(
            "The bundle holds a file that its manifest doesn't name.", where=folder / min(there - named),
            expected=", ".join(sorted(named)),
        )  # fmt: skip
    if bundle.engine not in named:
        raise BundleError("The engine is none of the bundle's files.", where=folder / MANIFEST, got=bundle.engine)
    return bundle


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
