"""Files of boards that aren't here: what their kernels show under /proc, /sys, /etc.

Written after the sources that edgeprune/bench/sensors.py and board.py name, not copied off boards: they show that the
formats are read as documented, not that every board has them.
"""

from __future__ import annotations

from pathlib import Path

_CPUFREQ = "sys/devices/system/cpu/cpufreq"


def _policy(number: int, cpus: str, governor: str, current: int, low: int, high: int) -> dict[str, str]:
    folder = f"{_CPUFREQ}/policy{number}"
    return {
        f"{folder}/affected_cpus": f"{cpus}\n", f"{folder}/scaling_governor": f"{governor}\n",
        f"{folder}/scaling_cur_freq": f"{current}\n", f"{folder}/scaling_min_freq": f"{low}\n",
        f"{folder}/scaling_max_freq": f"{high}\n",
    }  # fmt: skip


def _zones(**zones: int) -> dict[str, str]:
    found = {}
    for number, (name, temperature) in enumerate(zones.items()):
        found[f"sys/class/thermal/thermal_zone{number}/type"] = f"{name.replace('_', '-')}\n"
        found[f"sys/class/thermal/thermal_zone{number}/temp"] = f"{temperature}\n"
    return found


def _vcgencmd(answer: str) -> dict[str, str]:
    return {"usr/bin/vcgencmd": f"#!/bin/sh\n[ \"$1\" = get_throttled ] && echo '{answer}'\n"}


_DEBIAN = {
    "etc/os-release": 'PRETTY_NAME="Debian GNU/Linux 12 (bookworm)"\nNAME="Debian GNU/Linux"\nID=debian\n',
    "proc/meminfo": "MemTotal:        8245152 kB\nMemFree:         100 kB\n",
}

PI_5 = {
    **_DEBIAN,
    "proc/device-tree/model": "Raspberry Pi 5 Model B Rev 1.0\0",
    "proc/device-tree/compatible": "raspberrypi,5-model-b\0brcm,bcm2712\0",
    "proc/sys/kernel/osrelease": "6.6.31+rpt-rpi-2712\n",
    **_policy(0, "0 1 2 3", "ondemand", 1500000, 1500000, 2400000),
    **_zones(cpu_thermal=51250),
    **_vcgencmd("throttled=0x0"),
}
#: Too hot at this moment, and its power supply was too weak before.
PI_4 = {
    **_DEBIAN,
    "proc/device-tree/model": "Raspberry Pi 4 Model B Rev 1.4\0",
    "proc/device-tree/compatible": "raspberrypi,4-model-b\0brcm,bcm2711\0",
    "proc/sys/kernel/osrelease": "6.6.31+rpt-rpi-v8\n",
    **_policy(0, "0 1 2 3", "performance", 1000000, 600000, 1800000),
    **_zones(cpu_thermal=82300),
    **_vcgencmd("throttled=0xd0008"),
}
JETSON_ORIN_NANO = {
    "etc/os-release": 'NAME="Ubuntu"\nPRETTY_NAME="Ubuntu 22.04.5 LTS"\n',
    "proc/meminfo": "MemTotal:        7802360 kB\n",
    "proc/device-tree/model": "NVIDIA Jetson Orin Nano Engineering Reference Developer Kit Super\0",
    "proc/device-tree/compatible": "nvidia,p3768-0000+p3767-0005-super\0nvidia,p3767-0005\0nvidia,tegra234\0",
    "proc/sys/kernel/osrelease": "5.15.148-tegra\n",
    "sys/devices/soc0/family": "Tegra\n",
    **_policy(0, "0 1 2 3", "schedutil", 1728000, 729600, 1728000),
    **_policy(4, "4 5", "schedutil", 729600, 729600, 1728000),
    **_zones(cpu_thermal=49062, gpu_thermal=49500, soc0_thermal=48875, tj_thermal=49500),
    "sys/class/thermal/thermal_zone4/type": "cv0-thermal\n",  # its temp can't be read while the unit is off
    "sys/class/hwmon/hwmon3/name": "soctherm_oc\n",
    "sys/class/hwmon/hwmon3/oc1_event_cnt": "0\n",
    "sys/class/hwmon/hwmon3/oc2_event_cnt": "0\n",
    "sys/class/hwmon/hwmon3/oc3_event_cnt": "17\n",
    "var/lib/nvpmodel/status": "pmode:0002\n",
    "etc/nvpmodel.conf": (
        "< PARAM TYPE=FILE NAME=CPU_ONLINE >\nCORE_0 /sys/devices/system/cpu/cpu0/online\n"
        "< POWER_MODEL ID=0 NAME=15W >\nCPU_ONLINE CORE_0 1\n< POWER_MODEL ID=1 NAME=25W >\n"
        "< POWER_MODEL ID=2 NAME=MAXN_SUPER >\nCPU_ONLINE CORE_0 1\n< PM_CONFIG DEFAULT=1 >\n"
    ),
}
#: A virtual machine: no clocks, no temperatures, no name.
X86_WITHOUT_SENSORS = {
    "etc/os-release": "PRETTY_NAME='Debian GNU/Linux 13 (trixie)'\n",
    "proc/cpuinfo": "processor\t: 0\nvendor_id\t: GenuineIntel\nmodel name\t: Intel(R) Xeon(R) Processor\n",
    "proc/meminfo": "MemTotal:       25276502 kB\n",
}
#: A PC: DMI names it, its cores count how often they were too hot.
X86 = {
    **X86_WITHOUT_SENSORS,
    "sys/class/dmi/id/sys_vendor": "LENOVO\n",
    "sys/class/dmi/id/product_name": "20L5CTO1WW\n",
    "sys/devices/system/cpu/cpu0/thermal_throttle/core_throttle_count": "12\n",
    "sys/devices/system/cpu/cpu1/thermal_throttle/core_throttle_count": "0\n",
    **_policy(0, "0", "powersave", 800000, 400000, 4000000),
    **_zones(x86_pkg_temp=61000),
}


def write(root: Path, board: dict[str, str]) -> Path:
    """Make a board's files under a folder."""
    for name, content in board.items():
        file = root / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(content)
        if "/bin/" in name:
            file.chmod(0o755)
    return root
