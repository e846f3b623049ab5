"""Latency of several engines in one run, and how they compare.

Rules:
- All engines are measured in one run, in blocks, in an order that is shuffled anew every round by seed, so
  that drift of the machine falls on all alike. One process an engine, one engine at a time.
- A block is long enough to be timed well (`BLOCK_SECONDS`), as many inferences for every engine in every
  round as its own speed asks for.
- Every sample is kept and reported. Warm-up is over before the first block.
- Two engines are compared by the medians of their blocks, paired by round. Samples within a block are not
  independent, so the bootstrap resamples rounds. Their tails are compared too (tail.py), over the same resamples.

Sources: MLPerf Inference (keep every latency, report percentiles); Kalibera & Jones 2013, 'Rigorous
benchmarking in reasonable time' (randomised interleaving, bootstrap over the highest level).
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from edgeprune.bench.tail import compare_tails
from edgeprune.errors import DeviceError
from edgeprune.machine import cores, environment
from edgeprune.records import BenchRun, Comparison, Latency, Measurement
from edgeprune.records.files import sha256_file
from edgeprune.records.measurement import Cache
from edgeprune.records.request import Engine
from edgeprune.runtime.preprocess import Floats

#: Rounds of a full run; with 40 pairs the bootstrap interval of a 2 % difference is usually clear of 1.
ROUNDS = 40
#: Least length of a block in seconds; long against the clock and the wake-up of the thread pool.
BLOCK_SECONDS = 0.15
#: Seconds that each engine runs before anything is recorded.
WARM_UP_SECONDS = 1.0
#: Inferences of a block at least.
MIN_INFERENCES = 8
CONFIDENCE = 0.99
RESAMPLES = 10_000


def measure(
    engines: Sequence[Engine],
    images: Floats | Sequence[Floats],
    *,
    seed: int = 0,
    rounds: int = ROUNDS,
    on_round: Callable[[int, int], None] = lambda done, total: None,
) -> BenchRun:
    """Measure engines against each other on this machine.

    Args:
        engines: At least one.
        images: Float32 inputs, shape (n, channels, height, width); taken in turn. A list has each engine's own.
        rounds: Blocks of every engine.
        on_round: Called with (rounds done, rounds).

    Returns:
        Every sample of every engine, and the order in which the blocks ran.

    Raises:
        DeviceError: An engine that can't be loaded, or a process that died.
    """
    generator = np.random.default_rng(seed)
    blocks: list[list[tuple[float, ...]]] = [[] for _ in engines]
    order: list[int] = []
    with tempfile.TemporaryDirectory() as folder, ExitStack() as stack:
        own = [images] * len(engines) if isinstance(images, np.ndarray) else images
        inputs = {id(each): Path(folder) / f"images-{number}.npy" for number, each in enumerate(own)}
        for each in own:
            np.save(inputs[id(each)], each)
        workers = [
            stack.enter_context(_worker(engine, inputs[id(each)])) for engine, each in zip(engines, own, strict=True)
        ]
        sizes = [_warm_up(worker) for worker in workers]
        for done in range(rounds):
            for index in generator.permutation(len(engines)).tolist():
                blocks[index].append(tuple(workers[index].block(sizes[index])))
                order.append(index)
            on_round(done + 1, rounds)
        return BenchRun(
            measurements=tuple(
                Measurement(
                    engine=engine.name,
                    artifact_sha256=sha256_file(engine.artifact),
                    runtime=worker.runtime,
                    precision=engine.precision,
                    threads=engine.settings.threads or len(engine.settings.cores) or cores(),
                    settings=engine.settings,
                    blocks_ms=tuple(own),
                    latency_ms=summarise([ms for block in own for ms in block]),
                    cold_start_ms=worker.cold_start_ms,
                    cache=worker.cache,
                )
                for engine, worker, own in zip(engines, workers, blocks, strict=True)
            ),
            environment=environment(),
            order=tuple(order),
        )


def cold_start_ms(engine: Engine, image: Floats) -> float:
    """From a fresh process to the engine's first answer, imports left out. image: its input, float32."""
    with tempfile.TemporaryDirectory() as folder:
        inputs = Path(folder) / "images.npy"
        np.save(inputs, image)
        with _worker(engine, inputs) as worker:
            return worker.cold_start_ms


def summarise(samples: Sequence[float]) -> Latency:
    """Percentiles of all samples, milliseconds."""
    values = np.asarray(samples)
    p50, p90, p99 = np.percentile(values, [50, 90, 99])
    mad = np.median(np.abs(values - p50))
    return Latency(p50=p50, p90=p90, p99=p99, mad=mad, samples=len(values))


def compare(build: Measurement, parent: Measurement, *, seed: int = 0) -> Comparison:
    """Ratio of two engines of one run with its bootstrap interval, over rounds."""
    ratios = _block_medians(build) / _block_medians(parent)
    picks = np.random.default_rng(seed).integers(0, len(ratios), (RESAMPLES, len(ratios)))
    low, high = median_interval(ratios, picks)
    return Comparison(
        build=build.engine, parent=parent.engine, ratio=float(np.median(ratios)), low=low, high=high,
        confidence=CONFIDENCE, pairs=len(ratios),
        tail=compare_tails(build.blocks_ms, parent.blocks_ms, picks, CONFIDENCE),
    )  # fmt: skip


def median_interval(ratios: npt.NDArray[np.float64], picks: npt.NDArray[np.int64]) -> tuple[float, float]:
    """Bootstrap interval of a median, at `CONFIDENCE`.

    Args:
        ratios: One a pair of blocks.
        picks: Pairs of every resample, shape (resamples, pairs).
    """
    tail = (1 - CONFIDENCE) / 2
    low, high = np.quantile(np.median(ratios[picks], axis=1), [tail, 1 - tail])
    return float(low), float(high)


class _Worker:
    """A process with one engine in it."""

    def __init__(self, process: subprocess.Popen[str], engine: Engine, inputs: Path) -> None:
        self._process, self._engine = process, engine
        answer = self._ask({"engine": engine.model_dump(mode="json"), "images": str(inputs)})
        self.runtime: str = answer["runtime"]
        self.cold_start_ms: float = answer["cold_start_ms"]
        self.cache: Cache = answer["cache"]

    def block(self, inferences: int) -> list[float]:
        """Latencies of that many inferences in milliseconds."""
        samples: list[float] = self._ask({"inferences": inferences})["ms"]
        return samples

    def _ask(self, question: dict[str, Any]) -> dict[str, Any]:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        try:
            self._process.stdin.write(json.dumps(question) + "\n")
            self._process.stdin.flush()
            line = self._process.stdout.readline()
        except BrokenPipeError:
            line = ""
        if not line:
            raise DeviceError(
                "The engine's process died.", where=self._engine.file, got=f"exit code {self._process.wait()}",
                next_step="run `edgeprune doctor`; a process that is killed is often out of memory",
            )  # fmt: skip
        answer: dict[str, Any] = json.loads(line)
        if "error" in answer:
            raise DeviceError(answer["error"])
        return answer


@contextmanager
def _worker(engine: Engine, inputs: Path) -> Iterator[_Worker]:
    process = subprocess.Popen(
        [sys.executable, "-m", "edgeprune.bench.worker"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    try:
        yield _Worker(process, engine, inputs)
    finally:
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.close()
        process.stdout.close()
        try:
            process.wait(timeout=10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _warm_up(worker: _Worker) -> int:
    """Run an engine until it is warm; returns how many inferences make a block."""
    spent, recent = 0.0, [1.0]
    while spent < WARM_UP_SECONDS:
        recent = worker.block(MIN_INFERENCES)
        spent += sum(recent) / 1e3
    return max(MIN_INFERENCES, round(BLOCK_SECONDS * 1e3 / float(np.median(recent))))


def _block_medians(measurement: Measurement) -> npt.NDArray[np.float64]:
    return np.array([np.median(block) for block in measurement.blocks_ms])
