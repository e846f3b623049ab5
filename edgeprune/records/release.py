"""Release: one signed set of builds of a product, one build a SKU, under a number that only rises.

Rules:
- A product is what a fleet runs ('cells'); a SKU is a kind of device, named as the target that its build was made for.
- The number is the release counter. A device that has had a higher one refuses it, whoever signed: a revert is a new
  counter that points at old bytes.
- All paths are TUF target paths. `release.json` is a TUF target file itself, signed (by its hash) by the product's
  release role; everything that it names is too. An archive is a bundle as a deterministic tar.

Sources: TUF specification 1.0.33, sections 3 (target files) and 4.5 (delegations); Uptane Standard 2.1.0, 5.4.2
(release counters of images).
"""

from __future__ import annotations

import re
from typing import Annotated, Literal

from pydantic import Field, model_validator

from edgeprune.records.base import Record
from edgeprune.records.calibration import Sha256

#: What products, channels, SKUs and devices are called: they stand in paths, topics and addresses.
_NAME = r"[a-z0-9](?:[a-z0-9._-]{0,62}[a-z0-9])?"
Name = Annotated[str, Field(pattern=f"^{_NAME}$")]
#: A release counter; 0 is the factory model, which no repository has.
Counter = Annotated[int, Field(ge=1, le=2**53)]


class FleetFile(Record):
    """A TUF target file: its path, and what it must be."""

    path: str = Field(pattern=r"^models/[^/]+/[0-9]+/[^/]+$")
    sha256: Sha256
    bytes: int = Field(ge=0)


class Delta(Record):
    """How an archive is made of one that the device may have: a bsdiff patch."""

    base_sha256: Sha256
    """Of the archive that it is applied to."""
    file: FleetFile


class ReleaseBuild(Record):
    """A release's build for one SKU, with what a device needs to know before and after it has it."""

    sku: Name
    architecture: str | None
    """As `uname -m` says; None where the bundle doesn't say."""
    runtime: str
    """Library and version that it was measured on ('onnxruntime 1.30.0')."""
    archive: FleetFile
    manifest_sha256: Sha256
    """Of the bundle's manifest.json: which build it is, however it came here."""
    deltas: tuple[Delta, ...] = ()
    latency_ms: float = Field(gt=0)
    """Median on the device that measured it, image in to boxes out."""
    latency_tolerance: float = Field(default=1.5, ge=1.0, le=100.0)
    """How many times that a device's own self-test may take."""
    forced: str | None = None
    """Why a build that no report accepted was published; None for one that was accepted."""


class Release(Record):
    """release.json."""

    format: Literal[1] = 1
    product: Name
    counter: Counter
    label: str = ""
    """What people call it ('2026-11 night shift')."""
    builds: tuple[ReleaseBuild, ...] = Field(min_length=1)
    reverts_to: Counter | None = None
    """The release whose bytes these are, where this one takes a later one back."""

    @model_validator(mode="after")
    def _one_a_sku(self) -> Release:
        skus = [build.sku for build in self.builds]
        if len(set(skus)) != len(skus):
            raise ValueError(f"one build a SKU, got {', '.join(skus)}")
        if self.reverts_to is not None and self.reverts_to >= self.counter:
            raise ValueError(f"reverts_to is an earlier release than {self.counter}, got {self.reverts_to}")
        return self

    def build_for(self, sku: str) -> ReleaseBuild | None:
        """The build of a SKU; None where the release has none."""
        return next((build for build in self.builds if build.sku == sku), None)


def is_name(text: str) -> bool:
    """Whether something can be called so, for what stands in no record yet."""
    return re.fullmatch(_NAME, text) is not None


def models_role(product: str) -> str:
    """The delegated TUF role that signs a product's models."""
    return f"models-{product}"


def release_path(product: str, counter: int) -> str:
    return f"models/{product}/{counter}/release.json"


def archive_path(product: str, counter: int, sku: str) -> str:
    return f"models/{product}/{counter}/{sku}.tar"


def delta_path(product: str, counter: int, sku: str, base: int) -> str:
    """Of the patch that makes an archive of that of an earlier release."""
    return f"models/{product}/{counter}/{sku}.from-{base}.bsdiff"
