"""The device half's answers to everything that isn't a load: a race, detections, tensors, what the device is. No torch.

Rules:
- Paths in a request are relative to its file's folder, or absolute; what an answer names lies beside the answer.
- Progress is told in units that the host can show: what, done, of how many.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from edgeprune.bench.board import device_info
from edgeprune.bench.device import Progress
from edgeprune.bench.measure import Images, measure
from edgeprune.bench.places import best_first
from edgeprune.records.benchmark import Prediction
from edgeprune.records.request import (
    AboutAnswer,
    AboutRequest,
    ComputeAnswer,
    ComputeRequest,
    Engine,
    PredictAnswer,
    PredictRequest,
    RaceAnswer,
    RaceRequest,
)
from edgeprune.runtime.decode import Thresholds
from edgeprune.runtime.pinning import pin
from edgeprune.runtime.predict import predict
from edgeprune.runtime.preprocess import read_image
from edgeprune.runtime.session import available, open_graph, open_session


def race(request: RaceRequest, folder: Path, on_progress: Progress) -> RaceAnswer:
    """Measure detectors against each other, image in to boxes out."""
    engines = [_here(engine, folder) for engine in request.engines]
    shapes = [engine.input_shape or request.input_shape for engine in engines]
    read, asked = tuple(read_image(folder / image) for image in request.images), Thresholds(request.score, request.iou)
    images = {shape: Images(read, *shape[2:], asked) for shape in set(shapes)}
    run = measure(
        engines, [images[shape] for shape in shapes], seed=request.seed, rounds=request.rounds,
        on_round=lambda done, total: on_progress("race", done, total),
    )  # fmt: skip
    return RaceAnswer(run=run)


def detect(request: PredictRequest, folder: Path, on_progress: Progress) -> PredictAnswer:
    """What an engine finds on images."""
    engine, images = _here(request.engine, folder), [folder / image for image in request.images]
    session = open_session(engine.runtime, Path(engine.file), engine.precision, engine.settings, form=engine.form)
    found = predict(
        session, images, request.input_shape, on_image=lambda done: on_progress("predict", done, len(images))
    )
    return PredictAnswer(predictions=tuple(Prediction.model_validate(result) for result in found))


def compute(request: ComputeRequest, folder: Path, answer: Path, on_progress: Progress) -> ComputeAnswer:
    """What a graph makes of given tensors; written beside the answer."""
    engine = _here(request.engine, folder)
    run = open_graph(engine.runtime, Path(engine.file), engine.precision, engine.settings)
    outputs = []
    for number, file in enumerate(request.inputs):
        with np.load(folder / file) as given:
            found = run(dict(given))
        outputs.append(f"outputs-{number}.npz")
        made: dict[str, Any] = {name: np.asarray(value, np.float32) for name, value in found.items()}
        np.savez(answer / outputs[-1], **made)
        on_progress("compute", number + 1, len(request.inputs))
    return ComputeAnswer(outputs=tuple(outputs))


def about(request: AboutRequest) -> AboutAnswer:
    """What this machine is, and what it can't run."""
    info, places = device_info(), best_first()
    pin(request.cores)
    whys = {precision: available(request.runtime, precision, request.plugin) for precision in request.precisions}
    lacking = {precision: why for precision, why in whys.items() if why}
    return AboutAnswer(info=info, lacking=lacking, places=places)


def _here(engine: Engine, folder: Path) -> Engine:
    return engine.moved(lambda file: str(folder / file))
