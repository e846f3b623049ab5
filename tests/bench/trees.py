"""Boards' /sys and /proc as small trees: what the files are called and say there. Written to a folder, read as a root.

Layouts after the sources that sensors.py and energy.py name; the PMIC's text is a Raspberry Pi 5's answer.
"""

from __future__ import annotations

from pathlib import Path

CPU = "sys/devices/system/cpu"
GPU = "sys/class/devfreq/17000000.gpu"
EMC = "sys/kernel/debug/bpmp/debug/clk/emc"
INA = "sys/bus/i2c/devices/1-0040/hwmon/hwmon1"

RASPBERRY_PI_5 = {
    "sys/class/thermal/thermal_zone0/type": "cpu-thermal\n",
    "sys/class/thermal/thermal_zone0/temp": "57350\n",
    f"{CPU}/cpufreq/policy0/scaling_cur_freq": "2400000\n",
    f"{CPU}/cpufreq/policy0/scaling_max_freq": "2400000\n",
    "sys/devices/platform/soc@107c000000/soc@107c000000:firmware/get_throttled": "0\n",
}
RASPBERRY_PI_4_HOT = {
    "sys/class/thermal/thermal_zone0/type": "cpu-thermal\n",
    "sys/class/thermal/thermal_zone0/temp": "83270\n",
    f"{CPU}/cpufreq/policy0/scaling_cur_freq": "1000000\n",
    f"{CPU}/cpufreq/policy0/scaling_max_freq": "1800000\n",
    "sys/devices/platform/soc/soc:firmware/get_throttled": "e0006\n",
}
JETSON_ORIN_NANO = {
    "sys/class/thermal/thermal_zone0/type": "cpu-thermal\n",
    "sys/class/thermal/thermal_zone0/temp": "49312\n",
    "sys/class/thermal/thermal_zone8/type": "tj-thermal\n",
    "sys/class/thermal/thermal_zone8/temp": "50906\n",
    f"{CPU}/cpufreq/policy0/scaling_cur_freq": "1510400\n",
    f"{CPU}/cpufreq/policy0/scaling_max_freq": "1510400\n",
    f"{CPU}/cpufreq/policy4/scaling_cur_freq": "1344000\n",
    f"{CPU}/cpufreq/policy4/scaling_max_freq": "1510400\n",
    f"{CPU}/cpufreq/policy0/scaling_min_freq": "729600\n",
    f"{CPU}/cpufreq/policy4/scaling_min_freq": "729600\n",
    f"{GPU}/cur_freq": "612000000\n",
    f"{GPU}/min_freq": "306000000\n",
    f"{GPU}/max_freq": "1020000000\n",
    "sys/class/devfreq/15340000.vic/cur_freq": "115200000\n",  # another unit: no inference runs on it
    "sys/class/devfreq/15340000.vic/min_freq": "115200000\n",
    "sys/class/devfreq/15340000.vic/max_freq": "729600000\n",
    "sys/class/hwmon/hwmon2/name": "soctherm_oc\n",
    "sys/class/hwmon/hwmon2/oc1_event_cnt": "0\n",
    "sys/class/hwmon/hwmon2/oc3_event_cnt": "27\n",
    "var/lib/nvpmodel/status": "pmode:0001",
    f"{INA}/name": "ina3221\n",
    f"{INA}/in1_label": "VDD_IN\n",
    f"{INA}/in1_input": "5040\n",
    f"{INA}/curr1_input": "1152\n",
    f"{INA}/in2_label": "VDD_CPU_GPU_CV\n",
    f"{INA}/in2_input": "5032\n",
    f"{INA}/curr2_input": "320\n",
    f"{INA}/in3_label": "VDD_SOC\n",
    f"{INA}/in3_input": "5032\n",
    f"{INA}/curr3_input": "264\n",
    f"{INA}/in7_label": "sum of shunt voltages\n",
    f"{INA}/in7_input": "3\n",
}
#: The same after `jetson_clocks`, as root sees it: everything at its highest, memory locked.
JETSON_CLOCKS = {
    **JETSON_ORIN_NANO,
    **{f"{CPU}/cpufreq/policy{n}/scaling_{what}_freq": "1510400\n" for n in (0, 4) for what in ("cur", "min", "max")},
    **{f"{GPU}/{what}_freq": "1020000000\n" for what in ("cur", "min", "max")},
    f"{EMC}/mrq_rate_locked": "1\n",
    f"{EMC}/rate": "3199000000\n",
}
#: Two chips, no rail that all else hangs on; the second one's third channel is disabled and can't be read.
JETSON_AGX_ORIN = {
    f"sys/bus/i2c/devices/{chip}/hwmon/hwmon{number}/{file}": value
    for chip, number, files in (
        ("1-0040", 3, {
            "name": "ina3221\n", "in1_label": "VDD_GPU_SOC\n", "in1_input": "12000\n", "curr1_input": "200\n",
            "in2_label": "VDD_CPU_CV\n", "in2_input": "12000\n", "curr2_input": "100\n",
            "in3_label": "VIN_SYS_5V0\n", "in3_input": "5000\n", "curr3_input": "500\n",
        }),
        ("1-0041", 4, {
            "name": "ina3221\n", "in1_label": "NC\n", "in1_input": "0\n", "curr1_input": "0\n",
            "in2_label": "VDDQ_VDD2_1V8AO\n", "in2_input": "5000\n", "curr2_input": "100\n", "in3_label": "NC\n",
        }),
    )
    for file, value in files.items()
}  # fmt: skip
INTEL = {
    "sys/class/thermal/thermal_zone0/type": "acpitz\n",
    "sys/class/thermal/thermal_zone0/temp": "27800\n",
    "sys/class/thermal/thermal_zone1/type": "acpitz\n",
    "sys/class/thermal/thermal_zone1/temp": "29800\n",
    "sys/class/thermal/thermal_zone2/type": "iwlwifi_1\n",  # a radio that is off: its temp can't be read
    f"{CPU}/cpufreq/policy0/scaling_cur_freq": "3400123\n",
    f"{CPU}/cpufreq/policy0/scaling_max_freq": "4700000\n",
    f"{CPU}/cpu0/thermal_throttle/core_throttle_count": "3\n",
    f"{CPU}/cpu0/thermal_throttle/package_throttle_count": "5\n",
    "sys/class/powercap/intel-rapl:0/name": "package-0\n",
    "sys/class/powercap/intel-rapl:0/energy_uj": "262143300000\n",
    "sys/class/powercap/intel-rapl:0/max_energy_range_uj": "262143328850\n",
    "sys/class/powercap/intel-rapl:0:0/name": "core\n",
    "sys/class/powercap/intel-rapl:0:0/energy_uj": "9000000\n",
    "sys/class/powercap/intel-rapl:1/name": "psys\n",
    "sys/class/powercap/intel-rapl:1/energy_uj": "7000000\n",
}
#: `vcgencmd pmic_read_adc`. EXT5V and BATT have volts only.
PMIC = """\
 3V7_WL_SW_A current(0)=0.09466522A
   3V3_SYS_A current(1)=0.08197812A
   1V8_SYS_A current(2)=0.15029320A
  DDR_VDD2_A current(3)=0.00390372A
  DDR_VDDQ_A current(4)=0.00000000A
   1V1_SYS_A current(5)=0.20299340A
    0V8_SW_A current(6)=0.30546610A
  VDD_CORE_A current(7)=1.11625000A
   3V3_DAC_A current(17)=0.00000000A
   3V3_ADC_A current(18)=0.00018315A
   0V8_AON_A current(16)=0.00274725A
      HDMI_A current(22)=0.01660560A
 3V7_WL_SW_V volt(8)=3.62925200V
   3V3_SYS_V volt(9)=3.31652900V
   1V8_SYS_V volt(10)=1.79877700V
  DDR_VDD2_V volt(11)=1.10146400V
  DDR_VDDQ_V volt(12)=0.60622650V
   1V1_SYS_V volt(13)=1.10402800V
    0V8_SW_V volt(14)=0.79853400V
  VDD_CORE_V volt(15)=0.74944980V
   3V3_DAC_V volt(20)=3.31043600V
   3V3_ADC_V volt(21)=3.31684600V
   0V8_AON_V volt(19)=0.79794790V
      HDMI_V volt(23)=5.10138000V
     EXT5V_V volt(24)=5.08530000V
      BATT_V volt(25)=0.00000000V
"""


def plant(root: Path, tree: dict[str, str]) -> Path:
    """Write a tree's files."""
    for path, content in tree.items():
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_text(content)
    return root
