"""What a recipe's schedule asks for, as phases. Pure.

A build is a list of phases, and each does, in this order, what it names: swap the activation function, calibrate,
cut, train. The three schedules of a quantized build differ in nothing else.

| schedule | phases |
|---|---|
| (no int8) | cut and train, `rounds` times |
| ptq | the same, then calibrate |
| prune-then-qat | the same with fewer epochs at the end, then calibrate and train quantized |
| qap | calibrate, then cut and train quantized, `rounds` times; ranges are followed at first, then calibrated anew |

Where blocks are taken out (granularity), qap's first cut comes before it calibrates.

In front of them, the activation function is swapped and the whole model is regularized, where the recipe asks for it,
each with epochs of its own. Then the recipe's `pruning` says how cutting and training alternate:

- one-shot: cut, train all; `rounds` over 1: cut and train `round_epochs` before that, again and again.
- gradual, soft, regrowth: choose the widths; train `pruning_share` of the epochs, in which it is decided who stays; cut
  to these widths, train the rest.
- rewind-weights: train that share, keeping the model after `rewind_epochs`; choose by the one trained to the end, cut
  the one that was kept; train the rest, the learning rate going on from where that one was.
- rewind-rate: train that share; cut, train the rest, the learning rate's schedule from its beginning; so every round.

So every method trains `epochs`. Widths are chosen first where they can be, since a goal in time measures whole engines
for them; an int8 schedule quantizes as it always does. Epochs share one learning-rate schedule, from the beginning or
from where it is rewound.

Sources of pruning stand in each function's docstring. Source of qap: Hawks et al. 2021, 'Ps and Qs: Quantization-Aware
Pruning for Efficient Low Latency Neural Network Inference', section 3.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from itertools import accumulate, pairwise

from edgeprune.errors import RecipeError
from edgeprune.records import Recipe
from edgeprune.records.methods import METHODS

#: Share of qap's last epochs in which ranges are followed, before they are observed on the calibration set and learned:
#: learned from the cut on, they clip what the recovering model needs (blood cells, 8 epochs; README).
FOLLOWED = 0.5


@dataclass(frozen=True)
class Phase:
    """One phase.

    Attributes:
        number: From 1.
        swap: Whether the activation function is swapped.
        calibrate: Whether ranges are taken anew.
        share: How far to the goal its cut goes, from the parent (over 0) to the goal itself (1); None where nothing is
            cut. `Goal.macs_after` and `Goal.budget_ms` say what that is.
        chooses: Whether its cut only chooses widths, and the model stays whole.
        point: How many phases back the model was trained that is cut in place of the one that is scored; 0: itself.
        epochs: Of training; 0 for none.
        keeper: What goes along with that training, 'module:function' (train/whole.py).
        rewinds: Epoch of the learning rate's schedule that it begins a new one at; None where it goes on.
        quantized: Whether it cuts and trains with fake-quantization.
        first_epoch, all_epochs: Where its epochs lie in their schedule.
        left: Epochs of all later phases.
        widths: Number of the phase whose chosen widths stand in it; 0 where none do.
        last: What no later phase does again, of 'calibrate', 'cut' and 'train'.
    """

    number: int = 0
    swap: bool = False
    calibrate: bool = False
    share: float | None = None
    chooses: bool = False
    point: int = 0
    epochs: int = 0
    keeper: str = ""
    rewinds: int | None = None
    quantized: bool = False
    first_epoch: int = 0
    all_epochs: int = 0
    left: int = 0
    widths: int = 0
    last: frozenset[str] = frozenset()

    @property
    def does(self) -> frozenset[str]:
        """What it does, of 'calibrate', 'cut' and 'train'."""
        asked = {"calibrate": self.calibrate, "cut": self.share is not None, "train": self.epochs > 0}
        return frozenset(kind for kind, wanted in asked.items() if wanted)

    @property
    def follow(self) -> bool:
        """Whether its training follows ranges instead of learning them: in qap until the last training."""
        return self.quantized and self.epochs > 0 and "train" not in self.last

    @property
    def followed(self) -> bool:
        """Whether a later phase trains on."""
        return "train" not in self.last

    def folder(self, kind: str) -> str:
        """Where what it makes of this kind goes, with a slash: '' for the build's own folder."""
        return "" if kind in self.last else f"phases/{self.number}/"


def phases(recipe: Recipe, *, int8: bool) -> tuple[Phase, ...]:
    """The phases of a build.

    Args:
        int8: Whether the target races int8.

    Raises:
        RecipeError: There are too few epochs for what is asked.
    """
    schedule = recipe.schedule if int8 else ""
    quantized = schedule == "qap"
    after = round(recipe.epochs * recipe.qat_share) if schedule == "prune-then-qat" else 0
    cutting: list[Phase] = METHODS["pruning"][recipe.pruning].function(recipe, recipe.epochs - after)
    if quantized:
        cutting = [replace(phase, calibrate=n == 0, quantized=True) for n, phase in enumerate(cutting)]
    listed = [Phase(swap=True, epochs=recipe.activation_epochs)] if recipe.activation != "keep" else []
    listed += [*_regularized(recipe), *cutting]
    if quantized and recipe.granularity == "blocks":
        # what a block makes has scales of its own: blocks go before there are any, and channels with them
        first = next(i for i, phase in enumerate(listed) if phase.share is not None)
        whole = listed[first]
        listed[first : first + 1] = [Phase(share=whole.share), replace(whole, share=None)]
    if quantized:
        # the ranges that the last cut left are seen only once the model has recovered from it: observed anew then
        whole = listed.pop()
        early = max(1, round(whole.epochs * FOLLOWED)) if whole.epochs > 1 else 0
        if early:
            listed.append(replace(whole, epochs=early))
            whole = Phase(calibrate=True, epochs=whole.epochs - early, quantized=True)
        listed.append(whole)
    if schedule in {"ptq", "prune-then-qat"}:
        listed.append(Phase(calibrate=True, epochs=after, quantized=True))
    return _placed(listed)


def epochs_of(recipe: Recipe, *, int8: bool) -> int:
    """Of training in all."""
    return sum(phase.epochs for phase in phases(recipe, int8=int8))


def one_shot(recipe: Recipe, epochs: int) -> list[Phase]:
    """Cut, then train; of N `rounds`, round n cuts n / N of the way to the goal.
    Source: Li et al. 2017, section 3.4 (once); Han et al. 2015, section 3.4 (iterative)."""
    return _rounds(recipe, epochs)


def gradual(recipe: Recipe, epochs: int) -> list[Phase]:
    """What stays ramps down while the model trains: at share t, 1 - (1 - t)^3 of those that will go are muted.
    Source: Zhu, Gupta 2018, 'To prune, or not to prune', section 3, eq. 1."""
    return _while_training(recipe, epochs, "train.mute:gradual")


def soft(recipe: Recipe, epochs: int) -> list[Phase]:
    """Filters F with the lowest |F|_2 are zeroed after every epoch, as many as will go, and may come back.
    Source: He et al. 2018, 'Soft Filter Pruning', section 3.2, eq. 2."""
    return _while_training(recipe, epochs, "train.mute:soft")


def regrowth(recipe: Recipe, epochs: int) -> list[Phase]:
    """Channels, or weights w, are dropped and grown: at step t, a / 2 (1 + cos(pi t / end)) of the open ones go, those
    with the least |w|, and as many shut ones with the largest gradients |g| come back, from zero.
    Source: Evci et al. 2020 (RigL), section 3 and algorithm 1."""
    return _while_training(recipe, epochs, "train.mute:regrowth")


def rewind_weights(recipe: Recipe, epochs: int) -> list[Phase]:
    """A lottery ticket: a mask m is chosen by the trained weights w_T, cut out of early ones w_k, and m w_k is trained.
    Source: Frankle et al. 2020, 'Linear Mode Connectivity and the Lottery Ticket Hypothesis', algorithm 2."""
    before, after = _shared(recipe, epochs)
    early = recipe.rewind_epochs
    if early >= before:
        raise RecipeError(
            "The model is rewound to an epoch that training before the cut doesn't go beyond.", where="rewind_epochs",
            expected=f"under {before}, pruning_share of {epochs} epochs", got=early,
            next_step="give a lower rewind_epochs, more epochs or a larger pruning_share",
        )  # fmt: skip
    return [Phase(epochs=early), Phase(epochs=before - early), Phase(share=1.0, point=2, epochs=after, rewinds=early)]


def rewind_rate(recipe: Recipe, epochs: int) -> list[Phase]:
    """Trained to the end, cut to m w_T, and trained again at the same rates: rate(t) begins again, the weights stay.
    Source: Renda et al. 2020, 'Comparing Rewinding and Fine-tuning in Neural Network Pruning', section 2."""
    before, after = _shared(recipe, epochs)
    return [Phase(epochs=before), *(replace(phase, rewinds=0) for phase in _rounds(recipe, after))]


def _rounds(recipe: Recipe, epochs: int) -> list[Phase]:
    return [
        Phase(share=number / recipe.rounds, epochs=epochs if number == recipe.rounds else recipe.round_epochs)
        for number in range(1, recipe.rounds + 1)
    ]


def _while_training(recipe: Recipe, epochs: int, keeper: str) -> list[Phase]:
    before, after = _shared(recipe, epochs)
    return [Phase(share=1.0, chooses=True, epochs=before, keeper=keeper), Phase(share=1.0, epochs=after)]


def _shared(recipe: Recipe, epochs: int) -> tuple[int, int]:
    """Epochs before the cut and after."""
    before = round(epochs * recipe.pruning_share)
    if not 0 < before < epochs:
        raise RecipeError(
            f"pruning {recipe.pruning} trains before the cut and after it: that are too few epochs.", where="epochs",
            expected="one before and one after, at least",
            got=f"{epochs} besides quantized ones, of which pruning_share {recipe.pruning_share:g} is {before}",
            next_step="give more epochs, or another pruning_share",
        )  # fmt: skip
    return before, epochs - before


def _regularized(recipe: Recipe) -> list[Phase]:
    method = METHODS["regularization"][recipe.regularization]
    if method.at is None:
        return []
    trained = Phase(epochs=recipe.regularization_epochs, keeper=method.at)
    # some press only those that will go, and so need to know how many these are
    return [replace(trained, share=1.0 / recipe.rounds, chooses=True) if method.chosen else trained]


def _placed(listed: list[Phase]) -> tuple[Phase, ...]:
    """Phases that know where they are."""
    final = {kind: max(i for i, p in enumerate(listed) if kind in p.does) for p in listed for kind in p.does}
    begins = [0, *(i for i, phase in enumerate(listed) if phase.rewinds is not None and i), len(listed)]
    placed: list[Phase] = []
    for begin, end in pairwise(dict.fromkeys(begins)):
        starts = [listed[begin].rewinds or 0, *(phase.epochs for phase in listed[begin:end])]
        starts = list(accumulate(starts))
        for index, phase in enumerate(listed[begin:end], begin):
            widths = index + 1 if phase.chooses else placed[-1].widths if placed and _stands(placed[-1]) else 0
            last = frozenset(kind for kind, at in final.items() if at == index)
            placed.append(
                replace(
                    phase, number=index + 1, first_epoch=starts[index - begin], all_epochs=starts[-1], widths=widths,
                    last=last, left=sum(later.epochs for later in listed[index + 1 :]),
                )
            )  # fmt: skip
    return tuple(placed)


def _stands(phase: Phase) -> bool:
    """Whether widths that were chosen still stand after a phase: until something is cut to them."""
    return phase.chooses or phase.share is None
