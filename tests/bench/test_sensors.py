"""Sensors over recorded trees: units, what isn't there, what can't be read, counters that wrap."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

from edgeprune.bench import energy, sensors
from edgeprune.bench.pace import pinned, pinned_in_words
from tests.bench.trees import (
    EMC,
    GPU,
    INA,
    INTEL,
    JETSON_AGX_ORIN,
    JETSON_CLOCKS,
    JETSON_ORIN_NANO,
    PMIC,
    RASPBERRY_PI_4_HOT,
    RASPBERRY_PI_5,
    plant,
)


def test_raspberry_pi(tmp_path: Path) -> None:
    cool = sensors.read(plant(tmp_path / "5", RASPBERRY_PI_5), 1.5)
    assert (cool.at_s, cool.temperature_c, cool.throttled) == (1.5, {"cpu-thermal": 57.35}, 0)
    assert (cool.frequency_mhz, cool.frequency_limit_mhz) == ({"policy0": 2400.0}, {"policy0": 2400.0})
    hot = sensors.read(plant(tmp_path / "4", RASPBERRY_PI_4_HOT), 0)
    assert hot.throttled == 0xE0006
    assert hot.frequency_mhz == {"policy0": 1000.0}


def test_jetson(tmp_path: Path) -> None:
    found = sensors.read(plant(tmp_path, JETSON_ORIN_NANO), 0)
    assert found.temperature_c == {"cpu-thermal": 49.312, "tj-thermal": 50.906}
    assert found.frequency_mhz == {"policy0": 1510.4, "policy4": 1344.0, "17000000.gpu": 612.0}
    assert found.frequency_limit_mhz == {"policy0": 1510.4, "policy4": 1510.4, "17000000.gpu": 1020.0}
    assert found.throttled is None
    assert found.throttle_events == {"class/hwmon/hwmon2/oc1_event_cnt": 0, "class/hwmon/hwmon2/oc3_event_cnt": 27}


@pytest.mark.parametrize("name", ["17000000.gpu", "17000000.gv11b", "57000000.gpu", "17000000.ga10b", "gpu-gpc-0"])
def test_gpus_of_each_jetson_are_known_by_name(tmp_path: Path, name: str) -> None:
    plant(tmp_path, {f"sys/class/devfreq/{name}/cur_freq": "918000000\n"})
    plant(tmp_path, {"sys/class/devfreq/15340000.vic/cur_freq": "1\n", "sys/class/devfreq/bwmgr/cur_freq": "1\n"})
    assert sensors.gpu_frequencies(tmp_path, "cur_freq") == {name: 918.0}


def test_clocks_are_pinned_where_none_can_move(tmp_path: Path) -> None:
    def said(tree: dict[str, str], name: str) -> str:
        return pinned_in_words(pinned(plant(tmp_path / name, tree)))

    assert said(JETSON_CLOCKS, "after") == "yes"
    assert said(JETSON_ORIN_NANO, "before") == "no (policy0, policy4, 17000000.gpu)"
    assert said({**JETSON_CLOCKS, f"{GPU}/min_freq": "306000000\n"}, "gpu") == "no (17000000.gpu)"
    assert said({**JETSON_CLOCKS, f"{EMC}/mrq_rate_locked": "0\n"}, "memory") == "no (emc)"
    without = {name: content for name, content in JETSON_CLOCKS.items() if not name.startswith(EMC)}
    assert said(without, "user") == "yes"  # memory can't be seen without root, and isn't guessed
    assert said(RASPBERRY_PI_5, "pi") == "unknown"
    assert said({}, "nothing") == "unknown"


def test_intel_zones_of_one_type_keep_apart_and_an_unreadable_one_is_left_out(tmp_path: Path) -> None:
    found = sensors.read(plant(tmp_path, INTEL), 0)
    assert found.temperature_c == {"acpitz": 27.8, "acpitz 1": 29.8}
    assert sorted(found.throttle_events.values()) == [3, 5]


def test_machine_without_sensors_reports_nothing_not_zero(tmp_path: Path) -> None:
    found = sensors.read(tmp_path, 0, ask=True)
    assert (found.temperature_c, found.frequency_mhz, found.throttled, found.throttle_events) == ({}, {}, None, {})
    assert "no power sensor" in str(energy.find_sensor(tmp_path))


@pytest.mark.parametrize(
    ("answer", "bits"),
    [("throttled=0x50005\n", 0x50005), ("50005\n", 0x50005), ("throttled=0x0", 0), ("", None), (None, None),
     ('error=1 error_msg="Command not registered"', None)],
)  # fmt: skip
def test_throttled_bits_are_hexadecimal_both_ways(answer: str | None, bits: int | None) -> None:
    assert sensors.parse_throttled(answer) == bits


def test_jetsons_total_is_the_input_rail(tmp_path: Path) -> None:
    root = plant(tmp_path, JETSON_ORIN_NANO)
    sensor = energy.find_sensor(root)
    assert isinstance(sensor, energy.PowerSensor)
    assert sensor.source == "INA3221 VDD_IN"
    assert sensor.milliwatts() == pytest.approx(5.040 * 1.152 * 1e3)
    (root / INA / "curr1_input").unlink()
    assert sensor.milliwatts() is None


def test_rails_are_summed_over_chips_where_there_is_no_input_rail(tmp_path: Path) -> None:
    sensor = energy.find_sensor(plant(tmp_path, JETSON_AGX_ORIN))
    assert isinstance(sensor, energy.PowerSensor)
    assert sensor.source == "INA3221 VDDQ_VDD2_1V8AO + VDD_CPU_CV + VDD_GPU_SOC + VIN_SYS_5V0"
    assert sensor.milliwatts() == pytest.approx(12 * 200 + 12 * 100 + 5 * 500 + 5 * 100)


def test_pmic_counts_rails_with_volts_and_amperes() -> None:
    rails = energy.pmic(PMIC)
    assert len(rails) == 12
    assert "EXT5V" not in rails
    assert rails["VDD_CORE"] == pytest.approx(1.11625 * 0.7494498 * 1e3)
    assert sum(rails.values()) == pytest.approx(2.2822e3, rel=1e-3)
    assert energy.pmic("error=1") == energy.pmic(None) == {}


def test_vcgencmd_is_asked_as_a_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program = tmp_path / "vcgencmd"
    program.write_text(f"#!/bin/sh\ncat <<'E'\n{PMIC}E\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    assert len(energy.pmic(sensors.vcgencmd("pmic_read_adc"))) == 12
    program.write_text("#!/bin/sh\nexit 1\n")
    assert sensors.vcgencmd("pmic_read_adc") is None
    monkeypatch.setenv("PATH", "")
    assert sensors.vcgencmd("get_throttled") is None


def test_rapl_counts_packages_and_survives_a_wrap(tmp_path: Path) -> None:
    root = plant(tmp_path, INTEL)
    package = root / "sys/class/powercap/intel-rapl:0"
    now = 10.0
    counter = energy.RaplCounter([package], clock=lambda: now)
    now = 10.5
    (package / "energy_uj").write_text("3971150\n")  # 28850 to the end, then from 0
    assert counter.milliwatts() == pytest.approx(4_000_000 / 1e3 / 0.5)
    now = 11.5
    (package / "energy_uj").write_text("9971150\n")
    assert counter.milliwatts() == pytest.approx(6000)
    sensor = energy.find_sensor(root)
    assert isinstance(sensor, energy.PowerSensor)
    assert sensor.source == "RAPL, 1 package(s)"


def test_rapl_that_only_root_may_read_says_so(tmp_path: Path) -> None:
    root = plant(tmp_path, INTEL)
    counter = root / "sys/class/powercap/intel-rapl:0/energy_uj"
    counter.unlink()
    counter.mkdir()  # what reads as an error for root too
    assert energy.find_sensor(root) == "RAPL's counters can't be read: only root may"


def test_joules_are_the_area_under_uneven_samples() -> None:
    assert energy.joules([(1.0, 2000.0), (3.0, 4000.0)], 4.0) == pytest.approx(2 * 1 + 3 * 2 + 4 * 1)
    assert energy.joules([(0.5, 5000.0)], 2.0) == pytest.approx(10)


def test_energy_of_a_pass_is_power_by_time(tmp_path: Path) -> None:
    sensor = energy.find_sensor(plant(tmp_path, JETSON_ORIN_NANO))
    assert isinstance(sensor, energy.PowerSensor)

    def work() -> int:
        time.sleep(0.3)
        return 30

    spent = energy.meter(sensor, work, period_s=0.05)
    assert not isinstance(spent, str)
    assert spent.joules == pytest.approx(5.040 * 1.152 * spent.duration_s)
    assert spent.joules_per_image == pytest.approx(spent.joules / 30)
    silent = energy.PowerSensor("a dead one", lambda: None)
    assert energy.meter(silent, work, period_s=0.05) == "a dead one didn't answer during the pass"
