"""A fleet profile on the terminal."""

from __future__ import annotations

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from edgeprune.records.fleet_profile import DeviceFigures, FleetProfile


def show(found: FleetProfile, console: Console) -> None:
    """Print a row for each device and the spread of each kind of board."""
    table = Table(
        title=f"{found.target} on {len(found.devices)} devices", title_justify="left", box=None, pad_edge=False
    )
    table.add_column("device")
    table.add_column("board")
    for heading in ("p50 ms", "p90", "p99", "images/s", "mAP50-95"):
        table.add_column(heading, justify="right")
    table.add_column("")
    for device in found.devices:
        table.add_row(device.device, escape(device.board or ""), *_figures(device), _state(device))
    console.print(table)
    for device in found.devices:
        for line in [*device.void, *([device.failed] if device.failed else [])]:
            console.print(f"  {device.device}: {escape(line)}")
    for spread in found.spreads:
        kind = (
            ", ".join(part for part in (spread.board, spread.power_mode) if part)
            or "boards that don't say what they are"
        )
        console.print(
            f"  {escape(kind)}: {len(spread.devices)} devices, p50 {spread.fastest_ms:.2f} to "
            f"{spread.slowest_ms:.2f} ms around {spread.median_ms:.2f}, a spread of {spread.range_ratio:.1%}"
        )
        for name in spread.outliers:
            console.print(f"    {name} is more than 10 % over the median: look at its cooling and power supply")


def _figures(device: DeviceFigures) -> tuple[str, ...]:
    if device.latency_ms is None or device.throughput_per_s is None or device.map50_95 is None:
        return ("",) * 5
    latency = device.latency_ms
    return (
        f"{latency.p50:.2f}", f"{latency.p90:.2f}", f"{latency.p99:.2f}", f"{device.throughput_per_s:.1f}",
        f"{device.map50_95:.4f}",
    )  # fmt: skip


def _state(device: DeviceFigures) -> str:
    return "[green]valid[/]" if device.counts else "[red]failed[/]" if device.failed else "[red]void[/]"
