"""Whether what the online key asks for is what the release key has signed, and is for this device.

Rules:
- The online key says which release, the release key says what is in it, and a device takes what both say: product,
  counter, SKU and hash. A release that isn't there, or a file that isn't signed as the release has it, may be so
  tomorrow: deferred. A release that is signed and isn't for this device never will be: refused.
- What can be known before a byte of the model is fetched is known here.

Source: Uptane Standard 2.1.0, 5.4.4 (full verification); facts on fleets.
"""

from __future__ import annotations

import platform
import shutil
from pathlib import Path

from edgeprune.agent.client import Client, NotNowError
from edgeprune.records.agent import AgentConfig
from edgeprune.records.release import Release, ReleaseBuild


class RefusedError(Exception):
    """Why a release isn't for this device: kind, colon, what happened."""


def agreed(
    client: Client, config: AgentConfig, runtime: str, counter: int, folder: Path
) -> tuple[Release, ReleaseBuild]:
    """A release and its build for this device.

    Args:
        runtime: Library and version that the device has.
        counter: The release that the rollout asks for.
        folder: Where it needs room.

    Raises:
        NotNowError: It isn't signed, or there is no room.
        RefusedError: It isn't for this device.
    """
    release = client.release(counter)
    if release is None:
        raise NotNowError(f"arbitrary software: the rollout asks for release {counter}, which no release key signed")
    if (release.product, release.counter) != (config.product, counter):
        raise RefusedError(
            f"wrong software: release {release.counter} of {release.product}, {counter} of {config.product} is due"
        )
    build = release.build_for(config.sku)
    if build is None:
        there = ", ".join(one.sku for one in release.builds)
        raise RefusedError(f"wrong software: release {counter} has builds for {there}, none for {config.sku}")
    if build.architecture not in (None, platform.machine()):
        raise RefusedError(f"architecture: the build is for {build.architecture}, this is {platform.machine()}")
    built_here = build.runtime.split()[0] == config.runtime == "tensorrt"  # of a kit, by the version that is here
    if build.runtime != runtime and not built_here:
        raise RefusedError(f"runtime: the build is for {build.runtime}, this device has {runtime}")
    archive = build.archive
    if not archive.path.startswith(f"models/{config.product}/"):
        raise RefusedError(f"wrong software: the build lies at {archive.path}")
    if archive.bytes > config.limits.bundle_bytes:
        raise RefusedError(f"endless data: {archive.bytes} bytes, {config.limits.bundle_bytes} allowed")
    if not client.signed(archive):
        raise NotNowError(f"mix-and-match: {archive.path} isn't signed as release {counter} has it")
    free = shutil.disk_usage(folder).free
    if free < 2 * archive.bytes:
        raise NotNowError(f"space: {free >> 20} MiB free, {2 * archive.bytes >> 20} needed")
    return release, build
