"""What tracing takes, notes and refuses."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from edgeprune.errors import ModelError
from edgeprune.graph.build import build
from edgeprune.graph.trace import dry_run, trace
from tests import nets


class Tied(nets.Net):
    """Two layers, one parameter."""

    def __init__(self) -> None:
        super().__init__(a=nets.conv(3, 8), b=nn.Conv2d(8, 8, 1), c=nn.Conv2d(8, 8, 1), out=nn.Conv2d(8, 4, 1))
        self.c.weight = self.b.weight

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.out(self.c(self.b(self.a(x))))


def test_shared_parameters_are_refused_by_name() -> None:
    with pytest.raises(ModelError, match=r"b\.weight and c\.weight"):
        trace(Tied(), (1, 3, 8, 8))


def test_module_that_runs_twice_is_no_shared_parameter() -> None:
    assert trace(nets.Shared(), (1, 3, 8, 8)).nodes


def test_tracing_changes_nothing() -> None:
    model = nets.Auxiliary()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    trace(model, (1, 3, 8, 8))
    assert model.training
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())


def test_layers_that_training_alone_reads_are_in_the_graph_and_cost_nothing() -> None:
    program = trace(nets.Auxiliary().eval(), (1, 3, 8, 8))
    graph = build(program)
    assert "aux" in graph.layers
    assert program.training_only
    assert {cost.where for cost in graph.costs} == {"a.0", "b.0", "out"}
    by_name = {group.name: group for group in graph.groups}
    assert ("aux", "in") in by_name["a.0"].sides
    assert by_name["aux"].locked == "it reaches the model's output"


def test_model_without_such_layers_is_traced_once() -> None:
    assert trace(nets.Residual().eval(), (1, 3, 8, 8)).training_only == frozenset()


def test_dry_run_needs_no_weights_and_says_what_forward_says() -> None:
    model = nets.Residual()
    dry_run(model, (1, 3, 4096, 4096))
    model.out = nn.Conv2d(3, 4, 1)
    with pytest.raises(RuntimeError, match="channel"):
        dry_run(model, (1, 3, 8, 8))
