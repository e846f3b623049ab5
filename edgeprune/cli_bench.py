"""`edgeprune bench TARGET --bundle …`: a finished bundle on its device, on the command line."""

from __future__ import annotations

import re
import sys
from dataclasses import dataclass
from pathlib import Path

import typer
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

from edgeprune.cli_report import say_renewed
from edgeprune.errors import BundleError, DataError, RecipeError
from edgeprune.records import Load
from edgeprune.records.benchmark import Scenario

#: Seconds of a full run, as MLPerf Inference asks for; of a sustained one, for heat to settle.
FULL_SECONDS = 600.0
#: … and of a quick one: to see that all works, not to quote.
QUICK_SECONDS = 10.0
#: Seconds of the pass that power is read in, at most: some hundred readings.
ENERGY_SECONDS = 60.0

SCENARIOS: tuple[Scenario, ...] = ("single-stream", "multi-stream", "offline")
_UNITS = {"": 1, "s": 1, "m": 60, "min": 60, "h": 3600}

console = Console(file=sys.stdout, highlight=False, soft_wrap=True)


@dataclass(frozen=True)
class Asked:
    """The options of `bench` for a bundle, as they were typed; --device is for a build too."""

    scenario: str | None = None
    duration: str | None = None
    quick: bool = False
    sustained: bool = False
    device: str | None = None
    hosts: Path | None = None
    any_version: bool = False
    camera: str | None = None
    seed: int = 0

    @property
    def for_bundles(self) -> list[str]:
        """Names of those that were typed and mean nothing for a build."""
        options: dict[str, object] = {
            "--scenario": self.scenario, "--duration": self.duration, "--quick": self.quick,
            "--sustained": self.sustained, "--any-version": self.any_version, "--hosts": self.hosts,
            "--camera": self.camera is not None,
        }  # fmt: skip
        return [name for name, value in options.items() if value]


def bench_bundle(
    target: str, bundle: Path, data: Path | None, asked: Asked, out: Path, for_builds: tuple[object, ...] = ()
) -> None:
    """Measure a bundle, write benchmark.json, print it. Exit code 1 where the run is void.

    Raises:
        BundleError: An option of a build was given too, or the bundle isn't right.
        DataError: Neither data nor a camera.
    """
    if any(for_builds):
        raise BundleError("A bundle is measured as it is.", expected="no --model, --recipe or --calibration")
    if data is None and asked.camera is None:
        raise DataError("There is nothing to infer.", expected="--data data.yaml, or --camera N")
    if asked.hosts is not None:
        if data is None or asked.camera is not None:
            raise DataError("Devices are compared on the same images.", expected="--hosts with --data", got="--camera")
        _bench_fleet(target, bundle, data, asked, asked.hosts, out)
        return
    from edgeprune.benchmark import benchmark
    from edgeprune.report.benchmark import show

    load, name = load_of(asked), Path(target).stem
    file = file_of(out, name)
    with _bars() as bars:
        task = bars.add_task("starting", total=None)
        found = benchmark(
            name, bundle, data, load, file, device=asked.device, any_version=asked.any_version,
            on_progress=lambda what, done, total: bars.update(task, description=what, completed=done, total=total),
            camera=asked.camera,
        )  # fmt: skip
    show(found, console)
    console.print(f"  every sample: {file}")
    if file.name == "benchmark.json" and file.with_name("report.json").is_file():
        say_renewed(file.parent)
    if found.void:
        raise typer.Exit(1)


def _bench_fleet(target: str, bundle: Path, data: Path, asked: Asked, hosts_file: Path, out: Path) -> None:
    """The same on every device of a hosts file at once. Exit code 1 where one is void or failed."""
    if asked.device is not None:
        raise RecipeError("Give one of them.", expected="--hosts or --device", got="both")
    from edgeprune.fleet_profile import profile, read_hosts
    from edgeprune.report.fleet_profile import show

    name, hosts = Path(target).stem, read_hosts(hosts_file)
    folder = out / name / "fleet"
    with _bars() as bars:
        tasks = {host: bars.add_task(f"{host}: starting", total=None) for host in hosts}
        found = profile(
            name, bundle, data, load_of(asked), hosts, folder, any_version=asked.any_version,
            on_progress=lambda host, what, done, total: bars.update(
                tasks[host], description=f"{host}: {what}", completed=done, total=total
            ),
        )  # fmt: skip
    show(found, console)
    console.print(f"  every device's samples: {folder}")
    if not all(device.counts for device in found.devices):
        raise typer.Exit(1)


def _bars() -> Progress:
    columns = (TextColumn("  {task.description}"), BarColumn(), TimeRemainingColumn())
    # once a second: a livelier bar would take processor time from what it shows
    return Progress(*columns, console=console, transient=True, disable=not console.is_terminal, refresh_per_second=1)


def load_of(asked: Asked) -> Load:
    """The load that the options say.

    Raises:
        RecipeError: An unknown scenario, a duration that is none, or options that exclude each other.
    """
    scenario = next((known for known in SCENARIOS if known == (asked.scenario or SCENARIOS[0])), None)
    if scenario is None:
        raise RecipeError("Unknown scenario.", where="--scenario", expected=", ".join(SCENARIOS), got=asked.scenario)
    if asked.quick and (asked.duration or asked.sustained):
        raise RecipeError("Give one of them.", expected="--quick alone, or --duration, --sustained", got="both")
    if asked.camera is not None and scenario != "single-stream":
        raise RecipeError(
            "A camera gives one frame after another.", where="--camera", expected="--scenario single-stream",
            got=scenario,
        )  # fmt: skip
    if asked.sustained and scenario != "single-stream":
        raise RecipeError("A sustained run is one image after another.", expected="single-stream", got=scenario)
    seconds = QUICK_SECONDS if asked.quick else seconds_of(asked.duration) if asked.duration else FULL_SECONDS
    return Load(
        scenario=scenario, min_duration_s=seconds, quick=asked.quick, seed=asked.seed, sustained=asked.sustained,
        energy_s=min(seconds, ENERGY_SECONDS),
    )  # fmt: skip


def file_of(out: Path, target: str) -> Path:
    """Where the benchmark goes: `--out` itself if it is a .json, else beside the target's builds in that folder."""
    return out if out.suffix == ".json" else out / target / "benchmark.json"


def seconds_of(duration: str) -> float:
    """'600s', '10m', '90' as seconds.

    Raises:
        RecipeError: Not a duration, or none over zero.
    """
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*(|s|m|min|h)", duration.strip())
    if match is None or float(match[1]) == 0:
        raise RecipeError(
            "The duration can't be read.", where="--duration", expected="over zero, as 600s, 10m or 1h", got=duration
        )
    return float(match[1]) * _UNITS[match[2]]
