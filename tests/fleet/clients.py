"""python-tuf's own client over files: what an independent device makes of a repository."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

from tuf.api.exceptions import DownloadHTTPError
from tuf.ngclient import FetcherInterface, Updater

from edgeprune.records.release import Release, release_path
from edgeprune.records.rollout import Rollout


class Files(FetcherInterface):
    """file:// as a static web server would answer."""

    def _fetch(self, url: str) -> Iterator[bytes]:
        path = Path(url.removeprefix("file://"))
        if not path.is_file():
            raise DownloadHTTPError("no such file", 404)
        yield path.read_bytes()


def client(repo: Path, cache: Path, root: bytes | None = None) -> Updater:
    """A device that was given the first root (or `root`), with what it keeps in `cache`."""
    (cache / "metadata").mkdir(parents=True, exist_ok=True)
    (cache / "targets").mkdir(exist_ok=True)
    return Updater(
        str(cache / "metadata"), f"file://{repo}/metadata", str(cache / "targets"), f"file://{repo}/targets", Files(),
        bootstrap=root or (repo / "metadata" / "1.root.json").read_bytes(),
    )  # fmt: skip


def get(repo: Path, cache: Path, path: str) -> Path | None:
    """Download one TUF target file, verified; None where nobody signs for it."""
    updater = client(repo, cache)
    updater.refresh()
    target = updater.get_targetinfo(path)
    return Path(updater.download_target(target)) if target else None


def get_release(repo: Path, cache: Path, product: str, counter: int) -> Release | None:
    """A release with all of its archives and deltas, verified."""
    path = get(repo, cache, release_path(product, counter))
    if path is None:
        return None
    release = Release.model_validate(json.loads(path.read_bytes()))
    for build in release.builds:
        for file in (build.archive, *(delta.file for delta in build.deltas)):
            found = get(repo, cache, file.path)
            assert found is not None
            assert found.stat().st_size == file.bytes
    return release


def get_rollout(repo: Path, cache: Path, channel: str) -> Rollout | None:
    """A channel's rollout."""
    path = get(repo, cache, f"rollouts/{channel}.json")
    return Rollout.model_validate(json.loads(path.read_bytes())) if path else None
