"""What this machine is: `python -m edgeprune.bench.board` prints it as JSON; `edgeprune device info` runs that there.

Rules:
- Without torch and without importing a runtime: versions are read from the installed packages' metadata.
- A machine that doesn't say something answers null (records/device_info.py).

Sources: Devicetree specification v0.4, 2.3.2 (model) and 2.3.1 (compatible: most specific first, so that a board's last
entry names its SoC); Linux Documentation/ABI/testing/sysfs-devices-soc; os-release(5).
"""

from __future__ import annotations

import os
import platform
import re
import shutil
import sys
from pathlib import Path

from edgeprune.bench.gpu import gpu
from edgeprune.bench.pace import frequencies, pinned, power_mode, throttling
from edgeprune.bench.sensors import temperatures
from edgeprune.kit import build_engine
from edgeprune.machine import cores, emulated, installed, processor, text
from edgeprune.records.base import to_json
from edgeprune.records.device_info import DeviceInfo
from edgeprune.version import __version__

#: Packages that execute engines.
RUNTIMES = ("onnxruntime", "openvino", "tensorrt")


def device_info(root: Path = Path("/")) -> DeviceInfo:
    """Look at this machine, or at a tree of another one's files under `root`. Changes nothing."""
    slowed = throttling(root)
    return DeviceInfo(
        board=_board(root),
        soc=_soc(root),
        cores=cores(),
        memory_bytes=_memory(root),
        os=_os(root),
        kernel=text(root / "proc/sys/kernel/osrelease") or platform.release(),
        architecture=platform.machine(),
        emulated=emulated(root),
        python=platform.python_version(),
        edgeprune=__version__,
        runtimes=installed(*RUNTIMES),
        frequencies=frequencies(root),
        l4t=_l4t(root),
        gpu=gpu() if root == Path("/") else None,
        power_mode=power_mode(root),
        clocks_pinned=pinned(root),
        throttled_now=None if slowed is None else slowed[0],
        throttled_before=None if slowed is None else slowed[1],
        temperatures_c=temperatures(root),
        free_bytes=shutil.disk_usage(os.path.expanduser("~")).free,
    )


def _board(root: Path) -> str | None:
    model = _devicetree(root, "model")
    if model:
        return model
    dmi = root / "sys/class/dmi/id"
    named = [text(dmi / "sys_vendor"), text(dmi / "product_name")]
    return " ".join(part for part in named if part) or None


def _soc(root: Path) -> str | None:
    soc = root / "sys/devices/soc0"
    named = [text(soc / "family"), text(soc / "machine")]
    compatible = _devicetree(root, "compatible").split("\0")[-1]
    if compatible:
        family = " ".join(part for part in named if part)
        return f"{compatible} ({family})" if family else compatible
    return processor(root)


def _l4t(root: Path) -> str | None:
    found = build_engine.read_board(root)
    return f"{found['l4t']} (JetPack {found['jetpack']})" if found["l4t"] else None


def _devicetree(root: Path, name: str) -> str:
    """A property of the root node. /proc/device-tree is a link to the other, which containers often leave out."""
    return text(root / "proc/device-tree" / name) or text(root / "sys/firmware/devicetree/base" / name) or ""


def _memory(root: Path) -> int | None:
    found = re.search(r"^MemTotal:\s*(\d+) kB", text(root / "proc/meminfo") or "", re.MULTILINE)
    return int(found[1]) * 1024 if found else None


def _os(root: Path) -> str | None:
    release = text(root / "etc/os-release") or text(root / "usr/lib/os-release") or ""
    found = re.search(r"^PRETTY_NAME=[\"']?(.*?)[\"']?$", release, re.MULTILINE)
    return found[1] if found else None


if __name__ == "__main__":
    sys.stdout.write(to_json(device_info()).decode())
