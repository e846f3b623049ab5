"""A benchmark on the terminal."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from edgeprune.records import Benchmark, Latency
from edgeprune.records.address import LOCAL
from edgeprune.records.benchmark import Part, ScenarioResult

#: Windows of a sustained run that are printed; the file has them all.
SHOWN = 10
#: In the order in which an image goes through them; a file has them by name.
PARTS: tuple[Part, ...] = ("capture", "preprocess", "inference", "postprocess")


def show(found: Benchmark, console: Console) -> None:
    """Print latencies, what they were measured beside, and whether they count."""
    run, result = found.run, found.run.result
    place = "" if found.device == LOCAL else f" on {found.device}"
    title = f"{found.target}{place}, {result.scenario}: {run.runtime}, {found.request.precision}, {run.threads} threads"
    if "emulated" in run.environment:
        title += ", emulated: times of no machine"
    table = Table(title=title, title_justify="left", box=None, pad_edge=False)
    table.add_column("ms")
    for heading in ("p50", "p90", "p99", "MAD", "samples"):
        table.add_column(heading, justify="right")
    for name, latency in _rows(result):
        table.add_row(
            name, f"{latency.p50:.2f}", f"{latency.p90:.2f}", f"{latency.p99:.2f}", f"{latency.mad:.2f}",
            str(latency.samples),
        )  # fmt: skip
    console.print(table)
    for sentence in sentences(found):
        console.print(f"  {escape(sentence)}")
    if found.request.load.sustained:
        console.print(_over_time(result))
    for sentence in (*found.notes, *run.notes):
        console.print(f"  note: {escape(sentence)}")
    console.print("[bold red]void: these figures don't count[/]" if found.void else "[bold green]valid[/]")
    for reason in found.void:
        console.print(f"  {escape(reason)}")


def _rows(result: ScenarioResult) -> Iterator[tuple[str, Latency]]:
    size = result.samples_per_query
    yield f"query of {size} image{'s' if size > 1 else ''}", result.latency_ms
    for part in PARTS:
        if part in result.parts_ms:
            yield f"  {part}", result.parts_ms[part]


def sentences(found: Benchmark) -> Iterator[str]:
    run, result = found.run, found.run.result
    yield f"{result.throughput_per_s:.1f} images/s over {result.duration_s:.1f} s, pre- and postprocessing included"
    for stopping in result.early_stopping:
        said = (
            f"nothing yet, {stopping.queries} of {stopping.needed} queries"
            if stopping.estimate_ms is None
            else f"at most {stopping.estimate_ms:.2f} ms at 99 % confidence, {stopping.discarded} of "
            f"{stopping.queries} queries discarded"
        )
        yield f"p{stopping.percentile * 100:.0f} by early stopping: {said}"
    if found.accuracy is not None:
        yield (
            f"mAP50-95 {found.accuracy.map50_95:.4f}, mAP50 {found.accuracy.map50:.4f} on {found.accuracy.images} "
            f"images, of these answers; the bundle says {found.bundle_map50_95:.4f}"
        )
    if run.camera is not None:
        rate = f"{run.camera.frames_per_s:.1f} frames/s" if run.camera.frames_per_s else "a rate that it doesn't say"
        yield f"camera {run.camera.source}: {run.camera.width} x {run.camera.height}, {run.camera.format}, {rate}"
    if run.caching is not None:
        yield (
            f"a repeated input takes {run.caching.ratio:.2f} of a new one's time "
            f"({run.caching.confidence:.0%} interval {run.caching.low:.2f} to {run.caching.high:.2f})"
        )
    peak = f", peak memory {run.peak_rss_bytes / 2**20:.0f} MiB" if run.peak_rss_bytes else ""
    yield f"cold start {run.cold_start_ms:.0f} ms, warm-up {run.warm_up_s:.1f} s{peak}"
    heat = _by_name([reading.temperature_c for reading in run.readings])
    if heat:
        hottest = max(heat, key=lambda zone: max(heat[zone]))
        yield f"{hottest}: {heat[hottest][0]:.1f} °C at the start, {max(heat[hottest]):.1f} at most"
    for policy, mhz in _by_name([reading.frequency_mhz for reading in run.readings]).items():
        yield f"{policy}: {min(mhz):.0f} to {max(mhz):.0f} MHz"
    yield f"clocks pinned: {run.environment.get('clocks pinned', 'unknown')}"
    if run.energy:
        yield (
            f"{run.energy.joules_per_image * 1e3:.1f} mJ an image ({run.energy.source}; a pass of its own, "
            f"{run.energy.duration_s:.0f} s, idle share included)"
        )


def _by_name(readings: Sequence[dict[str, float]]) -> dict[str, list[float]]:
    names = sorted({name for reading in readings for name in reading})
    return {name: [reading[name] for reading in readings if name in reading] for name in names}


def _over_time(result: ScenarioResult) -> Table:
    table = Table(box=None, pad_edge=False)
    for heading in ("  from s", "queries", "p50 ms", "p90"):
        table.add_column(heading, justify="right")
    windows = result.over_time
    for window in (*windows[: -1 : max(1, len(windows) // SHOWN)], windows[-1]):
        table.add_row(f"{window.start_s:.1f}", str(window.queries), f"{window.p50_ms:.2f}", f"{window.p90_ms:.2f}")
    return table
