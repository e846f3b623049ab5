"""The stages that find out whether engines compute what they should: against torch, and by mAP on the runtime itself.

Rules:
- Tensors are compared in the stock form. Another one that won finds the same as the stock form does, or is refused;
  what it finds on val is the engine's accuracy.
- Of an engine that a board built: its graph against torch, here, and its golden outputs, there.
- The parent is verified apart, so that several builds of one parent share it.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path

from edgeprune.errors import EdgepruneError
from edgeprune.job import Job
from edgeprune.records import Choice, Parity, VerifyRun, files, read_json, write_json
from edgeprune.records.golden import GoldenDifference
from edgeprune.records.model import ModelFiles
from edgeprune.records.request import Engine
from edgeprune.runtime.preprocess import Floats
from edgeprune.stages.board import built, graph_parity
from edgeprune.stages.common import (
    PARITY_IMAGES,
    choices,
    engine_files,
    engines,
    lacking,
    probe_images,
    probes,
    tuned,
    versions,
)

#: The parent's part of verify.json, and of predictions/.
PARENT, PARENTS_PREDICTIONS = "verify-parent.json", "predictions-parent"


def verify(job: Job, model: ModelFiles, again: bool = False) -> None:
    """verify.json; predictions/ in COCO's format."""
    _stage(job, "verify parent", ("parent",), model, (PARENT, PARENTS_PREDICTIONS), again)
    _stage(job, "verify", ("pruned",), model, ("verify.json", "predictions"), again)


def _stage(
    job: Job, name: str, variants: tuple[str, ...], model: ModelFiles, makes: tuple[str, str], again: bool
) -> None:
    """One variant's figures; the build's with the parent's before them."""
    parents = (
        {} if variants == ("parent",) else {"parent's": job.shop / PARENT, "found": job.shop / PARENTS_PREDICTIONS}
    )

    def act(work: Path) -> None:
        found = _verified(job, name, variants, model, work / makes[1])
        if parents:
            whole = read_json(job.shop / PARENT, VerifyRun, EdgepruneError)
            found = VerifyRun(
                parity=(*whole.parity, *found.parity), accuracy=(*whole.accuracy, *found.accuracy),
                golden={**whole.golden, **found.golden},
            )  # fmt: skip
            shutil.copytree(job.shop / PARENTS_PREDICTIONS, work / makes[1], dirs_exist_ok=True)
        write_json(work / makes[0], found)

    job.shop.stage(
        name, act,
        reads={
            **engine_files(job, variants), **parents, "data": job.sha256["data"], "chosen": _numbers(job, variants),
            **versions("pycocotools"),
        },
        makes=makes, force=again,
    )  # fmt: skip


def _verified(job: Job, stage: str, variants: tuple[str, ...], model: ModelFiles, predictions: Path) -> VerifyRun:
    from edgeprune.bench.ask import detections
    from edgeprune.export.form_parity import check_form
    from edgeprune.train.evaluate import score

    images = job.data.splits["val"]
    parities, accuracies = [], []
    golden: dict[str, GoldenDifference] = {}
    stock = engines(job, lacking(job), variants)
    for plain, chosen in zip(stock, tuned(job, stock), strict=True):
        engine, variant = plain.run_with(chosen.settings), plain.name.split()[0]
        parities.append(_parity(job, engine, variant, model))
        if job.on_board:
            found = built(job, variant, engine.precision).candidate(engine.precision).golden
            golden |= {engine.name: found} if found is not None else {}
        if not chosen.form.stock:
            shown = probe_images(job)[:PARITY_IMAGES]
            parities.append(check_form(engine, chosen, shown, job.shape_of(variant), job.bench))

        def on_image(done: int, name: str = engine.name) -> None:
            job.shop.listener.progress(stage, done, len(images), name)

        results = detections(job.bench, chosen, images, job.shape_of(variant), on_image=on_image)
        accuracies.append(score(engine.name, job.data, results))
        files.write_bytes(predictions / f"{engine.name.replace(' ', '-')}.json", json.dumps(results).encode())
    return VerifyRun(parity=tuple(parities), accuracy=tuple(accuracies), golden=golden)


def _parity(job: Job, engine: Engine, variant: str, model: ModelFiles) -> Parity:
    """An engine in its stock form against torch."""
    from edgeprune.export.parity import check_parity
    from edgeprune.export.steps import check_steps
    from edgeprune.yolo.load import load_detector

    if job.on_board:
        return graph_parity(job, model, variant, engine.precision)
    pixels: Floats = probes(job, PARITY_IMAGES, variant)
    if engine.precision == "int8":
        assert model.quantization is not None
        return check_steps(
            engine.name, model.checkpoint, model.quantization, job.shop / "mixed.onnx", engine.runtime, pixels,
            job.bench, job.architecture, engine.settings,
        )  # fmt: skip
    checkpoint = job.shop / "parent.pt" if variant == "parent" else model.checkpoint
    return check_parity(engine, load_detector(checkpoint).model, job.shop / f"{variant}.onnx", pixels, job.bench)


def _numbers(job: Job, variants: tuple[str, ...]) -> dict[str, object]:
    """What of each engine's choice its accuracy may depend on."""
    chosen: list[tuple[str, Choice]] = [c for c in sorted(choices(job).items()) if c[0].split()[0] in variants]
    return {name: [c.form.model_dump(), c.settings.numbers] for name, c in chosen}
