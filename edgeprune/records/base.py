"""The kind of model that every record is, and how one is read and written.

Rules:
- Frozen; an unknown key is an error that names the nearest known one, with file and line.
- JSON is written with sorted keys and no clock, so that the same record gives the same bytes.
"""

from __future__ import annotations

import difflib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from edgeprune.errors import EdgepruneError
from edgeprune.records import files

#: Batch (1), channels, height, width in pixels of a static input.
InputShape = tuple[
    Literal[1],
    Annotated[int, Field(ge=1, le=4)],
    Annotated[int, Field(ge=32, le=4096)],
    Annotated[int, Field(ge=32, le=4096)],
]


class Record(BaseModel):
    """A frozen record."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False, use_attribute_docstrings=True)


R = TypeVar("R", bound=Record)


def read_yaml(path: Path, record: type[R], error: type[EdgepruneError]) -> R:
    """Read a YAML file into a record.

    Raises:
        error: The file is missing, isn't YAML, or doesn't fit the record; with file and line.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as problem:
        raise error("The file can't be read.", where=path, got=str(problem)) from problem
    try:
        root = yaml.compose(text, Loader=yaml.SafeLoader)
        content = yaml.safe_load(text)
    except yaml.YAMLError as problem:
        mark = getattr(problem, "problem_mark", None)
        line = f":{mark.line + 1}" if mark else ""
        raise error("The file is not valid YAML.", where=f"{path}{line}", got=str(problem).splitlines()[0]) from problem
    if not isinstance(content, dict):
        raise error("The file holds no keys.", where=path, expected=f"a mapping with {', '.join(record.model_fields)}")
    return parse(record, content, error, where=path, lines=dict(_lines(root)))


def read_json(path: Path, record: type[R], error: type[EdgepruneError]) -> R:
    """Read a JSON file into a record; raises `error` as `read_yaml` does."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, json.JSONDecodeError) as problem:
        raise error("The file can't be read as JSON.", where=path, got=str(problem)) from problem
    return parse(record, content, error, where=path)


def parse(
    record: type[R],
    content: Any,
    error: type[EdgepruneError],
    *,
    where: object,
    lines: dict[tuple[Any, ...], int] | None = None,
) -> R:
    """Validate plain data as a record; the first thing that is wrong is named."""
    try:
        return record.model_validate(content)
    except ValidationError as problem:
        first = problem.errors()[0]
        place = first["loc"]
        line = (
            next((lines[place[:n]] for n in range(len(place), -1, -1) if place[:n] in lines), None) if lines else None
        )
        dotted = ".".join(str(p) for p in place)
        expected, got = _explain(record, first)
        raise error(
            f"'{dotted}' is not right." if dotted else "The record is not right.",
            where=f"{where}:{line}" if line else where,
            expected=expected,
            got=got,
        ) from problem


def write_json(path: Path, record: Record) -> None:
    """Write a record whole or not at all, keys sorted, indented."""
    files.write_bytes(path, to_json(record))


def to_json(record: Record) -> bytes:
    return (json.dumps(record.model_dump(mode="json"), indent=2, sort_keys=True) + "\n").encode()


def _explain(record: type[Record], error: Any) -> tuple[str, str]:
    if error["type"] == "extra_forbidden":
        known = _known_keys(record, error["loc"][:-1])
        near = difflib.get_close_matches(str(error["loc"][-1]), known, n=1, cutoff=0.5)
        hint = f"'{near[0]}'?" if near else f"one of {', '.join(known)}"
        return hint, f"unknown key '{error['loc'][-1]}'"
    if error["type"] == "missing":
        return f"the key '{error['loc'][-1]}'", "nothing"
    return str(error["msg"]), repr(error["input"])


def _known_keys(record: type[Record], place: tuple[Any, ...]) -> list[str]:
    current: Any = record
    for key in place:
        field = getattr(current, "model_fields", {}).get(key)
        candidates = [field.annotation, *getattr(field.annotation, "__args__", ())] if field else []
        current = next((c for c in candidates if isinstance(c, type) and issubclass(c, Record)), current)
    return list(current.model_fields)


def _lines(node: yaml.Node | None, place: tuple[Any, ...] = ()) -> Iterator[tuple[tuple[Any, ...], int]]:
    if isinstance(node, yaml.MappingNode):
        for key, value in node.value:
            yield (*place, key.value), key.start_mark.line + 1
            yield from _lines(value, (*place, key.value))
    elif isinstance(node, yaml.SequenceNode):
        for index, value in enumerate(node.value):
            yield (*place, index), value.start_mark.line + 1
            yield from _lines(value, (*place, index))
