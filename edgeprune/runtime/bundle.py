"""A bundle, opened: nothing is run whose hash isn't the manifest's.

Rules:
- Every file that the manifest names is there with its size and hash, and no other file is: what isn't named wasn't
  measured by anyone.
- A path that leads out of the bundle is refused before anything is read.
- Where the device builds its own engine, that lies beside the bundle, and is the one that engine.json was written of.

Source: Bundle (edgeprune/records/bundle.py); python-tuf's order, hash before use.
"""

from __future__ import annotations

from pathlib import Path, PurePosixPath

from edgeprune.errors import BundleError
from edgeprune.records import BoardEngine, Bundle, read_json
from edgeprune.records.agent import BUNDLE, ENGINE
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


def open_slot(slot: Path) -> tuple[Bundle, Path]:
    """Check a slot of an agent's.

    Returns:
        Its bundle, and the engine's file.

    Raises:
        BundleError: The bundle isn't whole, or its engine wasn't built of it.
    """
    bundle = open_bundle(slot / BUNDLE)
    if bundle.kit is None:
        return bundle, slot / BUNDLE / bundle.engine
    file = slot / ENGINE / "model.engine"
    made = read_json(slot / ENGINE / "engine.json", BoardEngine, BundleError)
    found = sha256_file(file) if file.is_file() else "no such file"
    if made.kit_sha256 != bundle.kit.sha256 or found != made.sha256.get(file.name):
        raise BundleError(
            "The engine is not the one that this device built of the bundle.", where=file,
            expected=f"sha256 {made.sha256.get(file.name)}, of kit {bundle.kit.sha256}",
            got=f"{found}, of kit {made.kit_sha256}",
        )  # fmt: skip
    return bundle, file
