"""BoardEngine: engine.json, what `build_engine.py` says of the engine that a board built.

The script writes it with nothing but the standard library; here it is read back on the host.
"""

from __future__ import annotations

from pydantic import Field

from edgeprune.records.base import Record
from edgeprune.records.calibration import Sha256
from edgeprune.records.golden import GoldenDifference
from edgeprune.records.kit import KitPrecision
from edgeprune.records.measurement import Comparison, Latency, Milliseconds


class Board(Record):
    """What a board says of itself; empty where it is no Jetson."""

    l4t: str
    """Release, as 36.4.0."""
    jetpack: str
    """JetPack of that release; 'unknown' where the script is older than the release."""
    model: str
    sku: str
    """Model and the device tree's first `compatible`, which tells modules apart."""
    architecture: str
    power_mode: str
    """nvpmodel's number, or 'not reported'."""


class BoardCandidate(Record):
    """One engine that was built, and held against its gates."""

    precision: KitPrecision
    graph: str
    """The kit's file."""
    flags: tuple[str, ...]
    """Builder flags that were set; none where types are the graph's."""
    build_s: float = Field(ge=0)
    plan_bytes: int = Field(gt=0)
    warnings: tuple[str, ...]
    """TensorRT's."""
    convolutions: dict[str, str] | None = None
    """Of the int8 engine: what each convolution that must be INT8 became."""
    golden: GoldenDifference | None = None
    """None where the engine wasn't run."""
    blocks_ms: tuple[tuple[Milliseconds, ...], ...] | None = None
    """Latency of every inference, input on the GPU, enqueue to end, without a CUDA graph; one tuple a block."""
    latency_ms: Latency | None = None


class BoardEngine(Record):
    """engine.json."""

    format: int = Field(ge=1, le=1)
    kit_sha256: Sha256
    """Of the kit's kit.json."""
    board: Board
    machine: str
    """Architecture, as Python's platform.machine() says it."""
    module: str
    """Python module that built it: tensorrt on a board."""
    tensorrt: str
    """That module's version."""
    python: str
    raced: bool
    candidates: tuple[BoardCandidate, ...] = Field(min_length=1)
    chosen: KitPrecision
    order: tuple[int, ...] | None = None
    """Which candidate ran each block, in the order of the race."""
    comparison: Comparison | None = None
    """INT8 against FP16."""
    trtexec: str
    """The line that builds the chosen engine with NVIDIA's own tool."""
    sha256: dict[str, Sha256]
    """Of model.engine and model.plan."""

    def candidate(self, precision: str) -> BoardCandidate:
        """What was built in a precision."""
        return next(c for c in self.candidates if c.precision == precision)
