"""A sweep: one build for each of several goals, and the curve of mAP over latency that they make.

Rules:
- A goal is a build in `out/TARGET-NAME` ('openvino-x86-2x'); the curve lies in `out/TARGET`, as sweep.json and
  sweep.html, beside the build of the plain recipe if there is one.
- Goals go from mild to hard, whatever order they are given in.
- Refining halves the gap between the hardest goal that was accepted and the mildest harder one that was not, a build at
  a time: it looks for the fastest build that holds. A verdict is on disk, so an interrupted sweep takes the same way.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from edgeprune.curve import Made, Order, Told, entrants, figures, final_race, make, points, renew_offers, standings
from edgeprune.errors import EdgepruneError, RecipeError
from edgeprune.job import read_recipe
from edgeprune.records import Goal, Recipe, Sweep, TargetProfile, read_json, write_json
from edgeprune.records.base import parse
from edgeprune.records.goals import KINDS, GoalKind, harder, hardness, short
from edgeprune.records.sweep import front
from edgeprune.report.offer import halfway
from edgeprune.report.pareto import renew_sweep
from edgeprune.version import __version__
from edgeprune.workshop import Listener, Workshop


def sweep(
    *,
    model: Path | str,
    data: Path | str,
    target: str | TargetProfile,
    goals: Sequence[float],
    kind: str = "speedup",
    refine: int = 0,
    recipe: Path | str | Recipe | None = None,
    out: Path | str = "build",
    calibration: str | None = None,
    device: str | None = None,
    listener: Listener | None = None,
    on_point: Told = lambda said: None,
) -> Sweep:
    """Build every goal, race the builds, and draw the curve.

    Args:
        goals: Values of `kind`, distinct.
        kind: speedup, latency_ms, fps or macs_ratio.
        refine: Goals to try between the last that holds and the first that doesn't.
        on_point: Told which build is next.
        The rest is as for `edgeprune.build`; the recipe's own goal gives the agreed drop alone.

    Returns:
        What sweep.json in `out/TARGET` holds.

    Raises:
        RecipeError: A goal or a kind that there isn't.
        EdgepruneError: Something that no goal could be built with.
    """
    order = Order(model, data, target, read_recipe(recipe), out, calibration, device, listener)
    found_kind = _kind(kind)
    asked = _goals(goals, found_kind, order.recipe)
    for value, goal in asked.items():  # all that can be wrong in files and names, before the first build
        order.job(folder_of(order, found_kind, value), {"goal": goal})
    made = [_point(order, found_kind, value, goal, on_point) for value, goal in asked.items()]
    made = _refined(order, found_kind, made, refine, on_point)
    renew_offers(order, made)
    shop = Workshop(Path(out) / order.name, listener)
    with shop.open():
        found = _curve(order, found_kind, made, shop)
        renew_sweep(shop)
    return found


def folder_of(order: Order, kind: GoalKind, value: float) -> str:
    """Name of a goal's build's folder."""
    return f"{order.name}-{short(kind, value)}"


def _kind(text: str) -> GoalKind:
    """The kind of that name that goals can be of."""
    known = [kind for kind in KINDS if kind in Goal.model_fields]
    for kind in known:
        if kind == text:
            return kind
    raise RecipeError("There is no goal of this kind.", where="--kind", expected=", ".join(known), got=text)


def _goals(values: Sequence[float], kind: GoalKind, recipe: Recipe) -> dict[float, Goal]:
    """Value -> its goal, from mild to hard."""
    if not values or len(set(values)) != len(values):
        got = ", ".join(f"{v:g}" for v in values) or "nothing"
        raise RecipeError("A sweep needs distinct goals.", where="--goals", expected="1.5,2,3,4, say", got=got)
    return {value: _goal(kind, value, recipe) for value in sorted(values, key=lambda v: hardness(kind, v))}


def _goal(kind: GoalKind, value: float, recipe: Recipe) -> Goal:
    return parse(Goal, {kind: value, "max_map_drop": recipe.goal.max_map_drop}, RecipeError, where=f"goal {value:g}")


def _point(order: Order, kind: GoalKind, value: float, goal: Goal, on_point: Told, refined: bool = False) -> Made:
    name = short(kind, value)
    on_point(f"{name}: {order.out}/{folder_of(order, kind, value)}")
    return make(order, name, value, folder_of(order, kind, value), {"goal": goal}, refined)


def _refined(order: Order, kind: GoalKind, made: Sequence[Made], count: int, on_point: Told) -> list[Made]:
    """The same with up to `count` more, in order."""
    found = list(made)
    for _ in range(count):
        gap = between(kind, found)
        if gap is None or gap in {m.value for m in found}:
            break
        found.append(_point(order, kind, gap, _goal(kind, gap, order.recipe), on_point, refined=True))
        found.sort(key=lambda m: hardness(kind, m.value))
    return found


def between(kind: GoalKind, made: Sequence[Made]) -> float | None:
    """The goal to try next: between the hardest accepted and the mildest harder one that wasn't. None where there is no
    such gap: all hold, or none does."""
    accepted = [m.value for m in made if m.accepted]
    if not accepted:
        return None
    best = max(accepted, key=lambda v: hardness(kind, v))
    failed = [m.value for m in made if not m.accepted and harder(kind, m.value, best)]
    return halfway(best, min(failed, key=lambda v: hardness(kind, v))) if failed else None


def _curve(order: Order, kind: GoalKind, made: Sequence[Made], shop: Workshop) -> Sweep:
    """sweep.json, from the builds and the final race."""
    raced = entrants(order, made)
    run = final_race(order, shop, "sweep", raced) if raced else None
    job = order.job(None, {"imgsz": ()})

    def act(work: Path) -> None:
        parents, builds = standings(run, figures(made, raced)) if run else ([], [])
        ranked = {r.engine: r for r in front([*parents, *builds])}
        write_json(
            work / "sweep.json",
            Sweep(
                target=order.name, kind=kind, max_map_drop=order.recipe.goal.max_map_drop,
                parent=next((p.engine for p in parents if p.against is None), None),
                parents=tuple(ranked[p.engine] for p in parents),
                points=points(made, [ranked[b.engine] for b in builds]),
                environment={**run.environment, "edgeprune": __version__} if run else {},
                inputs={name: job.sha256[name] for name in ("model", "data", "target")},
            ),
        )  # fmt: skip

    shop.stage(
        "sweep", act,
        reads={
            "kind": kind, "drop": order.recipe.goal.max_map_drop, "inputs": job.sha256,
            "points": [(m.name, m.folder, m.accepted, m.why, m.refined) for m in made],
            **({"race": shop / "sweep-bench.json"} if run else {}),
            **{m.name: Path(order.out) / m.folder / "report.json" for m in made if m.report},
        },
        makes=("sweep.json",),
    )  # fmt: skip
    return read_json(shop / "sweep.json", Sweep, EdgepruneError)
