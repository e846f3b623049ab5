"""Where Ultralytics' talk goes: into a file, or nowhere, but not between a build's own lines."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

from ultralytics.utils import LOGGER


@contextlib.contextmanager
def logged(file: Path | None) -> Iterator[None]:
    """Send Ultralytics' log and progress bars to the end of `file`, or drop them (warnings too)."""
    if file is not None:
        file.parent.mkdir(parents=True, exist_ok=True)
    with open(file or os.devnull, "a", encoding="utf-8") as sink:
        streams = {handler: handler.stream for handler in LOGGER.handlers if hasattr(handler, "stream")}
        try:
            for handler in streams:
                handler.stream = sink
            with contextlib.redirect_stdout(sink):
                yield
        finally:
            for handler, stream in streams.items():
                handler.stream = stream
