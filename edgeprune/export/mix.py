"""Mixed precision: layers of the quantized graph go back to float, worst first, until the agreed accuracy is met.

Rules:
- How much a layer costs is measured on the target's runtime on this machine, since it only sets the order: everything
  in float but this one convolution, on calibration images, against the float graph. The figure is the noise of the raw
  outputs: the squared difference of scores and of boxes, each relative to the float graph's own variance, added up.
- Accuracy is mAP50-95 on the target's device itself, or on a stand-in here where the device builds finished graphs
  alone; mixed.json says so, and the verdict counts the device's. Layers go back in doubling numbers (1, 2, 4 …), then
  the smallest number that holds is searched for between the last two.
- If not even all of them in float would do, the graph stays whole: quantization isn't what loses the accuracy, and
  the verdict says so.
- Nothing is done silently: mixed.json has every layer's figure, and the report says what went back.

Source: Wu et al. 2020, 'Integer Quantization for Deep Learning Inference', section 6 (partial quantization).
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import onnx

from edgeprune.bench.ask import Bench, detections
from edgeprune.export.engine import build_engine, engine_file
from edgeprune.export.qdq import Graph, as_float
from edgeprune.records import Mixed, TargetProfile, write_json
from edgeprune.records.dataset import DataSet
from edgeprune.records.files import write_bytes
from edgeprune.records.request import Engine
from edgeprune.records.target import Precision
from edgeprune.runtime.preprocess import Floats, letterbox, read_image
from edgeprune.runtime.session import Session, open_session
from edgeprune.train.evaluate import score

#: Calibration images that a layer's noise is measured on.
PROBES = 16


def mix(
    quantized: Path,
    float_graph: Path,
    *,
    parent: Path,
    profile: TargetProfile,
    bench: Bench,
    architecture: str,
    data: DataSet,
    calibration: Sequence[Path],
    max_map_drop: float,
    parent_shape: tuple[int, int, int, int] | None = None,
    stand_in: str | None = None,
    destination: Path,
    record: Path,
    on_step: Callable[[int, int, str], None] = lambda done, total, note: None,
) -> Mixed:
    """Write the graph that the target will run, and what was decided.

    Args:
        quantized: The one quantized graph.
        float_graph: The same model in float.
        parent: The parent's artifact, whose accuracy counts.
        parent_shape: Its input, where that isn't the profile's.
        bench, architecture: Where the target's engines run.
        stand_in: The library, where that isn't the target's: a board that builds its engines runs nothing else.
        max_map_drop: mAP50-95 that may be lost against it.
        destination, record: What to write: mixed.onnx and mixed.json.
        on_step: Called with what was done of how much, and of what.
    """
    model = onnx.load(quantized)
    layers = Graph(model).quantized_convolutions()
    with tempfile.TemporaryDirectory() as folder:
        trial = _Trial(profile, bench, data, Path(folder))
        wanted = trial.accuracy(engine_file(parent), profile.floating, parent_shape) - max_map_drop
        whole = trial.accuracy(trial.build(model, architecture))
        found = Mixed(layers=tuple(layers), wanted=wanted, whole=whole, reached=whole, stand_in=stand_in)
        if whole >= wanted or trial.accuracy(trial.build(as_float(model, layers[1:]), architecture)) < wanted:
            return _write(found, model, destination, record)
        images = [letterbox(read_image(path), *profile.input_shape[2:])[0] for path in calibration[:PROBES]]
        expected = _outputs(trial.open(onnx.load(float_graph), quantized=False), images)
        noise = {}
        for number, layer in enumerate(layers, 1):
            alone = as_float(model, set(layers) - {layer})
            noise[layer] = _noise(_outputs(trial.open(alone), images), expected)
            on_step(number, len(layers), "noise of each layer")
        worst = sorted(layers, key=lambda layer: (-noise[layer], layer))
        reached = {0: whole}

        def holds(count: int) -> bool:
            on_step(count, len(layers), "layers in float")
            if count not in reached:
                reached[count] = trial.accuracy(trial.build(as_float(model, worst[:count]), architecture))
            return reached[count] >= wanted

        count = _fewest(len(layers), holds)
    decided = {"reached": reached[count], "noise": noise, "float_layers": tuple(worst[:count])}
    found = found.model_copy(update=decided)
    return _write(found, as_float(model, worst[:count]) if count else model, destination, record)


def _fewest(total: int, holds: Callable[[int], bool]) -> int:
    """The smallest count that holds, by doubling and then halving; 0 if none does."""
    low, high = 0, 1
    while not holds(min(high, total - 1)):
        if high >= total - 1:
            return 0
        low, high = high, high * 2
    high = min(high, total - 1)
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if holds(middle) else (middle, high)
    return high


class _Trial:
    """Builds engines of graphs, opens them here, and has them scored where the target runs."""

    def __init__(self, profile: TargetProfile, bench: Bench, data: DataSet, folder: Path) -> None:
        self._profile, self._bench, self._data, self._folder, self._made = profile, bench, data, folder, 0

    def build(self, model: onnx.ModelProto, architecture: str | None = None, *, quantized: bool = True) -> Path:
        self._made += 1
        work = self._folder / str(self._made)
        work.mkdir()
        write_bytes(work / "graph.onnx", model.SerializeToString())
        return engine_file(
            build_engine(self._profile.runtime, work / "graph.onnx", work, architecture, quantized=quantized)
        )

    def open(self, model: onnx.ModelProto, *, quantized: bool = True) -> Session:
        precision = "int8" if quantized else "fp32"
        return open_session(self._profile.runtime, self.build(model, quantized=quantized), precision)

    def accuracy(
        self, engine: Path, precision: Precision = "int8", shape: tuple[int, int, int, int] | None = None
    ) -> float:
        asked = Engine.of(self._profile, "trial", precision, engine)
        results = detections(self._bench, asked, self._data.splits["val"], shape or self._profile.input_shape)
        return score("", self._data, results).map50_95


def _outputs(session: Session, images: Sequence[Floats]) -> Floats:
    return np.concatenate([session.run(image)[0] for image in images])


def _noise(got: Floats, expected: Floats) -> float:
    parts = (slice(0, 4), slice(4, None)) if expected.shape[1] > 6 else (slice(None),)
    return float(
        sum(np.square(got[:, rows] - expected[:, rows]).mean() / max(expected[:, rows].var(), 1e-12) for rows in parts)
    )


def _write(found: Mixed, model: onnx.ModelProto, destination: Path, record: Path) -> Mixed:
    write_bytes(destination, model.SerializeToString(deterministic=True))
    write_json(record, found)
    return found
