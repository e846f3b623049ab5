"""Builds at several input sizes, and the choice among them: what `edgeprune build` does with a recipe's `imgsz`.

Rules:
- Every size is a build of its own with the same goal, in `out/TARGET-320px`, pruned, fine-tuned, exported and scored at
  that size. Its verdict is against the parent at the target's own size: that is what the user has.
- In the final race stand the parent at its own size, the parent at every size that is raced, and each build's best. The
  parent's mAP at a size shows what the size alone costs and brings.
- A goal in time (latency_ms, fps, speedup) is the same budget for all sizes; speedup counts from the parent at its own
  size. Among the builds that hold and meet it, the best mAP is chosen. For a goal that isn't a time, or where none
  meets it, the fastest that holds. Where none holds, the fastest of those whose mAP does, else the one that lost least.
- The chosen build is `out/TARGET`, as if the recipe had named its size alone: bundle, report and page lie where they
  always do, taken over from its own folder. sizes.json and sizes.html beside it have all of them.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from edgeprune import pipeline
from edgeprune.curve import Made, Order, Told, entrants, figures, final_race, make, points, renew_offers, standings
from edgeprune.errors import EdgepruneError, PlanError
from edgeprune.job import Job, read_recipe
from edgeprune.records import (
    Accuracy,
    BenchRun,
    Goal,
    PrunePlan,
    Recipe,
    Report,
    Row,
    Sweep,
    TargetProfile,
    files,
    read_json,
    write_json,
)
from edgeprune.records.goals import kind_and_value, short
from edgeprune.records.request import Engine
from edgeprune.records.sweep import Point, Raced, front
from edgeprune.report.pareto import renew_sweep
from edgeprune.report.renew import renew
from edgeprune.report.verdict import drop_holds
from edgeprune.stages.common import artifact, loaded_bytes, versions
from edgeprune.version import __version__
from edgeprune.workshop import Listener, Workshop


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
    listener: Listener | None = None,
    on_point: Told = lambda said: None,
) -> Report | None:
    """Build a target from a trained detector: `pipeline.build`, which has the arguments, for each size of the recipe.

    Args:
        on_point: Told which build is next, where there are several.

    Returns:
        The report of the build, or of the chosen one; None where `until` ends before it.

    Raises:
        EdgepruneError: Something that the user can mend.
    """
    chosen = read_recipe(recipe)
    if len(chosen.imgsz) < 2:
        return pipeline.build(
            model=model, data=data, target=target, recipe=chosen, out=out, until=until, again=again,
            calibration=calibration, device=device, listener=listener,
        )  # fmt: skip
    order = Order(model, data, target, chosen, out, calibration, device, listener)
    for size in chosen.imgsz:
        order.job(_folder(order, size), {"imgsz": (size,)})
    made = []
    for size in sorted(chosen.imgsz, reverse=True):
        on_point(f"{short('imgsz', size)}: {out}/{_folder(order, size)}")
        if until != "report":
            order.build(_folder(order, size), {"imgsz": (size,)}, until, again)
        else:
            made.append(make(order, short("imgsz", size), size, _folder(order, size), {"imgsz": (size,)}))
    return _choose(order, made, on_point) if made else None


def _folder(order: Order, size: int) -> str:
    return f"{order.name}-{short('imgsz', size)}"


def _choose(order: Order, made: Sequence[Made], on_point: Told) -> Report:
    """Race the builds, and leave the best one in the target's own folder."""
    if not any(m.report for m in made):
        raise PlanError("None of the input sizes can be built.", where="imgsz", got="; ".join(m.why for m in made))
    renew_offers(order, made)
    shop = Workshop(Path(order.out) / order.name, order.listener)
    with shop.open():
        raced, rows = entrants(order, made), dict[str, Row]()
        rows |= figures(made, raced)
        for engine, row in _parents(order, made, shop):
            raced.append(engine)
            rows[engine.name] = row
        run = final_race(order, shop, "sizes", raced)
    parents, builds = standings(run, rows)
    listed = choose(points(made, builds), parents, order.recipe.goal)
    winner = next(p for p in listed if p.chosen)
    on_point(f"{winner.name} is chosen: {shop.folder}")
    report = order.build(None, {"imgsz": (round(winner.value),)})
    assert report is not None
    with shop.open():
        _record(order, shop, run, parents, listed, made)
        renew_sweep(shop)
        renew(shop)
    return report


def choose(listed: Sequence[Point], parents: Sequence[Raced], goal: Goal) -> tuple[Point, ...]:
    """The points with the one that is taken marked. Pure.

    Args:
        listed: One at least with a build.
        parents: Engines of the final race; the one that isn't set against any other is the parent's best.
        goal: What every size was built for.
    """
    best = next(p for p in parents if p.against is None)
    built = [p for p in listed if p.raced]

    def ms(point: Point) -> float:
        assert point.raced is not None
        return point.raced.row.latency_ms.p50

    def map50_95(point: Point) -> float:
        assert point.raced is not None
        return point.raced.row.map50_95

    accepted = [p for p in built if p.accepted]
    in_time = [p for p in accepted if _in_time(p, best, goal)]
    good = [p for p in built if drop_holds(best.row.map50_95 - map50_95(p), goal)]
    if in_time:
        winner = max(in_time, key=lambda p: (map50_95(p), -ms(p)))
    elif accepted or good:
        winner = min(accepted or good, key=ms)
    else:
        winner = max(built, key=map50_95)
    return tuple(p.model_copy(update={"chosen": p is winner}) for p in listed)


def _in_time(point: Point, parent: Raced, goal: Goal) -> bool:
    """Whether a build meets a goal in time, as far as its interval can tell; False for a goal that isn't one."""
    assert point.raced is not None
    kind, value = kind_and_value(goal)
    if kind == "macs_ratio":
        return False
    if kind == "speedup":
        against = point.raced.against
        return against is not None and against.low <= 1 / value
    return point.raced.p50_interval_ms[0] <= (value if kind == "latency_ms" else 1e3 / value)


def _parents(order: Order, made: Sequence[Made], shop: Workshop) -> list[tuple[Engine, Row]]:
    """The parent's best engine at every size but its own, with its mAP. None where a board builds the engines: there is
    no kit of these."""
    found = []
    for each in made:
        job = order.job(each.folder, each.changes)
        if each.report is None or job.on_board or not job.resized:
            continue
        own = each.report.verdict.comparison.parent
        row = next(r for r in each.report.rows if f"{r.variant} {r.precision}" == own)
        found.append(_parent_at(job, each, row, shop))
    return found


def _parent_at(job: Job, made: Made, own: Row, shop: Workshop) -> tuple[Engine, Row]:
    """parents/SIZE: the parent's engine at a build's input, and its mAP there."""
    from edgeprune.records.target import own_file

    folder, half = f"parents/{made.name}", own_file(job.profile.runtime, own.precision)
    precision = next(p for p in job.profile.precisions if p == own.precision)
    engine = Engine.of(job.profile, f"{made.name} parent {precision}", precision, Path())

    def placed(at: Path) -> Engine:
        from edgeprune.export.engine import engine_file

        file = str(engine_file(artifact(at / "engine")))
        return engine.model_copy(
            update={
                "file": file,
                "settings": own.settings,
                "form": own.form,
                "input_shape": job.profile.input_shape,
            }
        )

    def act(work: Path) -> None:
        from edgeprune.bench.ask import detections
        from edgeprune.export.engine import build_engine
        from edgeprune.export.onnx import export_onnx
        from edgeprune.train.evaluate import score

        files.remove(work / folder)
        (work / folder / "engine").mkdir(parents=True)
        export_onnx(job.shop / "parent.pt", work / "parent.onnx", *job.image_size, {})
        build_engine(
            job.profile.runtime, work / "parent.onnx", work / folder / "engine", job.architecture, half=half,
            form=own.form,
        )  # fmt: skip
        results = detections(job.bench, placed(work / folder), job.data.splits["val"], job.profile.input_shape)
        write_json(work / folder / "accuracy.json", score(engine.name, job.data, results))

    runtime = job.profile.runtime
    shop.stage(
        f"parent at {made.name}", act,
        reads={
            "checkpoint": job.shop / "parent.pt", "size": job.image_size, "data": job.sha256["data"],
            "precision": own.precision, "settings": own.settings.model_dump(mode="json"),
            "form": own.form.model_dump(), "device": job.profile.device, "there": job.bench.versions(runtime),
            "architecture": job.architecture,
            **versions(runtime, "ultralytics", "torch", "onnx", "onnxslim", "pycocotools"),
        },
        makes=(folder,),
    )  # fmt: skip
    scored = read_json(shop / folder / "accuracy.json", Accuracy, EdgepruneError)
    size = loaded_bytes(shop / folder / "engine")
    macs = read_json(job.shop / "plan.json", PrunePlan, EdgepruneError).macs[0]
    changes = {"map50_95": scored.map50_95, "map50": scored.map50, "bytes": size, "macs": round(macs)}
    return placed(shop / folder), own.model_copy(update={**changes, "image_size": job.image_size[0]})


def _record(
    order: Order, shop: Workshop, run: BenchRun, parents: Sequence[Raced], listed: Sequence[Point], made: Sequence[Made]
) -> None:  # fmt: skip
    """sizes.json."""
    job = order.job(None, {"imgsz": ()})
    ranked = {r.engine: r for r in front([*parents, *(p.raced for p in listed if p.raced)])}
    found = Sweep(
        target=order.name, kind="imgsz", max_map_drop=order.recipe.goal.max_map_drop,
        parent=next(p.engine for p in parents if p.against is None),
        parents=tuple(ranked[p.engine] for p in parents),
        points=tuple(p.model_copy(update={"raced": ranked[p.raced.engine]}) if p.raced else p for p in listed),
        environment={**run.environment, "edgeprune": __version__},
        inputs={name: job.sha256[name] for name in ("model", "data", "target")},
    )  # fmt: skip
    shop.stage(
        "sizes", lambda work: write_json(work / "sizes.json", found),
        reads={"sizes": found.model_dump(mode="json")}, makes=("sizes.json",),
    )  # fmt: skip
