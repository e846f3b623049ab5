"""Hard-concrete gates: their numbers, what they do to a model, and that nothing of them is left after."""

from __future__ import annotations

import copy
import io
import math

import pytest
import torch
from torch import nn

from edgeprune.errors import RecipeError
from edgeprune.train.gates import GATES, Gates, attach, l0
from tests import nets
from tests.train.fakes import Two, trainer_of, whole_of


def gated(model: nn.Module, channels: int = 3) -> Gates:
    return attach(model, whole_of(model, channels=channels).owned)


def test_expectations_are_those_of_the_paper() -> None:
    gates = gated(Two(), channels=1)
    with torch.no_grad():
        gates.log_alpha.copy_(torch.tensor([0.0, -3.0]))
    # sigmoid(0 + 2/3 log 11) and sigmoid(-3 + 2/3 log 11); sigmoid(0) 1.2 - 0.1; sigmoid(-3) 1.2 - 0.1 is under 0
    shift = 2 / 3 * math.log(11)
    expected = torch.tensor([1 / (1 + math.exp(-shift)), 1 / (1 + math.exp(3 - shift))])
    torch.testing.assert_close(gates.open(), expected)
    torch.testing.assert_close(gates.at_test(), torch.tensor([0.5, 0.0]))
    torch.manual_seed(0)
    drawn = torch.stack([gates.sampled().detach() for _ in range(8000)])
    assert drawn.min() == 0
    assert drawn.max() == 1
    torch.testing.assert_close((drawn > 0).float().mean(0), expected, atol=0.015, rtol=0)  # three sigma


def test_the_penalty_is_the_share_of_parameters_that_is_expected_to_stay() -> None:
    model = nets.Concat()
    whole = whole_of(model, strength=2.0)
    keeper = l0(whole)
    keeper.begin(model)
    gates = model.get_submodule(GATES)
    assert float(gates.weights.sum()) == pytest.approx(1.0)
    trainer = trainer_of(model, batch=3)
    keeper.optimizer_step(trainer)
    log_alpha = gates.log_alpha.detach().double().requires_grad_()
    (2.0 * 3 * (gates.weights * (log_alpha - 2 / 3 * math.log(0.1 / 1.1)).sigmoid()).sum()).backward()
    torch.testing.assert_close(gates.log_alpha.grad.double(), log_alpha.grad, rtol=1e-5, atol=1e-8)


@pytest.mark.parametrize("kind", [Two, nets.Residual, nets.Concat, nets.Depthwise])
def test_folded_gates_leave_a_stock_model_that_computes_the_same(kind: type[nn.Module]) -> None:
    torch.manual_seed(0)
    model = kind()
    stock, image = set(model.state_dict()), torch.rand(2, 1 if kind is Two else 3, 8, 8)
    whole = whole_of(model.eval(), channels=image.shape[1])
    keeper = l0(whole)
    keeper.begin(model)
    with torch.no_grad():
        model.get_submodule(GATES).log_alpha.uniform_(-3, 3)
        model.get_submodule(GATES).log_alpha[0] = 3.0
    model = copy.deepcopy(model)  # as the EMA is
    gated_output = model.eval()(image)
    buffer = io.BytesIO()
    torch.save(model, buffer)  # as the trainer does
    keeper.end(model)
    torch.testing.assert_close(model(image), gated_output, rtol=1e-4, atol=1e-5)
    assert set(model.state_dict()) == stock
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())
    torch.testing.assert_close(model(image), torch.load(io.BytesIO(buffer.getvalue()), weights_only=False)(image))


def test_gates_learn_from_the_loss_and_open_alike_for_a_batch() -> None:
    model = Two().train()
    gates = gated(model, channels=1)
    image = torch.rand(1, 1, 8, 8)
    torch.manual_seed(1)
    model(torch.cat((image, image))).sum().backward()
    assert gates.log_alpha.grad is not None
    assert gates.now is None  # nothing of a pass stays, or the trainer couldn't copy the model


def test_gates_that_all_close_are_refused() -> None:
    model = Two()
    keeper = l0(whole_of(model, strength=9.0, channels=1))
    keeper.begin(model)
    with torch.no_grad():
        model.get_submodule(GATES).log_alpha.fill_(-5.0)
    with pytest.raises(RecipeError) as caught:
        keeper.end(model)
    assert "regularization: l0, channel group a" in str(caught.value)
    assert "regularization_strength 9" in str(caught.value)
