"""Learning from the parent: the pruned model's raw predictions against the parent's on the same batch.

Rules:
- Both heads have the same outputs, so the predictions are compared as they are, before decoding: class
  scores as Bernoulli distributions, box sides as distributions over DFL bins.
- Anchors count by how sure the parent is of them; background carries next to nothing.
- The loss is added to the detection loss, scaled like it (by batch size), and shown in no column of its own.

Loss per image, t = parent, s = pruned, w = max over classes of sigmoid(t):
    scores: sum over anchors, classes of KL(Bern(t) || Bern(s)) / sum of w
    boxes:  sum over anchors of w x mean over sides of KL(softmax(t) || softmax(s)) / sum of w

Source: Hinton et al. 2015 (scores); LD, Zheng et al. CVPR 2022, eq. 4 (boxes as distributions).
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F

#: Weight of the scores' term against the boxes' term, as Ultralytics weighs cls (0.5) against dfl (1.5).
SCORES, BOXES = 0.5, 1.5


class LogitDistillation:
    """A detection loss with the parent's opinion added. Called as Ultralytics calls a criterion."""

    def __init__(self, criterion: Any, parent: torch.nn.Module, weight: float) -> None:
        self.criterion = criterion
        self.parent = parent.eval().requires_grad_(False)
        self.weight = weight

    def __call__(self, predictions: Any, batch: dict[str, Any]) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        loss, items = self.criterion(predictions, batch)
        with torch.no_grad():
            wanted = self.parent(batch["img"])[1]
        extra = self.weight * _branches(_raw(predictions), wanted)
        return torch.cat((loss, (extra * batch["img"].shape[0]).reshape(1))), items

    def update(self) -> None:
        """End of an epoch: end-to-end criteria shift their weights here."""
        if hasattr(self.criterion, "update"):
            self.criterion.update()


class WrapWithParent:
    """Makes a `LogitDistillation` in whichever process trains; picklable, so that DDP workers get one each."""

    def __init__(self, parent: Path, weight: float) -> None:
        self.parent, self.weight = parent, weight

    def __call__(self, criterion: Any, trainer: Any) -> LogitDistillation:
        from edgeprune.yolo.load import load_detector

        parent = load_detector(self.parent).model.fuse(verbose=False)  # folded BatchNorm: the same answers, sooner
        parent = parent.to(trainer.device, memory_format=torch.channels_last)
        return LogitDistillation(criterion, parent, self.weight)


def distillation_loss(student: dict[str, torch.Tensor], parent: dict[str, torch.Tensor]) -> torch.Tensor:
    """Mean over the batch of the loss in this file's head.

    Args:
        student: 'scores' logits of shape (batch, classes, anchors), 'boxes' logits of shape
            (batch, 4 x bins, anchors).
        parent: The same, without gradients.

    Returns:
        A scalar >= 0; 0 where the predictions are the same.
    """
    probability = parent["scores"].sigmoid()
    sure = probability.amax(1)
    total = sure.sum().clamp(min=1.0)
    scores = F.binary_cross_entropy_with_logits(student["scores"], probability, reduction="none") - (
        F.binary_cross_entropy_with_logits(parent["scores"], probability, reduction="none")
    )
    loss = SCORES * scores.sum() / total
    batch, sides, anchors = student["boxes"].shape
    if sides > 4:  # a distribution per side; heads without DFL regress one number
        ours = student["boxes"].view(batch, 4, sides // 4, anchors).log_softmax(2)
        theirs = parent["boxes"].view(batch, 4, sides // 4, anchors).log_softmax(2)
        divergence = (theirs.exp() * (theirs - ours)).sum(2).mean(1)
    else:
        divergence = (student["boxes"] - parent["boxes"]).abs().mean(1)
    return loss + BOXES * (divergence * sure).sum() / total


def _raw(predictions: Any) -> Any:
    return predictions[1] if isinstance(predictions, tuple) else predictions


def _branches(student: dict[str, Any], parent: dict[str, Any]) -> torch.Tensor:
    if "one2many" in student:
        return torch.stack([distillation_loss(student[b], parent[b]) for b in ("one2many", "one2one")]).sum()
    return distillation_loss(student, parent)
