"""The stages of a target whose engines are tied to the machine (TensorRT): kits are made here, the board builds.

Rules:
- Two kits: the parent's, in FP16, and the build's, in all that the target asks for. `export` ends with them and needs
  no board.
- An engine is a stage's output like any other, keyed by its kit, by the board, its GPU and its TensorRT. What
  build_engine.py refuses, no later stage sees.
- What is asked of graphs rather than of engines (which layers go back to float, is the graph the model) is asked of a
  stand-in on this machine: ONNX Runtime. What counts in the end, latency, golden outputs and mAP, is the board's.
"""

from __future__ import annotations

import platform
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import edgeprune.kit
from edgeprune.bench.ask import Bench
from edgeprune.bench.local import LocalBench
from edgeprune.job import Job
from edgeprune.records import BoardEngine, Parity, TargetProfile, read_json
from edgeprune.records.bundle import KitOrigin
from edgeprune.records.request import Engine
from edgeprune.records.target import Precision
from edgeprune.stages.common import PARITY_IMAGES, QUANTIZED, VARIANTS, artifact, asked, folder_of, probes, versions
from edgeprune.version import __version__

if TYPE_CHECKING:
    from edgeprune.records.model import ModelFiles

STAND_IN = "onnxruntime"
#: In a bundle.
KIT, BOARD = "kit", "board.json"


@dataclass(frozen=True)
class Place:
    """Where a graph can be run that isn't a finished engine.

    Attributes:
        stand_in: The library, where it isn't the target's.
    """

    profile: TargetProfile
    bench: Bench
    architecture: str
    stand_in: str | None

    @property
    def reads(self) -> dict[str, object]:
        """What figures of it depend on."""
        runtime = self.profile.runtime
        return {"device": self.profile.device, "there": self.bench.versions(runtime), **versions(runtime)}


def place(job: Job) -> Place:
    """The target's own runtime and device, or a stand-in."""
    if not job.on_board:
        return Place(job.profile, job.bench, job.architecture, None)
    update = {"runtime": STAND_IN, "device": "local", "precisions": ("fp32", "int8")[: 1 + job.int8], "dla": None}
    return Place(job.profile.model_copy(update=update), LocalBench(), platform.machine(), STAND_IN)


def parent_artifact(job: Job) -> Path:
    """The parent as `place` runs it, in FP32."""
    return job.shop / "parent.onnx" if job.on_board else artifact(job.shop / "engines/parent")


def kits(job: Job, variants: Sequence[str] = VARIANTS, again: bool = False) -> None:
    """kits/parent and kits/pruned: all that a board needs to build the engines, check them, and race them by itself."""
    for variant in variants:
        graph = job.shop / f"{variant}.onnx"
        quantized = job.shop / "mixed.onnx" if job.int8 and variant == "pruned" else None

        def act(work: Path, variant: str = variant, graph: Path = graph, quantized: Path | None = quantized) -> None:
            from edgeprune.export.kit import write_kit

            write_kit(quantized, graph, job.data.splits["val"], work / "kits" / variant)

        job.shop.stage(
            f"kit of {variant}", act,
            reads={
                "graph": graph, "data": job.sha256["data"], **({QUANTIZED: quantized} if quantized else {}),
                "edgeprune": __version__, "script": Path(edgeprune.kit.__path__[0]) / "build_engine.py",
                **versions("onnx", "onnxruntime", "numpy"),
            },
            makes=(f"kits/{variant}",), force=again,
        )  # fmt: skip


def build_on_device(job: Job, variants: Sequence[str] = VARIANTS) -> None:
    """engines/VARIANT-PRECISION: model.engine, as the board built it of the kit, and what it says of it."""
    if not job.on_board:
        return
    there = job.bench.versions(job.profile.runtime)
    for variant, precision in asked(job, variants):
        kit, folder = job.shop / f"kits/{variant}", f"engines/{folder_of(job, variant, precision)}"
        name = f"build {variant} {precision} on the device"

        def act(
            work: Path, kit: Path = kit, folder: str = folder, precision: str = precision, name: str = name
        ) -> None:
            from edgeprune.bench.ask import build

            (work / folder).mkdir(parents=True)
            build(
                job.bench, kit, precision, job.profile.dla, work / folder,
                lambda what, done, total: job.shop.listener.progress(name, int(done), int(total), what),
            )  # fmt: skip

        job.shop.stage(
            name, act,
            reads={"kit": kit, "device": job.profile.device, "there": there, "dla": job.profile.dla},
            makes=(folder,),
        )  # fmt: skip


def built(job: Job, variant: str, precision: str) -> BoardEngine:
    """What the board said of an engine."""
    from edgeprune.errors import DeviceError

    file = job.shop / f"engines/{folder_of(job, variant, precision)}" / "engine.json"
    return read_json(file, BoardEngine, DeviceError)


def board_records(job: Job) -> dict[str, Path]:
    """What the board said of every engine, for who reads it all."""
    if not job.on_board:
        return {}
    folders = (job.shop / f"engines/{folder_of(job, *pair)}" for pair in asked(job))
    return {f"{folder.name} built": folder / "engine.json" for folder in folders}


def built_note(job: Job, variant: str, precision: str) -> str:
    """An engine's building in a sentence, for the report."""
    made = built(job, variant, precision)
    own, board = made.candidate(precision), made.board
    where = ", ".join(filter(None, (board.model, f"L4T {board.l4t}" if board.l4t else "", made.machine)))
    off = own.golden and (
        f"; golden outputs: boxes off by {own.golden.boxes_rms_px:.3g} px of {own.golden.boxes_rms_px_tolerated:g}, "
        f"scores by {own.golden.scores_rms:.3g} of {own.golden.scores_rms_tolerated:g}"
    )
    int8 = f", {len(own.convolutions)} convolutions, all in INT8" if own.convolutions else ""
    return (
        f"{variant} {precision}: built in {own.build_s:.0f} s by TensorRT {made.tensorrt} ({where}; power mode "
        f"{board.power_mode}){int8}{off or ''}"
    )


def pack_kit(job: Job, precision: str, into: Path) -> tuple[str, KitOrigin]:
    """What goes to the fleet: the kit, and what this board made of it. Returns the manifest's `engine` and `kit`."""
    import shutil

    from edgeprune.export.kit import kit_sha256

    shutil.copytree(job.shop / "kits/pruned", into / KIT)
    shutil.copyfile(job.shop / f"engines/{folder_of(job, 'pruned', precision)}" / "engine.json", into / BOARD)
    made = built(job, "pruned", precision)
    origin = KitOrigin(
        folder=KIT, sha256=kit_sha256(into / KIT), board=BOARD, tensorrt=made.tensorrt,
        engine_sha256=made.sha256["model.engine"],
    )  # fmt: skip
    return f"{KIT}/kit.json", origin


def graph_parity(job: Job, model: ModelFiles, variant: str, precision: Precision) -> Parity:
    """Is the graph that a kit carries the model? In the stand-in, tensor by tensor; raises as the checks do."""
    from edgeprune.export.parity import check_parity
    from edgeprune.export.steps import check_steps
    from edgeprune.yolo.load import load_detector

    at, name, pixels = place(job), f"{variant} {precision}", probes(job, PARITY_IMAGES, variant)
    if precision == "int8":
        assert model.quantization is not None
        return check_steps(
            name, model.checkpoint, model.quantization, job.shop / "mixed.onnx", at.profile.runtime, pixels, at.bench,
            at.architecture,
        )  # fmt: skip
    checkpoint = job.shop / "parent.pt" if variant == "parent" else model.checkpoint
    graph = job.shop / f"{variant}.onnx"
    return check_parity(Engine.of(at.profile, name, "fp32", graph), load_detector(checkpoint).model, graph, pixels)
