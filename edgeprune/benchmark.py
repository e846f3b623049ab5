"""The host half of a benchmark on a device: the bundle checked, the device asked, its answer scored.

Rules:
- Nothing runs before the bundle's hashes hold, its target is the one that was named, and the data set has its classes.
- Of a bundle that carries a kit, the device first builds its engine, with the TensorRT that it has, or finds it built.
- The device measures and answers; mAP is computed here, of the answers that were timed.
- The predictions are written first, in COCO's format: where benchmark.json is, what it was scored on is too.
"""

from __future__ import annotations

import importlib.util
import json
import tempfile
from pathlib import Path

from edgeprune.bench import ask
from edgeprune.bench.bundle import differences, refuse_architecture, refuse_version
from edgeprune.bench.device import Progress
from edgeprune.errors import BundleError, missing_package
from edgeprune.records import Benchmark, BenchRequest, Load, files, write_json
from edgeprune.records.dataset import read_dataset, require_classes
from edgeprune.records.files import sha256_file
from edgeprune.remote.bench import bench_at
from edgeprune.runtime.bundle import open_bundle


def benchmark(
    target: str,
    bundle: Path,
    data: Path | None,
    load: Load,
    out: Path,
    device: str | None = None,
    any_version: bool = False,
    on_progress: Progress = ask.silent,
    camera: str | None = None,
) -> Benchmark:
    """Measure a bundle on its target.

    Args:
        target: The target's name.
        bundle: The bundle's folder.
        data: data.yaml; its val images are what is inferred and scored. None only with a camera.
        load: How the engine is loaded.
        out: benchmark.json; the predictions go beside it.
        device: Where, instead of where the bundle's target says.
        any_version: Measure even if the device has another version of the runtime.
        on_progress: Told how far the device has come.
        camera: Where images come from instead; then nothing is scored.

    Raises:
        BundleError: The bundle isn't whole, or is for something else.
        DataError: The data set can't be read, or has other classes.
        DeviceError: The device can't do it.
    """
    manifest = open_bundle(bundle)
    if manifest.target != target:
        raise BundleError(
            "The bundle is for another target.", where=bundle, expected=target, got=manifest.target,
            next_step=f"edgeprune bench {manifest.target} --bundle {bundle} …",
        )  # fmt: skip
    bench = bench_at(device or manifest.profile.device)
    refuse_architecture(manifest, bundle, bench.architecture)
    runtime = manifest.profile.runtime
    if not any_version and manifest.kit is None:
        refuse_version(manifest, bundle, f"{runtime} {bench.versions(runtime)[runtime]}")
    dataset = None if data is None or camera is not None else read_dataset(data)
    if dataset is not None:
        require_classes(dataset, manifest.names, bundle)
    if dataset and importlib.util.find_spec("pycocotools") is None:  # said now, not after ten minutes
        raise missing_package("pycocotools", "build")
    with files.no_space(out):
        out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as folder:
        engine = bundle / manifest.engine
        if manifest.kit is not None:
            dla = manifest.profile.dla
            ask.build(bench, bundle / manifest.kit.folder, manifest.precision, dla, Path(folder), on_progress)
            engine = Path(folder) / "model.engine"
        request = BenchRequest(
            engine=str(engine.resolve()), runtime=runtime, precision=manifest.precision,
            settings=manifest.settings or manifest.profile.settings, form=manifest.form,
            input_shape=manifest.profile.input_shape,
            images=tuple(str(path.resolve()) for path in dataset.splits["val"]) if dataset else (), camera=camera,
            load=load,
        )  # fmt: skip
        answer = ask.load(bench, request, on_progress)
    accuracy = None
    results = ask.coco(answer.predictions)
    if dataset is not None:
        from edgeprune.train.evaluate import score

        accuracy = score(f"bundle {manifest.precision}", dataset, results)
    found = Benchmark(
        target=target, device=bench.address, bundle_sha256=sha256_file(bundle), data=str(data) if dataset else None,
        request=request, run=answer.run, accuracy=accuracy, bundle_map50_95=manifest.measured.map50_95,
        notes=differences(manifest, answer.run.runtime),
    )  # fmt: skip
    if dataset:
        files.write_bytes(out.with_name(f"{out.stem}-predictions.json"), json.dumps(results).encode())
    write_json(out, found)
    return found
