"""A small repository to test with: one product, keys with one password, as many root keys as asked for."""

from __future__ import annotations

import hashlib
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

from edgeprune.fleet.authority import add_product
from edgeprune.fleet.init import Holders, init
from edgeprune.fleet.keys import Keyring
from edgeprune.fleet.publish import examine, publish
from edgeprune.fleet.repository import Repository
from edgeprune.records.release import Release
from edgeprune.records.rollout import Rollout, Wave
from tests.fleet.bundles import make_bundle

PASSWORD = "correct horse battery"
NOW = datetime.now(timezone.utc).replace(microsecond=0)


def password(role: str, new: bool) -> str:
    return PASSWORD


def make_fleet(folder: Path, *, product: str = "cells", now: datetime | None = None, **holders: Holders) -> Repository:
    """FOLDER/repo and FOLDER/keys, with a product that has no release yet."""
    repository = init(folder / "repo", Keyring.make(folder / "keys", password), now=now, **holders)
    add_product(repository, product, now=now)
    return repository


def reopen(repository: Repository, keys: Path | None = None) -> Repository:
    """As another process opens it."""
    return Repository.open(repository.folder, Keyring(keys or repository.folder.parent / "keys", password))


def release_of(
    repository: Repository, work: Path, *seeds: int, skus: tuple[str, ...] = ("pi",), product: str = "cells",
    **bundle: Any,
) -> Release:  # fmt: skip
    """Publish one release a seed; returns the last."""
    for seed in seeds:
        made = [make_bundle(work / f"{sku}-{seed}", sku, seed, **bundle) for sku in skus]
        last = publish(repository, product, [examine(folder) for folder in made])
    return last


def rollout_of(counter: int, serial: int = 1, channel: str = "stable", **fields: Any) -> Rollout:
    """A rollout of the product 'cells' to everybody."""
    told = {"product": "cells", "salt": f"salt-of-{serial}", "waves": (Wave(percent=100),), "since": NOW}
    return Rollout(channel=channel, serial=serial, counter=counter, **{**told, **fields})


def state_of(*folders: Path) -> str:
    """Hash of everything in some folders: names, contents, links. Locks aside, whose content is nothing."""
    digest = hashlib.sha256()
    for folder in folders:
        for path in sorted(folder.rglob("*")):
            if path.name != ".lock":
                content = path.read_bytes() if path.is_file() else b""
                digest.update(f"{path.relative_to(folder)}\0{hashlib.sha256(content).hexdigest()}\n".encode())
    return digest.hexdigest()


def days(number: float) -> timedelta:
    return timedelta(days=number)
