"""The version, and the Pythons that it is for, in one place."""

from __future__ import annotations

__version__ = "0.1.0"

#: The lowest and the highest Python that it runs on: pyproject's requires-python.
PYTHONS = ((3, 10), (3, 13))
