"""Does a runtime compute the quantized graph as it is written? Tensor by tensor, in quantization steps.

Rules:
- The reference is the graph itself, every operator by itself: ONNX Runtime with all optimisations off. On small nets
  it is ONNX's reference evaluator but for values on a tie, where sums in another order fall to the other side
  (tests/export/test_quantized.py).
- Each quantized tensor is compared with what the runtime makes of the reference's own inputs: behind each pair of
  Q/DQ the reference's values go on. Otherwise a value that lies on a tie would fall to the other side somewhere, and
  some forty quantized layers would carry that one step everywhere.
- At most one step may differ. Causes: a runtime adds the same products in another order, or scales the integer sum
  once where the graph rounds twice, so that a value on a tie falls to the other side.
- The fake-quantized model in torch is held against the same reference: what was trained is what runs.
"""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import torch
from onnx import TensorProto, helper

from edgeprune.bench.ask import Bench
from edgeprune.bench.ask import tensors as tensors_of
from edgeprune.bench.local import LocalBench
from edgeprune.errors import ParityError
from edgeprune.export.engine import build_engine, engine_file
from edgeprune.export.parity import TOLERANCE
from edgeprune.export.qdq import Graph
from edgeprune.quant.fake import Forced
from edgeprune.quant.fold import fold
from edgeprune.records import Parity, Quantization, TensorParity, read_json
from edgeprune.records.request import Engine
from edgeprune.records.settings import Settings
from edgeprune.runtime.preprocess import Floats
from edgeprune.runtime.session import open_unoptimised
from edgeprune.yolo.export import fused
from edgeprune.yolo.load import load_detector

Values = dict[str, npt.NDArray[np.float32]]
#: Steps by which a quantized tensor may differ; a hair more, since steps are differences of floats.
STEPS = 1.001


def check_steps(
    name: str,
    checkpoint: Path,
    quantization: Path,
    graph_file: Path,
    runtime: str,
    images: Floats,
    bench: Bench | None = None,
    architecture: str | None = None,
    settings: Settings = Settings(),  # noqa: B008
) -> Parity:
    """Compare a runtime, and torch, with the quantized graph.

    Args:
        name: The engine's, for the record.
        checkpoint, quantization: What the graph was made from.
        graph_file: The quantized graph that the target runs (mixed.onnx).
        images: Probe images, shape (n, 3, height, width), float32 in 0..1.
        bench, architecture: Where the runtime runs; none = here.
        settings: How it runs there; OpenVINO's plugin is what counts. What isn't quantized computes in FP32 on a CPU
            whatever they say: BF16 has as many digits as a tensor has steps, so no step could be told by it. What it
            does to a build, mAP tells.

    Returns:
        The largest difference of every quantized tensor, in torch and in the runtime, and of the outputs.

    Raises:
        ParityError: A tensor is off by more than a step; names it.
    """
    model = onnx.load(graph_file)
    graph = Graph(model)
    points = {q.name.removesuffix("/Q"): float(graph.values(q.input[1])) for q, _ in graph.pairs()}
    expected = [_reference(model, points, image[None]) for image in images]
    compared = {
        runtime: _on_runtime(model, points, runtime, images, expected, bench or LocalBench(), architecture, settings),
        "torch": _in_torch(checkpoint, quantization, graph_file, points, images, expected),
    }
    tensors = []
    for who, runs in compared.items():
        # what is float in a quantized graph computes in FP16 on OpenVINO's GPU and NPU (runtime/openvino.py)
        rest = "fp32" if settings.plugin == "CPU" or who == "torch" else "fp16"
        for point, step in points.items():
            largest = max(float(np.abs(run[point] - e[point]).max()) for run, e in zip(runs, expected, strict=True))
            tensors.append(TensorParity(tensor=f"{point} ({who})", max_abs=largest, scale=step, tolerance=STEPS))
        for part, rows in (("boxes", slice(0, 4)), ("scores", slice(4, None))):
            ends = [(run[OUTPUT][:, rows], e[OUTPUT][:, rows]) for run, e in zip(runs, expected, strict=True)]
            tensors.append(
                TensorParity(
                    tensor=f"{OUTPUT} {part} ({who})", max_abs=max(float(np.abs(a - b).max()) for a, b in ends),
                    scale=max(float(np.abs(b).max()) for _, b in ends), tolerance=TOLERANCE[rest],
                )
            )  # fmt: skip
    drift = next((tensor.tensor for tensor in tensors if not tensor.holds), None)
    parity = Parity(engine=name, images=len(images), tensors=tuple(tensors), first_drift=drift)
    if drift is not None:
        worst = max((t for t in tensors if not t.holds), key=lambda t: t.max_abs / t.scale)
        raise ParityError(
            f"{name} doesn't compute the quantized graph.",
            where=f"first tensor that is off: {drift}; worst: {worst.tensor}",
            expected="at most one quantization step",
            got=f"{worst.max_abs / worst.scale:.1f} steps of {worst.scale:.4g}",
            next_step="report it with quantized.onnx; the build can't be trusted",
        )  # fmt: skip
    return parity


OUTPUT = "output0"


def _reference(model: onnx.ModelProto, points: Mapping[str, float], image: Floats) -> Values:
    probing = onnx.ModelProto.FromString(model.SerializeToString())
    names = {f"{point}/dequantized": point for point in points}
    probing.graph.output.extend(helper.make_empty_tensor_value_info(tensor) for tensor in names)
    run = open_unoptimised(probing.SerializeToString())
    return {names.get(tensor, tensor): value for tensor, value in run({"images": image}).items()}


def forced(model: onnx.ModelProto, values: Values) -> onnx.ModelProto:
    """A copy in which everything reads the given values of the quantized tensors, and what it makes of them comes out.

    Args:
        values: Tensor -> what is read instead, which becomes an input '<tensor>/forced'.
    """
    copy = onnx.ModelProto.FromString(model.SerializeToString())
    graph = Graph(copy)
    nodes, instead = [], {}
    for q, dq in graph.pairs():
        point, pair = q.name.removesuffix("/Q"), list(q.input[1:])
        given, ends = f"{point}/forced", (f"{point}/forced_quantized", f"{point}/forced_dequantized")
        copy.graph.input.append(helper.make_tensor_value_info(given, TensorProto.FLOAT, values[point].shape))
        nodes.append(helper.make_node("QuantizeLinear", [given, *pair], [ends[0]], name=f"{point}/forced/Q"))
        nodes.append(helper.make_node("DequantizeLinear", [ends[0], *pair], [ends[1]], name=f"{point}/forced/DQ"))
        instead[dq.output[0]] = ends[1]
        copy.graph.output.append(helper.make_tensor_value_info(dq.output[0], TensorProto.FLOAT, values[point].shape))
    for node in graph.nodes:
        for index, tensor in enumerate(node.input):
            node.input[index] = instead.get(tensor, tensor)
    graph.nodes = [*nodes, *graph.nodes]
    graph.write()
    return copy


def _on_runtime(
    model: onnx.ModelProto,
    points: Mapping[str, float],
    runtime: str,
    images: Floats,
    expected: Sequence[Values],
    bench: Bench,
    architecture: str | None,
    settings: Settings,
) -> list[Values]:
    given = [
        {"images": image[None], **{f"{point}/forced": values[point] for point in points}}
        for image, values in zip(images, expected, strict=True)
    ]
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "forced.onnx"
        onnx.save(forced(model, expected[0]), file)
        made = Path(folder) / "engine"
        made.mkdir()
        built = build_engine(runtime, file, made, architecture, quantized=True)
        engine = {"name": "forced", "runtime": runtime, "precision": "int8", "file": str(engine_file(built))}
        runs = tensors_of(
            bench, Engine.model_validate({**engine, "settings": settings.model_copy(update={"rest": "fp32"})}), given
        )
    names = {f"{point}/dequantized": point for point in points}
    return [{names.get(tensor, tensor): value for tensor, value in run.items()} for run in runs]


def _in_torch(
    checkpoint: Path,
    quantization: Path,
    graph_file: Path,
    points: Mapping[str, float],
    images: Floats,
    expected: Sequence[Values],
) -> list[Values]:
    model = load_detector(checkpoint).model
    plain: Any = fused(model)
    record = fold(model, plain, read_json(quantization, Quantization, ParityError))
    kept = {point: name for point, name in record.points.items() if point in points}
    still = set(Graph(onnx.load(graph_file)).quantized_convolutions())
    weights = {name: scales for name, scales in record.weights.items() if name in still}
    record = record.model_copy(update={"points": kept, "weights": weights})
    runs = []
    for image, values in zip(images, expected, strict=True):
        run = Forced(plain, record, {point: torch.from_numpy(values[point]) for point in points})
        output = run.run(torch.from_numpy(image[None]))
        runs.append({**{point: made.numpy() for point, made in run.found.items()}, OUTPUT: output.numpy()})
    return runs
