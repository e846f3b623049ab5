"""What stock blocks are told after a cut."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from ultralytics.nn.modules.block import A2C2f, Attention, CBFuse, CBLinear

from edgeprune.errors import PlanError
from edgeprune.graph.build import build
from edgeprune.graph.trace import trace
from edgeprune.yolo import blocks
from tests.mute import cut_and_mute, give_life, largest_error
from tests.nets import Net


class Idle(Net):
    """An attention block that forward never reaches."""

    def __init__(self) -> None:
        super().__init__(a=nn.Conv2d(3, 16, 1), idle=Attention(16, 2), out=nn.Conv2d(16, 4, 1))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.out(self.a(x))


class Fused(Net):
    """YOLOv9e's: a convolution whose pieces are added to other levels."""

    def __init__(self) -> None:
        super().__init__(
            a=nn.Conv2d(3, 16, 1), lin=CBLinear(16, [8, 24]), b=nn.Conv2d(3, 24, 1), fuse=CBFuse([1]),
            out=nn.Conv2d(24, 4, 1), other=nn.Conv2d(8, 4, 1),
        )  # fmt: skip

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        pieces = self.lin(self.a(x))
        return self.out(self.fuse([pieces, self.b(x)])), self.other(pieces[0])


class Area(Net):
    def __init__(self) -> None:
        super().__init__(a=nn.Conv2d(3, 64, 1), m=A2C2f(64, 64, 1, area=4, e=0.5), out=nn.Conv2d(64, 4, 1))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.out(self.m(self.a(x)))


def test_block_that_never_runs_is_left_as_it_was() -> None:
    model = Idle().eval()
    graph = build(trace(model, (1, 3, 8, 8)), blocks.ties(model), blocks.exact_sizes(model))
    cut, _ = cut_and_mute(model, graph, {"a": (0, 3, 5)})
    assert cut.a.out_channels == 3
    assert cut.idle.head_dim == model.idle.head_dim


def test_each_piece_of_cblinear_gets_its_own_count() -> None:
    model = give_life(Fused()).eval().double()
    graph = build(trace(model, (1, 3, 8, 8)), blocks.ties(model), blocks.exact_sizes(model))
    keeps = {"lin.conv[0:8]": (1, 2, 7), "lin.conv[8:32]": tuple(range(3, 20))}
    cut, muted = cut_and_mute(model, graph, keeps)
    assert cut.lin.c2s == [3, 17]
    image = torch.rand(1, 3, 8, 8, dtype=torch.float64)
    assert largest_error(cut(image), muted(image)) < 1e-12


def test_area_attention_is_cut_to_a_quarter_without_losing_a_bit() -> None:
    model = give_life(Area()).eval()
    graph = build(trace(model, (1, 3, 8, 8)), blocks.ties(model), blocks.exact_sizes(model))
    heads = [g for g in graph.groups if g.sizes]
    assert {g.sizes for g in heads} == {(32, 8, 2)}
    cluster = next(c for c in graph.clusters if graph.groups[c[0]].name == heads[0].name)
    assert [row[0] for row in graph.proportions(cluster)] == [32, 8, 2]
    keeps = {graph.groups[g].name: tuple(range(5, 13)) for g in cluster}
    cut, _ = cut_and_mute(model, graph, keeps)
    attention, parent = cut.m.m[0][0].attn, model.m.m[0][0].attn
    assert (attention.head_dim, attention.all_head_dim) == (8, 8 * parent.num_heads)
    assert torch.equal(attention.qkv.bn.weight[:8] * 2, parent.qkv.bn.weight[5:13])  # q: half, exactly
    assert torch.equal(attention.qkv.bn.weight[8:16], parent.qkv.bn.weight[37:45])  # k: as it was
    inexact = {name: tuple(range(16)) for name in keeps}
    with pytest.raises(PlanError, match="its block computes with it"):
        graph.layer_keeps(inexact)
