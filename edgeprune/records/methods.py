"""Every pruning method that a recipe can name, by what it decides: one line each.

A recipe takes one of each row and composes them. The line says where the method is from, what it needs, and which
function it is; the function's docstring has formula and source. Adding a method is that function, a test, and a line
here.

Rules:
- A function is named by where it is, so that this table, which device rooms read with the recipe, imports nothing.
- What a row's functions take and give back stands in the room that calls them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib import import_module
from typing import Any, Literal

from pydantic_core import core_schema

Need = Literal["data", "gradients", "training"]
Row = Literal["granularity", "importance", "regularization", "pruning", "allocation", "distillation"]


@dataclass(frozen=True)
class Method:
    """One method.

    Attributes:
        source: Paper, with section and formula; or what it is the control for.
        at: 'module:function' under edgeprune; none for what a row does without a function of its own.
        each: Of an importance: the function that scores single weights, for granularities that leave zeros; none where
            the method has no such sense.
        needs: What it can't do without: data = training images, gradients = of the loss on them, training = epochs.
        depth: Of an allocation: the function that searches how many blocks go, together with widths; none where it
            doesn't.
        chosen: Whether it needs to know, while it trains, which channels would go.
    """

    source: str
    at: str | None = None
    needs: tuple[Need, ...] = ()
    each: str | None = None
    depth: str | None = None
    chosen: bool = False

    @property
    def function(self) -> Callable[..., Any]:
        """The function itself; its room is imported for it."""
        assert self.at is not None
        return function_at(self.at)

    @property
    def function_of_each(self) -> Callable[..., Any]:
        """The function that scores single weights."""
        assert self.each is not None
        return function_at(self.each)

    @property
    def function_of_depth(self) -> Callable[..., int]:
        """The function that searches depth."""
        assert self.depth is not None
        return function_at(self.depth)


def function_at(at: str) -> Callable[..., Any]:
    """The function that 'module:function' under edgeprune names; its room is imported for it."""
    module, _, name = at.partition(":")
    found: Callable[..., Any] = getattr(import_module(f"edgeprune.{module}"), name)
    return found


#: Granularities that leave zeros and change no shape; their goal is a sparsity.
LEAVE_ZEROS = frozenset({"weights", "2:4", "kernels"})

_W, _A, _G = (f"prune.importance.{family}" for family in ("weights", "activations", "gradients"))

METHODS: Mapping[Row, Mapping[str, Method]] = {
    "granularity": {
        "channels": Method(
            "Li et al. 2017, section 3: whole filters, with everything that reads them", "prune.granularity:channels"
        ),
        "neurons": Method(
            "Hu et al. 2016, section 4: neurons of linear layers (classifiers, RT-DETR's feed-forward)",
            "prune.granularity:neurons",
        ),
        "blocks": Method(
            "Elkerdawy et al. 2020, section 3: whole repeats of bottlenecks by importance and cost, then channels",
            "prune.depth:blocks",
        ),
        "weights": Method("Han et al. 2015, section 3: single weights become zero", "prune.sparse:weights"),
        "2:4": Method(
            "Mishra et al. 2021, sections 2 and 3: two of every four weights along the input channels become zero",
            "prune.sparse:two_of_four",
        ),
        "kernels": Method("Lin et al. 2018, section 3: whole kernels become zero", "prune.sparse:kernels"),
    },
    "importance": {
        "random": Method("the control: uniform by seed", f"{_W}:random", each=f"{_W}:random_each"),
        "l1": Method("Li et al. 2017, section 3.1", f"{_W}:l1", each=f"{_W}:l1_each"),
        "l2": Method("Li et al. 2017, section 3.1 and appendix 6.1: l2 beside l1", f"{_W}:l2", each=f"{_W}:l2_each"),
        "bn": Method("Liu et al. 2017 (network slimming), section 3", f"{_W}:bn"),
        "fpgm": Method("He et al. 2019, section 3: nearness to the geometric median", f"{_W}:fpgm"),
        "lamp": Method("Lee et al. 2021, section 3", f"{_W}:lamp", each=f"{_W}:lamp_each"),
        "synapses": Method(
            "Lin et al. 2018 (synaptic strength), section 3", f"{_W}:synapses", each=f"{_W}:synapses_each"
        ),
        "masks": Method(
            "what torch.nn.utils.prune left in the user's checkpoint", f"{_W}:masks", each=f"{_W}:masks_each"
        ),
        "apoz": Method("Hu et al. 2016, section 3", f"{_A}:apoz", ("data",)),
        "activation": Method("Molchanov et al. 2017, section 2.2: mean activation", f"{_A}:activation", ("data",)),
        "deviation": Method("Molchanov et al. 2017, section 2.2: its standard deviation", f"{_A}:deviation", ("data",)),
        "gradient": Method(
            "Evci et al. 2020 (RigL), section 3, grow criterion: what it regrows by", f"{_G}:gradient",
            ("data", "gradients"), f"{_G}:gradient_each",
        ),
        "taylor": Method(
            "Molchanov et al. 2019, eq. 8 and 10", f"{_G}:taylor", ("data", "gradients"), f"{_G}:taylor_each"
        ),
        "fisher": Method(
            "Theis et al. 2018, section 2.1, eq. 9; of single weights LeCun et al. 1990 (Optimal Brain Damage), the "
            "Hessian's diagonal by the Fisher information", f"{_G}:fisher", ("data", "gradients"), f"{_G}:fisher_each",
        ),
        "snip": Method("Lee et al. 2019, section 4.1, eq. 6", f"{_G}:snip", ("data", "gradients"), f"{_G}:snip_each"),
        "hessian": Method(
            "Yu et al. 2022 (HAP), section 3; the trace by Hutchinson as in Dong et al. 2020 (HAWQ-V2)",
            f"{_G}:hessian", ("data", "gradients"), f"{_G}:hessian_each",
        ),
        "sensitivity": Method(
            "Li et al. 2017, section 3.2: the loss that cutting the channel's group was measured to cost, spread by L2",
            "prune.sensitivity:measured", ("data",),
        ),
    },
    "regularization": {
        "none": Method("nothing"),
        "slimming": Method("Liu et al. 2017, section 3, eq. 1", "train.regularize:slimming", ("data", "training")),
        "group-lasso": Method(
            "Wen et al. 2016, section 3, eq. 2, over channels", "train.regularize:group_lasso", ("data", "training")
        ),
        "growing": Method(
            "Wang et al. 2021, section 3.2, eq. 2 (GReg-1)", "train.regularize:growing", ("data", "training"),
            chosen=True,
        ),
        "l0": Method("Louizos et al. 2018, section 2.2 (hard-concrete gates)", "train.gates:l0", ("data", "training")),
    },
    "pruning": {
        "one-shot": Method(
            "cut, then train (Li et al. 2017, section 3.4); `rounds` over 1: iterative (Han et al. 2015, section 3.4)",
            "schedule:one_shot",
        ),
        "gradual": Method(
            "Zhu, Gupta 2018, section 3, eq. 1, over channels or single weights", "schedule:gradual",
            ("data", "training"),
        ),
        "soft": Method(
            "He et al. 2018, section 3.2, eq. 2 (soft filter pruning)", "schedule:soft", ("data", "training")
        ),
        "regrowth": Method(
            "Evci et al. 2020 (RigL), section 3 and algorithm 1, over channels or single weights", "schedule:regrowth",
            ("data", "training"),
        ),
        "rewind-weights": Method(
            "Frankle et al. 2020, algorithm 2 (lottery ticket, rewound weights)", "schedule:rewind_weights",
            ("data", "training"),
        ),
        "rewind-rate": Method(
            "Renda et al. 2020, section 2 (rewound learning rate)", "schedule:rewind_rate", ("data", "training")
        ),
    },
    "allocation": {
        "global": Method(
            "what loses least for what it saves goes first: greedy per MAC; for a goal in time, mixed-integer programs "
            "on measured latency (HALP, Shen et al. 2022, section 3, eq. 2 and 7)",
            "prune.allocate:by_importance",
        ),
        "uniform": Method("Li et al. 2017, section 3.2: every layer the same share", "prune.allocate:uniform"),
        "sensitivity": Method(
            "Li et al. 2017, section 3.2; Han et al. 2015, section 5 and figure 6: as far as each layer's own curve "
            "allows",
            "prune.sensitivity:sensitivity", ("data",),
        ),
        "netadapt": Method(
            "Yang et al. 2018 (NetAdapt), section 3.2, algorithm 1: step by step, each where it hurts least",
            "prune.netadapt:netadapt", ("data", "training"),
        ),
        "amc": Method(
            "He et al. 2018 (AMC), sections 3.1 to 3.3, algorithm 1: an agent (DDPG) learns every layer's ratio",
            "prune.amc:amc", ("data",),
        ),
        "nsga2": Method(
            "Deb et al. 2002 (NSGA-II) over widths (with granularity blocks over depth too), sub-nets of a slimmable "
            "supernet (Yu and Huang 2019, section 3)",
            "prune.study:nsga2", ("data",), depth="prune.study:nsga2_depth",
        ),
        "tpe": Method(
            "Bergstra et al. 2011 (TPE), section 4, over the same, sub-nets of the same supernet",
            "prune.study:tpe", ("data",), depth="prune.study:tpe_depth",
        ),
    },
    "distillation": {
        "none": Method("labels alone"),
        "logits": Method(
            "Hinton et al. 2015 (scores); LD, Zheng et al. 2022, eq. 4 (boxes)", "train.distill:logits", ("training",)
        ),
        "cwd": Method(
            "Shu et al. 2021, section 3.2 (channel-wise, of features)", "train.features:cwd", ("training",)
        ),
        "mgd": Method(
            "Yang et al. 2022, section 3 (masked generative, of features)", "train.features:mgd", ("training",)
        ),
        "ld": Method("Zheng et al. 2022, eq. 3 and 4 (boxes alone)", "train.distill:ld", ("training",)),
        "ultralytics": Method("Ultralytics' own feature distillation", "train.distill:stock", ("training",)),
    },
}  # fmt: skip


@dataclass(frozen=True)
class Named:
    """Annotation of a field: one of a row's names."""

    row: Row

    def __get_pydantic_core_schema__(self, source: Any, handler: Any) -> core_schema.CoreSchema:
        return core_schema.literal_schema(list(METHODS[self.row]))
