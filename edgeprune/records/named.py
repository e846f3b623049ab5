"""Records that go by a name: targets/NAME.yaml, calibration/NAME.yaml.

Rules:
- A name is looked for here, then beside the package's checkout, then where a wheel installs its files; the
  first one found counts. What ends in .yaml or .yml is a path and is taken as it is.
- A name that isn't there is refused with the names that are, and with the nearest of them.
"""

from __future__ import annotations

import difflib
import sys
from pathlib import Path

from edgeprune.errors import EdgepruneError
from edgeprune.records.base import R, read_yaml


def folders(kind: str) -> list[Path]:
    """Where files of a kind ('targets', 'calibration') are looked for, in this order."""
    return [
        Path(kind),
        Path(__file__).resolve().parent.parent.parent / kind,
        Path(sys.prefix) / "share" / "edgeprune" / kind,
    ]


def listed(kind: str) -> dict[str, Path]:
    """Name -> file, sorted by name."""
    found: dict[str, Path] = {}
    for folder in folders(kind):
        for file in sorted(folder.glob("*.yaml")):
            found.setdefault(file.stem, file)
    return dict(sorted(found.items()))


def locate(kind: str, what: str, name: str, error: type[EdgepruneError], advice: str) -> Path:
    """The file of a name; or the path itself, where one was given.

    Args:
        kind: The folder: 'targets', 'calibration'.
        what: One such record in words, for the error.
        name: The name, or a path that ends in .yaml or .yml.
        error: What to raise.
        advice: The next step where no name is near.

    Raises:
        error: There is no such name.
    """
    if name.endswith((".yaml", ".yml")):
        return Path(name)
    known = listed(kind)
    if name not in known:
        near = difflib.get_close_matches(name, known, n=1)
        raise error(
            f"There is no {what} '{name}'.",
            expected=f"one of {', '.join(known)}" if known else f"a file {kind}/{name}.yaml; there is none of any name",
            next_step=f"did you mean '{near[0]}'?" if near else advice,
        )
    return known[name]


def find(kind: str, what: str, name: str, record: type[R], error: type[EdgepruneError], advice: str) -> R:
    """Read the record of a name, or of a path; arguments as for `locate`.

    Raises:
        error: There is no such name, or its file is malformed.
    """
    return read_yaml(locate(kind, what, name, error, advice), record, error)
