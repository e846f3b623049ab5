"""What slows a machine down or speeds it up: governor, frequencies, power mode, throttling, temperatures.

Rules:
- Read only, no root, nothing started but `vcgencmd`. A board without a sensor answers None or nothing, never an error.
- Every reader takes the root folder, so that tests read trees of boards that aren't here.
- Nothing is known to be throttled only because nothing reports it: None is not the same as an empty tuple.

Sources: Linux Documentation/admin-guide/pm/cpufreq.rst (policyX: affected_cpus, scaling_*),
driver-api/thermal/sysfs-api (type; temp in millidegrees), arch/x86 therm_throt.c (core_throttle_count); Raspberry Pi,
'vcgencmd get_throttled' (bits 0-3 now, 16-19 since boot); NVIDIA Jetson Linux r36 developer guide, Orin: nvpmodel
(/etc/nvpmodel.conf, mode kept in /var/lib/nvpmodel/status), soctherm_oc (oc1 under-voltage, oc2 average over-current,
oc3 instantaneous over-current; ocN_event_cnt).
"""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

from edgeprune.records.device_info import CpuFrequency

#: Bit of get_throttled -> what it says of now; the same bit + 16 says it of the time since boot.
THROTTLED_BITS = {
    0: "under-voltage",
    1: "frequency capped",
    2: "throttled",
    3: "soft temperature limit",
}
#: Event of Jetson Orin's soctherm_oc -> what it is.
OC_EVENTS = {1: "under-voltage", 2: "average over-current", 3: "instantaneous over-current"}
#: vcgencmd answers within milliseconds, or its driver hangs.
VCGENCMD_TIMEOUT_S = 5


def read(path: Path) -> str | None:
    """A small text file without its end of line or NUL; None if it can't be read (some zones answer EAGAIN)."""
    try:
        return path.read_text(errors="replace").strip().rstrip("\0") or None
    except OSError:
        return None


def frequencies(root: Path = Path("/")) -> tuple[CpuFrequency, ...]:
    """Every cpufreq policy, in the kernel's order."""
    found = []
    folder = root / "sys/devices/system/cpu/cpufreq"
    for policy in sorted(folder.glob("policy*"), key=lambda p: int(re.sub(r"\D", "", p.name) or 0)):
        mhz = [_mhz(policy / f"scaling_{what}_freq") for what in ("cur", "min", "max")]
        governor = read(policy / "scaling_governor")
        if governor is None or None in mhz:
            continue  # a policy whose cores are all offline: reading it fails with EBUSY
        current, minimum, maximum = (value or 0.0 for value in mhz)
        found.append(
            CpuFrequency(
                cpus=read(policy / "affected_cpus") or "", governor=governor, current_mhz=current,
                minimum_mhz=minimum, maximum_mhz=maximum,
            )
        )  # fmt: skip
    return tuple(found)


def power_mode(root: Path = Path("/")) -> str | None:
    """Jetson's power mode, as '2: 15W'; the number alone where the mode table can't be read."""
    status = re.search(r"pmode:0*(\d+)", read(root / "var/lib/nvpmodel/status") or "")
    table = read(root / "etc/nvpmodel.conf") or ""
    if status is None:
        # never switched since it was flashed: the table's default is in force
        status = re.search(r"^<\s*PM_CONFIG\s+DEFAULT=(\d+)\s*>", table, re.MULTILINE)
    if status is None:
        return None
    name = re.search(rf"^<\s*POWER_MODEL\s+ID={status[1]}\s+NAME=(\S+)\s*>", table, re.MULTILINE)
    return f"{status[1]}: {name[1]}" if name else status[1]


def throttling(root: Path = Path("/")) -> tuple[tuple[str, ...], tuple[str, ...]] | None:
    """What slows it down now, and what has since it was started; None where nothing reports either."""
    now: list[str] = []
    before: list[str] = []
    told = False
    bits = _throttled_bits(root)
    if bits is not None:
        told = True
        now += [what for bit, what in THROTTLED_BITS.items() if bits >> bit & 1]
        before += [what for bit, what in THROTTLED_BITS.items() if bits >> (bit + 16) & 1]
    for counter in sorted((root / "sys/class/hwmon").glob("hwmon*/oc[1-3]_event_cnt")):
        count = read(counter)
        if count is not None and count.isdigit():
            told = True
            if int(count):
                before.append(f"{OC_EVENTS[int(counter.name[2])]} ({count} events)")
    counts = [read(p) for p in (root / "sys/devices/system/cpu").glob("cpu*/thermal_throttle/core_throttle_count")]
    numbers = [int(count) for count in counts if count is not None and count.isdigit()]
    if numbers:
        told = True
        if any(numbers):
            before.append(f"too hot ({sum(numbers)} events on {sum(map(bool, numbers))} cores)")
    return (tuple(now), tuple(before)) if told else None


def temperatures(root: Path = Path("/")) -> dict[str, float]:
    """Thermal zone -> degrees Celsius; zones of one type are numbered."""
    found: dict[str, float] = {}
    folder = root / "sys/class/thermal"
    for zone in sorted(folder.glob("thermal_zone*"), key=lambda p: int(re.sub(r"\D", "", p.name) or 0)):
        name, value = read(zone / "type"), read(zone / "temp")
        if name is None or value is None or not re.fullmatch(r"-?\d+", value):
            continue
        label, number = name, 1
        while label in found:
            number += 1
            label = f"{name} {number}"
        found[label] = int(value) / 1000
    return found


def _throttled_bits(root: Path) -> int | None:
    tool = root / "usr/bin/vcgencmd"
    if not tool.is_file():
        return None
    try:
        done = subprocess.run(
            [tool, "get_throttled"], capture_output=True, text=True, stdin=subprocess.DEVNULL,
            timeout=VCGENCMD_TIMEOUT_S,
        )  # fmt: skip
    except (OSError, subprocess.TimeoutExpired):
        return None
    found = re.fullmatch(r"throttled=(0x[0-9a-fA-F]+)", done.stdout.strip())
    return int(found[1], 16) if found else None  # without the group 'video' it can't open /dev/vcio


def _mhz(path: Path) -> float | None:
    text = read(path)
    return int(text) / 1000 if text is not None and text.isdigit() else None
