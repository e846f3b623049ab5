"""`make bench-forms`: one detector in every form that it can have, raced in one run on this machine, image to boxes.

Each runtime's engines in every precision that this machine has, calibrated as the runtime's own INT8 target says. What
a form moves from one part into another shows in the parts; which is best is the whole.
"""

from __future__ import annotations

import argparse
import os
import tempfile
from pathlib import Path

from edgeprune.bench.measure import Images, compare, measure
from edgeprune.calibration.sets import read_calibration
from edgeprune.export.cuts import forms_of
from edgeprune.export.engine import build_engine, engine_file
from edgeprune.export.onnx import export_onnx
from edgeprune.export.qdq import export_qdq
from edgeprune.job import find_target
from edgeprune.quant.calibrate import Image, calibrate
from edgeprune.records.dataset import read_dataset
from edgeprune.records.request import Engine
from edgeprune.records.target import own_file
from edgeprune.runtime.decode import Thresholds
from edgeprune.runtime.preprocess import letterbox, read_image
from edgeprune.runtime.session import available
from edgeprune.yolo.blocks import float_layers
from edgeprune.yolo.load import load_detector

#: Images that the race draws from.
IMAGES = 16


def engines_of(arguments: argparse.Namespace, runtime: str, folder: Path) -> list[Engine]:
    """Every precision in every form."""
    profile, checkpoint, size = find_target(f"{runtime}-x86-int8"), Path(arguments.model), arguments.imgsz
    _, paths = read_calibration(arguments.calibration, read_dataset(Path(arguments.data)))
    plain, whole = folder / "float.onnx", folder / "quantized.onnx"
    folder.mkdir()
    export_onnx(checkpoint, plain, size, size, {})
    model = load_detector(checkpoint).model
    images = [Image(path.name, letterbox(read_image(path), size, size)[0]) for path in paths]
    record = calibrate(model, images, profile.quantization, float_layers(model), "percentile", "0" * 64)
    export_qdq(checkpoint, record, whole, size, size, {}, like=plain)
    found = []
    for precision in profile.precisions:
        if available(runtime, precision) is not None:
            continue
        graph = whole if precision == "int8" else plain
        for form in forms_of(graph, runtime):
            name = f"{runtime} {precision}, {form.words()}"
            work = folder / name.replace(" ", "-")
            work.mkdir()
            made = build_engine(
                runtime, graph, work, quantized=precision == "int8", half=own_file(runtime, precision), form=form
            )
            engine = Engine.of(profile, name, precision, engine_file(made))
            found.append(engine.model_copy(update={"form": form}))
    return found


def race(arguments: argparse.Namespace) -> None:
    with tempfile.TemporaryDirectory() as name:
        engines = [
            engine for runtime in arguments.runtimes for engine in engines_of(arguments, runtime, Path(name) / runtime)
        ]
        chosen = read_dataset(Path(arguments.data)).splits["val"][:IMAGES]
        images = Images(
            tuple(map(read_image, chosen)), arguments.imgsz, arguments.imgsz, Thresholds(score=arguments.score)
        )
        run = measure(engines, images, rounds=arguments.rounds)
    stock = {}
    print(f"{'p50 ms':62}{'image':>7} = {'pixels':>7} + {'engine':>7} + {'boxes':>7}   against the stock form")
    for engine, measured in zip(engines, run.measurements, strict=True):
        assert measured.parts is not None
        base = stock.setdefault((engine.runtime, engine.precision), measured)
        against = "" if base is measured else _ratio(measured, base)
        parts = measured.parts
        split = f"{parts.preprocess_ms:7.2f} + {parts.inference_ms:7.2f} + {parts.postprocess_ms:7.2f}"
        print(f"{engine.name:62}{measured.latency_ms.p50:7.2f} = {split}   {against}")
    print(run.environment, f"load {os.getloadavg()[0]:.1f}")


def _ratio(measured, base) -> str:  # type: ignore[no-untyped-def]
    found = compare(measured, base)
    return f"{found.ratio:.3f} ({found.confidence:.0%} interval {found.low:.3f} to {found.high:.3f})"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True)
    parser.add_argument("--data", required=True)
    parser.add_argument("--calibration", required=True, help="a name under calibration/, or a file")
    parser.add_argument("--imgsz", type=int, default=320)
    parser.add_argument("--rounds", type=int, default=40)
    parser.add_argument("--score", type=float, default=0.25, help="threshold of the boxes that are asked for")
    parser.add_argument("--runtimes", nargs="+", default=["onnxruntime", "openvino"])
    race(parser.parse_args())


if __name__ == "__main__":
    main()
