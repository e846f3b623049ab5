"""Learning from the parent: the pruned model's raw predictions against the parent's on the same batch.

Rules:
- Both heads have the same outputs, so the predictions are compared as they are, before decoding: class
  scores as Bernoulli distributions, box sides as distributions over DFL bins.
- Anchors count by how sure the parent is of them; background carries next to nothing.
- The loss is added to the detection loss, scaled like it (by batch size), and shown in no column of its own.
- A recipe's distillation is a function of a `Lesson`; features.py has those that compare feature maps.

Loss per image, t = parent, s = pruned, w = max over classes of sigmoid(t):
    scores: sum over anchors, classes of KL(Bern(t) || Bern(s)) / sum of w
    boxes:  sum over anchors of w x mean over sides of KL(softmax(t) || softmax(s)) / sum of w
    ld:     boxes alone, with softmax(. / T), times T^2

Source: Hinton et al. 2015 (scores, T^2); LD, Zheng et al. CVPR 2022, eq. 3 and 4 (boxes as distributions; T = 10 in
section 4.1). Theirs counts anchors in two regions, the labels' own and a valuable one around it; w is high in both.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from edgeprune.errors import RecipeError
from edgeprune.yolo.neck import bins
from edgeprune.yolo.trainer import LossWrapper, trained

#: Weight of the scores' term against the boxes' term, as Ultralytics weighs cls (0.5) against dfl (1.5).
SCORES, BOXES = 0.5, 1.5
#: LD's temperature.
LD_TEMPERATURE = 10.0

#: Predictions and batch -> a scalar, of an image.
Extra = Callable[[Any, Mapping[str, Any]], torch.Tensor]
#: Pruned model and parent -> what is added to the loss.
Comparison = Callable[[nn.Module, nn.Module], Extra]


@dataclass(frozen=True)
class Lesson:
    """What a distillation is made from.

    Attributes:
        model: That learns, before training.
        parent: Checkpoint of the model that it learns from.
        weight: Of the distillation loss against the detection loss.
        channels: Of the image.
    """

    model: nn.Module
    parent: Path
    weight: float
    channels: int = 3


@dataclass(frozen=True)
class Teaching:
    """What a distillation adds to a training.

    Attributes:
        wrap: Put around the loss.
        along: What is trained along (a keeper with `begin` and `end`, train/whole.py).
        arguments: Of Ultralytics' trainer.
    """

    wrap: LossWrapper | None = None
    along: Any = None
    arguments: Mapping[str, Any] = field(default_factory=dict)


def logits(lesson: Lesson) -> Teaching:
    """Scores and boxes: KL(Bern(t) || Bern(s)) of class scores + KL(softmax(t) || softmax(s)) of box sides, weighed as
    in this file's head. Source: Hinton et al. 2015 (scores); LD, Zheng et al. 2022, eq. 4 (boxes)."""
    return Teaching(WrapWithParent(lesson.parent, lesson.weight, partial(Predictions, loss=distillation_loss)))


def ld(lesson: Lesson) -> Teaching:
    """Localization distillation alone: T^2 KL(softmax(t / T) || softmax(s / T)) over the bins of every box side.
    Source: Zheng et al. 2022, eq. 3 and 4.

    Raises:
        RecipeError: The head has no distributions.
    """
    if bins(lesson.model) <= 1:
        raise RecipeError(
            "Localization distillation compares distributions over a box side's bins, which this head doesn't have.",
            where="distillation: ld", expected="a head with DFL (reg_max over 1)", got="one number a side",
            next_step="give distillation: logits, cwd or mgd",
        )  # fmt: skip
    return Teaching(WrapWithParent(lesson.parent, lesson.weight, partial(Predictions, loss=localization_loss)))


def stock(lesson: Lesson) -> Teaching:
    """Ultralytics' own feature distillation, with a formula and a weight of its own. No paper."""
    return Teaching(arguments={"distill_model": str(lesson.parent)})


class Distillation:
    """A detection loss with the parent's opinion added. Called as Ultralytics calls a criterion."""

    def __init__(self, criterion: Any, extra: Extra, weight: float) -> None:
        self.criterion, self.extra, self.weight = criterion, extra, weight

    def __call__(self, predictions: Any, batch: dict[str, Any]) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        loss, items = self.criterion(predictions, batch)
        extra = self.weight * self.extra(predictions, batch)
        return torch.cat((loss, (extra * batch["img"].shape[0]).reshape(1))), items

    def update(self) -> None:
        """End of an epoch: end-to-end criteria shift their weights here."""
        if hasattr(self.criterion, "update"):
            self.criterion.update()


class WrapWithParent:
    """Makes a `Distillation` in whichever process trains; picklable, so that DDP workers get one each."""

    def __init__(self, parent: Path, weight: float, comparison: Comparison) -> None:
        self.parent, self.weight, self.comparison = parent, weight, comparison

    def __call__(self, criterion: Any, trainer: Any) -> Distillation:
        from edgeprune.yolo.load import load_detector

        parent = load_detector(self.parent).model.fuse(verbose=False)  # folded BatchNorm: the same answers, sooner
        parent = parent.to(trainer.device, memory_format=torch.channels_last).eval().requires_grad_(False)
        return Distillation(criterion, self.comparison(trained(trainer), parent), self.weight)


class Predictions:
    """Compares raw predictions by a loss of one head's outputs, each of an end-to-end head's two."""

    def __init__(self, student: nn.Module, parent: nn.Module, loss: Callable[..., torch.Tensor]) -> None:
        self.parent, self.loss = parent, loss

    def __call__(self, predictions: Any, batch: Mapping[str, Any]) -> torch.Tensor:
        with torch.no_grad():
            wanted = self.parent(batch["img"])[1]
        return by_head(self.loss, predictions[1] if isinstance(predictions, tuple) else predictions, wanted)


def by_head(loss: Callable[..., torch.Tensor], student: Any, parent: Any) -> torch.Tensor:
    """A loss of one head's outputs; of an end-to-end detector's two, the sum."""
    if "one2many" in student:
        return torch.stack([loss(student[b], parent[b]) for b in ("one2many", "one2one")]).sum()
    return loss(student, parent)


def distillation_loss(student: Mapping[str, torch.Tensor], parent: Mapping[str, torch.Tensor]) -> torch.Tensor:
    """Mean over the batch of scores and boxes in this file's head.

    Args:
        student: 'scores' logits of shape (batch, classes, anchors), 'boxes' logits of shape
            (batch, 4 x bins, anchors).
        parent: The same, without gradients.

    Returns:
        A scalar >= 0; 0 where the predictions are the same.
    """
    probability = parent["scores"].sigmoid()
    scores = F.binary_cross_entropy_with_logits(student["scores"], probability, reduction="none") - (
        F.binary_cross_entropy_with_logits(parent["scores"], probability, reduction="none")
    )
    sure, total = _sure(parent)
    return SCORES * scores.sum() / total + BOXES * (_divergence(student, parent, 1.0) * sure).sum() / total


def localization_loss(student: Mapping[str, torch.Tensor], parent: Mapping[str, torch.Tensor]) -> torch.Tensor:
    """The same of ld."""
    sure, total = _sure(parent)
    divergence = LD_TEMPERATURE**2 * _divergence(student, parent, LD_TEMPERATURE)
    return BOXES * (divergence * sure).sum() / total


def _sure(parent: Mapping[str, torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor]:
    """How sure the parent is of every anchor, and the sum of that."""
    sure = parent["scores"].sigmoid().amax(1)
    return sure, sure.sum().clamp(min=1.0)


def _divergence(
    student: Mapping[str, torch.Tensor], parent: Mapping[str, torch.Tensor], temperature: float
) -> torch.Tensor:
    """Of every anchor's box, mean over its sides."""
    batch, sides, anchors = student["boxes"].shape
    if sides <= 4:  # heads without DFL regress one number a side
        return (student["boxes"] - parent["boxes"]).abs().mean(1)
    ours = (student["boxes"].view(batch, 4, sides // 4, anchors) / temperature).log_softmax(2)
    theirs = (parent["boxes"].view(batch, 4, sides // 4, anchors) / temperature).log_softmax(2)
    return (theirs.exp() * (theirs - ours)).sum(2).mean(1)
