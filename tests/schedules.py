"""`make bench-schedules`: the three schedules of a quantized build against each other, equal epochs, several seeds.

Every build is made by the pipeline itself, with the same recipe but for the schedule and the seed; all engines are
then raced in one run. Prints mean and range over the seeds. With --stock, Ultralytics' own QAT of the unpruned model
is trained for as many epochs, and its exports are scored and raced beside ours (needs nvidia-modelopt).
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
from collections import defaultdict
from pathlib import Path
from statistics import mean

import yaml

from edgeprune.bench.measure import Images, measure
from edgeprune.errors import EdgepruneError
from edgeprune.job import find_target
from edgeprune.pipeline import build
from edgeprune.records import Goal, Recipe, VerifyRun, read_json
from edgeprune.records.dataset import read_dataset
from edgeprune.records.request import Engine
from edgeprune.records.target import RACED
from edgeprune.report.console import ConsoleListener
from edgeprune.runtime.decode import Thresholds
from edgeprune.runtime.preprocess import read_image

SCHEDULES = ("qap", "prune-then-qat", "ptq")

STOCK = """
import sys
from ultralytics import YOLO
model, data, epochs, size, seed, rate, work = sys.argv[1:]
trained = YOLO(model)
trained.train(data=data, epochs=int(epochs), imgsz=int(size), batch=16, nbs=16, optimizer="AdamW", lr0=float(rate),
    lrf=0.01, cos_lr=True, patience=0, warmup_epochs=1.0, warmup_bias_lr=0.0, close_mosaic=max(1, int(epochs) // 4),
    quantize=8, seed=int(seed), project=work, name="train", exist_ok=True, plots=False, device="cpu", workers=0)
print(YOLO(work + "/train/weights/best.pt").export(format="onnx", imgsz=int(size), quantize=8, data=data, device="cpu"))
"""


def main() -> None:
    arguments = _arguments()
    out = Path(arguments.out)
    profile = find_target(arguments.target)
    # one form, one set of settings: schedules are what is compared here
    profile = profile.model_copy(update={"forms": "stock", **{key: getattr(profile, key)[:1] for key in RACED}})
    engines: dict[str, list[Engine]] = defaultdict(list)
    scores: dict[str, list[float]] = defaultdict(list)
    for seed in range(arguments.seeds):
        for schedule in SCHEDULES:
            recipe = Recipe(
                goal=Goal(macs_ratio=arguments.macs_ratio, max_map_drop=0.5),  # nothing goes back to float here
                schedule=schedule, epochs=arguments.epochs, seed=seed, calibration=arguments.calibration,
            )  # fmt: skip
            folder = out / f"{schedule}-{seed}"
            build(
                model=arguments.model, data=arguments.data, target=profile, recipe=recipe, out=folder,
                until="verify", listener=ConsoleListener(_console()),
            )  # fmt: skip
            shop = folder / "custom"
            found = {a.engine: a for a in read_json(shop / "verify.json", VerifyRun, EdgepruneError).accuracy}
            for engine, name in (("parent fp32", "parent fp32"), ("pruned int8", f"{schedule} int8")):
                file = next(
                    (shop / "engines" / ("parent" if "parent" in engine else "quantized")).rglob("model.[ox][nm]*")
                )
                if name not in scores or "parent" not in name:
                    scores[name].append(found[engine].map50_95)
                    engines[name].append(Engine.of(profile, f"{name} {seed}", engine.split()[1], file))
            print({name: [round(v, 4) for v in values] for name, values in scores.items()}, flush=True)
    if arguments.stock:
        _stock(arguments, out, scores, engines)
    chosen = tuple(map(read_image, read_dataset(Path(arguments.data)).splits["val"][:16]))
    images = Images(chosen, *profile.input_shape[2:], Thresholds(score=0.25))
    run = measure([engine for line in engines.values() for engine in line[:1]], images)
    latency = {m.engine.rsplit(" ", 1)[0]: m.latency_ms for m in run.measurements}
    print(f"{'':24} {'mAP50-95':>9} {'lowest':>8} {'highest':>8} {'p50 ms':>7} {'MB':>6}   {profile.runtime}")
    for name, values in scores.items():
        file = Path(engines[name][0].file)
        size = sum(p.stat().st_size for p in {file, file.with_suffix(".bin")} if p.is_file())
        figures = f"{mean(values):9.4f} {min(values):8.4f} {max(values):8.4f} {latency[name].p50:7.2f}"
        print(f"{name:24} {figures} {size / 1e6:6.2f}")


def _stock(
    arguments: argparse.Namespace, out: Path, scores: dict[str, list[float]], engines: dict[str, list[Engine]]
) -> None:
    from edgeprune.runtime.predict import predict
    from edgeprune.runtime.session import open_session
    from edgeprune.train.evaluate import score

    profile, data = find_target(arguments.target), read_dataset(Path(arguments.data))
    for seed in range(arguments.seeds):
        work = out / f"stock-{seed}"
        work.mkdir(parents=True, exist_ok=True)
        made = work / "train/weights/best.onnx"
        if not made.is_file():
            content = {"path": str(work.resolve()), "names": data.names}
            for split, images in data.splits.items():
                (work / f"{split}.txt").write_text("\n".join(str(p.resolve()) for p in images))
                content[split] = f"{split}.txt"
            (work / "data.yaml").write_text(yaml.safe_dump(content))
            settings = (arguments.epochs, profile.input_shape[2], seed, Recipe().learning_rate * Recipe().qat_rate)
            command = [
                sys.executable, "-c", STOCK, arguments.model, str(work / "data.yaml"), *map(str, settings),
                str(work.resolve()),
            ]  # fmt: skip
            subprocess.run(command, check=True, stdout=subprocess.DEVNULL, env=dict(os.environ))
        session = open_session(profile.runtime, made, "int8", profile.settings)
        results = predict(session, data.splits["val"], profile.input_shape)
        scores["stock QAT, unpruned"].append(score("", data, results).map50_95)
        engines["stock QAT, unpruned"].append(Engine.of(profile, f"stock QAT, unpruned {seed}", "int8", made))
        print("stock", scores["stock QAT, unpruned"], flush=True)


def _console() -> object:
    from rich.console import Console

    return Console(file=sys.stderr, soft_wrap=True)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", required=True)
    parser.add_argument("--data", required=True)
    parser.add_argument("--calibration", required=True)
    parser.add_argument("--target", default="openvino-x86-int8")
    parser.add_argument("--epochs", type=int, default=8)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--macs-ratio", type=float, default=0.5)
    parser.add_argument("--out", default="build/schedules")
    parser.add_argument("--stock", action="store_true")
    return parser.parse_args()


if __name__ == "__main__":
    main()
