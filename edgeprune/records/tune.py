"""Tune: which settings each engine runs with, and what the others cost.

Rules:
- Every candidate keeps its figures, whether it won or lost.
- A candidate is set against the winner of its own race, over paired blocks, as engines are.
"""

from __future__ import annotations

from pydantic import Field

from edgeprune.records.base import Record
from edgeprune.records.measurement import Latency
from edgeprune.records.settings import Settings


class Candidate(Record):
    """One engine with one set of settings."""

    engine: str
    """Which engine: 'parent fp32'."""
    settings: Settings
    latency_ms: Latency
    ratio: float = Field(gt=0)
    """Its time : the winner's, the median over pairs of blocks; 1 for the winner."""
    low: float = Field(gt=0)
    high: float = Field(gt=0)
    """Ends of the ratio's confidence interval."""
    chosen: bool
    why: str
    """Why it was chosen or lost, in words with figures."""


class Tune(Record):
    """tune.json."""

    chosen: dict[str, Settings]
    """Engine -> what it runs with from here on."""
    candidates: tuple[Candidate, ...] = ()
    """All that were raced, engine by engine, the fastest first; none where there was nothing to choose from."""
    left_out: tuple[str, ...] = ()
    """Settings that were asked for and that the device can't have, with the reason."""
    environment: dict[str, str] = Field(default_factory=dict)
    """The machine that they were raced on."""

    def sentences(self) -> tuple[str, ...]:
        """For the report: what each engine runs with, and by how much it won."""
        said = []
        for engine, settings in self.chosen.items():
            raced = [c for c in self.candidates if c.engine == engine]
            if raced:
                second = raced[1]
                said.append(
                    f"settings: {engine} runs with {settings.words()}, the fastest of {len(raced)}; next: "
                    f"{second.settings.words()}, {second.ratio:.2f} times its time"
                )
        return (*said, *(f"settings left out: {sentence}" for sentence in self.left_out))
