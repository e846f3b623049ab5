"""Latency of several engines in one run, and how they compare.

Rules:
- A detector is timed from an image's pixels in memory to boxes in that image's pixels: what an application waits for,
  and the only thing that is the same for engines of all forms. Its parts are timed apart. Anything else is timed from
  its input tensor to its outputs.
- All engines are measured in one run, in blocks, in an order that is shuffled anew every round by seed, so
  that drift of the machine falls on all alike. One process an engine, one engine at a time.
- A block is long enough to be timed well (`BLOCK_SECONDS`), as many samples for every engine in every
  round as its own speed asks for.
- Every sample is kept and reported. Warm-up is over before the first block.
- The same file, loaded twice, is not equally fast: where its memory and its threads come to lie makes up to a percent,
  for as long as it lives (README, 'Settings'). So a run is of several loads of each engine, a few rounds each.
- Two engines are compared by the medians of their blocks, paired by round. Samples within a block are not
  independent, so the bootstrap resamples rounds; nor are the rounds of one load, so the interval is at least as wide as
  that of Student's t over loads. Their tails are compared too (tail.py), over the same resamples of rounds.

Sources: MLPerf Inference (keep every latency, report percentiles); Kalibera & Jones 2013, 'Rigorous
benchmarking in reasonable time' (randomised interleaving; repetition at the highest level that varies).
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from edgeprune.bench.tail import compare_tails
from edgeprune.errors import DeviceError
from edgeprune.machine import cores, environment
from edgeprune.records import BenchRun, Comparison, Latency, Measurement
from edgeprune.records.files import sha256_file
from edgeprune.records.measurement import Cache, Parts
from edgeprune.records.request import Engine
from edgeprune.runtime.decode import Thresholds
from edgeprune.runtime.preprocess import Floats, Pixels, resizer

#: Rounds of a full run; with 40 pairs the bootstrap interval of a 2 % difference is usually clear of 1.
ROUNDS = 40
#: Least length of a block in seconds; long against the clock and the wake-up of the thread pool.
BLOCK_SECONDS = 0.15
#: Seconds that each engine runs before anything is recorded.
WARM_UP_SECONDS = 1.0
#: The same of an engine that was loaded again: caches and clocks are warm, its own memory isn't.
WARM_AGAIN_SECONDS = 0.3
#: Loads of each engine in a run that has rounds enough, and rounds of each of them at least.
LOADS, LOAD_ROUNDS = 5, 3
#: Student's t at 99 % (two-sided) by degrees of freedom: three to five loads.
STUDENT = {2: 9.925, 3: 5.841, 4: 4.604}
#: Samples of a block at least.
MIN_INFERENCES = 8
CONFIDENCE = 0.99
RESAMPLES = 10_000


@dataclass(frozen=True)
class Images:
    """What detectors are timed on.

    Attributes:
        pixels: Decoded images, RGB, each of shape (h, w, 3); taken in turn.
        height, width: Of the detectors' input.
        thresholds: Of the boxes that are asked for.
    """

    pixels: tuple[Pixels, ...]
    height: int
    width: int
    thresholds: Thresholds


def measure(
    engines: Sequence[Engine],
    given: Images | Floats | Sequence[Images],
    *,
    seed: int = 0,
    rounds: int = ROUNDS,
    on_round: Callable[[int, int], None] = lambda done, total: None,
) -> BenchRun:
    """Measure engines against each other on this machine.

    Args:
        engines: At least one.
        given: Images for detectors, the same for all or each engine's own; for other engines float32 inputs, shape (n,
            channels, height, width). They are taken in turn.
        rounds: Blocks of every engine.
        on_round: Called with (rounds done, rounds).

    Returns:
        Every sample of every engine, and the order in which the blocks ran.

    Raises:
        DeviceError: An engine that can't be loaded, or a process that died.
    """
    generator = np.random.default_rng(seed)
    blocks: list[list[_Block]] = [[] for _ in engines]
    order: list[int] = []
    with tempfile.TemporaryDirectory() as folder, ExitStack() as stack:
        own = [given] * len(engines) if isinstance(given, (Images, np.ndarray)) else given
        apart = {id(each): each for each in own}
        told = {key: _told(each, Path(folder), number) for number, (key, each) in enumerate(apart.items())}
        workers = [
            stack.enter_context(_worker(engine, told[id(each)])) for engine, each in zip(engines, own, strict=True)
        ]
        loads, done = _loads(rounds), 0
        for load, own_rounds in enumerate(loads):
            sizes = [_warm_up(worker, anew=load > 0) for worker in workers]
            for _ in range(own_rounds):
                for index in generator.permutation(len(engines)).tolist():
                    blocks[index].append(workers[index].block(sizes[index]))
                    order.append(index)
                done += 1
                on_round(done, rounds)
        return BenchRun(
            measurements=tuple(
                Measurement(
                    engine=engine.name,
                    artifact_sha256=sha256_file(engine.artifact),
                    runtime=worker.runtime,
                    precision=engine.precision,
                    threads=engine.settings.threads or len(engine.settings.cores) or cores(),
                    settings=engine.settings,
                    form=engine.form,
                    blocks_ms=tuple(block.ms for block in own),
                    loads=loads,
                    latency_ms=summarise([ms for block in own for ms in block.ms]),
                    parts=_parts(own),
                    cold_start_ms=worker.cold_start_ms,
                    cache=worker.cache,
                )
                for engine, worker, own in zip(engines, workers, blocks, strict=True)
            ),
            environment=environment() | ({"resize": resizer()} if isinstance(given, Images) else {}),
            order=tuple(order),
        )


def cold_start_ms(engine: Engine, image: Floats | Pixels) -> float:
    """From a fresh process to the engine's first answer, imports left out. image: what the engine takes."""
    with tempfile.TemporaryDirectory() as folder, _worker(engine, _told(image, Path(folder))) as worker:
        return worker.cold_start_ms


def summarise(samples: Sequence[float]) -> Latency:
    """Percentiles of all samples, milliseconds."""
    values = np.asarray(samples)
    p50, p90, p99 = np.percentile(values, [50, 90, 99])
    mad = np.median(np.abs(values - p50))
    return Latency(p50=p50, p90=p90, p99=p99, mad=mad, samples=len(values))


def compare(build: Measurement, parent: Measurement, *, seed: int = 0) -> Comparison:
    """Ratio of two engines of one run, and its interval: the wider one of the bootstrap's over rounds and of Student's
    t over loads."""
    ratios = _block_medians(build) / _block_medians(parent)
    picks = np.random.default_rng(seed).integers(0, len(ratios), (RESAMPLES, len(ratios)))
    low, high = median_interval(ratios, picks)
    ratio, factor = float(np.median(ratios)), _between_loads(ratios, build.loads)
    return Comparison(
        build=build.engine, parent=parent.engine, ratio=ratio, low=min(low, ratio / factor),
        high=max(high, ratio * factor),
        confidence=CONFIDENCE, pairs=len(ratios),
        tail=compare_tails(build.blocks_ms, parent.blocks_ms, picks, CONFIDENCE),
    )  # fmt: skip


def _between_loads(ratios: npt.NDArray[np.float64], loads: Sequence[int]) -> float:
    """Factor by which a ratio may be off on either side, as far as loads tell; 1 where there are too few of them."""
    freedom = len(loads) - 1
    if freedom not in STUDENT:
        return 1.0
    medians = [np.median(own) for own in np.split(ratios, np.cumsum(loads)[:-1])]
    return float(np.exp(STUDENT[freedom] * np.std(np.log(medians), ddof=1) / np.sqrt(len(loads))))


def _loads(rounds: int) -> tuple[int, ...]:
    """Rounds of each load; one load where there are too few rounds for three."""
    number = min(LOADS, rounds // LOAD_ROUNDS)
    return tuple(len(part) for part in np.array_split(np.arange(rounds), number)) if number >= 3 else (rounds,)


def median_interval(ratios: npt.NDArray[np.float64], picks: npt.NDArray[np.int64]) -> tuple[float, float]:
    """Bootstrap interval of a median, at `CONFIDENCE`.

    Args:
        ratios: One a pair of blocks.
        picks: Pairs of every resample, shape (resamples, pairs).
    """
    tail = (1 - CONFIDENCE) / 2
    low, high = np.quantile(np.median(ratios[picks], axis=1), [tail, 1 - tail])
    return float(low), float(high)


def _told(given: Images | Floats | Pixels, folder: Path, number: int = 0) -> dict[str, Any]:
    """What a worker is told of its inputs, which go into a file."""
    file = folder / f"inputs-{number}.npz"
    if isinstance(given, Images):
        np.savez(file, *given.pixels)
        detector = {
            "height": given.height, "width": given.width, "score": given.thresholds.score, "iou": given.thresholds.iou
        }  # fmt: skip
        return {"inputs": str(file), "detector": detector}
    np.savez(file, *(one[None] for one in given))
    return {"inputs": str(file), "detector": None}


@dataclass(frozen=True)
class _Block:
    """One block's samples in milliseconds: each sample's latency, and its parts where there are any."""

    ms: tuple[float, ...]
    parts: tuple[tuple[float, ...], ...]


def _parts(blocks: Sequence[_Block]) -> Parts | None:
    found = [parts for block in blocks for parts in block.parts]
    if not found:
        return None
    preprocess, inference, postprocess = np.median(found, axis=0).tolist()
    return Parts(preprocess_ms=preprocess, inference_ms=inference, postprocess_ms=postprocess)


class _Worker:
    """A process with one engine in it."""

    def __init__(self, process: subprocess.Popen[str], engine: Engine, told: dict[str, Any]) -> None:
        self._process, self._engine = process, engine
        answer = self._ask({"engine": engine.model_dump(mode="json"), **told})
        self.runtime: str = answer["runtime"]
        self.cold_start_ms: float = answer["cold_start_ms"]
        self.cache: Cache = answer["cache"]

    def block(self, samples: int, anew: bool = False) -> _Block:
        """That many samples; with the engine dropped and loaded again before."""
        answer = self._ask({"samples": samples, "anew": anew})
        return _Block(tuple(answer["ms"]), tuple(map(tuple, answer["parts"])))

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
def _worker(engine: Engine, told: dict[str, Any]) -> Iterator[_Worker]:
    process = subprocess.Popen(
        [sys.executable, "-m", "edgeprune.bench.worker"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    try:
        yield _Worker(process, engine, told)
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


def _warm_up(worker: _Worker, anew: bool = False) -> int:
    """Run an engine until it is warm, loaded anew if asked; returns how many samples make a block."""
    spent, recent = 0.0, tuple[float, ...]()
    while spent < (WARM_AGAIN_SECONDS if anew else WARM_UP_SECONDS):
        recent = worker.block(MIN_INFERENCES, anew=anew and not recent).ms
        spent += sum(recent) / 1e3
    return max(MIN_INFERENCES, round(BLOCK_SECONDS * 1e3 / float(np.median(recent))))


def _block_medians(measurement: Measurement) -> npt.NDArray[np.float64]:
    return np.array([np.median(block) for block in measurement.blocks_ms])
