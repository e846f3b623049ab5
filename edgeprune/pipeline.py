"""The story of a build, top to bottom: checkpoint in, accepted bundle out. Several builds beside each other are told of
in `curve.py`, `sweep.py` (goals) and `sizes.py` (input sizes).

Each line below is a stage of `stages/`. A stage reads and writes files under `out/TARGET/` and is done
only once for the same inputs; any of them can be asked for alone.
"""

from __future__ import annotations

from pathlib import Path

from edgeprune import stages
from edgeprune.job import plan_job
from edgeprune.records import Recipe, Report, TargetProfile
from edgeprune.schedule import phases
from edgeprune.workshop import Listener

#: In order; `until` takes one of them.
STAGES = ("prune", "finetune", "export", "tune", "verify", "bench", "report")


def build(
    *,
    model: Path | str,
    data: Path | str,
    target: str | TargetProfile,
    recipe: Path | str | Recipe | None = None,
    out: Path | str = "build",
    until: str = "report",
    again: bool = False,
    calibration: str | None = None,
    device: str | None = None,
    folder: str | None = None,
    listener: Listener | None = None,
) -> Report | None:
    """Build a target from a trained detector.

    Args:
        model: The trained checkpoint (.pt).
        data: Its data.yaml: train for fine-tuning, val for the verdict.
        target: Name under targets/, path of a target's YAML, or the record.
        recipe: Path of a recipe's YAML or the record; without one, the defaults.
        out: Where builds go; this one into `out/TARGET`.
        until: The last stage to run.
        again: Run that stage even if it has been done; with bench, the race that chooses forms and settings as well.
        calibration: Calibration set for a target with int8: a name or a YAML; instead of the recipe's.
        device: Where its engines run, instead of where the target says: local, or ssh://user@host.
        folder: Name of the build's folder in `out`, instead of the target's: builds of one target beside each other.
        listener: Told what happens.

    Returns:
        The report with the verdict, if `until` reaches it; the accepted build lies in `out/TARGET/bundle`.

    Raises:
        EdgepruneError: Something that the user can mend.
    """
    job = plan_job(model, data, target, recipe, out, listener, calibration, device, folder)
    wanted = STAGES[: STAGES.index(until) + 1]

    def asked(stage: str) -> bool:
        return again and stage == until

    if "export" in wanted or job.recipe.goal.in_time:
        stages.reach(job, kits="tune" not in wanted)
    with job.shop.open():
        made = stages.admit(job)
        job = stages.pace(job)
        for phase in phases(job.recipe, int8=job.int8):
            made = stages.swap(job, phase, made)
            made = stages.calibrate(job, phase, made)
            made = stages.prune(job, phase, made, again="cut" in phase.last and asked("prune"))
            if "cut" in phase.last and "finetune" not in wanted:
                return None
            made = stages.finetune(job, phase, made, again="train" in phase.last and asked("finetune"))
            stages.price(job, phase, made)
        if "export" in wanted:
            stages.export(job, made, again=asked("export"))
        if "tune" in wanted:
            stages.build_on_device(job)
            stages.tune(job, again=asked("tune") or asked("bench"))
        if "verify" in wanted:
            stages.verify(job, made, again=asked("verify"))
        if "bench" in wanted:
            stages.bench(job, again=asked("bench"))
        if "report" not in wanted:
            return None
        stages.report(job, again=asked("report"))
        report = stages.offer(job)
        stages.bundle(job, report)
        stages.page(job, again=asked("report"))
        return report
