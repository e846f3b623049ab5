"""Who runs in the arena: one method of one row at a time against the base recipe, and compositions by name. Pure, but
for the file of compositions.

Rules:
- An entrant is told by what differs: `importance=l1`. A method that the base recipe has already is that recipe, `base`.
- `base` and the control, `importance=random`, always run.
- A recipe that the schema refuses stays in the list, with its sentence.
- A method that doesn't go with another key of the base recipe is tried with companions, and has them in its name:
  `granularity=weights+importance=l1+allocation=global`.
- All are asked for the same budget. A method that leaves zeros can't be asked for time: it is asked for as large a
  share of zeros as would have to go for that speed, 1 - 1 : speedup; a fixed pattern, 2:4, for the half that it has.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from edgeprune.errors import EdgepruneError, RecipeError
from edgeprune.records import Goal, Recipe
from edgeprune.records.arena import BASE, CONTROL, Entrant
from edgeprune.records.base import parse
from edgeprune.records.goals import UNITS, GoalKind, kind_and_value
from edgeprune.records.methods import METHODS
from edgeprune.schedule import epochs_of

#: What a budget may be in.
BUDGETS: tuple[GoalKind, ...] = ("speedup", "latency_ms", "fps", "macs_ratio")
#: What a method is tried with that refuses the base recipe's, each alone and all: an importance that scores single
#: weights too, and an allocation that chooses no widths.
COMPANIONS = (("importance", "l1"), ("allocation", "global"))
#: Share of zeros of a fixed pattern.
PATTERN = 0.5
#: Recipe keys that an entrant may not differ in: they are the race's.
SHARED = frozenset({"goal", "epochs", "seed", "imgsz"})


def budget(text: str, max_map_drop: float) -> Goal:
    """'2x', '8ms', '30fps' or '0.5macs' as a goal.

    Raises:
        RecipeError: It isn't one, or out of range.
    """
    for kind in BUDGETS:
        number = text.removesuffix(UNITS[kind])
        if number != text and number.replace(".", "", 1).isdigit():
            given = {kind: float(number), "max_map_drop": max_map_drop}
            return parse(Goal, given, RecipeError, where=f"--budget {text}")
    raise RecipeError("The budget can't be read.", where="--budget", expected="2x, 8ms, 30fps or 0.5macs", got=text)


def compositions(file: Path) -> dict[str, dict[str, Any]]:
    """Name -> what differs, from a YAML of that shape.

    Raises:
        RecipeError: It isn't such a file.
    """
    expected = "name: {key of a recipe: value, …}, one a line"
    try:
        content = yaml.safe_load(file.read_text("utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as problem:
        got = str(problem).splitlines()[0]
        raise RecipeError("The compositions can't be read.", where=file, expected=expected, got=got) from problem
    if not isinstance(content, dict) or not all(isinstance(changes, dict) for changes in content.values()):
        raise RecipeError("The file holds no compositions.", where=file, expected=expected, got=type(content).__name__)
    for name, changes in content.items():
        if (wrong := SHARED & set(changes)) or str(name) in (BASE, CONTROL):
            what = (
                f"{', '.join(sorted(wrong))}: the race's own, and the same for all" if wrong else "a name that is taken"
            )
            raise RecipeError("This composition can't be.", where=f"{file}: {name}", got=what)
    return {str(name): changes for name, changes in content.items()}


def entrants(
    base: Recipe, methods: str, named: Mapping[str, Mapping[str, Any]] | None = None, *, int8: bool = False
) -> tuple[Entrant, ...]:
    """Who runs, in the order they are asked for; base and control first.

    Args:
        base: The base recipe, with the budget as its goal.
        methods: 'all'; or names with commas between: 'importance=l1', 'l1' where one row alone has it, a composition.
        named: Compositions.
        int8: Whether the target races int8.

    Raises:
        RecipeError: A name that there isn't.
    """
    known: dict[str, Mapping[str, Any]] = {
        f"{row}={name}": {row: name}
        for row, rows in METHODS.items()
        for name in rows
        if name != getattr(base, row) or f"{row}={name}" == CONTROL
    }
    known |= named or {}
    wanted = list(known) if methods == "all" else [_found(name.strip(), base, known) for name in methods.split(",")]
    names = dict.fromkeys([BASE, CONTROL, *wanted])
    slugs: dict[str, str] = {}
    for name in names:
        other = slugs.setdefault(slug(name), name)
        if other != name:
            raise RecipeError("Two entrants would have one folder.", where="--entrants", got=f"{other}, {name}")
    return tuple(_entrant(name, known.get(name, {}), base, int8) for name in names)


def recipe_of(base: Recipe, entrant: Entrant, seed: int = 0) -> Recipe:
    """An entrant's recipe; raises RecipeError where the schema refuses it."""
    given = base.model_dump() | {"seed": seed} | entrant.changes
    if entrant.zeros is not None:
        given["goal"] = {"sparsity": entrant.zeros, "max_map_drop": base.goal.max_map_drop}
    return parse(Recipe, given, RecipeError, where=entrant.name)


def slug(name: str) -> str:
    """An entrant's name as a folder's."""
    return "".join(c if c.isalnum() or c in "._+" else "-" for c in name)


def _found(name: str, base: Recipe, known: Mapping[str, object]) -> str:
    """The entrant that a name on the command line means."""
    rows = [row for row in METHODS if name in METHODS[row]]
    whole = f"{rows[0]}={name}" if len(rows) == 1 else name
    row, _, method = whole.partition("=")
    if name in known or name == BASE:
        return name
    if method and getattr(base, row, None) == method:
        return BASE
    if whole in known:
        return whole
    near = difflib.get_close_matches(name, [*known, *(n.partition("=")[2] for n in known)], n=1, cutoff=0.5)
    raise RecipeError(
        "There is no such entrant." if len(rows) < 2 else "More than one row has a method of this name.",
        where="--methods", got=name,
        expected=", ".join(f"{row}={name}" for row in rows) if len(rows) > 1 else near[0] if near else "ROW=METHOD",
        next_step="edgeprune methods lists them; --entrants names a file of compositions",
    )  # fmt: skip


def _entrant(name: str, changes: Mapping[str, Any], base: Recipe, int8: bool) -> Entrant:
    plain = parse(Entrant, {"name": name, "changes": dict(changes)}, RecipeError, where=f"entrant {name}")
    others = [c for c in COMPANIONS if c[0] not in changes and getattr(base, c[0]) != c[1]] if len(changes) == 1 else []
    ways = [plain, *(_beside(plain, [one]) for one in others)] + ([_beside(plain, others)] if len(others) > 1 else [])
    why = ""
    for way in ways:
        for zeros in (None, *_zeros(base.goal)):
            found = way.model_copy(update={"zeros": zeros})
            try:
                return found.model_copy(update={"epochs": epochs_of(recipe_of(base, found), int8=int8)})
            except EdgepruneError as error:
                why = why or " ".join(str(error).split())
    return plain.model_copy(update={"refused": why})


def _beside(entrant: Entrant, companions: Sequence[tuple[str, str]]) -> Entrant:
    name = "".join([entrant.name, *(f"+{key}={value}" for key, value in companions)])
    return entrant.model_copy(update={"name": name, "changes": {**entrant.changes, **dict(companions)}})


def _zeros(goal: Goal) -> tuple[float, ...]:
    """Shares of zeros to ask for instead of a speed; none where a budget isn't a factor."""
    kind, value = kind_and_value(goal)
    share = {"speedup": 1 - 1 / value, "macs_ratio": 1 - value}.get(kind)
    return () if share is None else (share, PATTERN)
