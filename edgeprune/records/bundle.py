"""Bundle: the finished build as files and hashes, with what a device must know to run it."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from edgeprune.records.base import Record
from edgeprune.records.calibration import Sha256
from edgeprune.records.form import Form
from edgeprune.records.golden import GoldenImage
from edgeprune.records.report import Row
from edgeprune.records.settings import Settings
from edgeprune.records.target import TargetProfile


class BundleFile(Record):
    """One file of the bundle, path relative to manifest.json."""

    path: str = Field(pattern=r"^[^/].*$")
    sha256: Sha256
    bytes: int = Field(ge=0)


class TensorSpec(Record):
    """One input or output tensor."""

    name: str
    shape: tuple[int, ...]
    dtype: Literal["float32", "uint8"]


class Lineage(Record):
    """Where the build comes from."""

    edgeprune: str
    """Version."""
    model_sha256: Sha256
    data_sha256: Sha256
    recipe_sha256: Sha256
    plan_sha256: Sha256
    onnx_sha256: Sha256


class KitOrigin(Record):
    """A bundle that carries a build kit: each device builds its own engine, and these are of the board that measured.

    A device builds as the board did: `build_engine.py --precision PRECISION`, and `--dla` where the profile has one.
    """

    folder: str
    """Of the kit, relative to manifest.json."""
    sha256: Sha256
    """Of the kit's kit.json: what boards know it by."""
    board: str
    """Name of the board file among `files`: engine.json of the engine that was measured."""
    tensorrt: str
    """TensorRT that built it."""
    engine_sha256: Sha256
    """Of the engine that was measured. Another board's, or another day's, has another."""


class Bundle(Record):
    """manifest.json."""

    format: Literal[1] = 1
    target: str
    profile: TargetProfile
    architecture: str | None = None
    """Of the machine that it was measured on, as `uname -m` says; None in bundles from before it was written down."""
    precision: str
    """The precision that won on the target; the runtime is asked for it."""
    settings: Settings | None = None
    """How the runtime is told to run it: what won on the target. None in bundles from before settings were raced."""
    form: Form = Form()
    """What goes into the engine and what comes out. Where boxes are decoded outside, the engine's own file says how."""
    engine: str
    """The file among `files` that the runtime loads; with `kit`, the kit's kit.json, which it is built from."""
    kit: KitOrigin | None = None
    """Where engines are tied to the machine (TensorRT): what each device builds, and what this board made of it."""
    files: tuple[BundleFile, ...] = Field(min_length=1)
    input: TensorSpec
    outputs: tuple[TensorSpec, ...] = Field(min_length=1)
    names: dict[int, str]
    """Class names."""
    golden: tuple[GoldenImage, ...] = ()
    """What a device's self-test must find again. None with `kit`, which has golden outputs of its own."""
    lineage: Lineage
    measured: Row
    """The accepted build's figures."""
    parent: Row
    """The parent's figures from the same run."""
