"""A device as tables: what it is, and what was installed on it."""

from __future__ import annotations

from rich.table import Table

from edgeprune.bench.pace import pinned_in_words
from edgeprune.records.device_info import DeviceInfo
from edgeprune.records.installation import Installation
from edgeprune.remote.setup import LIMIT_BYTES, LIMIT_IMPORT_S, duration

#: A clock may be so far off, seconds, before it is worth a word: logs and signatures carry its time.
CLOCK_WARNING_S = 60.0
NOT_REPORTED = "not reported"


def info_table(info: DeviceInfo) -> Table:
    """Every field of a device in words."""
    table = Table(box=None, show_header=False)
    memory = f"{info.memory_bytes / 1e9:.1f} GB" if info.memory_bytes else NOT_REPORTED
    rows = {
        "board": info.board,
        "SoC": info.soc,
        "cores, memory": f"{info.cores}, {memory}",
        "system": f"{info.os or NOT_REPORTED}, Linux {info.kernel}, {info.architecture}",
        "emulated": info.emulated or "not found to be",
        "Python": info.python,
        "edgeprune": info.edgeprune,
        "runtimes": ", ".join(f"{name} {number}" for name, number in info.runtimes.items()) or "none",
        "L4T": info.l4t,
        "GPU": info.gpu,
        "power mode": info.power_mode,
        "clocks pinned": pinned_in_words(info.clocks_pinned),
        "throttled now": _slowed(info.throttled_now),
        "throttled before": _slowed(info.throttled_before),
        "temperatures": ", ".join(f"{zone} {degrees:.1f} °C" for zone, degrees in info.temperatures_c.items()),
        "free space": f"{info.free_bytes / 1e9:.1f} GB",
    }
    for what, found in rows.items():
        table.add_row(what, found or NOT_REPORTED)
    for policy in info.frequencies:
        table.add_row(
            f"cores {policy.cpus}",
            f"{policy.governor}: {policy.current_mhz:.0f} MHz of {policy.minimum_mhz:.0f} to {policy.maximum_mhz:.0f}",
        )
    if not info.frequencies:
        table.add_row("governor", NOT_REPORTED)
    if info.clock_offset_s is not None:
        table.add_row("clock", f"{duration(info.clock_offset_s)}, ±{info.clock_uncertainty_s or 0:.3f} s")
    return table


def warnings(info: DeviceInfo) -> list[str]:
    """What would spoil a measurement or an update there."""
    said = []
    if info.clock_offset_s is not None and abs(info.clock_offset_s) > CLOCK_WARNING_S:
        said.append(
            f"its clock is {duration(info.clock_offset_s)}: certificates and signatures are judged by it; "
            "sudo timedatectl set-ntp true"
        )
    if info.emulated:
        said.append(f"it is emulated ({info.emulated}): what it computes counts, how long it takes doesn't")
    if info.throttled_now:
        said.append(f"it is slowed down now ({', '.join(info.throttled_now)}): what is measured now doesn't count")
    if not info.runtimes:
        said.append("it has no runtime: edgeprune device setup installs one")
    return said


def installation_lines(found: Installation) -> list[str]:
    """Size and import time, and what they may be."""
    lines = [
        f"{found.install_bytes / 1e6:.1f} MB beside {found.runtime} {found.versions[found.runtime]} itself "
        f"({found.runtime_bytes / 1e6:.1f} MB); at most {LIMIT_BYTES / 1e6:.0f} MB were meant",
        f"importing it takes {found.import_s:.2f} s there; under {LIMIT_IMPORT_S} s was meant"
        if found.emulated is None
        else f"importing it takes {found.import_s:.2f} s, emulated ({found.emulated}): the time of no machine",
    ]
    if found.install_bytes > LIMIT_BYTES or (found.import_s >= LIMIT_IMPORT_S and found.emulated is None):
        lines.append("that is more than was meant: a slow disk, a busy machine, or a package that has grown")
    return lines


def _slowed(reasons: tuple[str, ...] | None) -> str | None:
    return None if reasons is None else ", ".join(reasons) or "no"
