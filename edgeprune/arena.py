"""The arena, top to bottom: every method cut to one budget, trained alike, scored on the runtime, raced at the end.

Rules:
- A run is a build like any other, in a folder of its own under `out/arena/STUDY`: nothing here prunes, trains or
  measures. What a run has in common with the others is done once and taken over (workshop.py).
- Runs are taken from a study (study.py), so that any number of machines can run the same command; each shows the same
  leaderboard. With one worker a machine: two would disturb each other's measurements.
- One method's failure is a row with its sentence. What would fail for all (a file, the device) ends this worker, with
  an error, and its run waits again.
- In the end the parent and every finished engine that lies on this machine take turns, in heats of a few with the
  parent in each: a time is that ratio to the parent in its own heat. Engines of other machines keep the ratio of their
  own build's race.
"""

from __future__ import annotations

import hashlib
import platform
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from edgeprune.curve import Made, Order, figures, final_race
from edgeprune.curve import entrants as engines_of
from edgeprune.curve import standings as raced_standings
from edgeprune.entrants import budget as read_budget
from edgeprune.entrants import compositions, entrants, recipe_of, slug
from edgeprune.errors import BusyError, DeviceError, EdgepruneError, ExitCode, RecipeError
from edgeprune.job import read_recipe
from edgeprune.records import BenchRun, Recipe, Report, TargetProfile, read_json, write_json
from edgeprune.records.arena import BASE, CONTROL, Arena, Entrant, Finish, LayerShare, Run, standings, winner
from edgeprune.records.base import to_json
from edgeprune.records.goals import kind_and_value
from edgeprune.records.sweep import Raced
from edgeprune.schedule import phases
from edgeprune.study import BEAT_S, ForAll, Ran, Study, open_study, url_of
from edgeprune.version import __version__
from edgeprune.workshop import Listener, Workshop

#: Builds of one heat of the last race, beside the parent's engines: each is a process.
HEAT = 6
#: Seconds between two looks at a folder that another worker of this machine holds.
BUSY_S = 5.0


@dataclass(frozen=True)
class Field:
    """All that run.

    Attributes:
        order: What all are asked with; its recipe is the base recipe with the budget.
        entrants: Those that the schema refuses too.
        seeds: Each runs with 0 to seeds - 1.
        int8: Whether the target races it.
        sha256: Of model, data and target.
    """

    order: Order
    entrants: tuple[Entrant, ...]
    seeds: int
    int8: bool
    sha256: dict[str, str]

    @property
    def keys(self) -> list[tuple[str, int]]:
        """Every run, all entrants with one seed before the next."""
        return [(e.name, seed) for seed in range(self.seeds) for e in self.entrants if e.refused is None]

    def recipe(self, name: str, seed: int) -> Recipe:
        return recipe_of(self.order.recipe, next(e for e in self.entrants if e.name == name), seed)

    def changes(self, name: str, seed: int) -> dict[str, object]:
        """What `Order` takes."""
        return dict(self.recipe(name, seed))


#: Told how the race stands, after every run.
Told = Callable[[Sequence[Run]], None]


def arena(
    *,
    model: Path | str,
    data: Path | str,
    target: str | TargetProfile,
    budget: str,
    epochs: int,
    seeds: int = 1,
    methods: str = "all",
    entrants_file: Path | None = None,
    recipe: Path | str | Recipe | None = None,
    out: Path | str = "build",
    calibration: str | None = None,
    device: str | None = None,
    storage: str | None = None,
    study: str | None = None,
    halving: bool = True,
    report_only: bool = False,
    listener: Listener | None = None,
    on_field: Callable[[Sequence[Entrant]], None] = lambda found: None,
    on_runs: Told = lambda runs: None,
    beat_s: int = BEAT_S,
) -> Arena:
    """Race pruning methods against each other.

    Args:
        budget: What all are cut to: 2x, 8ms, 30fps or 0.5macs.
        epochs: The recipe's, for all; some methods train before that (`Entrant.epochs` has all).
        seeds: Runs of each.
        methods: 'all', or names with commas between (entrants.py).
        entrants_file: Compositions of the user's own.
        recipe: The base recipe; its goal gives the drop alone.
        out: Where builds go; the arena's into `out/arena/STUDY`.
        storage: URL of the study's database; SQLite in that folder without one.
        study: Its name; the target's with the budget without one.
        halving: Whether runs that fall behind are stopped.
        report_only: Run nothing; show what there is.
        on_field: Told who runs.
        on_runs: Told how the race stands.
        beat_s: Seconds between a worker's signs of life.
        The rest is as for `edgeprune.build`.

    Returns:
        What arena.json in that folder holds.

    Raises:
        RecipeError: An entrant or a budget that there isn't, or a study of something else.
        EdgepruneError: Something that no run could be made with.
    """
    field, name = _field(
        Order(model, data, target, read_recipe(recipe), out, calibration, device, listener), budget, epochs, seeds,
        methods, entrants_file, study,
    )  # fmt: skip
    folder = Path(field.order.out)
    about = {
        **field.sha256, "budget": budget, "epochs": str(epochs),
        "base recipe": _base_sha256(field.order.recipe),
    }  # fmt: skip
    opened = open_study(
        url_of(storage, folder), name, about, epochs, halving=halving, beat_s=beat_s, begin=not report_only
    )
    on_field(field.entrants)
    if not report_only:
        opened.work(field.keys, lambda ran: _run(field, ran), lambda: on_runs(opened.runs(field.keys)))
    return _leaderboard(field, opened, name, Workshop(folder, listener))


def _field(
    given: Order, budget: str, epochs: int, seeds: int, methods: str, file: Path | None, study: str | None
) -> tuple[Field, str]:
    """Who runs and with what, and the study's name; all that can be wrong in files and names is found here."""
    goal = read_budget(budget, given.recipe.goal.max_map_drop)
    base = given.recipe.model_copy(update={"goal": goal, "epochs": epochs, "seed": 0})
    if len(base.imgsz) > 1:
        raise RecipeError("An arena has one input size.", where="imgsz", got=", ".join(map(str, base.imgsz)))
    name = study or f"{given.name}-{budget}"
    if slug(name) != name or name.startswith("."):
        raise RecipeError(
            "The study's name is a folder's too.", where="--study", got=name, expected="letters, digits, -._"
        )
    order = replace(given, recipe=base, out=Path(given.out) / "arena" / name)
    job = order.job(None, {})
    found = entrants(base, methods, compositions(file) if file else None, int8=job.int8)
    sha256 = {word: job.sha256[key] for word, key in (("model", "model"), ("data set", "data"), ("target", "target"))}
    return Field(order, found, seeds, job.int8, sha256), name


def _base_sha256(base: Recipe) -> str:
    """Of what of a recipe doesn't belong to the machine."""
    return hashlib.sha256(
        to_json(base.model_copy(update={"torch_device": "", "workers": 0, "cache": "none"}))
    ).hexdigest()


def _run(field: Field, ran: Ran) -> Finish:
    """One run, from the checkpoint to its report."""
    recipe = field.recipe(ran.entrant, ran.seed)
    listed = phases(recipe, int8=field.int8)
    last_cut = max(n for n, phase in enumerate(listed) if phase.share is not None)
    judge = _Judge(field.order.listener or Listener(), ran, recipe.epochs, sum(p.epochs for p in listed[last_cut:]))
    order, folder = replace(field.order, listener=judge), folder_of(ran.entrant, ran.seed)
    changes = field.changes(ran.entrant, ran.seed)
    try:
        order.job(folder, changes)
    except EdgepruneError as error:
        raise ForAll from error
    report = _built(order, folder, changes)
    return _finish(report, Path(order.out) / folder)


def _built(order: Order, folder: str, changes: dict[str, object]) -> Report:
    """The build; waits for a worker of this machine that has the same folder still."""
    while True:
        try:
            report = order.build(folder, changes)
        except BusyError:
            time.sleep(BUSY_S)
        except DeviceError as error:
            if error.code == ExitCode.USER and not isinstance(error.__cause__, OSError):  # no full disk either
                raise
            raise ForAll from error
        else:
            assert report is not None
            return report


def folder_of(entrant: str, seed: int) -> str:
    """Name of a run's folder."""
    return f"{slug(entrant)}-s{seed}"


@dataclass
class _Judge(Listener):
    """Passes on what a build says, and stops it where it falls behind.

    Epochs are counted towards the end, which all reach at the recipe's number of them, whatever they train before.

    Attributes:
        epochs: Of the recipe.
        cut: Of training after the last cut. Before it a model is whole, or nearly, and its fitness says nothing.
    """

    heard: Listener
    ran: Ran
    epochs: int
    cut: int

    def event(self, stage: str, what: str) -> None:
        self.heard.event(stage, what)

    def progress(self, stage: str, done: int, total: int, note: str = "") -> None:
        self.heard.progress(stage, done, total, note)

    def trained(self, left: int, fitness: float) -> None:
        self.heard.trained(left, fitness)
        if left < min(self.cut, self.epochs):
            kept = self.ran.entrant in (BASE, CONTROL)
            self.ran.trained(self.epochs - left, self.epochs, fitness, kept=kept)


def _finish(report: Report, folder: Path) -> Finish:
    """What a build was measured at, and what is left of its layers."""
    from edgeprune.yolo.left import left
    from edgeprune.yolo.load import load_detector

    best = report.verdict.comparison
    row = next(r for r in report.rows if f"{r.variant} {r.precision}" == best.build)
    before, after = (left(load_detector(folder / name).model) for name in ("parent.pt", "finetuned.pt"))
    layers = tuple(LayerShare(layer=n, parent=w, build=min(w, after.get(n, 0))) for n, w in before.items() if w)
    return Finish(row=row, against=best, layers=layers, machine=platform.node(), folder=folder.name)


def _leaderboard(field: Field, study: Study, name: str, shop: Workshop) -> Arena:
    """arena.json and arena.html, from the study and the last race."""
    from edgeprune.records.files import write_bytes
    from edgeprune.report.arena import page

    runs, (kind, value) = study.runs(field.keys), kind_and_value(field.order.recipe.goal)
    with _held(shop):
        raced, parent, environment = _last_race(field, runs, shop)
        found = standings(
            field.entrants, [r.model_copy(update={"raced": raced.get((r.entrant, r.seed))}) for r in runs],
            kind, value, parent.row.latency_ms.p50 if parent else None,
        )  # fmt: skip
        arena = Arena(
            study=name, target=field.order.name, kind=kind, value=value, epochs=field.order.recipe.epochs,
            seeds=field.seeds, base=field.order.recipe.model_dump(mode="json"), standings=found, winner=winner(found),
            parent=parent, environment={**environment, "edgeprune": __version__} if parent else {}, inputs=field.sha256,
        )  # fmt: skip

        def act(work: Path) -> None:
            write_json(work / "arena.json", arena)
            write_bytes(work / "arena.html", page(arena))

        shop.stage(
            "arena", act, reads={"arena": arena.model_dump(mode="json"), "edgeprune": __version__},
            makes=("arena.json", "arena.html"),
        )  # fmt: skip
    return read_json(shop / "arena.json", Arena, EdgepruneError)


@contextmanager
def _held(shop: Workshop) -> Iterator[None]:
    """The study's folder, held; waits for another worker of this machine that writes the same."""
    with ExitStack() as stack:
        while True:
            try:
                stack.enter_context(shop.open())
                break
            except BusyError:
                time.sleep(BUSY_S)
        yield


def _last_race(
    field: Field, runs: Sequence[Run], shop: Workshop
) -> tuple[dict[tuple[str, int], Raced], Raced | None, dict[str, str]]:
    """Run -> its engine in the last race; the parent's best there; machine and versions."""
    made = [m for run in runs if run.finish and (m := _made(field, run))]
    found: dict[tuple[str, int], Raced] = {}
    parent, environment = None, dict[str, str]()
    for number in range(0, len(made), HEAT):
        heat = made[number : number + HEAT]
        engines = engines_of(field.order, heat)
        run: BenchRun = final_race(field.order, shop, f"heat-{number // HEAT + 1}", engines)
        parents, builds = raced_standings(run, figures(heat, engines))
        if parent is None:
            parent, environment = next(p for p in parents if p.against is None), run.environment
        for raced in builds:
            folder = raced.engine.split()[0]
            found |= {(r.entrant, r.seed): raced for r in runs if folder_of(r.entrant, r.seed) == folder}
    return found, parent, environment


def _made(field: Field, run: Run) -> Made | None:
    """A finished run's build, where it is on this machine and still what was measured."""
    assert run.finish is not None
    folder = folder_of(run.entrant, run.seed)
    try:
        report = read_json(Path(field.order.out) / folder / "report.json", Report, EdgepruneError)
    except EdgepruneError:
        return None
    if run.finish.machine != platform.node() or report.verdict.comparison != run.finish.against:
        return None
    return Made(folder, run.seed, folder, field.changes(run.entrant, run.seed), report, "")
