"""Faults injected into the processes that measure: what `injected/sitecustomize.py` reads."""

from __future__ import annotations

import os
from pathlib import Path

FOLDER = Path(__file__).parent / "injected"


def environment(**faults: str) -> dict[str, str]:
    """This process's environment with faults, as `tail="model.onnx"`, for the processes that it starts."""
    path = os.pathsep.join(filter(None, (str(FOLDER), os.environ.get("PYTHONPATH", ""))))
    return {**os.environ, "PYTHONPATH": path, **{f"FAULT_{name.upper()}": value for name, value in faults.items()}}
