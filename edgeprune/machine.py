"""The machine that this process runs on, in words that go with every figure.

Rules:
- A figure of an emulated machine says so: programs compute the same there, in times that are no machine's.
- Emulated is what gives itself away: a kernel of another architecture than the programs run as (qemu-user, Rosetta);
  an emulator in the process's own memory, where the kernel doesn't say its architecture (before Linux 6.1); QEMU's
  virtual board, which a virtual machine of the same architecture may have too: no board's times either.
- What isn't found out: QEMU's models of real boards (`-M raspi4b`) carry these boards' own device trees.

Sources: Linux Documentation/admin-guide/sysctl/kernel.rst (arch); QEMU 10.0 linux-user/syscall.c, which rewrites
/proc/self/maps and /proc/cpuinfo but neither /proc/thread-self/maps nor /proc/sys; QEMU hw/arm/virt.c (compatible
'linux,dummy-virt'), target/i386/cpu.c ('QEMU TCG CPU').
"""

from __future__ import annotations

import ctypes
import os
import platform
import re
import signal
import time
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path

#: Modules that a board's own packages bring, which may lack Python's metadata.
BOARDS_OWN = ("tensorrt",)
_PR_SET_PDEATHSIG = 1


def cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def environment() -> dict[str, str]:
    """Architecture, system, processor, cores, governor, Python; `emulated`, with the reason, where it is."""
    root = Path("/")
    why = emulated(root)
    board = text(root / "sys/firmware/devicetree/base/model")
    power_mode = text(root / "var/lib/nvpmodel/status")
    return ({"nvpmodel": power_mode} if power_mode else {}) | {
        "machine": platform.machine(),
        "system": f"{platform.system()} {platform.release()}",
        "cpu": processor(root) or board or platform.processor() or "unknown",
        "cores": str(cores()),
        "governor": text(root / "sys/devices/system/cpu/cpu0/cpufreq/scaling_governor") or "not reported",
        "python": platform.python_version(),
        **({"emulated": why} if why else {}),
    }


def emulated(root: Path, machine: str | None = None) -> str | None:
    """Why a machine is taken for an emulated one; None where nothing speaks for it.

    Args:
        root: '/', or a tree of another machine's files.
        machine: What its programs run as, as `uname -m` says it; this process's.
    """
    machine, kernel = machine or platform.machine(), text(root / "proc/sys/kernel/arch")
    if kernel and _family(kernel) != _family(machine):
        return f"programs run as {machine} on a kernel for {kernel}"
    emulator = re.search(r"/(qemu-[\w-]+)$", text(root / "proc/thread-self/maps") or "", re.MULTILINE)
    if emulator:
        return f"{emulator[1]} runs this process"
    trees = (root / "proc/device-tree", root / "sys/firmware/devicetree/base")
    if any("linux,dummy-virt" in (text(tree / "compatible") or "") for tree in trees):
        return "the board is QEMU's virtual one, linux,dummy-virt"
    name = processor(root) or ""
    return f"the processor is {name}" if "QEMU TCG" in name else None


def _family(architecture: str) -> str:
    """What one kernel can run: 32-bit programs are at home on a 64-bit one."""
    if re.fullmatch(r"x86_64|amd64|i[3-6]86", architecture, re.IGNORECASE):
        return "x86"
    return "arm" if re.match(r"arm|aarch64", architecture, re.IGNORECASE) else architecture


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


def die_with_parent() -> None:
    """In a new process, before its program: it ends with the one that started it, whatever ends that.

    Source: prctl(2), PR_SET_PDEATHSIG.
    """
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


def boot() -> tuple[str, float]:
    """Which boot of the machine this is, and the seconds since it began, sleep among them: clocks jump, this doesn't.

    Source: random(4), boot_id; clock_gettime(2), CLOCK_BOOTTIME.
    """
    return text(Path("/proc/sys/kernel/random/boot_id")) or "", time.clock_gettime(time.CLOCK_BOOTTIME)


def text(path: Path) -> str | None:
    """A small file's text without its line end or NUL; None where it can't be read (some zones answer EAGAIN)."""
    try:
        return path.read_text(errors="replace").strip().strip("\0")
    except OSError:
        return None
