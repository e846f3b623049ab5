"""How to roll out, as it was asked for: a YAML file, options over it, and defaults under both.

waves:                      # of the selected devices, those of the earlier waves among them
  - {percent: 1, dwell_s: 3600, min_executed: 10}
  - {percent: 100, dwell_s: 86400, success: 0.98, error: 0.02}
selector: {skus: [pi5-ort], tags: [night-shift]}
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from pydantic import ValidationError

from edgeprune.errors import RecipeError
from edgeprune.fleet.rollout import RolloutRecipe
from edgeprune.records.base import read_yaml
from edgeprune.records.rollout import Selector, Wave

_UNITS = {"": 1, "s": 1, "m": 60, "h": 3600, "d": 86400}


def recipe_of(
    file: Path | None = None, *, waves: str | None = None, dwell: str | None = None, success: float | None = None,
    error: float | None = None, min_executed: int | None = None, skus: Sequence[str] = (),
    runtimes: Sequence[str] = (), tags: Sequence[str] = (),
) -> RolloutRecipe:  # fmt: skip
    """A recipe from a file and options; options are for all waves.

    Args:
        waves: Percentages with commas between ('1,10,50,100').
        dwell: '90', '90s', '15m', '4h' or '1d'.

    Raises:
        RecipeError: A file that doesn't fit, or an option that can't be.
    """
    recipe = read_yaml(file, RolloutRecipe, RecipeError) if file else RolloutRecipe()
    steps = [_wave({"percent": percent}) for percent in _percents(waves)] if waves is not None else list(recipe.waves)
    changes = {
        "dwell_s": seconds(dwell) if dwell is not None else None, "success": success, "error": error,
        "min_executed": min_executed,
    }  # fmt: skip
    given = {key: value for key, value in changes.items() if value is not None}
    if waves is not None:  # what was written down for other percentages says nothing about these, but the nearest does
        near = [min(recipe.waves, key=lambda old: abs(old.percent - wave.percent)) for wave in steps]
        steps = [old.model_copy(update={"percent": wave.percent}) for old, wave in zip(near, steps, strict=True)]
    chosen = Selector(
        skus=tuple(skus) or recipe.selector.skus, runtimes=tuple(runtimes) or recipe.selector.runtimes,
        tags=tuple(tags) or recipe.selector.tags,
    )  # fmt: skip
    percents = [wave.percent for wave in steps]
    if percents != sorted(set(percents)):
        raise RecipeError(
            "Each wave has more devices than the one before.", where="waves", expected="rising percentages",
            got=", ".join(f"{percent:g}" for percent in percents),
        )  # fmt: skip
    return RolloutRecipe(waves=tuple(_wave(wave.model_dump() | given) for wave in steps), selector=chosen)


def seconds(text: str) -> int:
    """'15m' in seconds. RecipeError: no such time."""
    found = re.fullmatch(r"(\d+)\s*([smhd]?)", text.strip())
    if found is None:
        raise RecipeError("That is no time.", where="--dwell", expected="90, 90s, 15m, 4h or 1d", got=text)
    return int(found[1]) * _UNITS[found[2]]


def _percents(text: str) -> list[float]:
    try:
        return [float(part.strip().removesuffix("%")) for part in text.split(",")]
    except ValueError as error:
        raise RecipeError(
            "The waves aren't numbers.", where="--waves", expected="percentages with commas between: 1,10,50,100",
            got=text,
        ) from error  # fmt: skip


def _wave(fields: dict[str, float]) -> Wave:
    try:
        return Wave.model_validate(fields)
    except ValidationError as problem:
        first = problem.errors()[0]
        raise RecipeError(
            "A wave can't be so.", where=".".join(map(str, first["loc"])), expected=first["msg"], got=first["input"]
        ) from problem
