"""The distillation loss: zero where nothing is to learn, a gradient that teaches, background that doesn't count."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch

from edgeprune.errors import RecipeError
from edgeprune.train.distill import BOXES, Lesson, distillation_loss, ld, localization_loss


def predictions(seed: int, anchors: int = 5) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return {
        "scores": torch.randn(2, 3, anchors, generator=generator),
        "boxes": torch.randn(2, 64, anchors, generator=generator),
    }


def test_no_loss_between_the_same_predictions() -> None:
    same = predictions(0)
    assert abs(float(distillation_loss(same, same))) < 1e-6


def test_descending_brings_the_student_to_the_parent() -> None:
    parent = predictions(0)
    student = {k: v.clone().requires_grad_() for k, v in predictions(1).items()}
    before = float(distillation_loss(student, parent).detach())
    optimizer = torch.optim.Adam(student.values(), lr=0.1)
    for _ in range(300):
        optimizer.zero_grad()
        distillation_loss(student, parent).backward()
        optimizer.step()
    assert before > 0.1
    assert float(distillation_loss(student, parent).detach()) < 0.01 * before


def test_boxes_term_is_the_mean_divergence_weighted_by_the_parents_score() -> None:
    scores = torch.tensor([[[20.0, -20.0]]])  # sure of the first anchor, sure of background at the second
    uniform, peak = torch.zeros(1, 64, 2), torch.zeros(1, 64, 2)
    peak.view(1, 4, 16, 2)[:, :, 3] = 30.0
    loss = distillation_loss({"scores": scores, "boxes": uniform}, {"scores": scores, "boxes": peak})
    assert torch.isclose(loss, BOXES * torch.log(torch.tensor(16.0)), rtol=1e-3)


def test_heads_without_bins_are_compared_as_numbers() -> None:
    scores = torch.full((1, 1, 1), 20.0)
    loss = distillation_loss(
        {"scores": scores, "boxes": torch.zeros(1, 4, 1)}, {"scores": scores, "boxes": torch.full((1, 4, 1), 2.0)}
    )
    assert torch.isclose(loss, torch.tensor(BOXES * 2.0))


def test_localization_is_the_softened_divergence_of_boxes_alone() -> None:
    """Two bins: logits 10 and 0 at temperature 10 are odds of e to 1; against even odds."""
    parent, student = torch.zeros(1, 8, 1), torch.zeros(1, 8, 1)
    parent.view(1, 4, 2, 1)[:, :, 0] = 10.0
    p = math.e / (1 + math.e)
    divergence = p * math.log(2 * p) + (1 - p) * math.log(2 * (1 - p))
    sure, other = torch.full((1, 1, 1), 20.0), torch.full((1, 1, 1), -3.0)
    loss = localization_loss({"scores": other, "boxes": student}, {"scores": sure, "boxes": parent})
    torch.testing.assert_close(loss, torch.tensor(BOXES * 100 * divergence), rtol=1e-4, atol=0)
    assert float(localization_loss({"scores": other, "boxes": parent}, {"scores": sure, "boxes": parent})) == 0.0


def test_localization_needs_a_head_with_distributions(tiny: Path) -> None:
    from edgeprune.yolo.load import load

    model = load(tiny).model
    assert ld(Lesson(model, tiny, 1.0)).wrap is not None
    model.model[-1].reg_max = 1
    with pytest.raises(RecipeError, match="distillation: ld"):
        ld(Lesson(model, tiny, 1.0))
