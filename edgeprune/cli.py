"""The command line: one function a subcommand, and the one place with exit codes.

Exit codes: 0 done (a build: accepted; `lint`: no errors), 1 the build was rejected, `lint` found errors or a benchmark
is void, 2 the user's to mend, 10 and up what is wrong with a device (errors.ExitCode), 130 interrupted.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table
from typer.core import TyperGroup

from edgeprune.cli_arena import arena
from edgeprune.cli_bench import Asked, bench_bundle
from edgeprune.cli_calibrate import calibrate
from edgeprune.cli_compare import compare
from edgeprune.cli_device import device as devices
from edgeprune.cli_fleet import fleet
from edgeprune.cli_graph import form, gate, kit, lint
from edgeprune.cli_latency import latency_table
from edgeprune.cli_methods import methods
from edgeprune.cli_prune import apply, explain, prune
from edgeprune.cli_sweep import sweep
from edgeprune.errors import BundleError, EdgepruneError, ExitCode
from edgeprune.records import (
    Benchmark,
    BenchRequest,
    BoardEngine,
    Bundle,
    CalibrationSet,
    Compared,
    DeviceInfo,
    DeviceStatus,
    Heartbeat,
    Kit,
    Measurement,
    PrunePlan,
    Quantization,
    Recipe,
    Record,
    Release,
    Report,
    Rollout,
    Sweep,
    TargetProfile,
    Tune,
)
from edgeprune.records.agent import AgentConfig
from edgeprune.records.arena import Arena
from edgeprune.records.fleet_profile import FleetProfile, Hosts
from edgeprune.records.latency import LatencyTable
from edgeprune.version import __version__


class ExitCodes(TyperGroup):
    """Turns what goes wrong inside a subcommand into words on stderr and an exit code."""

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except EdgepruneError as error:
            if ctx.params.get("debug"):
                raise
            _complain(str(error))
            raise SystemExit(int(error.code)) from error
        except KeyboardInterrupt as error:
            _complain("interrupted; the same command goes on from here")
            raise SystemExit(int(ExitCode.INTERRUPTED)) from error


def _complain(text: str) -> None:
    Console(stderr=True, highlight=False, soft_wrap=True, markup=False).print(f"edgeprune: {text}")


app = typer.Typer(cls=ExitCodes, no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False)
app.add_typer(calibrate, name="calibrate")
app.add_typer(devices, name="device")
app.add_typer(fleet, name="fleet")
console = Console(file=sys.stdout, highlight=False, soft_wrap=True)


def _version(wanted: bool) -> None:
    if wanted:
        console.print(__version__)
        raise typer.Exit


Model = Annotated[Path, typer.Option("--model", help="Trained checkpoint (.pt).")]
Data = Annotated[Path, typer.Option("--data", help="data.yaml in Ultralytics' format.")]
RecipeFile = Annotated[Path | None, typer.Option("--recipe", help="Recipe YAML; without one, the defaults.")]
Out = Annotated[Path, typer.Option("--out", help="Folder that builds go into.")]
Calibration = Annotated[
    str | None, typer.Option("--calibration", help="Calibration set for int8: a name under calibration/, or its YAML.")
]
Device = Annotated[str | None, typer.Option("--device", help="local or ssh://…, instead of the target's.")]
Target = Annotated[str, typer.Argument(help="Name under targets/, or a target's YAML.")]


@app.callback()
def edgeprune(
    debug: Annotated[bool, typer.Option("--debug", help="Show tracebacks.")] = False,
    show_version: Annotated[bool, typer.Option("--version", help="Show the version.", callback=_version)] = False,
) -> None:
    """Prune a trained YOLO, measure it on the machine that will run it, accept only what is faster and as good."""


@app.command()
def build(
    target: Target, model: Model, data: Data, recipe: RecipeFile = None, out: Out = Path("build"),
    calibration: Calibration = None, device: Device = None,
) -> None:  # fmt: skip
    """The whole way: prune, fine-tune, export, tune, verify, bench, verdict, bundle."""
    _run("report", target, model, data, recipe, out, calibration, device)


@app.command()
def finetune(
    target: Target, model: Model, data: Data, recipe: RecipeFile = None, out: Out = Path("build"),
    calibration: Calibration = None, device: Device = None,
) -> None:  # fmt: skip
    """Up to finetuned.pt."""
    _run("finetune", target, model, data, recipe, out, calibration, device)


@app.command()
def export(
    target: Target, model: Model, data: Data, recipe: RecipeFile = None, out: Out = Path("build"),
    calibration: Calibration = None, device: Device = None,
) -> None:  # fmt: skip
    """Up to the ONNX files and the runtime's engines."""
    _run("export", target, model, data, recipe, out, calibration, device)


@app.command()
def tune(
    target: Target, model: Model, data: Data, recipe: RecipeFile = None, out: Out = Path("build"),
    calibration: Calibration = None, device: Device = None,
) -> None:  # fmt: skip
    """The form and the settings that each engine runs with, raced on the device anew."""
    _run("tune", target, model, data, recipe, out, calibration, device, again=True)


@app.command()
def verify(
    target: Target, model: Model, data: Data, recipe: RecipeFile = None, out: Out = Path("build"),
    calibration: Calibration = None, device: Device = None,
) -> None:  # fmt: skip
    """Parity with torch and mAP on the runtime, anew."""
    _run("verify", target, model, data, recipe, out, calibration, device, again=True)


@app.command()
def bench(
    target: Target,
    data: Annotated[Path | None, typer.Option("--data", help="data.yaml; not needed with --camera.")] = None,
    model: Annotated[Path | None, typer.Option("--model", help="Trained checkpoint (.pt); without --bundle.")] = None,
    recipe: RecipeFile = None,
    out: Out = Path("build"),
    calibration: Calibration = None,
    bundle: Annotated[Path | None, typer.Option("--bundle", help="Measure this finished bundle on its target.")] = None,
    scenario: Annotated[str | None, typer.Option(help="single-stream, multi-stream or offline.")] = None,
    duration: Annotated[str | None, typer.Option(help="At least so long; without it, 600s.")] = None,
    quick: Annotated[bool, typer.Option("--quick", help="10 s and 64 queries: to try, not to quote.")] = False,
    camera: Annotated[str | None, typer.Option(help="Frames of /dev/videoN instead of images: N, or a path.")] = None,
    sustained: Annotated[bool, typer.Option("--sustained", help="Latency over 10 minutes, to see heat.")] = False,
    device: Device = None,
    hosts: Annotated[
        Path | None, typer.Option(help="A hosts file: that bundle on all of them at once, and how far they differ.")
    ] = None,
    any_version: Annotated[
        bool,
        typer.Option("--any-version", help="Even if the device's runtime is another version than the bundle's."),
    ] = False,
) -> None:
    """Parent and build in one run, anew; with --bundle: a finished bundle under load. Exit code 1 where it's void."""
    asked = Asked(scenario, duration, quick, sustained, device, hosts, any_version, camera)
    if bundle is not None:
        return bench_bundle(target, bundle, data, asked, out, for_builds=(model, recipe, calibration))
    if asked.for_bundles:
        raise BundleError("These options are for a bundle.", expected="--bundle", got=", ".join(asked.for_bundles))
    if model is None:
        raise typer.BadParameter("Missing option '--model' (or '--bundle').")
    if data is None:
        raise typer.BadParameter("Missing option '--data'.")
    return _run("bench", target, model, data, recipe, out, calibration, device, again=True)


@app.command()
def report(
    runs: Annotated[list[str], typer.Argument(help="A target; or several runs: targets, folders, .json files.")],
    out: Out = Path("build"),
    html: Annotated[
        Path | None, typer.Option("--html", help="Write the comparison as a page that stands alone.")
    ] = None,
) -> None:
    """Print the table of a build that was made before, and renew its page; or compare runs and devices."""
    from edgeprune.cli_report import compared, one

    if len(runs) == 1:
        one(runs[0], out, html)
    else:
        compared(runs, out, html)


for command in (prune, explain, apply, latency_table, methods, arena, sweep, compare, form, lint, gate, kit):
    app.command()(command)


@app.command()
def targets() -> None:
    """List the targets."""
    from edgeprune.job import find_target, list_targets

    table = Table(box=None)
    for heading in ("target", "runtime", "input", "what it is"):
        table.add_column(heading)
    for name in list_targets():
        profile = find_target(name)
        table.add_row(name, profile.runtime, "x".join(map(str, profile.input_shape)), profile.description)
    console.print(table)


@app.command()
def doctor() -> None:
    """What this machine has: packages, runtimes, precisions, space; what is missing, and how to get it."""
    from edgeprune.report.doctor import examine

    table = Table(box=None)
    for heading in ("", "what", "found", "to do"):
        table.add_column(heading, no_wrap=heading == "what")
    for check in examine():
        table.add_row("[green]ok[/]" if check.fine else "[yellow]--[/]", check.what, check.found, check.to_do)
    console.print(table)


@app.command()
def schema(
    out: Annotated[Path | None, typer.Option("--out", help="Folder to write one file a record into.")] = None,
) -> None:
    """JSON Schemas of the records, for editors."""
    from edgeprune.fleet.rollout import RolloutRecipe

    records: tuple[type[Record], ...] = (
        TargetProfile, Recipe, CalibrationSet, PrunePlan, Quantization, Measurement, Bundle, Report, BenchRequest,
        Benchmark, FleetProfile, Hosts, Kit, BoardEngine, DeviceInfo, Tune, Sweep, Compared, LatencyTable, Release,
        Rollout, DeviceStatus, Heartbeat, AgentConfig, RolloutRecipe,
        Arena,
    )  # fmt: skip
    texts = {r.__name__: json.dumps(r.model_json_schema(), indent=2, sort_keys=True) for r in records}
    if out is None:
        sys.stdout.write(json.dumps({k: json.loads(v) for k, v in texts.items()}, indent=2, sort_keys=True) + "\n")
        return
    from edgeprune.records.files import write_bytes

    for name, text in texts.items():
        write_bytes(out / f"{name}.schema.json", (text + "\n").encode())
    console.print(f"{len(texts)} schemas written to {out}")


@app.command()
def demo(out: Annotated[Path, typer.Option("--out", help="Folder for everything.")] = Path("build/demo")) -> None:
    """The main job on a synthetic data set: draws it, trains a detector, builds two targets."""
    from edgeprune.demo import run
    from edgeprune.report.console import ConsoleListener
    from edgeprune.report.table import show

    reports = run(out, ConsoleListener(console))
    for file, found in reports.items():
        show(found, console)
        console.print(f"  the whole report: {file}, the page: {file.with_suffix('.html')}\n")
    if not all(found.verdict.accepted for found in reports.values()):
        raise typer.Exit(1)


def _run(
    until: str, target: str, model: Path, data: Path, recipe: Path | None, out: Path, calibration: str | None,
    device: str | None = None, again: bool = False,
) -> None:  # fmt: skip
    from edgeprune.report.console import ConsoleListener
    from edgeprune.report.pareto import show_sizes
    from edgeprune.report.table import show
    from edgeprune.sizes import build as story

    listener = ConsoleListener(console)
    folder = out / Path(target).stem
    console.print(f"{Path(target).stem}: {model} with {data} -> {folder}")
    found = story(
        model=model,
        data=data,
        target=target,
        recipe=recipe,
        out=out,
        until=until,
        again=again,
        calibration=calibration,
        device=device,
        listener=listener,
        on_point=lambda said: console.print(said, markup=False),
    )
    if not listener.worked:
        console.print("  nothing to do: every stage was done before with the same inputs")
    if found is None:
        return
    show_sizes(folder, found, console)
    show(found, console)
    console.print(f"  the whole report: {folder / 'report.json'}, the page: {folder / 'report.html'}")
    if not found.verdict.accepted:
        raise typer.Exit(1)
    console.print(f"  the bundle: {folder / 'bundle'}")
