"""What a running build says on the terminal."""

from __future__ import annotations

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

from edgeprune.workshop import Listener


class ConsoleListener(Listener):
    """One line a stage, and a bar for the one that runs."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._bars = Progress(
            TextColumn("  {task.description}"), BarColumn(), MofNCompleteColumn(), TextColumn("{task.fields[note]}"),
            TimeRemainingColumn(), console=console, transient=True,
        )  # fmt: skip
        self._task: TaskID | None = None
        self.worked = False

    def event(self, stage: str, what: str) -> None:
        self._clear()
        self.worked |= what != "done before"
        if what == "runs":
            self._console.print(f"  {stage} …")
        elif what == "taken over":
            self._console.print(f"  {stage}: taken over from another target")
        elif what == "done":
            self._console.print(f"  {stage}: done")

    def progress(self, stage: str, done: int, total: int, note: str = "") -> None:
        if self._task is None:
            self._bars.start()
            self._task = self._bars.add_task(stage, total=total, note=note)
        self._bars.update(self._task, completed=done, total=total, note=note)

    def _clear(self) -> None:
        if self._task is not None:
            self._bars.remove_task(self._task)
            self._bars.stop()
            self._task = None
