"""What sets a machine's pace, as `device info` tells it: clocks with their governor, power mode, throttling in words.

Rules:
- The readers are those of sensors.py: read only, no root, nothing started but `vcgencmd`.
- Clocks are pinned where the lowest and the highest frequency that they may go to are the same, for every group of
  cores and the GPU, as `jetson_clocks` makes them; memory (EMC) counts where it can be read, which is for root.
- Nothing is known to be throttled only because nothing reports it: None is not the same as an empty tuple.

Sources: Linux Documentation/admin-guide/pm/cpufreq.rst (policyX: affected_cpus, scaling_*), arch/x86 therm_throt.c;
NVIDIA Jetson Linux r36 developer guide, Orin: nvpmodel (/etc/nvpmodel.conf, mode kept in /var/lib/nvpmodel/status),
jetson_clocks (scaling_min_freq and scaling_max_freq, devfreq's min_freq and max_freq, mrq_rate_locked of BPMP's emc),
soctherm_oc (oc1 under-voltage, oc2 average over-current, oc3 instantaneous over-current; ocN_event_cnt).
"""

from __future__ import annotations

import re
from pathlib import Path

from edgeprune.bench import sensors
from edgeprune.machine import text
from edgeprune.records.device_info import CpuFrequency

#: Event of Jetson Orin's soctherm_oc -> what it is.
OC_EVENTS = {1: "under-voltage", 2: "average over-current", 3: "instantaneous over-current"}


def frequencies(root: Path = Path("/")) -> tuple[CpuFrequency, ...]:
    """Every cpufreq policy, in the kernel's order."""
    current, minimum, maximum = (sensors.frequencies(root, f"scaling_{what}_freq") for what in ("cur", "min", "max"))
    found = []
    for name, mhz in current.items():
        policy = root / "sys/devices/system/cpu/cpufreq" / name
        governor = text(policy / "scaling_governor")
        if governor is None or name not in minimum or name not in maximum:
            continue  # a policy whose cores are all offline: reading it fails with EBUSY
        found.append(
            CpuFrequency(
                cpus=text(policy / "affected_cpus") or "", governor=governor, current_mhz=mhz,
                minimum_mhz=minimum[name], maximum_mhz=maximum[name],
            )
        )  # fmt: skip
    return tuple(found)


def power_mode(root: Path = Path("/")) -> str | None:
    """Jetson's power mode, as '2: 15W'; the number alone where the mode table can't be read."""
    status = re.search(r"pmode:0*(\d+)", text(root / "var/lib/nvpmodel/status") or "")
    table = text(root / "etc/nvpmodel.conf") or ""
    if status is None:
        # never switched since it was flashed: the table's default is in force
        status = re.search(r"^<\s*PM_CONFIG\s+DEFAULT=(\d+)\s*>", table, re.MULTILINE)
    if status is None:
        return None
    name = re.search(rf"^<\s*POWER_MODEL\s+ID={status[1]}\s+NAME=(\S+)\s*>", table, re.MULTILINE)
    return f"{status[1]}: {name[1]}" if name else status[1]


def pinned(root: Path = Path("/")) -> dict[str, bool]:
    """Which clocks are pinned: group of cores, GPU or 'emc' -> whether. Empty where nothing shows its limits."""
    low = sensors.frequencies(root, "scaling_min_freq") | sensors.gpu_frequencies(root, "min_freq")
    high = sensors.frequencies(root, "scaling_max_freq") | sensors.gpu_frequencies(root, "max_freq")
    found = {name: low[name] == high[name] for name in low if name in high}
    locked = sensors.integer(root / "sys/kernel/debug/bpmp/debug/clk/emc/mrq_rate_locked")
    return found if locked is None else found | {"emc": locked == 1}


def pinned_in_words(clocks: dict[str, bool]) -> str:
    """'yes', 'no (policy0, 17000000.gpu)' or 'unknown'."""
    free = [name for name, fixed in clocks.items() if not fixed]
    return "unknown" if not clocks else f"no ({', '.join(free)})" if free else "yes"


def throttling(root: Path = Path("/")) -> tuple[tuple[str, ...], tuple[str, ...]] | None:
    """What slows it down now, and what has since it was started; None where nothing reports either."""
    bits, counters = sensors.throttled_bits(root, ask=True), sensors.throttle_events(root)
    if bits is None and not counters:
        return None
    now = sensors.throttled_names(bits or 0)
    before = sensors.throttled_names((bits or 0) >> sensors.SINCE_BOOT)
    hot = {name: count for name, count in counters.items() if count and name.endswith("core_throttle_count")}
    for name, count in counters.items():
        event = re.search(r"oc(\d)_event_cnt$", name)
        if event and count:
            before.append(f"{OC_EVENTS.get(int(event[1]), 'over-current')} ({count} events)")
    if hot:
        before.append(f"too hot ({sum(hot.values())} events on {len(hot)} cores)")
    return tuple(now), tuple(before)
