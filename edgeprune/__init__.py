"""edgeprune: prune a trained YOLO, measure it on the machine that will run it, accept only what is faster
and as good.

Importing this package imports nothing heavy. Telemetry of the runtimes is off from here on: ONNX Runtime's
Linux wheels send it by default and read this variable when they are first imported.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

from edgeprune.version import __version__

os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")

if TYPE_CHECKING:
    from edgeprune.sizes import build as build
    from edgeprune.sweep import sweep as sweep

__all__ = ["__version__", "build", "sweep"]


def __getattr__(name: str) -> Any:
    if name == "build":
        from edgeprune.sizes import build

        return build
    if name == "sweep":
        from edgeprune.sweep import sweep

        return sweep
    raise AttributeError(f"module 'edgeprune' has no attribute '{name}'")
