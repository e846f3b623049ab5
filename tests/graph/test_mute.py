"""cut = mute: a cut model equals the uncut one with the removed channels silenced, in float64."""

from __future__ import annotations

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import nn

from edgeprune.graph.build import build
from edgeprune.graph.channels import ChannelGraph
from edgeprune.graph.trace import trace
from tests import nets
from tests.mute import cut_and_mute, give_life, largest_error, random_keeps

#: Float64 sums in another order differ by 1e-16 a term; over some 10^4 terms and 100 layers 1e-12 is reached.
TOLERANCE = 1e-9


@pytest.mark.parametrize("kind", nets.ALL, ids=lambda kind: kind.__name__)
@settings(max_examples=8, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(seed=st.integers(0, 10_000), ratio=st.floats(0.1, 0.7))
def test_small_net_cut_equals_muted(kind: type[nets.Net], seed: int, ratio: float) -> None:
    torch.manual_seed(0)
    model = give_life(kind()).eval()
    graph = _graph(kind, model)
    _hold_cut_against_muted(model, graph, seed, ratio)


@settings(max_examples=30, deadline=None)
@given(
    blocks=st.lists(
        st.tuples(st.sampled_from(nets.KINDS), st.sampled_from([8, 16, 24]), st.none() | st.integers(0, 5)),
        min_size=1, max_size=5,
    ),
    seed=st.integers(0, 10_000),
    ratio=st.floats(0.1, 0.7),
)  # fmt: skip
def test_random_net_cut_equals_muted(blocks: list[tuple[str, int, int | None]], seed: int, ratio: float) -> None:
    torch.manual_seed(seed)
    model = give_life(nets.Random(blocks)).eval()
    graph = build(trace(model, (1, 3, 8, 8)))
    assert any(not group.locked for group in graph.groups)
    _hold_cut_against_muted(model, graph, seed, ratio)


def _hold_cut_against_muted(model: nn.Module, graph: ChannelGraph, seed: int, ratio: float) -> None:
    cut, muted = cut_and_mute(model.double(), graph, random_keeps(graph, seed, ratio))
    image = torch.rand(2, 3, 8, 8, dtype=torch.float64)
    for training in (False, True):
        assert largest_error(cut.train(training)(image), muted.train(training)(image)) < TOLERANCE


_GRAPHS: dict[type[nets.Net], ChannelGraph] = {}


def _graph(kind: type[nets.Net], model: nn.Module) -> ChannelGraph:
    if kind not in _GRAPHS:
        _GRAPHS[kind] = build(trace(model, (1, 3, 8, 8)))
    return _GRAPHS[kind]
