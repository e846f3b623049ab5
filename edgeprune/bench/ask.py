"""Asking a bench: the one way from a host to the place where a target's engines run.

Rules:
- A bench is this machine (bench/local.py) or a device over SSH (remote/bench.py). Who asks doesn't know which.
- Every call is whole in itself: what is asked carries its files, what comes back its figures. So one that was broken
  off is asked again, and nothing is left running.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol, TypeVar

import numpy as np

from edgeprune.bench.device import Progress
from edgeprune.errors import DeviceError, EdgepruneError, ExitCode, ExportError, ParityError
from edgeprune.kit.build_engine import NOT_GOLDEN, REFUSED
from edgeprune.records import BenchRun, BoardEngine, DeviceAnswer, DeviceInfo, Record, read_json
from edgeprune.records.benchmark import BenchRequest, Prediction
from edgeprune.records.request import (
    AboutAnswer,
    AboutRequest,
    BuildAnswer,
    BuildRequest,
    ComputeAnswer,
    ComputeRequest,
    Engine,
    PredictAnswer,
    PredictRequest,
    RaceAnswer,
    RaceRequest,
    Request,
    TimeAnswer,
    TimeRequest,
)
from edgeprune.runtime.predict import CocoResult
from edgeprune.runtime.preprocess import Floats

#: Tensors by name.
Tensors = Mapping[str, Floats]
Found = TypeVar("Found", bound=Record)


def silent(what: str, done: float, total: float) -> None:
    """Progress that nobody wants to hear of."""


class Bench(Protocol):
    """Where engines run.

    Attributes:
        address: As a target writes it.
    """

    address: str

    @property
    def info(self) -> DeviceInfo:
        """What it is; raises as `versions` does."""
        ...

    @property
    def architecture(self) -> str:
        """As platform.machine() says it there; raises as `versions` does."""
        ...

    def versions(self, runtime: str) -> dict[str, str]:
        """Runtime -> its version there, or 'not installed'; for TensorRT also what else an engine is tied to.

        Raises:
            DeviceError: It can't be reached, or isn't set up.
        """
        ...

    def ask(self, request: Request, into: Path, on_progress: Progress = silent) -> None:
        """Have a request answered.

        Args:
            request: Its paths are this machine's.
            into: A folder that gets answer.json and what lies beside it.

        Raises:
            DeviceError: It can't be reached, refused with words of its own, or died.
        """
        ...


def refused(code: int, said: str, where: object) -> DeviceError:
    """The error for a device command that ended with an exit code other than 0."""
    if said and code in (ExitCode.USER, ExitCode.DISK_FULL):
        return DeviceError(said, code=ExitCode(code))
    return DeviceError(
        "The benchmark's process died.", where=where,
        got=f"exit code {code}: {said.splitlines()[-1] if said else 'it said nothing'}",
        next_step="run `edgeprune doctor`; a process that is killed is often out of memory",
    )  # fmt: skip


def about(
    bench: Bench, runtime: str, precisions: Sequence[str], plugin: str = "CPU", cores: Sequence[int] = ()
) -> AboutAnswer:
    """What a bench is, and which precisions it lacks; refused where it hasn't the plugin or those cores."""
    asked = {"runtime": runtime, "precisions": tuple(precisions), "plugin": plugin, "cores": tuple(cores)}
    return _ask(bench, AboutRequest.model_validate(asked), AboutAnswer)


def load(bench: Bench, request: BenchRequest, on_progress: Progress = silent) -> DeviceAnswer:
    """One engine under a load."""
    return _ask(bench, request, DeviceAnswer, on_progress)


def race(
    bench: Bench, engines: Sequence[Engine], images: Sequence[Path], input_shape: tuple[int, int, int, int],
    *, seed: int, rounds: int, on_round: Callable[[int, int], None],
) -> BenchRun:  # fmt: skip
    """Several engines in one run, interleaved."""
    request = RaceRequest.model_validate(
        {
            "engines": tuple(engines), "images": tuple(map(str, images)), "input_shape": input_shape, "seed": seed,
            "rounds": rounds,
        }
    )  # fmt: skip
    return _ask(bench, request, RaceAnswer, lambda what, done, total: on_round(int(done), int(total))).run


def times(bench: Bench, request: TimeRequest, on_progress: Progress = silent) -> TimeAnswer:
    """How long small graphs take."""
    return _ask(bench, request, TimeAnswer, on_progress)


def detections(
    bench: Bench, engine: Engine, images: Sequence[Path], input_shape: tuple[int, int, int, int],
    on_image: Callable[[int], None] = lambda done: None,
) -> list[CocoResult]:  # fmt: skip
    """What an engine finds, in COCO's result format."""
    request = PredictRequest.model_validate(
        {"engine": engine, "images": tuple(map(str, images)), "input_shape": input_shape}
    )
    return coco(_ask(bench, request, PredictAnswer, lambda what, done, total: on_image(int(done))).predictions)


def coco(predictions: Sequence[Prediction]) -> list[CocoResult]:
    """A device's predictions in COCO's result format."""
    results: list[Any] = [prediction.model_dump(mode="json") for prediction in predictions]
    return results


def tensors(bench: Bench, engine: Engine, inputs: Sequence[Tensors]) -> list[dict[str, Floats]]:
    """Every output of a graph, for each of several sets of inputs."""
    with tempfile.TemporaryDirectory() as folder:
        given = [Path(folder) / f"inputs-{number}.npz" for number in range(len(inputs))]
        for file, values in zip(given, inputs, strict=True):
            np.savez(file, **dict[str, Any](values))
        request = ComputeRequest(engine=engine, inputs=tuple(map(str, given)))
        answer = _ask(bench, request, ComputeAnswer, into=Path(folder))
        found = []
        for name in answer.outputs:
            with np.load(Path(folder) / name) as made:
                found.append(dict(made))
        return found


def build(
    bench: Bench, kit: Path, precision: str, dla: int | None, into: Path, on_progress: Progress = silent
) -> BoardEngine:  # fmt: skip
    """An engine of a kit, built by the device itself.

    Args:
        into: A folder that gets model.engine, engine.json and layers-*.json.

    Raises:
        ParityError: It doesn't compute the kit's golden outputs.
        ExportError: TensorRT can't build it, or a convolution that should be INT8 isn't.
        DeviceError: The kit, the machine or its disk is wrong; or as `Bench.ask`.
    """
    request = BuildRequest.model_validate({"kit": str(kit), "precision": precision, "dla": dla})
    answer = _ask(bench, request, BuildAnswer, on_progress, into)
    (into / "answer.json").unlink()
    if answer.engine is not None:
        return answer.engine
    kind: type[EdgepruneError] = DeviceError
    if answer.exit_code == REFUSED:
        kind = ParityError if NOT_GOLDEN in answer.said else ExportError
    raise kind(
        f"{bench.address} built no {precision} engine; build_engine.py ended there with exit code {answer.exit_code}.",
        got=answer.said.removeprefix("build_engine: "),
        code=ExitCode.REJECTED if answer.exit_code == REFUSED else ExitCode.USER,
    )  # fmt: skip


def _ask(
    bench: Bench, request: Request, answer: type[Found], on_progress: Progress = silent, into: Path | None = None
) -> Found:
    if into is not None:
        bench.ask(request, into, on_progress)
        return read_json(into / "answer.json", answer, DeviceError)
    with tempfile.TemporaryDirectory() as folder:
        return _ask(bench, request, answer, on_progress, Path(folder))
