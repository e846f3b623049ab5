"""Scores on a case small enough to know the answer by hand."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from edgeprune.graph.build import build
from edgeprune.graph.channels import ChannelGraph
from edgeprune.graph.trace import trace
from edgeprune.prune import importance
from tests import nets
from tests.prune.evidence import evidence


class Two(nets.Net):
    """conv (2 channels) -> BatchNorm -> ReLU -> conv (1 channel)."""

    def __init__(self) -> None:
        super().__init__(a=nn.Conv2d(1, 2, 1, bias=False), bn=nn.BatchNorm2d(2), out=nn.Conv2d(2, 1, 1, bias=False))
        with torch.no_grad():
            self.a.weight.copy_(torch.tensor([3.0, -1.0]).view(2, 1, 1, 1))
            self.bn.weight.copy_(torch.tensor([2.0, 4.0]))
            self.bn.bias.copy_(torch.tensor([0.0, -2.0]))
            self.out.weight.copy_(torch.tensor([1.0, 5.0]).view(1, 2, 1, 1))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.out(torch.relu(self.bn(self.a(x))))


@pytest.fixture(scope="module")
def case() -> tuple[Two, ChannelGraph]:
    model = Two().eval()
    return model, build(trace(model, (1, 1, 8, 8)))


def test_l1_sums_rows_batch_norm_and_columns(case: tuple[Two, ChannelGraph]) -> None:
    model, graph = case
    scores = importance.magnitude(graph, model, 1)["a"]
    raw = np.array([3 + 2 + 0 + 1, 1 + 4 + 2 + 5])
    np.testing.assert_allclose(scores, raw / raw.mean())


def test_l2_is_the_root_of_the_squares(case: tuple[Two, ChannelGraph]) -> None:
    model, graph = case
    raw = np.sqrt(np.array([9 + 4 + 0 + 1, 1 + 16 + 4 + 25]))
    np.testing.assert_allclose(importance.magnitude(graph, model, 2)["a"], raw / raw.mean())


def test_bn_is_the_absolute_scale(case: tuple[Two, ChannelGraph]) -> None:
    model, graph = case
    np.testing.assert_allclose(importance.bn(evidence(graph, model=model))["a"], np.array([2, 4]) / 3)


def test_taylor_is_the_squared_gate_product_averaged_over_batches(case: tuple[Two, ChannelGraph]) -> None:
    model, graph = case
    gradients = [
        {"bn.weight": torch.tensor([1.0, 0.5]), "bn.bias": torch.tensor([7.0, 1.0])},
        {"bn.weight": torch.tensor([-1.0, 2.0]), "bn.bias": torch.tensor([0.0, 3.0])},
    ]
    # channel 0: 2*1 + 0*7 = 2, 2*-1 = -2; channel 1: 4*0.5 - 2*1 = 0, 4*2 - 2*3 = 2
    squares = np.array([(2**2 + 2**2) / 2, (0**2 + 2**2) / 2])
    scores = importance.taylor(evidence(graph, model=model, gradients=gradients))
    assert scores["a"][0] / scores["a"][1] == pytest.approx(squares[0] / squares[1])


def test_taylor_predicts_what_muting_does_to_a_loss() -> None:
    """For a small channel the first-order estimate is the change itself."""
    torch.manual_seed(0)
    model = nets.Residual().eval()
    with torch.no_grad():
        model.a[1].weight[3] = 1e-3
        model.b[1].weight[3] = 1e-3
    graph = build(trace(model, (1, 3, 8, 8)))
    model.double()
    image = torch.rand(4, 3, 8, 8, dtype=torch.float64)

    def loss() -> torch.Tensor:
        return model(image).pow(2).mean()

    loss().backward()
    gradient = {n: p.grad for n, p in model.named_parameters() if p.grad is not None}
    scores = importance.taylor(evidence(graph, model=model, gradients=[gradient]))
    before = loss().item()
    with torch.no_grad():
        for layer in (model.a[1], model.b[1]):
            layer.weight[3] = layer.bias[3] = 0
    change = (loss().item() - before) ** 2
    estimate = sum(float(gradient[f"{n}.1.weight"][3] * 1e-3) for n in "ab") ** 2
    assert change == pytest.approx(estimate, rel=0.05)
    assert np.argmin(scores["a.0"]) == 3


def test_random_is_reproducible_and_seeded(case: tuple[Two, ChannelGraph]) -> None:
    graph = case[1]
    one, same, other = (importance.random(evidence(graph, seed))["a"] for seed in (4, 4, 5))
    assert (one == same).all()
    assert (one != other).any()


def test_taylor_without_batches_is_a_programmers_mistake(case: tuple[Two, ChannelGraph]) -> None:
    with pytest.raises(ValueError, match="at least one batch"):
        importance.taylor(evidence(case[1], model=case[0]))
