"""Every importance that came later, on nets small enough to know the answer by hand."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn.utils import prune

from edgeprune.errors import RecipeError
from edgeprune.graph.build import build
from edgeprune.graph.channels import ChannelGraph
from edgeprune.graph.trace import trace
from edgeprune.prune import importance
from edgeprune.prune.importance import gradients as of_gradients
from edgeprune.prune.importance import weights as of_weights
from edgeprune.prune.make import prune_checkpoint
from edgeprune.prune.request import Request
from edgeprune.records.dataset import read_dataset
from edgeprune.records.methods import METHODS
from edgeprune.records.model import ModelFiles
from edgeprune.yolo.data import make_view
from edgeprune.yolo.load import load
from tests import nets
from tests.mute import give_life
from tests.prune.evidence import evidence, lossy, seen


class Three(nets.Net):
    """conv (3 channels) -> BatchNorm -> ReLU -> conv (1 channel)."""

    def __init__(self) -> None:
        super().__init__(a=nn.Conv2d(2, 3, 1, bias=False), bn=nn.BatchNorm2d(3), out=nn.Conv2d(3, 1, 1, bias=False))
        with torch.no_grad():
            self.a.weight.copy_(torch.tensor([[0.0, 0.0], [3.0, 4.0], [0.0, 1.0]]).view(3, 2, 1, 1))
            self.bn.weight.copy_(torch.tensor([2.0, -4.0, 1.0]))
            self.bn.bias.zero_()
            self.out.weight.copy_(torch.tensor([1.0, -2.0, 5.0]).view(1, 3, 1, 1))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.out(torch.relu(self.bn(self.a(x))))


class Curved(nets.Net):
    """conv -> tanh -> conv."""

    def __init__(self) -> None:
        super().__init__(a=nn.Conv2d(4, 3, 1, bias=False), out=nn.Conv2d(3, 2, 1, bias=False))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.out(torch.tanh(self.a(x)))


@pytest.fixture
def case() -> tuple[Three, ChannelGraph]:
    model = Three().eval()
    return model, build(trace(model, (1, 2, 4, 4)))


def test_fpgm_sums_a_filters_distances_to_the_others(case: tuple[Three, ChannelGraph]) -> None:
    model, graph = case
    # |01| = 5, |02| = 1, |12| = sqrt(3^2 + 3^2)
    raw = np.array([5 + 1, 5 + np.sqrt(18), 1 + np.sqrt(18)])
    np.testing.assert_allclose(importance.fpgm(evidence(graph, model=model))["a"], raw / raw.mean())


def test_fpgm_takes_the_rows_of_all_layers_that_make_a_channel() -> None:
    model = nets.Residual().eval()
    graph = build(trace(model, (1, 3, 8, 8)))
    rows = np.concatenate([m.weight.detach().double().flatten(1).numpy() for m in (model.a[0], model.b[0])], 1)
    raw = np.sqrt(((rows[:, None] - rows[None]) ** 2).sum(2)).sum(1)
    np.testing.assert_allclose(importance.fpgm(evidence(graph, model=model))["a.0"], raw / raw.mean(), rtol=1e-9)


def test_lamp_divides_a_square_by_all_that_are_as_large_or_larger(case: tuple[Three, ChannelGraph]) -> None:
    model, graph = case
    # squares of what a channel owns: rows, BatchNorm, column: 0+4+1, 25+16+4, 1+1+25
    np.testing.assert_allclose(
        importance.lamp(evidence(graph, model=model))["a"], [5 / (5 + 27 + 45), 1, 27 / (27 + 45)]
    )
    # weights of `out`: squares 1, 4, 25
    each = of_weights.lamp_each(evidence(graph, model=model))["out.weight"]
    np.testing.assert_allclose(each.flatten(), [1 / 30, 4 / 29, 1])


def test_synapses_are_scale_of_the_input_times_norm_of_the_kernel(case: tuple[Three, ChannelGraph]) -> None:
    model, graph = case
    each = of_weights.synapses_each(evidence(graph, model=model))
    np.testing.assert_allclose(each["out.weight"].flatten(), [2 * 1, 4 * 2, 1 * 5])
    np.testing.assert_allclose(each["a.weight"].flatten(1), [[0, 0], [3, 4], [0, 1]])  # the image has no BatchNorm
    raw = np.array([2 + 0, 8 + 7, 5 + 1])
    np.testing.assert_allclose(importance.synapses(evidence(graph, model=model))["a"], raw / raw.mean())


@pytest.mark.parametrize(
    ("kind", "name", "reads"),
    [
        (nets.Grouped, "g.0", lambda row, column: row // 12 * 8 + column),  # 4 groups of 12 rows and 8 columns
        (nets.DepthMultiplier, "d.0", lambda row, column: row // 3),
        (nets.Transposed, "t", lambda row, column: row),  # (in, out, ...)
        (nets.Transposed, "d", lambda row, column: None),  # no BatchNorm before it
        (nets.Flat, "hidden", lambda row, column: column // 4),  # 2 x 2 positions a channel
    ],
)
def test_synapses_of_every_layout_of_weights(
    kind: type[nets.Net], name: str, reads: Callable[[int, int], int | None]
) -> None:
    model = give_life(kind().eval())
    graph = build(trace(model, (1, 3, 8, 8)))
    weight, gamma = model.get_parameter(f"{name}.weight").detach().double(), model.a[1].weight.detach().double()
    found = of_weights.synapses_each(evidence(graph, model=model))[f"{name}.weight"]
    assert found.shape == weight.shape
    for row in range(weight.shape[0]):
        for column in range(weight.shape[1]):
            channel = reads(row, column)
            factor = 1.0 if channel is None else float(gamma[channel])
            assert float(found[row, column].sum()) == pytest.approx(factor * float(weight[row, column].norm()))


def test_apoz_is_the_share_of_values_over_zero_where_they_are_read(case: tuple[Three, ChannelGraph]) -> None:
    model, graph = case
    image = torch.ones(1, 2, 2, 2)
    image[0, 0, 0, 0] = image[0, 1, 0, 0] = -1
    # a makes 0; 7 three times and -7; 1 three times and -1. BatchNorm of fresh statistics: times 2, -4, 1. ReLU.
    scores = importance.apoz(seen(graph, model, [image]))
    np.testing.assert_allclose(scores["a"], [0, 1 / 4, 3 / 4])


def test_activation_is_the_mean_absolute_value_over_batches(case: tuple[Three, ChannelGraph]) -> None:
    model, graph = case
    model.bn.eps = 0.0
    # channel 1: -4 * 7 < 0 for the first batch, 28 for the second; channel 2: 1, then 0
    scores = importance.activation(seen(graph, model, [torch.ones(1, 2, 2, 2), -torch.ones(1, 2, 2, 2)]))
    raw = np.array([0, 28 / 2, 1 / 2])
    np.testing.assert_allclose(scores["a"], raw / raw.mean(), rtol=1e-6)


def test_deviation_is_that_of_a_channels_values_in_a_batch(case: tuple[Three, ChannelGraph]) -> None:
    model, graph = case
    model.bn.eps = 0.0
    image = torch.ones(1, 2, 2, 2)
    image[0, :, 0, 0] = -1
    # channel 0 is 0; channel 1 is 28 once and 0 three times; channel 2 is 1 three times and 0 once
    scores = METHODS["importance"]["deviation"].function(seen(graph, model, [image, torch.ones(1, 2, 2, 2)]))
    raw = np.array([0, 28 * np.sqrt(3 / 16) / 2, np.sqrt(3 / 16) / 2])
    np.testing.assert_allclose(scores["a"], raw / raw.mean(), rtol=1e-6)


def _gradients() -> list[dict[str, torch.Tensor]]:
    one = {"a.weight": torch.tensor([[1.0, 3.0], [1.0, -1.0], [2.0, 2.0]]), "out.weight": torch.tensor([[1.0, 1, 1]])}
    two = {"a.weight": torch.tensor([[1.0, 1.0], [1.0, -1.0], [-2.0, -6.0]]), "out.weight": torch.tensor([[3.0, 1, 1]])}
    gates = ({"bn.weight": torch.tensor([1.0, 1, 1])}, {"bn.weight": torch.tensor([0.0, 2, 4])})
    return [
        {n: g.view(*g.shape, 1, 1) for n, g in batch.items()} | gate
        for batch, gate in zip((one, two), gates, strict=True)
    ]


def test_gradient_is_the_mean_absolute_one_of_the_rows(case: tuple[Three, ChannelGraph]) -> None:
    model, graph = case
    raw = np.array([(1 + 3 + 1 + 1) / 4, 1, (2 + 2 + 2 + 6) / 4])
    found = importance.gradient(evidence(graph, model=model, gradients=_gradients()))
    assert found["a"][0] / found["a"][2] == pytest.approx(raw[0] / raw[2])
    assert found["a"][1] / found["a"][2] == pytest.approx(raw[1] / raw[2])
    each = of_gradients.gradient_each(evidence(graph, model=model, gradients=_gradients()))
    np.testing.assert_allclose(each["out.weight"].flatten(), [2, 1, 1])


def test_fisher_is_half_the_mean_square_of_the_gates_gradient(case: tuple[Three, ChannelGraph]) -> None:
    model, graph = case
    # scale x gradient: 2, -4, 1 and 0, -8, 4
    raw = np.array([4 + 0, 16 + 64, 1 + 16]) / (2 * 2)
    found = importance.fisher(evidence(graph, model=model, gradients=_gradients()))
    np.testing.assert_allclose(found["a"] / found["a"][0], raw / raw[0])
    each = of_gradients.fisher_each(evidence(graph, model=model, gradients=_gradients()))
    # 1/2 x mean of squared gradients x squared weight
    np.testing.assert_allclose(each["out.weight"].flatten(), [5 * 1 / 2, 1 * 4 / 2, 1 * 25 / 2])


def test_snip_is_the_share_of_all_sensitivity(case: tuple[Three, ChannelGraph]) -> None:
    model, graph = case
    # |mean gradient x weight|: rows 0 | 3, 4 | 0 x 0, 2 x 1; out: 2 x 1, 1 x 2, 1 x 5
    each = of_gradients.snip_each(evidence(graph, model=model, gradients=_gradients()))
    total = 3 + 4 + 2 + 2 + 2 + 5
    np.testing.assert_allclose(each["a.weight"].flatten(1), np.array([[0, 0], [3, 4], [0, 2]]) / total)
    np.testing.assert_allclose(each["out.weight"].flatten(), np.array([2, 2, 5]) / total)
    found = importance.snip(evidence(graph, model=model, gradients=_gradients()))
    np.testing.assert_allclose(found["a"] / found["a"][1], [0, 1, 2 / 7])


def test_taylor_of_single_weights_is_the_mean_square_of_gradient_times_weight(
    case: tuple[Three, ChannelGraph],
) -> None:
    model, graph = case
    each = of_gradients.taylor_each(evidence(graph, model=model, gradients=_gradients()))
    np.testing.assert_allclose(each["out.weight"].flatten(), [(1 + 9) / 2 * 1, 1 * 4, 1 * 25])


def test_hessian_of_a_quadratic_loss_is_its_trace_times_the_square_of_the_norm(
    case: tuple[Three, ChannelGraph],
) -> None:
    """A diagonal Hessian: Hutchinson's signs square to one, so one probe is exact."""
    model, graph = case
    bends = torch.tensor([[1.0, 1.0], [1.0, 3.0], [-2.0, -4.0]]).view(3, 2, 1, 1)

    def loss() -> torch.Tensor:
        return (bends * model.a.weight**2).sum() / 2 + 0 * model.out.weight.sum()

    # trace 2, 4, under 0; squares of norms 0, 25, 1; two weights each
    found = importance.hessian(lossy(graph, model, 2, loss))["a"]
    assert found[0] == found[2] == 0 < found[1]
    each = of_gradients.hessian_each(lossy(graph, model, 2, loss))["a.weight"].flatten(1)
    np.testing.assert_allclose(each, [[0, 0], [1 * 9 / 2, 3 * 16 / 2], [0, 0]], atol=1e-6)


def test_hutchinson_comes_to_the_diagonal_of_a_full_hessian() -> None:
    torch.manual_seed(0)
    model = Curved()
    graph = build(trace(model, (1, 4, 2, 2)))
    model.double()
    x = torch.rand(5, 4, 2, 2, dtype=torch.float64)

    def loss() -> torch.Tensor:
        return model(x).pow(2).sum()

    whole = torch.autograd.functional.hessian(
        lambda w: torch.func.functional_call(model, {"a.weight": w}, x).pow(2).sum(), model.a.weight.detach()
    )
    exact = whole.reshape(12, 12).diagonal().reshape(3, 4, 1, 1)
    found = of_gradients._diagonal(lossy(graph, model, 2000, loss))["a.weight"]
    assert float((found - exact).abs().max()) < 0.1 * float(exact.abs().max())


def test_masks_are_the_share_of_what_is_left(case: tuple[Three, ChannelGraph]) -> None:
    model, graph = case
    mask = torch.tensor([[1.0, 0.0], [1.0, 1.0], [0.0, 0.0]]).view(3, 2, 1, 1)
    found = importance.masks(replace(evidence(graph, model=model), masks={"a.weight": mask}))
    np.testing.assert_allclose(found["a"], [2 / 3, 3 / 3, 1 / 3])  # the column that reads it is whole
    with pytest.raises(RecipeError, match="there is nothing"):
        importance.masks(evidence(graph, model=model))


def test_checkpoint_with_masks_loads_as_stock_and_its_emptiest_channels_go_first(tmp_path: Path, tiny: Path) -> None:
    content = torch.load(tiny, weights_only=False)
    conv = content["model"].float().requires_grad_(False).model[1].conv
    mask = torch.ones_like(conv.weight)
    mask[8:24] = 0
    prune.custom_from_mask(conv, "weight", mask)
    torch.save(content, tmp_path / "masked.pt")
    detector = load(tmp_path / "masked.pt")
    assert torch.equal(detector.masks["model.1.conv.weight"], mask)
    loaded = detector.model.model[1].conv
    assert isinstance(loaded.weight, nn.Parameter)
    assert not loaded._forward_pre_hooks
    assert not loaded.weight[8:24].any()
    assert loaded.weight[:8].all()
    request = Request(model=tmp_path / "masked.pt", image_size=(64, 64), importance="masks", macs_ratio=0.9)
    _, plan = prune_checkpoint(request, files=ModelFiles(tmp_path / "pruned.pt", tmp_path / "plan.json"))
    keep = set(plan.groups["model.1.conv"].keep)
    assert len(keep) < 32
    assert keep >= {*range(8), *range(24, 32)}
    assert not load(tmp_path / "pruned.pt").masks


@pytest.mark.parametrize("name", [n for n, m in METHODS["importance"].items() if m.needs])
def test_importances_that_need_data_score_a_detector(tmp_path: Path, tiny: Path, scenes: Path, name: str) -> None:
    request = Request(
        model=tiny, image_size=(64, 64), importance=name, macs_ratio=0.7, batch=4, batches=2, torch_device="cpu",
        view=make_view(read_dataset(scenes), tmp_path / "view"),
    )  # fmt: skip
    seen: list[tuple[int, int]] = []
    _, plan = prune_checkpoint(
        request, files=ModelFiles(tmp_path / "pruned.pt", tmp_path / "plan.json"),
        on_batch=lambda done, total: seen.append((done, total)),
    )  # fmt: skip
    assert plan.macs_ratio <= 0.7
    # fisher takes single images; what cuts lose is told of candidate by candidate
    assert seen[-1:] == {"fisher": [(8, 8)], "sensitivity": []}.get(name, [(2, 2)])
    without = replace(request, view=None)
    with pytest.raises(RecipeError, match=f"Importance {name} with allocation global needs training data"):
        prune_checkpoint(without, files=ModelFiles(tmp_path / "none.pt", tmp_path / "none.json"))
