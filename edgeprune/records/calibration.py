"""CalibrationSet: the images that activation ranges are taken from. Never the evaluation images."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from edgeprune.records.base import Record

Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]


class CalibrationImage(Record):
    """One image: path relative to the data set's folder, and the hash of its bytes."""

    path: str = Field(min_length=1)
    sha256: Sha256


class CalibrationSet(Record):
    """A named list of images. One YAML file under calibration/ each."""

    name: str = Field(pattern=r"^[a-z0-9][a-z0-9_-]*$")
    data: str
    """The data.yaml that the images were chosen from."""
    licence: str = Field(min_length=1)
    """Under which terms the images may be used."""
    seed: int = Field(ge=0)
    """Seed of the choice."""
    input_shape: tuple[int, int, int, int]
    """Batch, channels, height, width in pixels that the images are letterboxed to."""
    images: tuple[CalibrationImage, ...] = Field(min_length=1)
