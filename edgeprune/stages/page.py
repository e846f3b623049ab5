"""What report.json holds beside rows and verdict, and report.html, which shows it all."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Any

from edgeprune.job import Job
from edgeprune.records import BenchRun, Measurement, Origin, PrunePlan, Verdict, VerifyRun
from edgeprune.records.address import LOCAL


def page(job: Job, again: bool = False) -> None:
    """report.html; after the bundle, since a benchmark of that bundle belongs on it."""
    from edgeprune.report.renew import renew

    renew(job.shop, force=again)


def figures(
    job: Job, work: Path, run: BenchRun, checked: VerifyRun, plan: PrunePlan, verdict: Verdict
) -> dict[str, Any]:
    """Fields of `Report`; the sample images go to `work`/samples."""
    from edgeprune.report import figures, samples
    from edgeprune.yolo.load import load_detector
    from edgeprune.yolo.widths import widths

    accuracies = checked.accuracy
    predictions = {e: job.shop / f"predictions/{e.replace(' ', '-')}.json" for e in (a.engine for a in accuracies)}
    pair = verdict.comparison
    return {
        "candidates": figures.candidates(listed(run.measurements), accuracies, verdict, job.recipe.goal),
        "latencies": figures.latency_picture(run),
        "widths": figures.layer_widths(widths(load_detector(job.shop / "parent.pt").model), plan),
        "parity": checked.parity,
        "samples": samples.samples(job.data, predictions[pair.parent], predictions[pair.build], work),
        "sample_score": samples.SCORE,
        "origin": Origin(
            command=_command(job), target=job.profile.model_copy(update={"input_shape": job.own_shape}),
            recipe=job.recipe, names=job.data.names, val_images=accuracies[0].images,
        ),
    }  # fmt: skip


def listed(measurements: tuple[Measurement, ...]) -> list[Measurement]:
    """In the order of the report's rows: the parent's engines first."""
    return sorted(measurements, key=lambda m: not m.engine.startswith("parent"))


def _command(job: Job) -> str:
    words = [
        "edgeprune", "build", f"{job.target}.yaml", "--model", str(job.model), "--data", str(job.data.file),
        "--recipe", "recipe.yaml",
    ]  # fmt: skip
    if job.calibration_set:
        words += ["--calibration", job.calibration_set]
    if job.profile.device != LOCAL:
        words += ["--device", job.profile.device]
    return shlex.join(words)
