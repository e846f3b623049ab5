"""One engine in one process: `python -m edgeprune.bench.worker`, driven by `measure.py` over its pipes.

Engines alive in one process disturb each other (their thread pools spin), so each gets a process of its
own and waits, idle, on its standard input while another one's block runs.

Protocol, one JSON object a line: the first line in is {"engine", "inputs": a .npz file, "detector"}, the first line out
{"runtime", "cold_start_ms", "cache"}; then {"samples": n} is answered by {"ms": [n latencies], "parts"}, and
{"samples": n, "anew": true} likewise once the engine has been dropped and loaded again, until the input ends. For a
detector, inputs are images' pixels, "detector" is {"height", "width", "score", "iou"}, and "parts" are preprocess,
inference and postprocess of each sample. Otherwise inputs are what the engine takes, "detector" is null and "parts" is
empty. An error is {"error": EdgepruneError's text} and exit code 2.
"""

from __future__ import annotations

import gc
import itertools
import json
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np

from edgeprune.errors import EdgepruneError
from edgeprune.records.request import Engine
from edgeprune.runtime.decode import Thresholds
from edgeprune.runtime.detector import Detector
from edgeprune.runtime.pinning import pin
from edgeprune.runtime.preprocess import given
from edgeprune.runtime.session import Session, available, open_session


def main() -> int:
    try:
        _serve(json.loads(sys.stdin.readline()))
    except EdgepruneError as error:
        _say({"error": str(error)})
        return 2
    return 0


def _serve(request: dict[str, Any]) -> None:
    """Load the engine that was asked for, and time it as often as is asked."""
    engine = Engine.model_validate(request["engine"])
    pin(engine.settings.cores)  # before the runtime comes with threads of its own
    available(engine.runtime, engine.precision, engine.settings.plugin)  # imports it, which cold start leaves out
    with np.load(request["inputs"]) as file:
        inputs = [file[name] for name in file.files]
    asked = request["detector"]
    first = given(inputs[0], asked["height"], asked["width"], engine.form.input)[0] if asked else inputs[0]
    start = time.perf_counter()
    session = _load(engine)
    session.run(first)
    _say({"runtime": session.runtime, "cold_start_ms": (time.perf_counter() - start) * 1e3, "cache": session.cache})
    detector = _detector(session, asked)
    turns = itertools.cycle(inputs)
    for line in sys.stdin:
        wanted = json.loads(line)
        if wanted.get("anew"):
            del session, detector
            gc.collect()
            session = _load(engine)
            detector = _detector(session, asked)
        latencies, parts = [], []
        for one in itertools.islice(turns, wanted["samples"]):
            if detector is not None:
                spent = detector.timed(one)[1]
                parts.append([part / 1e6 for part in spent])
                latencies.append(sum(spent) / 1e6)
                continue
            begin = time.perf_counter_ns()
            session.run(one)
            latencies.append((time.perf_counter_ns() - begin) / 1e6)
        _say({"ms": latencies, "parts": parts})


def _load(engine: Engine) -> Session:
    return open_session(engine.runtime, Path(engine.file), engine.precision, engine.settings, form=engine.form)


def _detector(session: Session, asked: dict[str, Any] | None) -> Detector | None:
    """What an image is timed with, for an engine that is a detector."""
    if asked is None:
        return None
    thresholds = Thresholds(score=asked["score"], iou=asked["iou"])
    return Detector(session, asked["height"], asked["width"], thresholds)


def _say(answer: dict[str, object]) -> None:
    sys.stdout.write(json.dumps(answer) + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())
