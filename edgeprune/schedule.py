"""What a recipe's schedule asks for, as phases. Pure.

A build is a list of phases, and each does, in this order, what it names: swap the activation function, calibrate,
cut, train. The three schedules of a quantized build differ in nothing else.

| schedule | phases |
|---|---|
| (no int8) | cut and train, `rounds` times |
| ptq | the same, then calibrate |
| prune-then-qat | the same with fewer epochs at the end, then calibrate and train quantized |
| qap | calibrate, then cut and train quantized, `rounds` times; ranges are followed at first, then calibrated anew |

All epochs of a build share one learning-rate schedule.

Source of qap: Hawks et al. 2021, 'Ps and Qs: Quantization-Aware Pruning for Efficient Low Latency Neural Network
Inference', section 3.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from itertools import accumulate

from edgeprune.records import Recipe

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
        epochs: Of training; 0 for none.
        quantized: Whether it cuts and trains with fake-quantization.
        first_epoch, all_epochs: Where its epochs lie among the build's.
        last: What no later phase does again, of 'calibrate', 'cut' and 'train'.
    """

    number: int = 0
    swap: bool = False
    calibrate: bool = False
    share: float | None = None
    epochs: int = 0
    quantized: bool = False
    first_epoch: int = 0
    all_epochs: int = 0
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

    def folder(self, kind: str) -> str:
        """Where what it makes of this kind goes, with a slash: '' for the build's own folder."""
        return "" if kind in self.last else f"phases/{self.number}/"


def phases(recipe: Recipe, *, int8: bool) -> tuple[Phase, ...]:
    """The phases of a build.

    Args:
        int8: Whether the target races int8.
    """
    schedule = recipe.schedule if int8 else ""
    quantized = schedule == "qap"
    after = round(recipe.epochs * recipe.qat_share) if schedule == "prune-then-qat" else 0
    listed = [Phase(swap=True, epochs=recipe.activation_epochs)] if recipe.activation != "keep" else []
    listed += [
        Phase(
            calibrate=quantized and number == 1,
            share=number / recipe.rounds,
            epochs=recipe.epochs - after if number == recipe.rounds else recipe.round_epochs,
            quantized=quantized,
        )
        for number in range(1, recipe.rounds + 1)
    ]
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
    starts = [0, *accumulate(phase.epochs for phase in listed)]
    final = {kind: max(i for i, p in enumerate(listed) if kind in p.does) for p in listed for kind in p.does}
    return tuple(
        replace(
            phase,
            number=index + 1,
            first_epoch=starts[index],
            all_epochs=starts[-1],
            last=frozenset(kind for kind, at in final.items() if at == index),
        )
        for index, phase in enumerate(listed)
    )
