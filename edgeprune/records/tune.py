"""Tune: with which settings and in which form each engine runs, and what the others cost.

Rules:
- Every candidate keeps its last figures, whether it won or lost, and where it fell.
- A candidate is set against the winner of the rung that it fell in, over paired blocks, as engines are.
"""

from __future__ import annotations

from pydantic import Field

from edgeprune.records.base import Record
from edgeprune.records.form import Form
from edgeprune.records.measurement import Latency
from edgeprune.records.settings import Settings


class Choice(Record):
    """How an engine runs."""

    settings: Settings
    form: Form = Form()

    def words(self) -> str:
        """For people: settings, and the form where it isn't the stock one."""
        return self.settings.words() if self.form.stock else f"{self.form.words()}, {self.settings.words()}"


class TuneCandidate(Record):
    """One engine in one form with one set of settings."""

    engine: str
    """Which engine: 'parent fp32'."""
    settings: Settings
    form: Form = Form()
    latency_ms: Latency
    """Of the last rung that it ran in."""
    rung: int = Field(default=1, ge=1)
    """That rung, from 1; for the winner, the last of all."""
    rounds: int = Field(default=2, ge=2)
    """Rounds of that rung."""
    ratio: float = Field(gt=0)
    """Its time : that of the rung's winner, the median over pairs of blocks; 1 for the winner."""
    low: float = Field(gt=0)
    high: float = Field(gt=0)
    """Ends of the ratio's confidence interval."""
    chosen: bool
    why: str
    """Why it was chosen or lost, in words with figures."""

    @property
    def choice(self) -> Choice:
        return Choice(settings=self.settings, form=self.form)


class Tune(Record):
    """tune.json."""

    chosen: dict[str, Choice]
    """Engine -> how it runs from here on."""
    candidates: tuple[TuneCandidate, ...] = ()
    """All that were raced, engine by engine, the winner first, then those that came furthest; none where there was
    nothing to choose from."""
    left_out: tuple[str, ...] = ()
    """What was asked for and the device can't have, with the reason."""
    notes: tuple[str, ...] = ()
    """Races that ended early, with the reason."""
    environment: dict[str, str] = Field(default_factory=dict)
    """The machine that they were raced on."""

    def sentences(self) -> tuple[str, ...]:
        """For the report: how each engine runs, and by how much that won."""
        said = []
        for engine, choice in self.chosen.items():
            raced = [c for c in self.candidates if c.engine == engine]
            if raced:
                second = raced[1]
                said.append(
                    f"settings: {engine} runs with {choice.words()}, the fastest of {len(raced)}; next: "
                    f"{second.choice.words()}, {second.ratio:.2f} times its time"
                )
        return (
            *said, *(f"settings: {sentence}" for sentence in self.notes),
            *(f"settings left out: {sentence}" for sentence in self.left_out),
        )  # fmt: skip
