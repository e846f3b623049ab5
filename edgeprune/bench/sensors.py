"""What the board says of its heat, its clocks and its throttling. Readers over a root, so that a recorded tree will do.

Rules:
- A file that isn't there or can't be read is 'not reported': no key, never zero. A disabled zone answers with an error.
- Throttling shows in three places: Raspberry Pi's bits, the kernel's own counters (Intel's thermal_throttle; the
  over-current events of a Jetson), and a frequency limit that the system lowered.
- The bits come from sysfs where the kernel has the file, else from `vcgencmd`, a process: then before and after only.

Sources: Linux Documentation/ABI/testing/sysfs-class-thermal (millidegrees), sysfs-devices-system-cpu (kHz;
*_throttle_count) and sysfs-class-devfreq (Hz); Raspberry Pi documentation, 'vcgencmd get_throttled'; NVIDIA Jetson
Linux Developer Guide, 'Platform Power and Performance' (oc*_event_cnt).
"""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

from edgeprune.machine import text
from edgeprune.records.benchmark import Reading

#: Raspberry Pi's bits that hold now; the same from bit 16 on have held since the board was started.
THROTTLED = {0: "under-voltage", 1: "frequency capped", 2: "throttled", 3: "soft temperature limit"}
SINCE_BOOT = 16

_GPU = re.compile(r"gpu|\.g[a-z]\d\db$")
_BITS = ("sys/devices/platform/soc*/soc*:firmware/get_throttled", "sys/devices/platform/soc*/*firmware/get_throttled")
_COUNTERS = (
    "sys/devices/system/cpu/cpu*/thermal_throttle/core_throttle_count",
    "sys/devices/system/cpu/cpu*/thermal_throttle/package_throttle_count",
    "sys/class/hwmon/hwmon*/oc*_event_cnt",
)


def read(root: Path, at_s: float, *, ask: bool = False) -> Reading:
    """All sensors now.

    Args:
        root: '/', or a recorded tree.
        at_s: Seconds from the run's start, for the record.
        ask: Whether a process may be started for what no file says.
    """
    return Reading(
        at_s=at_s,
        temperature_c=temperatures(root),
        frequency_mhz=frequencies(root, "scaling_cur_freq") | gpu_frequencies(root, "cur_freq"),
        frequency_limit_mhz=frequencies(root, "scaling_max_freq") | gpu_frequencies(root, "max_freq"),
        throttled=throttled_bits(root, ask=ask),
        throttle_events=throttle_events(root),
    )


def temperatures(root: Path) -> dict[str, float]:
    """Degrees Celsius by zone: its type, numbered where a type is there twice."""
    found: dict[str, float] = {}
    for zone in sorted(root.glob("sys/class/thermal/thermal_zone*"), key=_number):
        name, value = text(zone / "type"), integer(zone / "temp")
        if name and value is not None:
            found[name if name not in found else f"{name} {_number(zone)}"] = value / 1e3
    return found


def frequencies(root: Path, file: str) -> dict[str, float]:
    """MHz by group of cores that share a clock."""
    found = {}
    for policy in sorted(root.glob("sys/devices/system/cpu/cpufreq/policy*"), key=_number):
        value = integer(policy / file)
        if value is not None:
            found[policy.name] = value / 1e3
    return found


def gpu_frequencies(root: Path, file: str) -> dict[str, float]:
    """MHz by GPU: devfreq's devices that are one by their name (17000000.gpu, 17000000.gv11b, gpu-gpc-0)."""
    found = {}
    for device in sorted(root.glob("sys/class/devfreq/*")):
        value = integer(device / file) if _GPU.search(device.name) else None
        if value is not None:
            found[device.name] = value / 1e6
    return found


def throttled_bits(root: Path, *, ask: bool) -> int | None:
    """Raspberry Pi's bits, from its firmware's file, else from `vcgencmd` if it may be asked; None where neither is."""
    for pattern in _BITS:
        for file in sorted(root.glob(pattern)):
            found = parse_throttled(text(file))
            if found is not None:
                return found
    return parse_throttled(vcgencmd("get_throttled", root=root)) if ask else None


def throttled_names(bits: int) -> list[str]:
    """What the bits that hold now say; shifted by SINCE_BOOT, what has been."""
    return [name for bit, name in THROTTLED.items() if bits >> bit & 1]


def parse_throttled(answer: str | None) -> int | None:
    """'throttled=0x50005' of vcgencmd, or '50005' of sysfs: hexadecimal both."""
    match = re.fullmatch(r"(?:throttled=)?(?:0x)?([0-9a-fA-F]+)", (answer or "").strip())
    return int(match[1], 16) if match else None


def throttle_events(root: Path) -> dict[str, int]:
    """The kernel's counters, by path under /sys."""
    found = {}
    for pattern in _COUNTERS:
        for file in sorted(root.glob(pattern)):
            value = integer(file)
            if value is not None:
                found[file.relative_to(root / "sys").as_posix()] = value
    return found


def vcgencmd(*arguments: str, root: Path = Path("/")) -> str | None:
    """What Raspberry Pi's firmware answers; None where there is no such command, or no firmware behind it."""
    program = shutil.which("vcgencmd", path=None if root == Path("/") else str(root / "usr/bin"))
    if program is None:
        return None
    try:
        done = subprocess.run([program, *arguments], capture_output=True, text=True, timeout=5)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout if done.returncode == 0 else None


def integer(path: Path) -> int | None:
    """A file's number; None where it can't be read or is none."""
    content = text(path)
    return int(content) if content and re.fullmatch(r"-?\d+", content) else None


def _number(path: Path) -> int:
    match = re.search(r"\d+$", path.name)
    return int(match[0]) if match else 0
