"""The agent's metadata client alone, as theupdateframework/tuf-conformance wants to run it:

    python -m edgeprune.agent.tuf_client --metadata-dir DIR init ROOT
    python -m edgeprune.agent.tuf_client --metadata-dir DIR --metadata-url URL refresh
    python -m edgeprune.agent.tuf_client --metadata-dir DIR --metadata-url URL --target-name PATH … \
        --target-base-url URL --target-dir DIR download

Rules:
- It is the agent's fetcher and python-tuf's `Updater`, put together as client.py does: the root that `init` was given
  is where trust begins each time, whatever lies in the cache; downloads are staged, hashed, and then renamed.

Exit codes: 0 done, 1 not done, 2 wrong use.

Source: tuf-conformance, CLIENT-CLI.md (v2).
"""

from __future__ import annotations

import argparse
import shutil
import sys
from pathlib import Path
from urllib.parse import quote

from tuf.api.exceptions import DownloadError, RepositoryError
from tuf.api.metadata import TargetFile
from tuf.ngclient import Updater

from edgeprune.agent.fetch import Fetcher
from edgeprune.records.agent import Limits
from edgeprune.records.files import sync_folder

#: In the metadata's folder: what `init` was given.
EMBEDDED = "embedded"


def main(arguments: list[str] | None = None) -> int:
    options = _options(arguments)
    folder: Path = options.metadata_dir
    embedded = folder / EMBEDDED / "root.json"
    if options.command == "init":
        embedded.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(options.trusted_root, embedded)
        shutil.copyfile(options.trusted_root, folder / "root.json")
        return 0
    try:
        fetcher = Fetcher(Limits(retries=0), staging=folder)
        updater = Updater(str(folder), options.metadata_url, fetcher=fetcher, bootstrap=embedded.read_bytes())
        updater.refresh()
        if options.command == "download":
            base = options.target_base_url.rstrip("/")
            for name in options.target_name:
                found = updater.get_targetinfo(name)
                if found is None:
                    raise RepositoryError(f"{name} is none of the repository's targets")
                consistent = _consistent(folder)
                _download(fetcher, found, base, options.target_dir, consistent=consistent)
    except (DownloadError, RepositoryError, OSError) as error:
        print(f"{type(error).__name__}: {error}", file=sys.stderr)
        return 1
    return 0


def _consistent(folder: Path) -> bool:
    from tuf.api.metadata import Metadata, Root

    return bool(Metadata[Root].from_file(str(folder / "root.json")).signed.consistent_snapshot)


def _download(fetcher: Fetcher, info: TargetFile, base: str, into: Path, *, consistent: bool) -> None:
    into.mkdir(parents=True, exist_ok=True)
    file, part = into / quote(info.path, ""), into / f".{quote(info.path, '')}.part"
    if file.is_file():
        try:
            info.verify_length_and_hashes(file.read_bytes())
            return
        except RepositoryError:
            pass
    folder, slash, name = info.path.rpartition("/")
    path = f"{folder}{slash}{next(iter(info.hashes.values()))}.{name}" if consistent else info.path
    part.unlink(missing_ok=True)
    try:
        fetcher.download(f"{base}/{path}", part, info.length)
        info.verify_length_and_hashes(part.read_bytes())
        part.replace(file)
    finally:
        part.unlink(missing_ok=True)
    sync_folder(into)


def _options(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m edgeprune.agent.tuf_client", description=__doc__.splitlines()[0])
    parser.add_argument("--metadata-dir", type=Path, required=True)
    parser.add_argument("--metadata-url", default="")
    parser.add_argument("--target-name", action="append", default=[])
    parser.add_argument("--target-base-url", default="")
    parser.add_argument("--target-dir", type=Path, default=Path())
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("init").add_argument("trusted_root", type=Path)
    commands.add_parser("refresh")
    commands.add_parser("download")
    return parser.parse_args(arguments)


if __name__ == "__main__":
    sys.exit(main())
