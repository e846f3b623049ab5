"""Recipe: what the user wants of a build, and how it is to be reached."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, field_validator, model_validator

from edgeprune.errors import RecipeError
from edgeprune.records.base import Record
from edgeprune.records.methods import LEAVE_ZEROS, METHODS, Named
from edgeprune.records.quantization import Observer

Granularity = Annotated[str, Named("granularity")]
Importance = Annotated[str, Named("importance")]
Regularization = Annotated[str, Named("regularization")]
Pruning = Annotated[str, Named("pruning")]
Allocation = Annotated[str, Named("allocation")]
Distillation = Annotated[str, Named("distillation")]
Schedule = Literal["ptq", "prune-then-qat", "qap"]
Activation = Literal["keep", "relu", "relu6", "hardswish", "race"]
#: The keys of a goal that say what a build may cost; a recipe gives one of them.
WAYS = ("macs_ratio", "latency_ms", "speedup", "fps", "sparsity")
#: Prunings that cut what was trained, as often as asked; the others choose while they train, channels or weights, once.
_IN_ROUNDS = frozenset({"one-shot", "rewind-rate"})
#: Edge of a square input in pixels; the detector's largest stride divides it.
InputEdge = Annotated[int, Field(ge=32, le=4096, multiple_of=32)]


class Goal(Record):
    """When a build is good enough: what it may cost, said in one of five ways, and what it may lose."""

    macs_ratio: float | None = Field(default=None, gt=0.05, lt=1.0)
    """Multiply-accumulates of the build : the parent's, at most. 0.5 where no goal is given."""
    latency_ms: float | None = Field(default=None, gt=0.0)
    """Median time on the target, image in to boxes out, in milliseconds, at most."""
    speedup: float | None = Field(default=None, gt=1.0, le=100.0)
    """The parent's median time : the build's, at least."""
    fps: float | None = Field(default=None, gt=0.0)
    """Images a second on the target, one after the other, at least: 1000 : latency_ms."""
    sparsity: float | None = Field(default=None, gt=0.0, lt=1.0)
    """Share of the weights of convolutions and linear layers that become zero, for granularities that leave zeros."""
    max_map_drop: float = Field(default=0.01, ge=0.0, le=0.5)
    """mAP50-95 (0 to 1) that the build may lose against its parent on the same runtime."""

    @model_validator(mode="before")
    @classmethod
    def _default(cls, given: Any) -> Any:
        if isinstance(given, dict) and all(given.get(way) is None for way in WAYS):
            return {**given, "macs_ratio": 0.5}
        return given

    @model_validator(mode="after")
    def _one(self) -> Goal:
        given = [way for way in WAYS if getattr(self, way) is not None]
        if len(given) > 1:
            raise ValueError(f"one of {', '.join(WAYS)}; {' and '.join(given)} are given")
        return self

    @property
    def in_time(self) -> bool:
        """Whether it is about time on the target, which a latency table answers for."""
        return self.macs_ratio is None and self.sparsity is None

    def macs_after(self, share: float) -> float:
        """MACs that may stay, of the parent's, after this share (over 0, at most 1) of the way to the goal. Every
        equal share of the way takes an equal factor."""
        assert self.macs_ratio is not None
        return self.macs_ratio**share

    def sparsity_after(self, share: float) -> float:
        """Share of zeros after this share (over 0, at most 1) of the way; every equal share leaves an equal factor."""
        assert self.sparsity is not None
        return self.sparsity if share == 1.0 else float(1 - (1 - self.sparsity) ** share)

    def budget_ms(self, parent_ms: float, share: float = 1.0) -> float:
        """Time in ms that an image may take after this share of the way; the whole way ends at the goal exactly.

        Args:
            parent_ms: Of the parent on the target, as the build will be measured.

        Raises:
            RecipeError: The parent is that fast already.
        """
        if self.speedup is not None:
            goal, asked = parent_ms / self.speedup, f"speedup {self.speedup:g}"
        elif self.fps is not None:
            goal, asked = 1000.0 / self.fps, f"fps {self.fps:g}"
        else:
            assert self.latency_ms is not None
            goal, asked = self.latency_ms, f"latency_ms {self.latency_ms:g}"
        if goal >= parent_ms:
            raise RecipeError(
                "The parent reaches the goal as it is: there is nothing to cut.",
                where="goal", expected=f"under the parent's {parent_ms:.3f} ms", got=f"{asked}, which is {goal:.3f} ms",
                next_step="ask for less time, or ship the parent",
            )  # fmt: skip
        return goal if share == 1.0 else float(parent_ms * (goal / parent_ms) ** share)


class Recipe(Record):
    """How to prune and to fine-tune. Every key has a default; a YAML file names what differs."""

    goal: Goal = Goal()
    granularity: Granularity = "channels"
    """What is cut. This and the next keys are a method each; `edgeprune methods` tells of all."""
    importance: Importance = "taylor"
    """How it is scored."""
    regularization: Regularization = "none"
    """What training is pressed towards before anything is cut."""
    regularization_epochs: int = Field(default=3, ge=1)
    """Epochs of the whole model with regularization, before all others."""
    regularization_strength: float | None = Field(default=None, gt=0.0)
    """Of its penalty, against the detection loss of an image; none: the method's own (train/regularize.py)."""
    pruning: Pruning = "one-shot"
    """How cutting and training alternate."""
    pruning_share: float = Field(default=0.5, gt=0.0, lt=1.0)
    """Share of `epochs` that any pruning but one-shot trains before the cut."""
    rewind_epochs: int = Field(default=1, ge=1)
    """Epochs after which the model is kept that rewind-weights goes back to."""
    allocation: Allocation = "sensitivity"
    """How the goal is shared out among the layers; where zeros are left, which changes no width: global unless told."""
    max_group_ratio: float = Field(default=0.8, ge=0.0, lt=1.0)
    """Pruning ratio that no channel group may exceed."""
    min_width: int = Field(default=8, ge=1)
    """Channels that every channel group keeps at least."""
    importance_batches: int = Field(default=16, ge=1, le=10_000)
    """Training batches that score the channels (importances that need data)."""
    search_trials: int = Field(default=100, ge=1, le=100_000)
    """Candidates that an allocation looks at which searches (amc: episodes; nsga2 and tpe: points)."""
    search_batches: int = Field(default=2, ge=1, le=1_000)
    """Training batches that the loss of a candidate is taken on: importance and allocations that measure."""
    search_judge: Literal["loss", "map"] = "loss"
    """What a candidate is judged by there: the detection loss, or the mAP50-95 that it lacks to 1, which is what papers
    have and needs more `search_batches` to tell."""
    search_steps: int = Field(default=2, ge=0)
    """Training steps that netadapt gives every candidate before it takes its loss, going on from the last that won (its
    short-term fine-tuning); 0: none, which is quicker by far."""
    supernet_epochs: int = Field(default=0, ge=0)
    """Epochs that the weight-sharing supernet is trained before nsga2 or tpe score sub-nets of it; 0: as the model is.
    Only widths are learned from it: the build cuts the model itself."""
    rounds: int = Field(default=1, ge=1, le=20)
    """Prune and fine-tune this often, each round an equal factor of the MACs, or of the time where the goal is one."""
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
    """Swap SiLU for an activation function that kernels are faster with, before anything is cut; race: whichever lets
    the goal, which is one in time then, be reached with the least cutting. The report says
    what it cost."""
    activation_epochs: int = Field(default=3, ge=1)
    """Epochs that the whole model is given to get used to another activation function."""
    norm_freeze_share: float = Field(default=0.25, ge=0.0, le=1.0)
    """Share of the epochs, at the end, that train with BatchNorm's statistics frozen, where int8 is trained."""
    latency_table: str | None = None
    """For a goal in time: a latency table that was made before, by its path, instead of one that the build makes; the
    plan is then made for its precision."""
    batch: int = Field(default=16, ge=1)
    """Images a batch while fine-tuning."""
    learning_rate: float = Field(default=0.0014, gt=0.0, le=1.0)
    """Peak learning rate of AdamW."""
    distillation: Distillation = "logits"
    """What the pruned model learns from its parent besides the labels."""
    distillation_weight: float = Field(default=1.0, ge=0.0)
    """Weight of the distillation loss against the detection loss, but for ultralytics', which has its own."""
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

    @model_validator(mode="after")
    def _supernet_is_searched(self) -> Recipe:
        if self.supernet_epochs and self.allocation not in {"nsga2", "tpe"}:
            raise ValueError(
                f"supernet_epochs train the net that allocation nsga2 or tpe searches; allocation {self.allocation} "
                "looks at none: take one of these, or leave supernet_epochs out"
            )
        return self

    @model_validator(mode="before")
    @classmethod
    def _without_widths(cls, given: Any) -> Any:
        if isinstance(given, dict) and given.get("granularity") in LEAVE_ZEROS and "allocation" not in given:
            return {**given, "allocation": "global"}
        return given

    @model_validator(mode="after")
    def _zeros(self) -> Recipe:
        """What leaves zeros goes with a sparsity, and what cuts with the other goals."""
        granularity = self.granularity
        if granularity not in LEAVE_ZEROS:
            if self.goal.sparsity is not None:
                raise ValueError(
                    f"goal sparsity and granularity {granularity}: what is cut is gone, and leaves no zeros; give "
                    f"macs_ratio or a goal in time, or granularity {', '.join(sorted(LEAVE_ZEROS))}"
                )
            return self
        if self.goal.sparsity is None:
            way = next(way for way in WAYS if getattr(self.goal, way) is not None)
            raise ValueError(
                f"goal {way} and granularity {granularity}: zeros change neither MACs nor, by themselves, the time; "
                "give goal: {sparsity: …}"
            )
        if METHODS["importance"][self.importance].each is None:
            known = ", ".join(name for name, method in METHODS["importance"].items() if method.each)
            raise ValueError(
                f"importance {self.importance} and granularity {granularity}: it scores channels, not single weights; "
                f"give one of {known}"
            )
        if self.allocation not in {"global", "uniform"}:
            raise ValueError(
                f"allocation {self.allocation} and granularity {granularity}: it chooses widths, and no width changes; "
                "give global or uniform"
            )
        if granularity == "2:4" and (self.goal.sparsity != 0.5 or self.rounds != 1):
            raise ValueError(
                f"goal sparsity {self.goal.sparsity:g} in {self.rounds} rounds and granularity 2:4: the pattern leaves "
                "half the weights, at once; give sparsity 0.5 and rounds 1"
            )
        return self

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

    @model_validator(mode="after")
    def _makes_sense(self) -> Recipe:
        if self.rounds > 1 and self.pruning not in _IN_ROUNDS:
            raise ValueError(
                f"rounds {self.rounds} with pruning {self.pruning}, which cuts once: give rounds 1, or pruning "
                "one-shot or rewind-rate"
            )
        if self.granularity == "blocks" and self.importance == "sensitivity":
            raise ValueError(
                "importance sensitivity with granularity blocks: what was measured is what cuts lose, and "
                "says nothing of a block; give another importance"
            )
        if self.granularity not in {"channels", "weights"} and self.pruning not in _IN_ROUNDS:
            raise ValueError(
                f"pruning {self.pruning} with granularity {self.granularity}: it goes by single channels or weights; "
                "give granularity channels or weights, or pruning one-shot or rewind-rate"
            )
        if self.regularization_strength is not None and self.regularization == "none":
            raise ValueError(
                "regularization_strength without regularization: name one (edgeprune methods --row regularization), or "
                "leave the strength out"
            )
        return self
