"""Energy of a stretch of work, where the board has a sensor for it.

Rules:
- One source, the first that is there: Jetson's INA3221 (VDD_IN or POM_5V_IN, the board's input; else the sum of its
  rails), Raspberry Pi 5's PMIC (sum of the rails that have both volts and amperes: EXT5V has no current, so this isn't
  wall power), RAPL (the packages of an Intel or AMD processor; root only).
- Power is read ten times a second from a thread while the work runs, and integrated by trapezoids; a counter of energy
  is only ever subtracted, and what it lost by wrapping is added back.
- Reading costs time, so this is never the run that latencies come from.

Sources: Documentation/hwmon/ina3221.rst (mV, mA); Documentation/power/powercap/powercap.rst (energy_uj wraps at
max_energy_range_uj); Raspberry Pi documentation, 'vcgencmd pmic_read_adc'; NVIDIA Jetson Linux Developer Guide, 'Power
Monitoring'.
"""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from edgeprune.bench.sensors import integer, vcgencmd
from edgeprune.machine import text
from edgeprune.records.benchmark import Energy

#: Seconds between readings. Raspberry Pi's PMIC isn't to be asked more often.
PERIOD_S = 0.1
#: Rails of a Jetson that everything else hangs on.
INPUT_RAILS = ("VDD_IN", "POM_5V_IN")
_RAIL = re.compile(r"(\w+)_([AV])\s+(?:current|volt)\(\d+\)=([0-9.]+)[AV]")


@dataclass(frozen=True)
class PowerSensor:
    """Power now.

    Attributes:
        source: What is read.
        milliwatts: Reads it; None where the sensor didn't answer this time.
    """

    source: str
    milliwatts: Callable[[], float | None]


class RaplCounter:
    """RAPL's energy as power between two readings, which must be closer than one wrap (a minute or more)."""

    def __init__(self, domains: Sequence[Path], clock: Callable[[], float] = time.perf_counter) -> None:
        self._domains, self._clock = domains, clock
        self._last = [integer(domain / "energy_uj") for domain in domains]
        self._at = clock()

    def milliwatts(self) -> float | None:
        """Mean power since the last reading."""
        now, values = self._clock(), [integer(domain / "energy_uj") for domain in self._domains]
        spent = 0
        for domain, old, new in zip(self._domains, self._last, values, strict=True):
            if old is None or new is None:
                return None
            spent += wrapped(old, new, integer(domain / "max_energy_range_uj"))
        elapsed, self._last, self._at = now - self._at, values, now
        return spent / 1e3 / elapsed if elapsed > 0 else None


def wrapped(old: int, new: int, limit: int | None) -> int:
    """What a counter went on by, which starts from 0 again after `limit`."""
    return new - old if new >= old else new - old + (limit or 0)


def find_sensor(root: Path) -> PowerSensor | str:
    """The board's sensor, or why there is none to be read."""
    monitors = [hwmon for hwmon in root.glob("sys/bus/i2c/devices/*/hwmon/hwmon*") if text(hwmon / "name") == "ina3221"]
    monitors = monitors or list(root.glob("sys/bus/i2c/drivers/ina3221/*/hwmon/hwmon*"))
    if monitors:
        rails = sorted({rail for hwmon in monitors for rail in ina3221(hwmon)})
        inputs = [rail for rail in INPUT_RAILS if rail in rails]
        counted = inputs[:1] or rails
        return PowerSensor(f"INA3221 {' + '.join(counted)}", lambda: _sum(monitors, counted))
    if root == Path("/") and pmic(vcgencmd("pmic_read_adc")):
        return PowerSensor("PMIC, rails with volts and amperes", lambda: _total(pmic(vcgencmd("pmic_read_adc"))))
    domains = [
        domain
        for domain in sorted(root.glob("sys/class/powercap/intel-rapl:*"))
        if (text(domain / "name") or "").startswith("package")
    ]
    if not domains:
        return "no power sensor was found (INA3221, Raspberry Pi 5's PMIC, RAPL)"
    if integer(domains[0] / "energy_uj") is None:
        return "RAPL's counters can't be read: only root may"
    return PowerSensor(f"RAPL, {len(domains)} package(s)", RaplCounter(domains).milliwatts)


def ina3221(hwmon: Path) -> dict[str, float]:
    """Milliwatts by rail. A channel that is disabled has no input to read and is left out."""
    found = {}
    for channel in (1, 2, 3):
        label = text(hwmon / f"in{channel}_label")
        millivolts, milliamperes = integer(hwmon / f"in{channel}_input"), integer(hwmon / f"curr{channel}_input")
        if label and label != "NC" and millivolts is not None and milliamperes is not None:
            found[label] = millivolts * milliamperes / 1e3
    return found


def pmic(answer: str | None) -> dict[str, float]:
    """Milliwatts by rail of `vcgencmd pmic_read_adc`: those with both a voltage and a current."""
    values: dict[str, dict[str, float]] = {"A": {}, "V": {}}
    for rail, unit, number in _RAIL.findall(answer or ""):
        values[unit][rail] = float(number)
    return {rail: ampere * values["V"][rail] * 1e3 for rail, ampere in values["A"].items() if rail in values["V"]}


def meter(sensor: PowerSensor, work: Callable[[], int], period_s: float = PERIOD_S) -> Energy | str:
    """Run `work`, which returns how many images it did, with the sensor read beside it; or why there is no figure."""
    samples: list[tuple[float, float]] = []
    over = threading.Event()
    begin = time.perf_counter()

    def read() -> None:
        while not over.wait(period_s):
            power = sensor.milliwatts()
            if power is not None:
                samples.append((time.perf_counter() - begin, power))

    thread = threading.Thread(target=read, daemon=True)
    thread.start()
    images = work()
    duration = time.perf_counter() - begin
    over.set()
    thread.join()
    if not samples:
        return f"{sensor.source} didn't answer during the pass"
    return Energy(
        source=sensor.source, joules=joules(samples, duration), images=images, duration_s=duration,
        power_mw=tuple(samples),
    )  # fmt: skip


def joules(samples: Sequence[tuple[float, float]], duration_s: float) -> float:
    """Milliwatts at (second, mW) integrated by trapezoids; the ends last as long as their nearest sample says."""
    times = [0.0, *(min(at, duration_s) for at, _ in samples), duration_s]
    powers = [samples[0][1], *(power for _, power in samples), samples[-1][1]]
    pairs = zip(times, times[1:], powers, powers[1:], strict=False)
    return sum((end - start) * (first + last) / 2 for start, end, first, last in pairs) / 1e3


def _sum(monitors: Sequence[Path], rails: Sequence[str]) -> float | None:
    found = {rail: power for hwmon in monitors for rail, power in ina3221(hwmon).items() if rail in rails}
    return sum(found.values()) if len(found) == len(rails) else None


def _total(rails: dict[str, float]) -> float | None:
    return sum(rails.values()) if rails else None
