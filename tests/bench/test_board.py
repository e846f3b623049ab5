"""What a device says of itself: boards' own files, the record, the table, the command."""

from __future__ import annotations

import io
import json
import platform
import subprocess
import sys
from pathlib import Path

import pytest
from rich.console import Console

from edgeprune.bench.board import device_info
from edgeprune.bench.pace import frequencies, power_mode, throttling
from edgeprune.bench.sensors import temperatures
from edgeprune.machine import emulated
from edgeprune.records import DeviceInfo
from edgeprune.report.device import info_table, warnings
from tests.bench import boards
from tests.test_cli import edgeprune


def test_pi_5(tmp_path: Path) -> None:
    info = device_info(boards.write(tmp_path, boards.PI_5))
    assert (info.board, info.soc) == ("Raspberry Pi 5 Model B Rev 1.0", "brcm,bcm2712")
    assert (info.os, info.kernel) == ("Debian GNU/Linux 12 (bookworm)", "6.6.31+rpt-rpi-2712")
    assert info.memory_bytes == 8245152 * 1024
    [policy] = info.frequencies
    assert (policy.cpus, policy.governor) == ("0 1 2 3", "ondemand")
    assert (policy.current_mhz, policy.minimum_mhz, policy.maximum_mhz) == (1500, 1500, 2400)
    assert (info.throttled_now, info.throttled_before) == ((), ())
    assert info.temperatures_c == {"cpu-thermal": 51.25}
    assert info.power_mode is None


def test_pi_4_that_is_too_hot_and_had_too_little_power(tmp_path: Path) -> None:
    """0xd0008: bit 3 now; bits 16, 18 and 19 since it was started."""
    info = device_info(boards.write(tmp_path, boards.PI_4))
    assert info.throttled_now == ("soft temperature limit",)
    assert info.throttled_before == ("under-voltage", "throttled", "soft temperature limit")
    assert any("slowed down now (soft temperature limit)" in warning for warning in warnings(info))


def test_jetson_orin_nano(tmp_path: Path) -> None:
    info = device_info(boards.write(tmp_path, boards.JETSON_ORIN_NANO))
    assert info.soc == "nvidia,tegra234 (Tegra)"
    assert info.power_mode == "2: MAXN_SUPER"
    assert [policy.cpus for policy in info.frequencies] == ["0 1 2 3", "4 5"]
    assert info.throttled_before == ("instantaneous over-current (17 events)",)
    assert info.temperatures_c["tj-thermal"] == 49.5
    assert "cv0-thermal" not in info.temperatures_c
    assert info.clocks_pinned == {"policy0": False, "policy4": False}


def test_a_container_without_the_link_still_knows_its_board(tmp_path: Path) -> None:
    moved = {n.replace("proc/device-tree", "sys/firmware/devicetree/base"): c for n, c in boards.PI_5.items()}
    info = device_info(boards.write(tmp_path, moved))
    assert (info.board, info.soc) == ("Raspberry Pi 5 Model B Rev 1.0", "brcm,bcm2712")


def test_jetson_that_never_changed_its_mode_is_in_the_default_one(tmp_path: Path) -> None:
    root = boards.write(tmp_path, boards.JETSON_ORIN_NANO)
    (root / "var/lib/nvpmodel/status").unlink()
    assert power_mode(root) == "1: 25W"
    (root / "var/lib/nvpmodel/status").write_text("pmode:0009\n")
    assert power_mode(root) == "9"


def test_x86_with_and_without_sensors(tmp_path: Path) -> None:
    bare = device_info(boards.write(tmp_path / "vm", boards.X86_WITHOUT_SENSORS))
    assert (bare.board, bare.soc, bare.os) == (None, "Intel(R) Xeon(R) Processor", "Debian GNU/Linux 13 (trixie)")
    assert bare.frequencies == ()
    assert bare.temperatures_c == {}
    assert bare.throttled_now is None  # not the same as 'no': nothing reports it
    pc = device_info(boards.write(tmp_path / "pc", boards.X86))
    assert pc.board == "LENOVO 20L5CTO1WW"
    assert pc.throttled_now == ()
    assert pc.throttled_before == ("too hot (12 events on 1 cores)",)


def test_a_board_without_anything_answers_nothing(tmp_path: Path) -> None:
    assert frequencies(tmp_path) == ()
    assert temperatures(tmp_path) == {}
    assert power_mode(tmp_path) is None
    assert throttling(tmp_path) is None
    info = device_info(tmp_path)
    assert (info.board, info.soc, info.os, info.memory_bytes) == (None, None, None, None)


@pytest.mark.parametrize("answer", ["VCHI initialization failed", "throttled=", "exit 1"])
def test_vcgencmd_that_cannot_tell(tmp_path: Path, answer: str) -> None:
    root = boards.write(tmp_path, {"usr/bin/vcgencmd": f"#!/bin/sh\necho '{answer}'\nexit 1\n"})
    assert throttling(root) is None


def test_files_that_hold_nonsense_are_no_error(tmp_path: Path) -> None:
    nonsense = {name: "\udcff?\n".encode("utf-8", "replace").decode() for name in boards.JETSON_ORIN_NANO}
    info = device_info(boards.write(tmp_path, nonsense))
    assert info.frequencies == ()
    assert info.power_mode is None


def test_zones_of_one_type_are_told_apart(tmp_path: Path) -> None:
    root = boards.write(tmp_path, {
        "sys/class/thermal/thermal_zone0/type": "acpitz\n", "sys/class/thermal/thermal_zone0/temp": "-5000\n",
        "sys/class/thermal/thermal_zone1/type": "acpitz\n", "sys/class/thermal/thermal_zone1/temp": "30000\n",
    })  # fmt: skip
    assert temperatures(root) == {"acpitz": -5.0, "acpitz 1": 30.0}


@pytest.mark.parametrize(
    ("files", "machine", "why"),
    [
        ({"proc/sys/kernel/arch": "x86_64\n"}, "aarch64", "programs run as aarch64 on a kernel for x86_64"),
        ({"proc/sys/kernel/arch": "aarch64\n"}, "x86_64", "programs run as x86_64 on a kernel for aarch64"),
        ({"proc/thread-self/maps": "7f00-7f01 r-xp 0 fe:00 9 /usr/bin/qemu-aarch64-static\n"}, "aarch64",
         "qemu-aarch64-static runs this process"),
        ({"proc/device-tree/compatible": "linux,dummy-virt\0"}, "aarch64",
         "the board is QEMU's virtual one, linux,dummy-virt"),
        ({"proc/cpuinfo": "model name\t: QEMU TCG CPU version 2.5+\n"}, "x86_64",
         "the processor is QEMU TCG CPU version 2.5+"),
    ],
)  # fmt: skip
def test_what_gives_an_emulated_machine_away(tmp_path: Path, files: dict[str, str], machine: str, why: str) -> None:
    assert emulated(boards.write(tmp_path, files), machine) == why


@pytest.mark.parametrize(
    ("files", "machine"),
    [
        ({}, "aarch64"),
        ({"proc/sys/kernel/arch": "aarch64\n", **boards.PI_5}, "aarch64"),
        ({"proc/sys/kernel/arch": "aarch64\n"}, "armv8l"),  # 32-bit programs, at home on a 64-bit kernel
        ({"proc/sys/kernel/arch": "x86_64\n", "proc/cpuinfo": "model name\t: QEMU Virtual CPU version 2.5+\n"}, "i686"),
    ],
)  # fmt: skip
def test_a_machine_that_nothing_speaks_against(tmp_path: Path, files: dict[str, str], machine: str) -> None:
    assert emulated(boards.write(tmp_path, files), machine) is None


def test_an_emulated_board_is_warned_of(tmp_path: Path) -> None:
    other = "x86_64" if platform.machine() == "aarch64" else "aarch64"
    info = device_info(boards.write(tmp_path, {**boards.PI_5, "proc/sys/kernel/arch": f"{other}\n"}))
    assert info.emulated == f"programs run as {platform.machine()} on a kernel for {other}"
    assert any(f"it is emulated ({info.emulated})" in warning for warning in warnings(info))


def test_the_module_prints_the_record() -> None:
    done = subprocess.run([sys.executable, "-m", "edgeprune.bench.board"], capture_output=True, text=True, check=True)
    info = DeviceInfo.model_validate_json(done.stdout)
    assert info.runtimes.keys() == {"onnxruntime", "openvino"}
    assert info.free_bytes > 0


def test_the_command_shows_this_machine() -> None:
    done = edgeprune("device", "info", "local")
    assert done.returncode == 0
    assert "onnxruntime" in done.stdout
    told = json.loads(edgeprune("device", "info", "local", "--json").stdout)
    assert told["clock_offset_s"] is None


def test_the_table_tells_no_from_not_reported(tmp_path: Path) -> None:
    def shown(info: DeviceInfo) -> str:
        console = Console(width=200, record=True, file=io.StringIO())
        console.print(info_table(info))
        return console.export_text()

    pi = shown(device_info(boards.write(tmp_path / "pi", boards.PI_5)).model_copy(update={"clock_offset_s": -9e7}))
    assert "ondemand: 1500 MHz of 1500 to 2400" in pi
    assert "no (policy0)" in pi
    assert "2.9 years behind" in pi
    assert next(line for line in pi.splitlines() if "throttled now" in line).split()[-1] == "no"
    bare = shown(device_info(boards.write(tmp_path / "vm", boards.X86_WITHOUT_SENSORS)))
    assert "not reported" in next(line for line in bare.splitlines() if "throttled now" in line)
