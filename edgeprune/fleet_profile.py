"""One bundle on several devices at once: figures of each, and the spread between boards of one kind.

Rules:
- All devices are measured at the same time; one that fails never ends the others'.
- What a device measured is a benchmark like any other and lies in a file of its own.
- Boards of one kind differ by some per cent (chip, cooling, power supply): who is further off is named.
"""

from __future__ import annotations

import re
import threading
from collections import defaultdict
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import median

from edgeprune.benchmark import benchmark
from edgeprune.errors import EdgepruneError, RecipeError
from edgeprune.records import Load, read_yaml, write_json
from edgeprune.records.files import sha256_file
from edgeprune.records.fleet_profile import DeviceFigures, FleetProfile, Hosts, Spread
from edgeprune.remote.bench import bench_at
from edgeprune.runtime.bundle import open_bundle

#: How far a board may be over its kind's median; public figures for one SKU differ by up to as much.
OUTLIER = 0.10

#: Told what is done: device, what, and how much of how much.
Progress = Callable[[str, str, float, float], None]


def read_hosts(file: Path) -> tuple[str, ...]:
    """The addresses of a hosts file.

    Raises:
        RecipeError: It can't be read, or holds what is no address.
    """
    return read_yaml(file, Hosts, RecipeError).hosts


def profile(
    target: str, bundle: Path, data: Path, load: Load, hosts: Sequence[str], folder: Path,
    any_version: bool = False, on_progress: Progress = lambda device, what, done, total: None,
) -> FleetProfile:  # fmt: skip
    """Measure a bundle on every host at once; writes fleet.json and a benchmark for each into `folder`.

    Args:
        target, bundle, data, load, any_version: As `benchmark` takes them.
        hosts: Addresses.
        folder: Where the files go.

    Raises:
        BundleError: The bundle isn't whole.
    """

    def measure(host: str) -> DeviceFigures:
        file = folder / f"{re.sub(r'[^A-Za-z0-9.]+', '-', host).strip('-')}.json"
        try:
            info = bench_at(host).info
            found = benchmark(
                target, bundle, data, load, file, device=host, any_version=any_version,
                on_progress=lambda what, done, total: on_progress(host, what, done, total),
            )  # fmt: skip
        except EdgepruneError as error:
            return DeviceFigures(device=host, failed=str(error))
        result = found.run.result
        return DeviceFigures(
            device=host, board=info.board, power_mode=info.power_mode, file=file.name, latency_ms=result.latency_ms,
            throughput_per_s=result.throughput_per_s, map50_95=found.accuracy and found.accuracy.map50_95,
            void=found.void,
        )  # fmt: skip

    open_bundle(bundle)  # one that isn't whole is said once, not once a device
    devices = _at_once(measure, hosts)
    made = FleetProfile(
        target=target, bundle_sha256=sha256_file(bundle), devices=devices, spreads=spreads(devices)
    )  # fmt: skip
    write_json(folder / "fleet.json", made)
    return made


def _at_once(measure: Callable[[str], DeviceFigures], hosts: Sequence[str]) -> tuple[DeviceFigures, ...]:
    """A thread each, that dies with the process: a pool's would keep an interrupted command for ten minutes."""
    found: dict[str, DeviceFigures | Exception] = {}

    def work(host: str) -> None:
        try:
            found[host] = measure(host)
        except Exception as error:  # a programmer's mistake: not to be lost with its thread
            found[host] = error

    threads = [threading.Thread(target=work, args=(host,), daemon=True) for host in hosts]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for result in found.values():
        if isinstance(result, Exception):
            raise result
    return tuple(result for host in hosts if isinstance(result := found[host], DeviceFigures))


def spreads(devices: Sequence[DeviceFigures]) -> tuple[Spread, ...]:
    """How far boards of one kind differ, of those whose figures count."""
    kinds: dict[tuple[str | None, str | None], dict[str, float]] = defaultdict(dict)
    for device in devices:
        if device.counts and device.latency_ms is not None:
            kinds[device.board, device.power_mode][device.device] = device.latency_ms.p50
    found = []
    for (board, power_mode), p50 in kinds.items():
        middle = median(p50.values())
        ordered = sorted(p50, key=lambda name: p50[name])
        found.append(
            Spread(
                board=board, power_mode=power_mode, devices=tuple(ordered), median_ms=middle,
                fastest_ms=p50[ordered[0]], slowest_ms=p50[ordered[-1]],
                range_ratio=(p50[ordered[-1]] - p50[ordered[0]]) / middle,
                outliers=tuple(name for name in ordered if p50[name] > middle * (1 + OUTLIER)),
            )
        )  # fmt: skip
    return tuple(found)
