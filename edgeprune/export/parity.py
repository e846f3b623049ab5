"""Does the runtime compute what torch computes? Tensor by tensor, with numbers.

Rules:
- The reference is the checkpoint itself, BatchNorm folded, in FP32, on real images.
- The gate is on the outputs of the engine as it will ship. Where one drifts, the graph is run once more
  with the result of every convolution as an output, in the same runtime and precision, and the first
  tensor that is off is named.
- Boxes and scores share one output tensor and are compared apart: a box in pixels would hide any score.
- In BF16 a box counts where a detection can come of it, its score over the validator's threshold in torch or in the
  engine. Elsewhere it is the mean of a flat distribution, which says nothing (blood cells, 40 images: off by up to
  54 of 387 pixels, and by at most 8.6 where it counts). In FP32 every box counts.
- Tolerances are relative to the tensor's largest value, since a sum's error grows with its terms.

Tolerances: FP32 1e-3 (kernels sum in another order; measured here: 1e-6 to 1e-5, Winograd kernels reach
1e-4); FP16 2e-2 (11 bits of mantissa, 2^-11 a product; measured here on 40 images of blood cells, every box counted:
scores up to 1.4e-2 and boxes 9.6e-3 in OpenVINO on a CPU that has FP16, 7.5e-3 and 9.5e-3 in ONNX Runtime, which casts
to FP32 around its operators on x86-64); BF16 8e-2 (8 bits of mantissa, 2^-8 a product, over some 60 layers; measured
here: scores up to 6.1e-2, boxes 2.3e-2).
"""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnx
import torch

from edgeprune.bench.ask import Bench
from edgeprune.bench.ask import tensors as tensors_of
from edgeprune.bench.local import LocalBench
from edgeprune.errors import ParityError
from edgeprune.export.engine import build_engine, engine_file
from edgeprune.records import Parity, TensorParity
from edgeprune.records.request import Engine
from edgeprune.records.target import own_file
from edgeprune.runtime.decode import Thresholds, scores_over
from edgeprune.runtime.preprocess import Floats
from edgeprune.yolo.export import fused

TOLERANCE = {"fp32": 1e-3, "fp16": 2e-2, "bf16": 8e-2}


def check_parity(
    engine: Engine, model: torch.nn.Module, onnx_file: Path, images: Floats, bench: Bench | None = None
) -> Parity:
    """Compare one engine with the model that it was made from.

    Args:
        engine: From `build_engine`.
        model: The detector in torch, FP32.
        onnx_file: What the engine was made from.
        images: Probe images, shape (n, 3, height, width), float32 in 0..1.
        bench: Where the engine runs; none = here.

    Returns:
        The largest difference of every output.

    Raises:
        ParityError: An output is beyond tolerance; names the first tensor inside the graph that is.
    """
    reference = fused(model)
    bench = bench or LocalBench()
    with torch.no_grad():
        expected = np.concatenate([reference(torch.from_numpy(image[None])).numpy() for image in images])
    (output,) = (o.name for o in onnx.load(onnx_file, load_external_data=False).graph.output)
    runs = tensors_of(bench, engine, [{"images": image[None]} for image in images])
    got = np.concatenate([run[output] for run in runs])
    precision = engine.precision
    boxes = _boxes_that_count(expected, got) if precision == "bf16" else slice(None)
    tensors = tuple(
        _compare(f"{output} ({part})", expected[:, rows][counted], got[:, rows][counted], precision)
        for part, rows, counted in (("boxes", slice(0, 4), boxes), ("scores", slice(4, None), slice(None)))
    )
    drift = None
    if not all(tensor.holds for tensor in tensors):
        drift = first_drift(reference, onnx_file, engine, images[:1], bench)
    parity = Parity(engine=engine.name, images=len(images), tensors=tensors, first_drift=drift)
    if not parity.holds:
        worst = max(tensors, key=lambda t: t.max_abs / max(t.scale, 1e-12))
        raise ParityError(
            f"{engine.name} doesn't compute what torch computes.",
            where=f"output {worst.tensor}; first tensor that drifts: {drift}",
            expected=f"at most {worst.tolerance:g} of {worst.scale:.4g}",
            got=f"a difference of {worst.max_abs:.4g}",
            next_step="report it with the ONNX file; the build can't be trusted",
        )
    return parity


def first_drift(reference: torch.nn.Module, onnx_file: Path, engine: Engine, image: Floats, bench: Bench) -> str | None:
    """The first convolution, in execution order, whose result is beyond tolerance in the runtime."""
    model = onnx.load(onnx_file)
    modules = dict(reference.named_modules())
    probes = [
        (node.output[0], path)
        for node in model.graph.node
        if node.op_type == "Conv" and (path := _module_of(node.output[0])) in modules
    ]
    del model.graph.output[:]
    model.graph.output.extend(onnx.helper.make_empty_tensor_value_info(tensor) for tensor, _ in probes)
    expected = _module_outputs(reference, [path for _, path in probes], image)
    with tempfile.TemporaryDirectory() as folder:
        probing = Path(folder) / "probe.onnx"
        onnx.save(onnx.shape_inference.infer_shapes(model), probing)
        work = Path(folder) / "engine"
        work.mkdir()
        half = own_file(engine.runtime, engine.precision)
        made = engine.moved(lambda _: str(engine_file(build_engine(engine.runtime, probing, work, half=half))))
        (values,) = tensors_of(bench, made, [{"images": image}])
    for tensor, path in probes:
        if not _compare(tensor, expected[path], values[tensor], engine.precision).holds:
            return path
    return None


def _compare(tensor: str, expected: Floats, got: Floats, precision: str) -> TensorParity:
    difference = np.abs(expected - got)
    return TensorParity(
        tensor=tensor,
        max_abs=float(difference.max()) if np.isfinite(difference).all() else float(np.finfo(np.float32).max),
        scale=float(np.abs(expected).max()),
        tolerance=TOLERANCE[precision],
    )


def _boxes_that_count(expected: Floats, got: Floats) -> npt.NDArray[np.bool_]:
    """Which boxes of outputs (n, 4 + classes, anchors) a detection can come of, shape (n, 4, anchors); all, if none."""
    return np.repeat(scores_over(Thresholds().score, expected, got).any(1, keepdims=True), 4, axis=1)


def _module_of(tensor: str) -> str:
    """'/model.0/conv/Conv_output_0' -> 'model.0.conv'."""
    parts: list[str] = []
    for part in tensor.strip("/").split("/")[:-1]:
        if parts and part.startswith(f"{parts[-1]}."):  # '/cv2.0/cv2.0.1': an item of a list repeats the list's name
            parts.pop()
        parts.append(part)
    return ".".join(parts)


def _module_outputs(model: torch.nn.Module, paths: Sequence[str], image: Floats) -> dict[str, Floats]:
    caught: dict[str, Floats] = {}
    modules = dict(model.named_modules())
    handles = [
        modules[path].register_forward_hook(lambda _m, _i, out, p=path: caught.__setitem__(p, out.numpy().copy()))
        for path in paths
    ]
    try:
        with torch.no_grad():
            model(torch.from_numpy(image))
    finally:
        for handle in handles:
            handle.remove()
    return caught
