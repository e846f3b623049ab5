"""The device half as a command: `python -m edgeprune.bench REQUEST.json ANSWER.json`.

Rules:
- One file in, one file out; paths in the request are relative to it. The same on this machine and over any wire.
- One request at a time on a machine: two that measure would measure each other. The second waits, and says so.
- Progress is one JSON object a line on standard output: {"what", "done", "total"}.
- Exit code 0: answered, void runs too. 2: the user's to mend, in words on standard error.
"""

from __future__ import annotations

import fcntl
import json
import os
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path

from edgeprune.bench import answer as answers
from edgeprune.bench import build as builds
from edgeprune.bench import timing
from edgeprune.bench.device import bench
from edgeprune.errors import DeviceError, EdgepruneError
from edgeprune.records import Record, read_json, write_json
from edgeprune.records.benchmark import BenchRequest
from edgeprune.records.request import (
    AboutRequest,
    Answer,
    BuildRequest,
    ComputeRequest,
    PredictRequest,
    RaceRequest,
    Request,
    TimeRequest,
)

_KINDS: dict[str, type[Record]] = {
    "load": BenchRequest, "race": RaceRequest, "predict": PredictRequest, "compute": ComputeRequest,
    "build": BuildRequest, "time": TimeRequest, "about": AboutRequest,
}  # fmt: skip


def main(arguments: list[str]) -> int:
    if len(arguments) != 2:
        sys.stderr.write("usage: python -m edgeprune.bench REQUEST.json ANSWER.json\n")
        return 2
    asked, answered = map(Path, arguments)
    try:
        request = _read(asked)
        with nullcontext() if isinstance(request, AboutRequest) else _alone():
            write_json(answered, _answer(request, asked.parent, answered.parent))
    except EdgepruneError as error:
        sys.stderr.write(f"{error}\n")
        return 2
    return 0


def _read(file: Path) -> Request:
    try:
        kind = json.loads(file.read_text(encoding="utf-8")).get("kind", "load")
    except (OSError, UnicodeDecodeError, json.JSONDecodeError, AttributeError) as error:
        raise DeviceError("The request can't be read as JSON.", where=file, got=str(error)) from error
    if kind not in _KINDS:
        raise DeviceError(
            "This device side doesn't know such a request.", where=file, expected=", ".join(_KINDS), got=kind,
            next_step="edgeprune device setup brings it up to date",
        )  # fmt: skip
    request: Request = read_json(file, _KINDS[kind], DeviceError)  # type: ignore[assignment]
    return request


def _answer(request: Request, folder: Path, answer: Path) -> Answer:
    if isinstance(request, RaceRequest):
        return answers.race(request, folder, _say)
    if isinstance(request, PredictRequest):
        return answers.detect(request, folder, _say)
    if isinstance(request, ComputeRequest):
        return answers.compute(request, folder, answer, _say)
    if isinstance(request, BuildRequest):
        return builds.build(request, folder, answer, _say)
    if isinstance(request, TimeRequest):
        return timing.time_graphs(request, folder, _say)
    if isinstance(request, AboutRequest):
        return answers.about(request)
    return bench(request, folder, _say)


@contextmanager
def _alone() -> Iterator[None]:
    """Hold this machine; the lock dies with its process."""
    with open(Path(tempfile.gettempdir()) / f"edgeprune-bench-{os.getuid()}.lock", "w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            _say("waiting for another measurement on this machine", 0, 1)
            fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _say(what: str, done: float, total: float) -> None:
    sys.stdout.write(json.dumps({"what": what, "done": done, "total": total}) + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
