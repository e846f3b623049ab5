"""The files of one model on its way through cuts and training."""

from __future__ import annotations

from dataclasses import dataclass, fields
from pathlib import Path


@dataclass(frozen=True)
class ModelFiles:
    """What travels together, and is cut together.

    Attributes:
        checkpoint: The stock checkpoint (.pt).
        plan: From the parent to it (plan.json), once something is cut.
        quantization: Its scales (quantization.json), once it is quantized.
        moments: The optimizer's moments (.pt), where training stopped and goes on.
    """

    checkpoint: Path
    plan: Path | None = None
    quantization: Path | None = None
    moments: Path | None = None

    def named(self) -> dict[str, Path]:
        """Those that there are."""
        pairs = ((field.name, getattr(self, field.name)) for field in fields(self))
        return {name: path for name, path in pairs if path is not None}

    def under(self, folder: Path) -> ModelFiles:
        """The same, in a folder."""
        return ModelFiles(**{name: folder / path for name, path in self.named().items()})
