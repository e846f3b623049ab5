"""`make bench-aa`: an engine raced against itself. How often does the race see a difference where there is none?

Two processes load the same file and are raced as parent and build are; a race that calls one of them faster beyond its
interval is wrong. Asked for: at most one race in twenty (the interval is one of 99 %, so one in a hundred is expected).
Prints a table, and ends with 1 where it is more. --rounds 40 is the verdict's own race; the default is a quick one.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from statistics import median

from rich.console import Console
from rich.progress import track
from rich.table import Table

from edgeprune.bench.ask import race
from edgeprune.bench.local import LocalBench
from edgeprune.bench.measure import compare
from edgeprune.demo import NAMES, draw_data_set
from edgeprune.export.engine import build_engine, engine_file
from edgeprune.export.onnx import export_onnx
from edgeprune.records import Comparison, Settings
from edgeprune.records.dataset import read_dataset
from edgeprune.records.request import Engine
from edgeprune.yolo.checkpoint import pack
from edgeprune.yolo.load import untrained

#: Share of races that may see a difference.
ASKED = 0.05


@dataclass(frozen=True)
class Found:
    """What races of an engine against itself said."""

    comparisons: tuple[Comparison, ...]

    @property
    def wrong(self) -> int:
        """Races whose interval excludes 1."""
        return sum(c.low > 1 or c.high < 1 for c in self.comparisons)

    @property
    def wrong_tails(self) -> int:
        """Races that called one of them slower at its slowest, of those that could tell."""
        return sum(c.tail is not None and c.tail.slower for c in self.comparisons)

    @property
    def share(self) -> float:
        return self.wrong / len(self.comparisons)


def races(engine: Engine, images: list[Path], size: int, *, number: int, rounds: int, seed: int = 0) -> Found:
    """Race an engine against itself.

    Args:
        number: Of races; each has a seed of its own.
    """
    twins = [engine.model_copy(update={"name": name}) for name in ("one", "same")]
    found = []
    for turn in track(range(number), "races", console=Console(stderr=True)):
        run = race(
            LocalBench(), twins, images, (1, 3, size, size), seed=seed + turn, rounds=rounds,
            on_round=lambda done, total: None,
        )  # fmt: skip
        found.append(compare(run.measurements[1], run.measurements[0], seed=seed + turn))
    return Found(tuple(found))


def show(found: dict[str, Found], rounds: int, console: Console) -> None:
    """Print what was found, a runtime a row."""
    headings = ("races", "differ", "share", "tails", "ratio", "least", "most", "interval")
    table = Table(title=f"An engine against itself, {rounds} rounds a race", box=None, title_justify="left")
    table.add_column("runtime")
    for heading in headings:
        table.add_column(heading, justify="right")
    for runtime, those in found.items():
        ratios = [c.ratio for c in those.comparisons]
        figures = (median(ratios), min(ratios), max(ratios), median(c.high - c.low for c in those.comparisons))
        table.add_row(
            runtime, str(len(ratios)), str(those.wrong), f"{those.share:.1%}", str(those.wrong_tails),
            *(f"{figure:.4f}" for figure in figures),
        )  # fmt: skip
    console.print(table)
    console.print(
        f"differ: races whose interval excludes 1, at most {ASKED:.0%} of them; tails: races that call one slower at "
        "its slowest; ratio: their median; interval: its median width"
    )


def main() -> int:
    asked = _arguments()
    found: dict[str, Found] = {}
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        draw_data_set(work / "scenes", seed=1, train=1, val=4, size=asked.size)
        images = list(read_dataset(work / "scenes" / "data.yaml").splits["val"])
        checkpoint = Path(asked.model) if asked.model else work / "model.pt"
        if not asked.model:
            checkpoint.write_bytes(pack(untrained("yolov8n.yaml", dict(enumerate(NAMES)), seed=0), {}, half=True))
        export_onnx(checkpoint, work / "model.onnx", asked.size, asked.size, {})
        for runtime in asked.runtimes:
            (work / runtime).mkdir()
            made = engine_file(build_engine(runtime, work / "model.onnx", work / runtime))
            engine = Engine(
                name="one", runtime=runtime, precision="fp32", file=str(made), settings=Settings(threads=asked.threads)
            )
            found[runtime] = races(engine, images, asked.size, number=asked.races, rounds=asked.rounds)
    show(found, asked.rounds, Console())
    return 1 if max(those.share for those in found.values()) > ASKED else 0


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="make bench-aa")
    parser.add_argument("--races", type=int, default=200)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--model", help="a checkpoint; without one, an untrained YOLOv8n")
    parser.add_argument("--size", type=int, default=320)
    parser.add_argument("--threads", type=int, default=0)
    parser.add_argument("--runtimes", nargs="+", default=["onnxruntime", "openvino"])
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
