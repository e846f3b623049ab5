"""What is published, in a fleet's words: products, releases, rollouts, and how long their signatures last."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from tuf.api.exceptions import RepositoryError
from tuf.api.metadata import TargetFile, Targets

from edgeprune.errors import UpdateError
from edgeprune.fleet.draft import ROLLOUTS, expiry
from edgeprune.fleet.publication import target_file
from edgeprune.fleet.trusted import Trusted
from edgeprune.records.base import R, parse
from edgeprune.records.release import Release, models_role, release_path
from edgeprune.records.rollout import Rollout


@dataclass(frozen=True)
class Published:
    """A verified state of a repository, and the folder where its files are."""

    folder: Path
    trusted: Trusted

    def products(self) -> tuple[str, ...]:
        """Products that have a role of their own, with releases or without."""
        return tuple(r.removeprefix("models-") for r in sorted(self.trusted.roles) if r.startswith("models-"))

    def counters(self, product: str) -> tuple[int, ...]:
        """Counters of a product's releases, rising.

        Raises:
            UpdateError: No such product.
        """
        found = (re.fullmatch(r"models/[^/]+/([0-9]+)/release\.json", path) for path in self._models(product).targets)
        return tuple(sorted(int(match[1]) for match in found if match))

    def release(self, product: str, counter: int) -> Release:
        """One release.

        Raises:
            UpdateError: No such product or release, or a file that isn't what was signed.
        """
        target = self._models(product).targets.get(release_path(product, counter))
        if target is None:
            raise UpdateError(
                f"The product {product} has no release {counter}.", where=self.folder,
                expected=", ".join(map(str, self.counters(product))) or "none yet: edgeprune fleet publish",
            )  # fmt: skip
        return self._record(target, Release)

    def releases(self, product: str) -> tuple[Release, ...]:
        """All releases of a product, the oldest first; raises as `release` does."""
        return tuple(self.release(product, counter) for counter in self.counters(product))

    def rollouts(self) -> dict[str, Rollout]:
        """Channel -> its rollout."""
        targets = self.trusted.roles[ROLLOUTS].signed.targets
        return {Path(path).stem: self._record(target, Rollout) for path, target in sorted(targets.items())}

    def file(self, path: str) -> Path:
        """The file of a TUF target path, verified.

        Raises:
            UpdateError: No such path, or a file that isn't what was signed.
        """
        for document in self.trusted.roles.values():
            if path in document.signed.targets:
                return self._verified(document.signed.targets[path])
        raise UpdateError("The repository has no such file.", where=self.folder, got=path)

    def problems(self, now: datetime) -> tuple[str, ...]:
        """What keeps devices from taking what is published: expired roles, files that are missing or changed."""
        found = [f"{role} has expired" for role, left in self.remaining(now).items() if left <= 0]
        found += [f"{role} isn't signed by the current root" for role in sorted(self.trusted.stale)]
        for document in self.trusted.roles.values():
            for target in document.signed.targets.values():
                try:
                    self._verified(target)
                except UpdateError as error:
                    found.append(f"{target.path}: {error.details['got']}")
        return tuple(found)

    def remaining(self, now: datetime) -> dict[str, float]:
        """Role -> how much of its time is left: 1 right after signing, 0 and below where it has expired."""
        return {role: (expires - now) / (expiry(role, now) - now) for role, expires in self.expiries().items()}

    def expiries(self) -> dict[str, datetime]:
        """Role -> when its metadata expires."""
        trusted = self.trusted
        top = {"root": trusted.root, "timestamp": trusted.timestamp.signed, "snapshot": trusted.snapshot.signed}
        signed = {**top, **{role: document.signed for role, document in trusted.roles.items()}}
        return {role: document.expires for role, document in signed.items()}

    def unknown(self, product: str) -> UpdateError:
        """The error for a product that nobody knows."""
        return UpdateError(
            f"Nobody knows the product {product}.", where=self.folder,
            expected=", ".join(self.products()) or "no product yet",
            next_step=f"edgeprune fleet product add {product}",
        )  # fmt: skip

    def _models(self, product: str) -> Targets:
        document = self.trusted.roles.get(models_role(product))
        if document is None:
            raise self.unknown(product)
        return document.signed

    def _record(self, target: TargetFile, record: type[R]) -> R:
        path = self._verified(target)
        return parse(record, json.loads(path.read_bytes()), UpdateError, where=path)

    def _verified(self, target: TargetFile) -> Path:
        path = target_file(self.folder, target)
        try:
            with open(path, "rb") as content:
                target.verify_length_and_hashes(content)
        except (OSError, RepositoryError) as error:
            got = error.strerror if isinstance(error, OSError) else str(error)
            raise UpdateError("A file of the repository is not what was signed.", where=path, got=got) from error
        return path
