"""A finished build's folder for tests, made by the project's own functions: a detector that detects, on drawn scenes.

Parent and build are the matched filter of tests/bench/colours.py, one build with a class forgotten: predictions, mAP
and sample images are real. Latencies are drawn by seed: a test's verdict must not hang on what else the machine does.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import numpy_helper
from torch import nn

from edgeprune.bench.measure import summarise
from edgeprune.records import (
    BenchRun,
    Goal,
    Measurement,
    Origin,
    Parity,
    PrunePlan,
    Recipe,
    Report,
    Row,
    Settings,
    TargetProfile,
    TensorParity,
    VerifyRun,
    files,
    write_json,
)
from edgeprune.records.dataset import DataSet, read_dataset
from edgeprune.report import figures
from edgeprune.report.build_page import page
from edgeprune.report.samples import SCORE, pictures, samples
from edgeprune.report.verdict import judge
from edgeprune.runtime.predict import predict
from edgeprune.runtime.session import open_session
from edgeprune.train.evaluate import score
from edgeprune.yolo.widths import widths
from tests.bench.colours import detector
from tests.scenes import NAMES, SIZE, draw


@dataclass(frozen=True)
class Built:
    """A build's folder and its report."""

    folder: Path
    report: Report

    def page(self, report: Report | None = None, **others: Any) -> bytes:
        return page(report or self.report, pictures(self.folder, self.report.samples), **others)


#: Engine -> its median in milliseconds, and whether it knows all classes.
ENGINES = {
    "parent fp32": (8.0, True), "parent bf16": (5.0, True), "pruned fp32": (4.0, True), "pruned bf16": (3.0, False),
}  # fmt: skip
ROUNDS, BLOCK = 12, 9

#: Hashes of what builds and sweeps are made from.
INPUTS = {"model": "a" * 64, "data": "d" * 64, "target": "e" * 64}


def measured(name: str, median: float, number: int) -> Measurement:
    """Blocks with noise, drift and a tail, by seed."""
    generator = np.random.default_rng(number)
    block = median * generator.lognormal(0, 0.03, (ROUNDS, BLOCK)) * np.linspace(1, 1.04, ROUNDS)[:, None]
    block[generator.random(block.shape) < 0.03] *= 4
    blocks = tuple(tuple(row) for row in block.tolist())
    return Measurement(
        engine=name, artifact_sha256=f"{number:064x}", runtime="onnxruntime 1.0", precision=name.split()[1], threads=2,
        blocks_ms=blocks, latency_ms=summarise([ms for row in blocks for ms in row]), cold_start_ms=100.0 + number,
    )  # fmt: skip


def race(engines: dict[str, tuple[float, bool]]) -> BenchRun:
    """A run of all engines in shuffled order."""
    generator = np.random.default_rng(7)
    order = np.concatenate([generator.permutation(len(engines)) for _ in range(ROUNDS)])
    return BenchRun(
        measurements=tuple(measured(name, ms, n) for n, (name, (ms, _)) in enumerate(engines.items(), 1)),
        environment={"machine": "x86_64", "cpu": "A <b>processor</b> & more", "cores": "2", "system": "Linux 6"},
        order=tuple(order.tolist()), left_out=("int8: this processor has no kernels for it",),
    )  # fmt: skip


def engine(file: Path, whole: bool) -> Path:
    """The detector; without `whole`, its last class is forgotten."""
    detector(file)
    if not whole:
        model = onnx.load(file)
        forgotten = next(t for t in model.graph.initializer if t.name == f"k{len(NAMES) - 1}")
        forgotten.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(forgotten) * 0, forgotten.name))
        onnx.save(model, file)
    return file


def build(
    folder: Path, model: nn.Module, plan: PrunePlan, *, drop: float = 0.01, names: dict[int, str] | None = None,
    engines: dict[str, tuple[float, bool]] = ENGINES,
) -> Report:  # fmt: skip
    """Write report.json and samples/ into a folder as the stages do.

    Args:
        folder: Where they go; scenes and engines go beside it.
        model, plan: A model and what is cut from it, for the widths.
        drop: mAP50-95 that was agreed.
        names: Class names, instead of the scenes' own.
        engines: What was raced.
    """
    data = read_dataset(draw(folder.parent / f"{folder.name}-scenes", "detect"))
    if names:
        data = DataSet(data.file, data.root, names, data.splits)
    accuracies, predictions = [], {}
    for name, (_, whole) in engines.items():
        file = engine(folder.parent / "engines" / f"{whole}.onnx", whole)
        session = open_session("onnxruntime", file, "fp32", Settings(threads=1))
        results = predict(session, data.splits["val"], (1, 3, SIZE, SIZE))
        accuracies.append(score(name, data, results))
        predictions[name] = folder / "predictions" / f"{name.replace(' ', '-')}.json"
        files.write_bytes(predictions[name], json.dumps(results).encode())
    run, goal = race(engines), Goal(max_map_drop=drop)
    of = {v: [m for m in run.measurements if m.engine.startswith(v)] for v in ("parent", "pruned")}
    verdict, comparisons = judge(of["parent"], of["pruned"], accuracies, goal)
    parity = tuple(
        Parity(
            engine=name, images=4, first_drift=None,
            tensors=(TensorParity(tensor="output0 (scores)", max_abs=1e-6, scale=0.9, tolerance=1e-3),),
        )
        for name in engines
    )  # fmt: skip
    checked = VerifyRun(parity=parity, accuracy=tuple(accuracies))
    by_name = {a.engine: a for a in accuracies}
    report = Report(
        target="colours",
        rows=tuple(
            Row(
                variant=m.engine.split()[0], runtime=m.runtime, precision=m.precision, latency_ms=m.latency_ms,
                map50_95=by_name[m.engine].map50_95, map50=by_name[m.engine].map50,
                macs=round(plan.macs[m.engine.startswith("pruned")]),
                parameters=plan.parameters[m.engine.startswith("pruned")], bytes=4_000_000,
            )
            for m in run.measurements
        ),
        verdict=verdict, comparisons=comparisons, left_out=run.left_out, notes=("a note",), environment=run.environment,
        inputs=INPUTS | {"recipe": "c" * 64},
        candidates=figures.candidates(run.measurements, accuracies, verdict, goal),
        latencies=figures.latency_picture(run), widths=figures.layer_widths(widths(model), plan), parity=checked.parity,
        samples=samples(data, predictions[verdict.comparison.parent], predictions[verdict.comparison.build], folder),
        sample_score=SCORE,
        origin=Origin(
            command="edgeprune build colours.yaml --model best.pt --data data.yaml --recipe recipe.yaml",
            target=TargetProfile(description="d", runtime="onnxruntime", input_shape=(1, 3, SIZE, SIZE)),
            recipe=Recipe(goal=goal), names=data.names, val_images=len(data.splits["val"]),
        ),
    )  # fmt: skip
    write_json(folder / "report.json", report)
    return report
