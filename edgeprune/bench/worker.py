"""One engine in one process: `python -m edgeprune.bench.worker`, driven by `measure.py` over its pipes.

Engines alive in one process disturb each other (their thread pools spin), so each gets a process of its
own and waits, idle, on its standard input while another one's block runs.

Protocol, one JSON object a line: the first line in is the engine and the inputs, the first line out
{"runtime", "cold_start_ms", "cache"}; then {"inferences": n} is answered by {"ms": [n latencies]}, until the input
ends. An error is {"error": EdgepruneError's text} and exit code 2.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path

import numpy as np

from edgeprune.errors import EdgepruneError
from edgeprune.records.request import Engine
from edgeprune.runtime.pinning import pin
from edgeprune.runtime.session import available, open_session


def main() -> int:
    request = json.loads(sys.stdin.readline())
    try:
        engine = Engine.model_validate(request["engine"])
        pin(engine.settings.cores)  # before the runtime comes with threads of its own
        available(engine.runtime, engine.precision, engine.settings.plugin)  # imports it, which cold start leaves out
        images = np.load(request["images"])
        start = time.perf_counter()
        session = open_session(engine.runtime, Path(engine.file), engine.precision, engine.settings)
        session.run(images[:1])
    except EdgepruneError as error:
        _say({"error": str(error)})
        return 2
    _say({"runtime": session.runtime, "cold_start_ms": (time.perf_counter() - start) * 1e3, "cache": session.cache})
    turn = 0
    for line in sys.stdin:
        samples = []
        for _ in range(json.loads(line)["inferences"]):
            image = images[turn % len(images)][None]
            turn += 1
            begin = time.perf_counter_ns()
            session.run(image)
            samples.append((time.perf_counter_ns() - begin) / 1e6)
        _say({"ms": samples})
    return 0


def _say(answer: dict[str, object]) -> None:
    sys.stdout.write(json.dumps(answer) + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())
