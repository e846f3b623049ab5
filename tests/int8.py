"""`make bench-int8` and `make bench-ptq`: what INT8 brings on this machine, and what it costs.

speed: a detector and a cut of it, each with SiLU and with ReLU, in every precision of both runtimes, interleaved in one
run, one engine a process. Weights don't matter for speed, so ReLU is put in without training and the cut isn't tuned.

ptq: mAP50-95 of the quantized graph in torch, in ONNX Runtime and in OpenVINO, for the portable scheme and for each
target's own; the float model above them. With --stock, Ultralytics' own INT8 exports beside them (needs nncf). With
--jitter N, what such a figure can tell: the portable graph in ONNX Runtime, N times, with every scale moved by up to a
millionth.
"""

from __future__ import annotations

import argparse
import shutil
import tempfile
from pathlib import Path

import numpy as np
import torch

from edgeprune.bench.measure import Images, measure
from edgeprune.calibration.sets import read_calibration
from edgeprune.errors import EdgepruneError
from edgeprune.export.engine import build_engine, engine_file
from edgeprune.export.onnx import export_onnx
from edgeprune.export.qdq import export_qdq
from edgeprune.job import find_target
from edgeprune.prune.make import prune_checkpoint
from edgeprune.prune.request import Request
from edgeprune.quant.calibrate import Image, calibrate
from edgeprune.quant.fake import attach
from edgeprune.quant.fold import fold
from edgeprune.records import Quantization, Scheme
from edgeprune.records.dataset import read_dataset
from edgeprune.records.files import sha256_file
from edgeprune.records.form import Input
from edgeprune.records.model import ModelFiles
from edgeprune.records.request import Engine
from edgeprune.runtime.decode import Thresholds
from edgeprune.runtime.predict import predict
from edgeprune.runtime.preprocess import Floats, Pixels, letterbox, read_image
from edgeprune.runtime.session import Session, available, open_session
from edgeprune.train.evaluate import score
from edgeprune.yolo.blocks import float_layers, swap_activation
from edgeprune.yolo.checkpoint import pack
from edgeprune.yolo.export import fused
from edgeprune.yolo.load import load_detector

TARGETS = {runtime: find_target(f"{runtime}-x86-int8") for runtime in ("onnxruntime", "openvino")}
PORTABLE = Scheme()


class Bench:
    """Engines of one detector, in a folder."""

    def __init__(self, arguments: argparse.Namespace, folder: Path) -> None:
        self.data, self.folder, self.size = read_dataset(Path(arguments.data)), folder, arguments.imgsz
        self.shape = (1, 3, self.size, self.size)
        chosen_from = read_dataset(Path(arguments.calibration_data or arguments.data))
        _, self.paths = read_calibration(arguments.calibration, chosen_from)
        self.images = [Image(p.name, letterbox(read_image(p), self.size, self.size)[0]) for p in self.paths]
        self.observer = arguments.observer

    def quantize(self, checkpoint: Path, scheme: Scheme) -> Quantization:
        model = load_detector(checkpoint).model
        return calibrate(model, self.images, scheme, float_layers(model), self.observer, sha256_file(checkpoint))

    def float_graph(self, checkpoint: Path) -> Path:
        made = self.folder / f"{checkpoint.stem}-float.onnx"
        if not made.is_file():
            export_onnx(checkpoint, made, self.size, self.size, {})
        return made

    def engine(self, checkpoint: Path, runtime: str, record: Quantization | None = None) -> Path:
        """The file that the runtime loads; in float without a record."""
        graph = self.float_graph(checkpoint)
        if record is not None:
            scheme = f"{record.scheme.activations}-{record.scheme.placement}"
            graph = self.folder / f"{checkpoint.stem}-{scheme}.onnx"
            export_qdq(checkpoint, record, graph, self.size, self.size, {}, like=self.float_graph(checkpoint))
        work = self.folder / f"{graph.stem}-{runtime}"
        work.mkdir()
        return engine_file(build_engine(runtime, graph, work, quantized=record is not None))

    def accuracy(self, session: Session) -> float:
        return score("", self.data, predict(session, self.data.splits["val"], self.shape)).map50_95

    def accuracy_of(self, runtime: str, file: Path, precision: str) -> float:
        return self.accuracy(open_session(runtime, file, precision))


class InTorch:
    """A model in torch with the face of a session."""

    runtime, cache, output_names = "torch", "none", ("output0",)
    input: Input = "floats"
    head = None

    def __init__(self, model: torch.nn.Module) -> None:
        self.model = model

    def run(self, images: Floats | Pixels) -> list[Floats]:
        with torch.no_grad():
            return [self.model(torch.from_numpy(images)).numpy()]


def speed(arguments: argparse.Namespace) -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        bench = Bench(arguments, folder)
        nets = _nets(Path(arguments.model), bench, arguments.macs_ratio)
        engines = []
        for net, checkpoint in nets.items():
            for runtime, profile in TARGETS.items():
                plain = bench.engine(checkpoint, runtime)
                whole = bench.engine(checkpoint, runtime, bench.quantize(checkpoint, profile.quantization))
                for precision, file in (("fp32", plain), ("bf16", plain), ("int8", whole)):
                    if precision in profile.precisions and available(runtime, precision) is None:
                        engines.append(Engine.of(profile, f"{net}|{runtime} {precision}", precision, file))
        images = Images(tuple(map(read_image, bench.paths[:8])), bench.size, bench.size, Thresholds(score=0.25))
        run = measure(engines, images, rounds=arguments.rounds, on_round=lambda done, total: None)
    columns = list(dict.fromkeys(engine.name.split("|")[1] for engine in engines))
    found = {m.engine: m.latency_ms.p50 for m in run.measurements}
    print(f"{'median ms':28}" + "".join(f"{column:>18}" for column in columns))
    for net in nets:
        cells = []
        for column in columns:
            base = found[f"{net}|{column.split()[0]} fp32"]
            value = found[f"{net}|{column}"]
            cells.append(f"{value:.2f}" + ("" if column.endswith("fp32") else f" ({base / value:.2f}x)"))
        print(f"{net:28}" + "".join(f"{cell:>18}" for cell in cells))
    print(run.environment)


def _nets(model: Path, bench: Bench, macs_ratio: float) -> dict[str, Path]:
    nets = {}
    for width, ratio in (("whole", None), (f"cut to {macs_ratio:.0%}", macs_ratio)):
        for activation in ("silu", "relu"):
            detector = load_detector(model)
            if activation != "silu":
                swap_activation(detector.model, activation)
            file = bench.folder / f"{activation}-{width.split()[0]}.pt"
            file.write_bytes(pack(detector.model, detector.checkpoint, half=detector.half))
            if ratio is not None:
                size = (bench.size, bench.size)
                request = Request(model=file, image_size=size, importance="l2", macs_ratio=ratio, channel_multiple=16)
                prune_checkpoint(request, files=ModelFiles(file, bench.folder / "plan.json"))
            nets[f"{width}, {activation}"] = file
    return nets


def ptq(arguments: argparse.Namespace) -> None:
    with tempfile.TemporaryDirectory() as name:
        bench, checkpoint = Bench(arguments, Path(name)), Path(arguments.model)
        print(f"mAP50-95, {checkpoint.name}, {len(bench.data.splits['val'])} images, observer {bench.observer}")
        print(f"{'':34}{'torch':>10}" + "".join(f"{runtime:>14}" for runtime in TARGETS))
        rows = {"float": (None, tuple(TARGETS)), "portable": (PORTABLE, tuple(TARGETS))}
        rows |= {f"{runtime}'s own": (profile.quantization, (runtime,)) for runtime, profile in TARGETS.items()}
        for row, (scheme, runtimes) in rows.items():
            record = None if scheme is None else bench.quantize(checkpoint, scheme)
            model = load_detector(checkpoint).model
            plain = fused(model)
            if record is not None:
                attach(plain, fold(model, plain, record))
            cells = [f"{bench.accuracy(InTorch(plain)):10.4f}"]
            for runtime in TARGETS:
                if runtime not in runtimes:
                    cells.append(f"{'-':>14}")
                    continue
                file = bench.engine(checkpoint, runtime, record)
                cells.append(f"{bench.accuracy_of(runtime, file, 'fp32' if record is None else 'int8'):14.4f}")
            label = row if scheme is None else f"{row} ({scheme.activations}, {scheme.placement})"
            print(f"{label:34}" + "".join(cells), flush=True)
        if arguments.jitter:
            record = bench.quantize(checkpoint, PORTABLE)
            found = [_jittered(bench, checkpoint, record, seed) for seed in range(arguments.jitter)]
            print(f"{'portable, scales moved by 1e-6':34}{min(found):24.4f} to {max(found):.4f}", flush=True)
        if arguments.stock:
            _stock(bench, checkpoint)


def _jittered(bench: Bench, checkpoint: Path, record: Quantization, seed: int) -> float:
    random = np.random.default_rng(seed)
    moved = {
        name: entry.model_copy(update={"scale": entry.scale * (1 + 1e-6 * random.uniform(-1, 1))})
        for name, entry in record.activations.items()
    }
    graph = bench.folder / f"jittered-{seed}.onnx"
    record = record.model_copy(update={"activations": moved})
    export_qdq(checkpoint, record, graph, bench.size, bench.size, {}, like=bench.float_graph(checkpoint))
    work = bench.folder / graph.stem
    work.mkdir()
    return bench.accuracy_of("onnxruntime", build_engine("onnxruntime", graph, work, quantized=True), "int8")


def _stock(bench: Bench, checkpoint: Path) -> None:
    """Ultralytics' exports, calibrated by itself on the same images."""
    import yaml
    from ultralytics import YOLO

    listed = bench.folder / "calibration.txt"
    listed.write_text("\n".join(str(path.resolve()) for path in bench.paths))
    content = {"path": str(bench.folder), "train": listed.name, "val": listed.name, "names": bench.data.names}
    (bench.folder / "data.yaml").write_text(yaml.safe_dump(content))
    local = bench.folder / "stock.pt"
    shutil.copyfile(checkpoint, local)
    for kind, runtime in (("onnx", "onnxruntime"), ("openvino", "openvino")):
        made = Path(YOLO(local).export(format=kind, quantize=8, imgsz=bench.size, data=str(bench.folder / "data.yaml")))
        file = made if made.is_file() else next(made.glob("*.xml"))
        print(f"{'stock INT8, ' + kind:34}{bench.accuracy_of(runtime, file, 'int8'):24.4f}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("speed", "ptq"))
    parser.add_argument("--model", required=True)
    parser.add_argument("--data", required=True)
    parser.add_argument("--calibration", required=True)
    parser.add_argument("--calibration-data", help="data.yaml that the calibration set was chosen from, if another")
    parser.add_argument("--imgsz", type=int, default=320)
    parser.add_argument("--observer", default="percentile")
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--macs-ratio", type=float, default=0.35)
    parser.add_argument("--stock", action="store_true")
    parser.add_argument("--jitter", type=int, default=0)
    arguments = parser.parse_args()
    try:
        {"speed": speed, "ptq": ptq}[arguments.what](arguments)
    except EdgepruneError as error:
        parser.exit(2, f"{error}\n")


if __name__ == "__main__":
    main()
