"""Recipe: what the user wants of a build, and how it is to be reached."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, field_validator

from edgeprune.records.base import Record
from edgeprune.records.quantization import Observer

Importance = Literal["random", "l1", "l2", "bn", "taylor"]
Scope = Literal["global", "uniform"]
Distillation = Literal["none", "logits", "ultralytics"]
Schedule = Literal["ptq", "prune-then-qat", "qap"]
Activation = Literal["keep", "relu", "relu6", "hardswish"]
#: Edge of a square input in pixels; the detector's largest stride divides it.
InputEdge = Annotated[int, Field(ge=32, le=4096, multiple_of=32)]


class Goal(Record):
    """When a build is good enough."""

    macs_ratio: float = Field(default=0.5, gt=0.05, lt=1.0)
    """Multiply-accumulates of the build : the parent's, at most."""
    max_map_drop: float = Field(default=0.01, ge=0.0, le=0.5)
    """mAP50-95 (0 to 1) that the build may lose against its parent on the same runtime."""


class Recipe(Record):
    """How to prune and to fine-tune. Every key has a default; a YAML file names what differs."""

    goal: Goal = Goal()
    importance: Importance = "taylor"
    """How channels are scored; `edgeprune.prune.importance` has the formulas."""
    scope: Scope = "global"
    """global: channels of all groups compete; uniform: every group loses the same share."""
    max_group_ratio: float = Field(default=0.8, ge=0.0, lt=1.0)
    """Pruning ratio that no channel group may exceed."""
    min_width: int = Field(default=8, ge=1)
    """Channels that every channel group keeps at least."""
    importance_batches: int = Field(default=16, ge=1, le=10_000)
    """Training batches whose gradients score the channels (importance taylor)."""
    rounds: int = Field(default=1, ge=1, le=20)
    """Prune and fine-tune this often, each round an equal factor of the MACs."""
    round_epochs: int = Field(default=3, ge=1)
    """Epochs of fine-tuning between rounds."""
    epochs: int = Field(default=60, ge=1)
    """Epochs of fine-tuning after the last round."""
    schedule: Schedule = "qap"
    """For a target with int8. ptq: prune, fine-tune, then quantize; prune-then-qat: the last `qat_share` of the epochs
    with fake-quantization; qap: pruned and fine-tuned with fake-quantization from the start."""
    qat_share: float = Field(default=0.5, gt=0.0, lt=1.0)
    """Share of `epochs` that prune-then-qat trains with fake-quantization."""
    qat_rate: float = Field(default=0.5, gt=0.0, le=1.0)
    """Learning rate with fake-quantization : without."""
    calibration: str | None = None
    """Calibration set for int8: a name under calibration/, or the path of its YAML."""
    observer: Observer = "percentile"
    """How calibration chooses the range of a tensor; `edgeprune.quant.calibrate` has the rules."""
    activation: Activation = "keep"
    """Swap SiLU for an activation function that kernels are faster with, before anything is cut. The report says
    what it cost."""
    activation_epochs: int = Field(default=3, ge=1)
    """Epochs that the whole model is given to get used to another activation function."""
    norm_freeze_share: float = Field(default=0.25, ge=0.0, le=1.0)
    """Share of the epochs, at the end, that train with BatchNorm's statistics frozen, where int8 is trained."""
    batch: int = Field(default=16, ge=1)
    """Images a batch while fine-tuning."""
    learning_rate: float = Field(default=0.0014, gt=0.0, le=1.0)
    """Peak learning rate of AdamW."""
    distillation: Distillation = "logits"
    """What the pruned model learns from its parent besides the labels."""
    distillation_weight: float = Field(default=1.0, ge=0.0)
    """Weight of the distillation loss against the detection loss (logits)."""
    torch_device: str = ""
    """Where to fine-tune: '' (first GPU if there is one), 'cpu', '0', '0,1'."""
    workers: int = Field(default=8, ge=0)
    """Data loader processes (none on a CPU: Ultralytics loads in the training process there)."""
    cache: Literal["none", "ram", "disk"] = "none"
    """Keep decoded training images."""
    seed: int = Field(default=0, ge=0)
    """Seed of everything that is random."""
    imgsz: tuple[InputEdge, ...] = ()
    """Edge of the build's square input in pixels, multiples of 32, instead of the target's; several are raced, each
    with the same goal. The parent stays at the target's own. None: the target's."""

    @field_validator("imgsz", mode="before")
    @classmethod
    def _alone(cls, value: Any) -> Any:
        return value if isinstance(value, (list, tuple)) else (value,)

    @field_validator("imgsz")
    @classmethod
    def _distinct(cls, sizes: tuple[int, ...]) -> tuple[int, ...]:
        if len(set(sizes)) != len(sizes):
            raise ValueError("input sizes to race are distinct")
        return sizes
