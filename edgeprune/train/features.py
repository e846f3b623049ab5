"""Learning from the parent's feature maps: what the neck hands to the head, level by level.

Rules:
- Widths that were cut are brought to the parent's by an adapter, which is trained along as a submodule of the model and
  is taken off again after; where they are the parent's, cwd compares them as they are.
- Losses are of an image, summed over levels.
- Formula and source of each stand in its function's docstring; t = parent, s = pruned behind its adapter.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import nn

from edgeprune.train.distill import Lesson, Teaching, WrapWithParent
from edgeprune.yolo.neck import listen, neck_widths

#: Name of the submodule.
ADAPTERS = "edgeprune_adapters"
#: cwd's temperature: 1 for detectors.
CWD_TEMPERATURE = 1.0
#: mgd's weight, and share of the places that are masked.
MGD_WEIGHT, MGD_MASKED = 2e-5, 0.65

#: Adapted and parent's maps of one level -> a scalar, of an image.
Loss = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]


def cwd(lesson: Lesson) -> Teaching:
    """Channel-wise distillation: T^2 / C x sum over the C channels of KL(softmax over places of t / T || of s / T).
    Source: Shu et al. 2021, 'Channel-wise Knowledge Distillation for Dense Prediction', section 3.2."""
    return _teaching(lesson, channel_wise, _aligned)


def mgd(lesson: Lesson) -> Teaching:
    """Masked generative distillation: a x sum of (t - G(s with random places masked))^2, G = conv 3x3, ReLU, conv 3x3.
    Source: Yang et al. 2022, 'Masked Generative Distillation', section 3 (a = 2e-5 and 65 % masked for one-stage
    detectors, section 4)."""
    return _teaching(lesson, generative, Generator)


@dataclass(frozen=True)
class Adapters:
    """Keeper that gives a model an adapter a level, and takes them off.

    Attributes:
        modules: One a level.
    """

    modules: Sequence[nn.Module]
    adds = ADAPTERS

    def begin(self, model: nn.Module) -> None:
        model.add_module(ADAPTERS, nn.ModuleList(self.modules))

    def end(self, model: nn.Module) -> None:
        delattr(model, ADAPTERS)


class Levels:
    """Compares what two heads read."""

    def __init__(self, student: nn.Module, parent: nn.Module, loss: Loss) -> None:
        self.student, self.parent, self.loss = student, parent, loss
        self.ours, self.theirs = listen(student), listen(parent)

    def __call__(self, predictions: Any, batch: Mapping[str, Any]) -> torch.Tensor:
        with torch.no_grad():
            self.parent(batch["img"])
        adapters: Any = self.student.get_submodule(ADAPTERS)
        levels = zip(adapters, self.ours.take(), self.theirs.take(), strict=True)
        return torch.stack([self.loss(adapter(ours), theirs) for adapter, ours, theirs in levels]).sum()


class Generator(nn.Module):
    """mgd's generation block: what was masked of the pruned model's map is to be made up, as the parent has it.

    Args:
        width: Channels of the pruned model's map.
        wanted: Of the parent's.
    """

    def __init__(self, width: int, wanted: int) -> None:
        super().__init__()
        self.align = _aligned(width, wanted)
        self.generate = nn.Sequential(
            nn.Conv2d(wanted, wanted, 3, padding=1), nn.ReLU(), nn.Conv2d(wanted, wanted, 3, padding=1)
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        aligned = self.align(x)
        kept = torch.rand_like(aligned[:, :1]) >= MGD_MASKED  # a place is masked in all channels
        made: torch.Tensor = self.generate(aligned * kept)
        return made


def channel_wise(ours: torch.Tensor, theirs: torch.Tensor) -> torch.Tensor:
    """cwd of one level, mean over the batch; maps of shape (batch, channels, height, width)."""
    s = (ours.flatten(2) / CWD_TEMPERATURE).log_softmax(2)
    t = (theirs.flatten(2) / CWD_TEMPERATURE).log_softmax(2)
    divergence = (t.exp() * (t - s)).sum(2)
    return CWD_TEMPERATURE**2 * divergence.mean(1).mean()


def generative(made: torch.Tensor, theirs: torch.Tensor) -> torch.Tensor:
    """mgd of one level, mean over the batch."""
    return MGD_WEIGHT * (made - theirs).pow(2).flatten(1).sum(1).mean()


def _aligned(width: int, wanted: int) -> nn.Module:
    return nn.Identity() if width == wanted else nn.Conv2d(width, wanted, 1)


def _teaching(lesson: Lesson, loss: Loss, adapter: Callable[[int, int], nn.Module]) -> Teaching:
    from edgeprune.yolo.load import load_detector

    parent = load_detector(lesson.parent).model
    widths = zip(neck_widths(lesson.model, lesson.channels), neck_widths(parent, lesson.channels), strict=True)
    return Teaching(
        WrapWithParent(lesson.parent, lesson.weight, partial(Levels, loss=loss)),
        Adapters([adapter(ours, theirs) for ours, theirs in widths]),
    )
