"""How long many small graphs take, each alone: the device's part of a latency table. No torch.

Rules:
- One graph is loaded at a time, runs, and is gone before the next: engines alive in one process disturb each other.
- Every pass goes through all graphs in another order by seed, so that what changes with time falls on all alike.
- A pass of a graph is its warm-up, then enough inferences to fill its seconds; its time is their median.
- TensorRT's engines are built before any is timed; a request of no passes is for that alone, since it takes minutes.
- Inputs are random by seed: 0..1 for floats, all levels for integers. Which values they are changes no kernel's time,
  save denormal numbers, which there are none of.
"""

from __future__ import annotations

import gc
import time
from pathlib import Path

import numpy as np

from edgeprune.bench.device import Progress
from edgeprune.machine import environment
from edgeprune.records.request import TimeAnswer, TimeRequest
from edgeprune.runtime.pinning import pin
from edgeprune.runtime.session import open_rehearsal
from edgeprune.runtime.tensorrt import layer_engine

#: Inferences before anything is timed, and timed ones at least.
WARM_UP, LEAST = 3, 8


def time_graphs(request: TimeRequest, folder: Path, on_progress: Progress) -> TimeAnswer:
    """Time every graph of a request.

    Raises:
        DeviceError: The runtime isn't here, hasn't the precision or the settings, or can't load a graph.
    """
    pin(request.settings.cores)
    if request.runtime == "tensorrt":
        for number, graph in enumerate(request.graphs):
            layer_engine(folder / graph, request.precision, request.dla)
            if not request.passes:
                on_progress("engines built", number + 1, len(request.graphs))
    generator = np.random.default_rng(request.seed)
    found: list[list[float]] = [[] for _ in request.graphs]
    total, done = request.passes * len(request.graphs), 0
    for _ in range(request.passes):
        for index in generator.permutation(len(request.graphs)).tolist():
            found[index].append(_time(request, folder / request.graphs[index]))
            done += 1
            on_progress("latency table", done, total)
    return TimeAnswer(passes_ms=tuple(map(tuple, found)), environment=environment())


def _time(request: TimeRequest, graph: Path) -> float:
    """Median of one pass in milliseconds."""
    infer = open_rehearsal(request.runtime, graph, request.precision, request.settings, request.dla)
    for _ in range(WARM_UP):
        infer()
    samples: list[float] = []
    end = time.perf_counter() + request.seconds
    while len(samples) < LEAST or time.perf_counter() < end:
        begin = time.perf_counter_ns()
        infer()
        samples.append((time.perf_counter_ns() - begin) / 1e6)
    del infer
    gc.collect()  # an engine in a cycle would keep its threads
    return float(np.median(samples))
