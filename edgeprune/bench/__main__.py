"""The device half as a command: `python -m edgeprune.bench REQUEST.json ANSWER.json`.

Rules:
- One file in, one file out; paths in the request are relative to it. The same on this machine and over any wire.
- Progress is one JSON object a line on standard output: {"what", "done", "total"}.
- Exit code 0: answered, void runs too. 2: the user's to mend, in words on standard error.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

from edgeprune.bench.device import bench
from edgeprune.errors import DeviceError, EdgepruneError
from edgeprune.records import read_json, write_json
from edgeprune.records.benchmark import BenchRequest


def main(arguments: list[str]) -> int:
    if len(arguments) != 2:
        sys.stderr.write("usage: python -m edgeprune.bench REQUEST.json ANSWER.json\n")
        return 2
    request, answer = map(Path, arguments)
    try:
        write_json(answer, bench(read_json(request, BenchRequest, DeviceError), request.parent, _say))
    except EdgepruneError as error:
        sys.stderr.write(f"{error}\n")
        return 2
    return 0


def _say(what: str, done: float, total: float) -> None:
    sys.stdout.write(json.dumps({"what": what, "done": done, "total": total}) + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
