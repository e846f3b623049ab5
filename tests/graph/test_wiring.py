"""Which module feeds which, against what each net's forward says."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from edgeprune.graph import wiring
from edgeprune.graph.build import build
from edgeprune.graph.trace import Program, trace

SHAPE = (1, 3, 64, 64)


def conv(i: int, o: int, stride: int = 1) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(i, o, 3, stride, 1, bias=False), nn.BatchNorm2d(o), nn.SiLU())


class Branches(nn.Module):
    """No `model.N` anywhere, and a bare cat and a bare add at the top level."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.left, self.right = conv(3, 8, 2), conv(8, 8), conv(8, 8)
        self.join, self.out = conv(16, 8), nn.Conv2d(8, 4, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.stem(x)
        a, b = self.left(x), self.right(x)
        return self.out(self.join(torch.cat((a, b), 1)) + a)


class Wrapped(nn.Module):
    """A detector's shape: everything inside `model`, blocks by number."""

    def __init__(self) -> None:
        super().__init__()
        self.model = nn.Sequential(conv(3, 8, 2), nn.Upsample(scale_factor=2), conv(8, 8), nn.Conv2d(8, 4, 1))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for block in self.model:
            x = block(x)
        return x


class Sliced(Wrapped):
    """Runs a slice of its blocks, then the last."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.model[-1](self.model[:-1](x))


class Halves(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.m, self.out = conv(3, 16), conv(8, 8), nn.Conv2d(24, 4, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y, z = self.a(x).chunk(2, 1)
        return self.out(torch.cat((y, z, self.m(z)), 1))


class Twice(nn.Module):
    """One block that runs twice, so that the wiring has a circle."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.m, self.n, self.out = conv(3, 8), conv(8, 8), conv(8, 8), nn.Conv2d(8, 4, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.out(self.m(self.n(self.m(self.a(x)))))


def traced(net: nn.Module) -> Program:
    torch.manual_seed(0)
    return trace(net.eval(), SHAPE)


def names(found: wiring.Wiring) -> list[str]:
    return [unit.name for unit in found.units]


def test_blocks_of_a_net_without_numbers_and_bare_operators_between_them() -> None:
    found = wiring.by_block(traced(Branches()))
    assert names(found) == ["image", "stem", "left", "right", "cat", "join", "add", "out", "output"]
    assert {u.name: u.kind for u in found.units if u.kind != "module"} == {
        "image": "image", "cat": "join", "add": "join", "output": "output",
    }  # fmt: skip
    assert set(found.edges) == {
        ("image", "stem"), ("stem", "left"), ("stem", "right"), ("left", "cat"), ("right", "cat"), ("cat", "join"),
        ("join", "add"), ("left", "add"), ("add", "out"), ("out", "output"),
    }  # fmt: skip


@pytest.mark.parametrize("net", [Wrapped, Sliced])
def test_blocks_stand_below_the_module_that_holds_the_whole_forward(net: type[nn.Module]) -> None:
    found = wiring.by_block(traced(net()))
    assert names(found) == ["image", "model.0", "model.1", "model.2", "model.3", "output"]
    assert found.edges == tuple(zip(names(found), names(found)[1:], strict=False))
    assert found.units[1].shapes == ((1, 8, 32, 32),)
    assert found.units[2].shapes == ((1, 8, 64, 64),)


def test_layers_take_their_normalisation_and_activation_with_them() -> None:
    program = traced(Wrapped())
    found = wiring.by_layer(program)
    layers = [u.name for u in found.units if u.kind == "layer"]
    assert layers == ["model.0.0", "model.2.0", "model.3"]
    assert ("model.0.0", "upsample_nearest2d") in found.edges
    batch_norms = [n.name for n in program.nodes if wiring.layer_of(program, n) == "model.0.1"]
    assert [found.unit_of[n] for n in batch_norms] == ["model.0.0"]


def test_a_block_that_runs_twice_is_one_unit_with_an_edge_back() -> None:
    found = wiring.by_block(traced(Twice()))
    assert names(found) == ["image", "a", "m", "n", "out", "output"]
    assert {("m", "n"), ("n", "m"), ("a", "m"), ("m", "out")} <= set(found.edges)


def test_a_model_that_is_one_layer() -> None:
    found = wiring.by_block(traced(nn.Conv2d(3, 4, 1)))
    assert [u.kind for u in found.units] == ["image", "operator", "output"]
    assert len(found.edges) == 2


def test_tensor_channels_agree_with_what_layers_read_and_make() -> None:
    program = traced(Halves())
    graph = build(program)
    found = wiring.tensor_channels(program, graph)
    by_name = {unit.name: unit for unit in wiring.by_block(program).units}
    assert [found[n] for n in by_name["a"].reads] == [graph.layers["a.0"].in_]
    lower, upper = graph.layers["a.0"].out[:8], graph.layers["a.0"].out[8:]
    assert {found[n] for n in by_name["a"].writes} == {lower, upper}
    (read,) = by_name["m"].reads
    assert found[read] == upper
    (cat,) = by_name["cat"].writes if "cat" in by_name else by_name["out"].reads
    assert found[cat] == lower + upper + graph.layers["m.0"].out == graph.layers["out"].in_
