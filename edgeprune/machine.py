"""The machine that this process runs on, in words that go with every figure."""

from __future__ import annotations

import os
import platform
import re
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path

#: Modules that a board's own packages bring, which may lack Python's metadata.
BOARDS_OWN = ("tensorrt",)


def cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def environment() -> dict[str, str]:
    """Architecture, system, processor, cores, governor, Python."""
    root = Path("/")
    board = text(root / "sys/firmware/devicetree/base/model")
    power_mode = text(root / "var/lib/nvpmodel/status")
    return ({"nvpmodel": power_mode} if power_mode else {}) | {
        "machine": platform.machine(),
        "system": f"{platform.system()} {platform.release()}",
        "cpu": processor(root) or board or platform.processor() or "unknown",
        "cores": str(cores()),
        "governor": text(root / "sys/devices/system/cpu/cpu0/cpufreq/scaling_governor") or "not reported",
        "python": platform.python_version(),
    }


def processor(root: Path) -> str | None:
    """The processor's name, where /proc/cpuinfo has one (not on ARM)."""
    found = re.search(r"^model name\s*:\s*(.+)$", text(root / "proc/cpuinfo") or "", re.MULTILINE)
    return found[1].strip() if found else None


def installed(*packages: str) -> dict[str, str]:
    """Versions of those packages that are installed, without importing any."""
    found = {}
    for package in packages:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            stated = _stated(package) if package in BOARDS_OWN else None
            if stated:
                found[package] = stated
    return found


def _stated(package: str) -> str | None:
    """The version that a package's own file states."""
    there = find_spec(package)
    content = text(Path(there.origin)) if there and there.origin else None
    found = re.search(r"^__version__ = [\"'](.+?)[\"']", content or "", re.MULTILINE)
    return found[1] if found else None


def text(path: Path) -> str | None:
    """A small file's text without its line end or NUL; None where it can't be read (some zones answer EAGAIN)."""
    try:
        return path.read_text(errors="replace").strip().strip("\0")
    except OSError:
        return None
