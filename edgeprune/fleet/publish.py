"""Releases: of bundles that a report has accepted, or of an earlier release's bytes under a new number.

Rules:
- A bundle is opened and hashed before anything else. The report beside it (OUT/TARGET/report.json) must have accepted
  it: same target, and the figures of the manifest are those of the build that the verdict is about. What has no such
  report is published only by force, with a reason that stays in the release.
- A SKU that the product has never had is refused unless it is said to be new: it is mostly the wrong product.
- The same archive again is the same file again. Deltas are made from what the last releases gave to that SKU.
- The number is the newest one's plus one, found under the lock.

Sources: facts on fleets; records/release.py.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from edgeprune.errors import UpdateError
from edgeprune.fleet.archive import difference, pack
from edgeprune.fleet.draft import Draft
from edgeprune.fleet.published import Published
from edgeprune.fleet.repository import Repository
from edgeprune.records import Bundle, Report, files, read_json
from edgeprune.records.base import to_json
from edgeprune.records.release import (
    Delta,
    FleetFile,
    Release,
    ReleaseBuild,
    archive_path,
    delta_path,
    is_name,
    models_role,
    release_path,
)
from edgeprune.runtime.bundle import MANIFEST, open_bundle

#: Releases of a SKU that a device may come from with a delta. Who is further behind takes the whole archive.
BASES = 3


@dataclass(frozen=True)
class Offered:
    """A bundle that may be published.

    Attributes:
        folder: Where it lies.
        forced: Why, where no report accepted it.
    """

    folder: Path
    bundle: Bundle
    forced: str | None = None


def examine(folder: Path, report: Path | None = None, force: Callable[[str], str] | None = None) -> Offered:
    """Open a bundle and see whether it was accepted.

    Args:
        folder: The bundle.
        report: Its report; the one beside it.
        force: Told why it wasn't, gives the reason to publish it all the same; None: it isn't published.

    Raises:
        BundleError: It isn't whole.
        UpdateError: No report accepted it, or its target can't be a SKU's name.
    """
    bundle = open_bundle(folder)
    if not is_name(bundle.target):
        raise UpdateError(
            "The bundle's target can't be a SKU's name.", where=folder / MANIFEST, got=bundle.target,
            expected="a to z, 0 to 9, '.', '_', '-'; 64 at most",
        )  # fmt: skip
    why = refused(bundle, report or folder.absolute().parent / "report.json")
    if why is None:
        return Offered(folder, bundle)
    if force is None:
        raise UpdateError(
            f"The bundle of {bundle.target} isn't published: {why}", where=folder,
            next_step="build it again, or publish it with --force and a reason, which is recorded in the release",
        )  # fmt: skip
    reason = force(why).strip()
    if not reason:
        raise UpdateError("A forced release needs a reason.", where=folder, next_step="give one with --reason")
    return Offered(folder, bundle, f"{reason} ({why})")


def refused(bundle: Bundle, report: Path) -> str | None:
    """Why a report doesn't accept a bundle; None where it does."""
    if not report.is_file():
        return f"there is no report at {report}."
    found = read_json(report, Report, UpdateError)
    compared = found.verdict.comparison.build
    of_build = [row for row in found.rows if f"{row.variant} {row.precision}" == compared]
    if found.target != bundle.target or bundle.measured not in of_build:
        return f"the report at {report} is another build's."
    if not found.verdict.accepted:
        return f"its report rejected it: {'; '.join(found.verdict.reasons)}."
    return None


def publish(
    repository: Repository, product: str, offered: Sequence[Offered], *, label: str = "", new_skus: bool = False,
    latency_tolerance: float = 1.5, now: datetime | None = None,
) -> Release:  # fmt: skip
    """Publish a release of some bundles, each for its SKU.

    Args:
        label: What people call it.
        new_skus: Whether it may have a SKU that no earlier release had.
        latency_tolerance: How many times the measured latency a device's self-test may take.

    Raises:
        UpdateError: Two bundles of one SKU, an unknown product or SKU, or no release key.
        DeviceError: No space left.
    """
    skus = [one.bundle.target for one in offered]
    if len(set(skus)) != len(skus) or not skus:
        raise UpdateError("A release has one bundle a SKU.", got=", ".join(skus) or "none")
    with repository.change(now, models_role(product)) as (draft, staged):
        there = Published(repository.folder, draft.base)
        earlier = there.releases(product)
        known = {build.sku for release in earlier for build in release.builds}
        if earlier and not new_skus and not set(skus) <= known:
            raise UpdateError(
                f"The product {product} has never had the SKU {', '.join(sorted(set(skus) - known))}.",
                expected=", ".join(sorted(known)), next_step="is it this product's? Then give --new-sku",
            )  # fmt: skip
        counter = earlier[-1].counter + 1 if earlier else 1
        builds = []
        for one in offered:
            archive = staged / f"{one.bundle.target}.tar"
            manifest = pack(one.folder, one.bundle, archive)
            build = ReleaseBuild(
                sku=one.bundle.target, architecture=one.bundle.architecture, runtime=one.bundle.measured.runtime,
                archive=FleetFile(
                    path=archive_path(product, counter, one.bundle.target), sha256=files.sha256_file(archive),
                    bytes=archive.stat().st_size,
                ),
                manifest_sha256=manifest,
                latency_ms=one.bundle.measured.latency_ms.p50, latency_tolerance=latency_tolerance, forced=one.forced,
            )  # fmt: skip
            builds.append(_placed(there, draft, staged, product, build, archive, earlier, counter))
        release = Release(product=product, counter=counter, label=label, builds=tuple(builds))
        _add_file(draft, product, release_path(product, counter), to_json(release))
    return repository.release(product, counter)


def revert(repository: Repository, product: str, to: int, *, label: str = "", now: datetime | None = None) -> Release:
    """Publish an earlier release's bytes under the next number.

    Raises:
        UpdateError: An unknown product or release, the newest one, or no release key.
    """
    with repository.change(now, models_role(product)) as (draft, staged):
        there = Published(repository.folder, draft.base)
        old = there.release(product, to)
        earlier = there.releases(product)
        newest = earlier[-1].counter
        if to == newest:
            raise UpdateError(
                f"Release {to} is the newest one: there is nothing to take back.", expected=f"1 to {newest - 1}"
            )
        builds = tuple(
            _placed(there, draft, staged, product, build, there.file(build.archive.path), earlier, newest + 1)
            for build in old.builds
        )  # fmt: skip
        release = Release(product=product, counter=newest + 1, label=label, builds=builds, reverts_to=to)
        _add_file(draft, product, release_path(product, newest + 1), to_json(release))
    return repository.release(product, newest + 1)


def _placed(
    there: Published, draft: Draft, staged: Path, product: str, build: ReleaseBuild, archive: Path,
    earlier: Sequence[Release], counter: int,
) -> ReleaseBuild:  # fmt: skip
    """A build with the deltas of the last releases; its archive is added where the repository doesn't have it."""
    before = [(release.counter, b) for release in reversed(earlier) if (b := release.build_for(build.sku))]
    same = next((b for _, b in before if b.archive.sha256 == build.archive.sha256), None)
    deltas = {delta.base_sha256: delta for delta in (same.deltas if same else ())}
    if same is not None:
        build = build.model_copy(update={"archive": same.archive})
    bases = {b.archive.sha256: (at, b.archive.path) for at, b in reversed(before[:BASES])}
    for sha256, (at, path) in sorted(bases.items(), key=lambda item: -item[1][0]):
        if sha256 in deltas or sha256 == build.archive.sha256:
            continue
        patch = staged / f"{build.sku}.from-{at}.bsdiff"
        if difference(there.file(path), archive, patch):
            file = _add_file(draft, product, delta_path(product, counter, build.sku, at), patch)
            deltas[sha256] = Delta(base_sha256=sha256, file=file)
    if same is None:
        _add_file(draft, product, build.archive.path, archive)
    return build.model_copy(update={"deltas": tuple(deltas.values())})


def _add_file(draft: Draft, product: str, path: str, content: bytes | Path) -> FleetFile:
    target = draft.add_file(models_role(product), path, content)
    return FleetFile(path=path, sha256=target.hashes["sha256"], bytes=target.length)
