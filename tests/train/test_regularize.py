"""Penalties, by their gradients on cases small enough to know them by hand."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from edgeprune.errors import RecipeError
from edgeprune.train.regularize import group_lasso, growing, grown, slimming
from tests import nets
from tests.train.fakes import Two, trainer_of, whole_of


def test_slimming_adds_the_sign_of_every_scale() -> None:
    model = Two()
    keeper = slimming(whole_of(model, strength=0.1, channels=1))
    trainer = trainer_of(model, batch=4)
    model.bn.weight.grad = torch.tensor([1.0, 1.0])
    keeper.optimizer_step(trainer)
    torch.testing.assert_close(model.bn.weight.grad, torch.tensor([1.4, 0.6]))  # 0.1 x 4 images x sign of 2 and -4
    assert not model.bn.bias.grad.any()
    assert not model.a.weight.grad.any()


def test_slimming_that_closes_a_group_is_refused_and_one_that_leaves_a_channel_isnt() -> None:
    model = Two()  # scales 2 and -4: closed under 0.03
    keeper = slimming(whole_of(model, channels=1))
    with torch.no_grad():
        model.bn.weight.copy_(torch.tensor([0.02, -0.02]))
    with pytest.raises(RecipeError) as caught:
        keeper.end(model)
    assert "channel group a" in str(caught.value)
    assert "lower regularization_strength" in str(caught.value)
    with torch.no_grad():
        model.bn.weight[1] = 0.04
    keeper.end(model)


def test_group_lasso_divides_by_the_norm_of_all_that_a_channel_owns() -> None:
    model = Two()
    trainer = trainer_of(model, batch=2)
    group_lasso(whole_of(model, strength=0.5, channels=1)).optimizer_step(trainer)
    # channel 0 owns 3, 2, 0 and 1; channel 1 owns -1, -4, -2 and 5; 0.5 x 2 images
    norms = torch.tensor([math.sqrt(9 + 4 + 0 + 1), math.sqrt(1 + 16 + 4 + 25)])
    torch.testing.assert_close(model.a.weight.grad.flatten(), torch.tensor([3.0, -1.0]) / norms)
    torch.testing.assert_close(model.bn.weight.grad, torch.tensor([2.0, -4.0]) / norms)
    torch.testing.assert_close(model.bn.bias.grad, torch.tensor([0.0, -2.0]) / norms)
    torch.testing.assert_close(model.out.weight.grad.flatten(), torch.tensor([1.0, 5.0]) / norms)


class Chain(nets.Net):
    def __init__(self) -> None:
        super().__init__(a=nn.Conv2d(3, 4, 3, bias=False), b=nn.Conv2d(4, 6, 1), out=nn.Conv2d(6, 2, 1))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.out(torch.relu(self.b(torch.relu(self.a(x)))))


def test_a_weight_between_two_channels_is_pressed_by_both() -> None:
    torch.manual_seed(0)
    model = Chain()
    keeper = group_lasso(whole_of(model, strength=1.0))
    trainer = trainer_of(model, batch=1)
    keeper.optimizer_step(trainer)
    a, b, bias, out = (p.detach().double().requires_grad_() for p in (*model.a.parameters(), *model.b.parameters(), model.out.weight))  # fmt: skip  # noqa: E501
    penalty = (a.pow(2).sum((1, 2, 3)) + b.pow(2).sum((0, 2, 3))).sqrt().sum()
    penalty += (b.pow(2).sum((1, 2, 3)) + bias**2 + out.pow(2).sum((0, 2, 3))).sqrt().sum()
    penalty.backward()
    for expected, parameter in zip((a, b, bias, out), (model.a.weight, *model.b.parameters(), model.out.weight), strict=True):  # fmt: skip  # noqa: E501
        torch.testing.assert_close(parameter.grad.double(), expected.grad, rtol=1e-5, atol=1e-6)
    assert not model.out.bias.grad.any()  # of the outputs, which can't be cut


def test_growing_decays_those_that_will_go_more_and_more() -> None:
    assert grown(100.0, 3, 8) == 50.0  # half of three quarters of eight steps
    assert grown(100.0, 6, 8) == grown(100.0, 8, 8) == 100.0
    model = Two()
    keeper = growing(whole_of(model, keeps={"a": (1,)}, strength=100.0, channels=1))
    trainer = trainer_of(model, steps=8, rate=0.006)
    keeper.load_state_dict({"step": 2})
    keeper.on_before_zero_grad(trainer)  # the third step: 1 - 0.006 x 50 = 0.7 of channel 0 is left
    torch.testing.assert_close(model.a.weight.flatten(), torch.tensor([3 * 0.7, -1.0]))
    torch.testing.assert_close(model.bn.weight, torch.tensor([2 * 0.7, -4.0]))
    torch.testing.assert_close(model.out.weight.flatten(), torch.tensor([1 * 0.7, 5.0]))
    assert keeper.state_dict() == {"step": 3}
