"""Wheels for a device that reaches no package index: fetched here, for its architecture, its C library and its Python.

Rules:
- The versions are those of constraints.txt, as in a setup over the network.
- Wheels alone: nothing is compiled, here or there.
- Every tag that the device's C library allows is given to pip: told of fewer, it silently takes an older version.

Sources: PEP 600 (manylinux_x_y: any C library from x.y on), PEP 599 (manylinux2014 = 2.17); pip documentation,
`pip download`.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from edgeprune.errors import DeviceError
from edgeprune.remote.device import Device

#: The oldest C library whose wheels are of use: manylinux2014's.
OLDEST = 17
#: Some 130 MB over a slow line.
TIMEOUT_S = 1800

_ASK = """
import json, platform, sys
print(json.dumps([platform.machine(), platform.libc_ver(), list(sys.version_info[:2])]))
"""


async def platform_of(device: Device, python: str) -> tuple[str, tuple[int, int], tuple[int, int]]:
    """A device's architecture, version of its C library, and version of its Python.

    Raises:
        DeviceError: It isn't a Linux with glibc.
    """
    done = await device.run([python, "-c", _ASK])
    try:
        machine, (libc, version), (major, minor) = json.loads(done.stdout)
        first, second = (int(part) for part in version.split(".")[:2])
    except (ValueError, TypeError):
        machine, libc = "unknown", "unknown"
    if libc != "glibc":
        raise DeviceError(
            "Wheels can't be chosen for this device.", where=device.address, expected="Linux with glibc",
            got=done.stdout.strip() or done.stderr.strip(), next_step="let it reach a package index, without --offline",
        )  # fmt: skip
    return machine, (first, second), (major, minor)


def tags(machine: str, libc: tuple[int, int]) -> list[str]:
    """Platform tags that a device's pip would take, newest first."""
    newest = libc[1] if libc[0] == 2 else OLDEST
    return [f"manylinux_2_{minor}_{machine}" for minor in range(newest, OLDEST - 1, -1)] + [f"manylinux2014_{machine}"]


def fetch(
    wheel: Path, extras: Sequence[str], constraints: Path, folder: Path,
    machine: str, libc: tuple[int, int], python: tuple[int, int],
) -> list[Path]:  # fmt: skip
    """Download everything that the wheel needs with some of its extras.

    Returns:
        The wheels, edgeprune's own among them.

    Raises:
        DeviceError: pip can't; with its own last words.
    """
    version = f"{python[0]}{python[1]}"
    wanted = f"{wheel}[{','.join(extras)}]" if extras else str(wheel)
    command = [
        sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-input",
        "--only-binary=:all:", "--implementation", "cp", "--python-version", version, "--abi", f"cp{version}",
        "--abi", "abi3", "--abi", "none", "--dest", str(folder), "-c", str(constraints), wanted,
    ]  # fmt: skip
    for tag in tags(machine, libc):
        command += ["--platform", tag]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=TIMEOUT_S, stdin=subprocess.DEVNULL)
        said = done.stderr.strip().splitlines() or [f"exit code {done.returncode}"]
    except subprocess.TimeoutExpired:
        said, done = [f"no end within {TIMEOUT_S} s"], None
    if done is None or done.returncode:
        raise DeviceError(
            "The device's wheels can't be fetched here.", got=said[-1],
            expected=f"wheels for {machine}, glibc {libc[0]}.{libc[1]}, Python {python[0]}.{python[1]}",
            next_step="does this machine reach a package index?",
        )  # fmt: skip
    return sorted(folder.glob("*.whl"))
