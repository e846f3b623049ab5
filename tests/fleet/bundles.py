"""Bundles for fleets, made in milliseconds, that really detect: the matched filter of tests/bench/colours.py, with
weights of its own for each seed, beside the report that accepted it.

    OUT/bundle/manifest.json, model.onnx, golden/scene.png; OUT/report.json
"""

from __future__ import annotations

import platform
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnx
from PIL import Image

from edgeprune.records import (
    Bundle,
    BundleFile,
    Comparison,
    Latency,
    Lineage,
    Report,
    Row,
    Settings,
    TargetProfile,
    TensorSpec,
    Verdict,
    write_json,
)
from edgeprune.records.files import sha256_file
from edgeprune.records.golden import GoldenBox, GoldenImage
from edgeprune.runtime.bundle import MANIFEST
from edgeprune.runtime.detector import Detector
from edgeprune.runtime.golden import golden
from edgeprune.runtime.session import open_session
from tests.bench.colours import HASH, detector
from tests.scenes import NAMES, SIZE


def make_bundle(
    out: Path, sku: str = "colours", seed: int = 0, *, accepted: bool = True, report: bool = True,
    latency_ms: float = 1.0, pad_bytes: int = 0, architecture: str | None = None, runtime: str | None = None,
    files: Mapping[str, bytes] | None = None, altered: Callable[[onnx.ModelProto], None] | None = None,
) -> Path:  # fmt: skip
    """A build's folder with a bundle of that detector; returns the bundle's.

    Args:
        out: The build's folder; made.
        sku: The target that it is for.
        seed: Other seeds have other weights, and detect the same.
        accepted: What the report says.
        report: Whether there is one.
        latency_ms: What it was measured at.
        pad_bytes: Size of a file that nothing compresses beside the engine, the same for every seed: for downloads that
            take time, and deltas that pay.
        architecture, runtime: Instead of this machine's.
        files: Name -> content of what else is to be in it.
        altered: Changes the graph that the runtime loads, after it was measured, so to speak.
    """
    import onnxruntime
    from onnx import numpy_helper

    folder = out / "bundle"
    engine = detector(folder / "model.onnx")
    known = _golden(engine, folder)
    model = onnx.load(engine)
    random = np.random.default_rng(seed)
    for weight in model.graph.initializer:
        if weight.name.startswith("k"):
            moved = numpy_helper.to_array(weight) * random.uniform(0.999, 1.001)
            weight.CopyFrom(numpy_helper.from_array(moved.astype(np.float32), weight.name))
    if altered is not None:
        altered(model)
    onnx.save(model, engine)
    if pad_bytes:
        (folder / "ballast.bin").write_bytes(np.random.default_rng(0).bytes(pad_bytes))
    for name, content in (files or {}).items():
        (folder / name).write_bytes(content)
    names = sorted(p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file() and p.name != MANIFEST)
    ran = runtime or f"onnxruntime {onnxruntime.__version__}"
    build = _row("pruned", latency_ms, ran)
    manifest = Bundle(
        target=sku, architecture=architecture or platform.machine(), precision="fp32", engine="model.onnx",
        profile=TargetProfile(description="d", runtime=ran.split()[0], input_shape=(1, 3, SIZE, SIZE), threads=1),
        files=tuple(
            BundleFile(path=name, sha256=sha256_file(folder / name), bytes=(folder / name).stat().st_size)
            for name in names
        ),
        input=TensorSpec(name="images", shape=(1, 3, SIZE, SIZE), dtype="float32"),
        outputs=(TensorSpec(name="output0", shape=_output(model), dtype="float32"),),
        names=dict(enumerate(NAMES)), golden=(known,), measured=build, parent=_row("parent", 2 * latency_ms, ran),
        lineage=Lineage(
            edgeprune="0", model_sha256=HASH, data_sha256=HASH, recipe_sha256=HASH, plan_sha256=HASH, onnx_sha256=HASH
        ),
    )  # fmt: skip
    write_json(folder / "manifest.json", manifest)
    if report:
        write_json(out / "report.json", _report(manifest, accepted))
    return folder


def scene() -> npt.NDArray[np.uint8]:
    """An image (64, 64, 3) on which the detector finds a rectangle of the first class."""
    image = np.zeros((SIZE, SIZE, 3), np.uint8)
    image[20:44, 20:44, 0] = 255
    return image


def _golden(engine: Path, folder: Path) -> GoldenImage:
    """What the engine finds on that scene."""
    (folder / "golden").mkdir(exist_ok=True)
    Image.fromarray(scene()).save(folder / "golden/scene.png")
    found = Detector(open_session("onnxruntime", engine, "fp32", Settings(threads=1)), SIZE, SIZE)(scene())
    rows = zip(found.classes.tolist(), found.boxes.tolist(), found.scores.tolist(), strict=True)
    return golden("golden/scene.png", [GoldenBox(label=c, corners=tuple(b), score=min(s, 1.0)) for c, b, s in rows])


def _output(model: object) -> tuple[int, ...]:
    return tuple(d.dim_value for d in model.graph.output[0].type.tensor_type.shape.dim)  # type: ignore[attr-defined]


def _row(variant: str, latency_ms: float, runtime: str) -> Row:
    latency = Latency(p50=latency_ms, p90=latency_ms, p99=latency_ms, mad=0, samples=1)
    return Row(
        variant=variant, runtime=runtime, precision="fp32", map50_95=0.9, map50=1.0, latency_ms=latency, macs=1,
        parameters=1, bytes=1,
    )  # fmt: skip


def _report(bundle: Bundle, accepted: bool) -> Report:
    compared = Comparison(
        parent="parent fp32", build="pruned fp32", ratio=0.5, low=0.45, high=0.55, confidence=0.95, pairs=2
    )  # fmt: skip
    return Report(
        target=bundle.target, rows=(bundle.parent, bundle.measured),
        verdict=Verdict(
            accepted=accepted, reasons=("faster: 2.0 times", "mAP50-95: 0.0 lower"), comparison=compared, map_drop=0.0
        ),
    )  # fmt: skip
