"""The stage that finds out how each engine is best run on the device: parent and build, each at its best.

Rules:
- Each engine's candidates are raced among themselves, in one run, few rounds; the fastest is kept, and the full race
  and the verdict are run with it. The parent has the same choice as the build: else settings would win, not pruning.
- Accuracy isn't asked again: no candidate changes what is computed.
- The fastest is the one with the lowest median of block medians; figures of all are kept.
- A target that leaves no choice races nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from edgeprune.errors import DeviceError
from edgeprune.job import Job
from edgeprune.records import BenchRun, Tune, read_json, write_json
from edgeprune.records.request import Engine
from edgeprune.records.settings import Settings
from edgeprune.records.tune import Candidate
from edgeprune.stages.common import engine_files, engines, probe_images

#: Rounds of a race among settings. A verdict has 40; 10 tell differences of some per cent, and smaller ones don't
#: matter for a choice.
ROUNDS = 10


def tune(job: Job, again: bool = False) -> None:
    """tune.json: the settings that every engine runs with from here on."""

    def act(work: Path) -> None:
        from edgeprune.bench.ask import about
        from edgeprune.bench.candidates import asks_for_choice, candidates

        profile = job.profile
        there = about(job.bench, profile.runtime, profile.precisions, profile.plugin)
        raced = engines(job, there.lacking)
        if not asks_for_choice(profile):
            write_json(work / "tune.json", Tune(chosen={engine.name: engine.settings for engine in raced}))
            return
        settings, left_out = candidates(profile, there.places)
        if not settings:
            raise DeviceError(
                "None of the target's settings can be had on the device.", where=profile.device,
                got="; ".join(left_out), next_step="`threads` and `affinity` of the target",
            )  # fmt: skip
        chosen: dict[str, Settings] = {}
        found: list[Candidate] = []
        environment: dict[str, str] = {}
        for number, engine in enumerate(raced):
            if len(settings) == 1:
                chosen[engine.name] = settings[0]
                continue
            run = _race(job, engine, settings, number, len(raced))
            own = judge(engine.name, run)
            chosen[engine.name] = own[0].settings
            found += own
            environment = run.environment
        write_json(
            work / "tune.json",
            Tune(chosen=chosen, candidates=tuple(found), left_out=left_out, environment=environment),
        )

    job.shop.stage(
        "tune", act,
        reads={
            **engine_files(job), "data": job.sha256["data"], "seed": job.recipe.seed,
            "settings": job.profile.model_dump(
                mode="json", include={"threads", "affinity", "spinning", "hints", "cache"}
            ),
        },
        makes=("tune.json",), force=again,
    )  # fmt: skip


def tuned(job: Job, found: Sequence[Engine]) -> list[Engine]:
    """Engines with the settings that won."""
    chosen = read_json(job.shop / "tune.json", Tune, DeviceError).chosen
    return [engine.run_with(chosen[engine.name]) for engine in found]


def judge(engine: str, run: BenchRun) -> list[Candidate]:
    """Every candidate of one engine's race, the fastest first."""
    import numpy as np

    from edgeprune.bench.measure import compare

    medians = [float(np.median([np.median(block) for block in m.blocks_ms])) for m in run.measurements]
    order = np.argsort(medians, kind="stable").tolist()
    best = run.measurements[order[0]]
    candidates = []
    for place, index in enumerate(order):
        measured = run.measurements[index]
        against = compare(measured, best)
        interval = f"{against.ratio:.3f} times its time ({against.confidence:.0%} interval {against.low:.3f} to "
        interval += f"{against.high:.3f})"
        lost = f"slower than {best.settings.words()}: {interval}"
        alike = f"no different from {best.settings.words()} as far as {against.pairs} rounds can tell: {interval}"
        candidates.append(
            Candidate(
                engine=engine, settings=measured.settings, latency_ms=measured.latency_ms, ratio=against.ratio,
                low=against.low, high=against.high, chosen=place == 0,
                why=f"the fastest of {len(order)}" if place == 0 else lost if against.low > 1 else alike,
            )
        )  # fmt: skip
    return candidates


def _race(job: Job, engine: Engine, settings: Sequence[Settings], number: int, total: int) -> BenchRun:
    from edgeprune.bench.ask import race

    return race(
        job.bench, [engine.run_with(s, f"{engine.name}, {s.words()}") for s in settings], probe_images(job),
        job.profile.input_shape, seed=job.recipe.seed, rounds=ROUNDS,
        on_round=lambda done, rounds: job.shop.listener.progress(
            "tune", number * rounds + done, total * rounds, engine.name
        ),
    )  # fmt: skip
