"""Faults for processes that measure: Python imports this file by itself where its folder is in PYTHONPATH.

The processes, pipes, clocks and engines are the real ones; only what `open_session` returns is wrapped, or where the
board's sensors are looked for. What is wrong is said by environment variables (tests/bench/faults.py):

FAULT_TAIL      file name of the engine of which every hundredth call takes ten calls' time
FAULT_CACHE     file name of the engine that remembers its answers
FAULT_SENSORS   folder of a recorded tree that is read instead of / by the device command
FAULT_BITS      JSON: file of that tree -> its text once the timed run has begun
"""

import itertools
import json
import os
from pathlib import Path

import edgeprune.bench.device as device
import edgeprune.runtime.session as session

_open_session, _bench = session.open_session, device.bench


class _Wrapped:
    def __init__(self, inner: session.Session) -> None:
        self._inner, self._known = inner, {}
        self.runtime, self.output_names, self.cache = inner.runtime, inner.output_names, inner.cache
        self.input, self.head = inner.input, inner.head


class _SlowTail(_Wrapped):
    calls = itertools.count(1)  # of the process, however often its engine is loaded

    def run(self, images):
        for _ in range(9 if next(self.calls) % 100 == 0 else 0):
            self._inner.run(images)
        return self._inner.run(images)


class _Caching(_Wrapped):
    def run(self, images):
        key = images.tobytes()
        if key not in self._known:
            self._known[key] = self._inner.run(images)
        return self._known[key]


def _open(runtime, engine, precision, *settings, **form):
    opened = _open_session(runtime, engine, precision, *settings, **form)
    for fault, wrap in (("FAULT_TAIL", _SlowTail), ("FAULT_CACHE", _Caching)):
        if os.environ.get(fault) == engine.name:
            opened = wrap(opened)
    return opened


def _bench_elsewhere(request, folder, on_progress=lambda what, done, total: None):
    root = Path(os.environ["FAULT_SENSORS"])

    def tell(what, done, total):
        if what == request.load.scenario:  # readings are being taken: the next one sees it
            for file, content in json.loads(os.environ.get("FAULT_BITS", "{}")).items():
                (root / file).write_text(content)
        on_progress(what, done, total)

    return _bench(request.model_copy(update={"sensors_root": str(root)}), folder, tell)


session.open_session = device.open_session = _open
if "FAULT_SENSORS" in os.environ:
    device.bench = _bench_elsewhere
