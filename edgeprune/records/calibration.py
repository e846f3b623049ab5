"""CalibrationSet: the images that activation ranges are taken from. Never the evaluation images.

Rules:
- An image is its path in the data set and the hash of its bytes: what was looked at when the set was chosen is
  what the ranges come from, on every machine.
- The licence and the rule of the choice stand in the file: a set that nobody can account for isn't one.
- No absolute paths and no clock: the same choice gives the same bytes wherever the data set lies.
"""

from __future__ import annotations

from typing import Annotated, Literal

import yaml
from pydantic import Field, field_validator

from edgeprune.records.base import InputShape, Record

NAME_PATTERN = r"^[a-z0-9][a-z0-9_-]*$"
Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]


class CalibrationImage(Record):
    """One image: path relative to the data set's folder, and the hash of its bytes."""

    path: str = Field(min_length=1)
    """Relative to the folder that the data.yaml's splits are relative to; with forward slashes."""
    sha256: Sha256

    @field_validator("path")
    @classmethod
    def _relative(cls, path: str) -> str:
        if path.startswith("/") or "\\" in path:
            raise ValueError("a path relative to the data set's folder, with forward slashes")
        return path


class CalibrationSet(Record):
    """A named list of images. One YAML file under calibration/ each."""

    name: str = Field(pattern=NAME_PATTERN)
    data: str = Field(min_length=1)
    """The data.yaml that the images were chosen from, with its folder's name: 'bccd/data.yaml'. For people; the
    images are looked for in the data set that a build is given."""
    licence: str = Field(min_length=1)
    """Under which terms the images may be used."""
    rule: str = Field(min_length=1)
    """In words, how the images were chosen."""
    seed: int = Field(ge=0)
    """Seed of the choice."""
    preprocessing: Literal["letterbox"] = "letterbox"
    """How an image becomes an input: RGB, scaled to fit, padded with grey 114, 0..1; `edgeprune.runtime.preprocess`."""
    input_shape: InputShape
    """Batch (1), channels, height, width in pixels that the images are letterboxed to."""
    images: tuple[CalibrationImage, ...] = Field(min_length=1)

    @field_validator("images")
    @classmethod
    def _once(cls, images: tuple[CalibrationImage, ...]) -> tuple[CalibrationImage, ...]:
        seen: set[str] = set()
        for image in images:
            if image.path in seen:
                raise ValueError(f"every image once; {image.path} stands there twice")
            seen.add(image.path)
        return images


def to_yaml(calibration: CalibrationSet, heading: tuple[str, ...] = ()) -> bytes:
    """The set as a YAML file: `heading` as comments, keys in the record's order, images as they stand."""
    comments = "".join(f"# {line}\n" for line in heading)
    content = yaml.safe_dump(calibration.model_dump(mode="json"), sort_keys=False, allow_unicode=True, width=116)
    return (comments + content).encode()
