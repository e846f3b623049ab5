"""What `python -m edgeprune.agent` ends with, for timers and scripts.

Rules:
- 0: nothing to do. 2: the user's to mend (a configuration, a folder), as everywhere in edgeprune. From 30 on: what
  happened to an update. None of these is a crash: systemd is told so (SuccessExitStatus in the unit).
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum


class Exit(IntEnum):
    """How one go ended."""

    NOTHING = 0
    """Up to date, or not asked."""
    USER = 2
    UPDATED = 30
    """A new model is kept."""
    DEFERRED = 31
    """Not now: network, clock, disk, or a repository that isn't in order. The next go tries again."""
    REFUSED = 32
    """A release isn't for this device, or failed its self-test; it isn't tried again."""
    REVERTED = 33
    """A new model did badly while it was watched; the old one is back."""
    WATCHING = 34
    """A new model runs and is watched (`once --no-wait`)."""
    BUSY = 35
    """Another agent has the folder."""
    INTERRUPTED = 130


@dataclass(frozen=True)
class Ending:
    """How one go ended, and in words."""

    code: Exit
    said: str
