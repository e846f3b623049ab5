"""A fleet on the terminal: waves, devices by state and version, failures by reason."""

from __future__ import annotations

from rich.console import Console
from rich.table import Table
from rich.text import Text

from edgeprune.fleet.view import RolloutView, View, WaveView

_COLOURS = {"running": "cyan", "paused": "yellow", "halted": "bold red", "aborted": "red", "done": "green"}
#: Characters of a wave's bar.
_WIDTH = 16
#: Columns that the tables need; in a narrower terminal lines are broken, and no figure is left out.
WIDTH = 100


def show(view: View, console: Console) -> None:
    """Print all of it; the console has `WIDTH` columns at least."""
    for rollout in view.rollouts:
        show_rollout(rollout, console)
    if not view.rollouts:
        console.print("no rollout yet")
    role, soonest = min(view.expires.items(), key=lambda item: item[1])
    console.print(f"metadata: {role} expires first, {soonest}; edgeprune fleet tick renews what is signed online")
    if not view.devices:
        console.print("no device is enrolled yet: edgeprune fleet enroll DEVICE… --sku SKU")
        return
    table = Table(title=f"{view.devices:,} devices, {view.heard:,} heard", title_justify="left", box=None)
    for heading in ("state", "devices", "  release", "devices", "  SKU", "devices"):
        table.add_column(heading, justify="right" if heading == "devices" else "left")
    versions = [(f"{product} {counter or 'factory'}", number) for product, counter, number in view.versions]
    columns = [view.states, versions, view.skus]
    for row in range(max(map(len, columns))):
        cells: list[str] = []
        for column in columns:
            name, number = column[row] if row < len(column) else ("", None)
            cells += [f"  {name}" if cells else str(name), "" if number is None else f"{number:,}"]
        table.add_row(*cells)
    console.print(table)


def show_rollout(rollout: RolloutView, console: Console) -> None:
    """Print a rollout's waves, failures and history."""
    title = Text.assemble(
        (f"{rollout.channel}: {rollout.product} {rollout.counter}", "bold"), f" {rollout.label}".rstrip(), "  ",
        (rollout.state, _COLOURS[rollout.state]), f"  rollout {rollout.serial}",
        f", back to the bytes of {rollout.reverts_to}" if rollout.reverts_to else "",
        f", others stay on {rollout.stable}" if rollout.stable else "",
    )  # fmt: skip
    console.print(title)
    if rollout.reason:
        console.print(Text(f"  {rollout.reason}", style=_COLOURS[rollout.state]))
    table = Table(box=None, pad_edge=False)
    for heading in ("", "wave", "devices", "committed", "failed", "", "success", "errors"):
        right = heading in ("wave", "devices", "committed", "failed")
        table.add_column(heading, justify="right" if right else "left", no_wrap=True)
    for wave in rollout.waves:
        table.add_row(
            "  >" if wave.state == "now" else "   ", f"{wave.percent:g} %", f"{wave.devices:,}", f"{wave.committed:,}",
            f"{wave.failed:,}", _bar(wave), _share(wave.success, "≥", wave.success_wanted),
            _share(wave.error, "≤", wave.error_allowed), style="dim" if wave.state == "to come" else None,
        )  # fmt: skip
    console.print(table)
    for note in filter(None, map(_note, rollout.waves)):
        console.print(f"  next wave: {note}")
    if rollout.beyond:
        console.print(f"  {rollout.beyond:,} devices are in none of its waves")
    for reason, number in rollout.failures:
        console.print(Text(f"  failed, {reason}: {number:,}", style="red"))
    for told in rollout.history:
        console.print(Text(f"  {told['at']}  {told['serial']}: {told['kind']} {told['text']}", style="dim"))


def _bar(wave: WaveView) -> Text:
    """Committed, failed, and who is still to come, in proportion; one character at least for each that there is."""
    if not wave.devices:
        return Text("nobody".ljust(_WIDTH), style="dim")
    parts = [max(round(n / wave.devices * _WIDTH), 1) if n else 0 for n in (wave.committed, wave.failed)]
    good, bad = min(parts[0], _WIDTH - parts[1]), parts[1]
    return Text.assemble(("█" * good, "green"), ("█" * bad, "red"), ("·" * (_WIDTH - good - bad), "dim"))


def _share(share: float | None, sign: str, wanted: float) -> str:
    return f"{'–' if share is None else f'{share:.1%}'} {sign} {wanted * 100:g}%"


def _note(wave: WaveView) -> str:
    """What the wave that it is in still waits for."""
    if wave.state != "now":
        return ""
    missing = wave.min_executed - wave.committed - wave.failed
    waits = [f"{missing:,} more devices end their update"] if missing > 0 else []
    if wave.next_at:
        waits.append(f"not before {wave.next_at}")
    return ", ".join(waits)
