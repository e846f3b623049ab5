"""Scales through the folding of BatchNorm and through a cut."""

from __future__ import annotations

import copy
import io
from pathlib import Path

import pytest
import torch

from edgeprune.graph.cost import CostModel
from edgeprune.prune.apply import make_plan
from edgeprune.prune.make import cut_moments
from edgeprune.prune.traced import channel_graph
from edgeprune.quant.affine import LIMIT, along, quantize
from edgeprune.quant.fake import SCALES, attach, detach
from edgeprune.quant.fold import cut, fold
from edgeprune.records import LayerKeep, Quantization
from edgeprune.yolo.export import fused
from edgeprune.yolo.load import untrained
from tests.mute import cut_and_mute, give_life, random_keeps
from tests.quant.test_calibrate import calibrated, pictures

IMAGE = torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(1))


@pytest.fixture(scope="module", params=["conv-inputs", "all"])
def net(request: pytest.FixtureRequest) -> tuple[torch.nn.Module, Quantization]:
    model = untrained("yolov8n.yaml", {0: "a", 1: "b"}, seed=0)
    give_life(model)
    with torch.no_grad():
        model.model[0].bn.weight[2].neg_()  # a channel that folding turns round
        model.model[1].bn.weight[4] = 0  # … and one that it silences
    return model, calibrated(model, pictures(), placement=request.param)


def integers(model: torch.nn.Module, record: Quantization, name: str) -> torch.Tensor:
    weight = model.get_submodule(name).weight.detach()
    return quantize(weight, along(torch.tensor(record.weights[name]), 0, weight.dim()), 0, -LIMIT, LIMIT)


def test_the_integers_that_were_trained_are_the_integers_that_are_exported(
    net: tuple[torch.nn.Module, Quantization],
) -> None:
    model, record = net
    plain = fused(model)
    folded = fold(model, plain, record)
    assert set(folded.weights) == set(record.weights)
    for name in record.weights:
        before, after = integers(model, record, name), integers(plain, folded, name)
        sign = model.get_submodule(name.removesuffix(".conv")).bn.weight.sign()[:, None, None, None]
        assert torch.equal(after, before * sign), name


def test_the_folded_model_computes_the_same(net: tuple[torch.nn.Module, Quantization]) -> None:
    """Behind a tie that falls to the other side everything differs by rounding; before the first one, nothing does."""
    model, record = net
    plain = fused(model)
    folded = fold(model, plain, record)
    with torch.no_grad():
        attach(model, record)
        expected = model(IMAGE)[0]
        detach(model)
        attach(plain, folded)
        got = plain(IMAGE)
        detach(plain)
        quantization = (model(IMAGE)[0] - expected).abs().mean()
    assert (got - expected).abs().mean() < 0.5 * quantization


def test_points_follow_the_batch_norm_into_its_convolution(net: tuple[torch.nn.Module, Quantization]) -> None:
    model, record = net
    folded = fold(model, fused(model), record)
    assert not [point for point in folded.points if "batch_norm" in point]
    assert len(folded.points) == len(record.points)
    if record.scheme.placement == "all":
        assert folded.points["model.0.conv"] == "model.0.conv"


def test_moments_of_scales_are_cut_as_the_scales_are(net: tuple[torch.nn.Module, Quantization], tmp_path: Path) -> None:
    model, record = net
    graph = channel_graph(model, (64, 64))
    keeps = random_keeps(graph, seed=5, ratio=0.4)
    plan = make_plan(
        graph, CostModel(graph, model), keeps, importance="random", allocation="uniform", channel_multiple=1, seed=0
    )
    flat = torch.tensor([s for line in record.weights.values() for s in line])
    moments = {"exp_avg": flat, "exp_avg_sq": flat**2, "step": torch.tensor(3.0)}
    torch.save({f"{SCALES}.weight": moments}, tmp_path / "moments.pt")
    made = torch.load(io.BytesIO(cut_moments(tmp_path / "moments.pt", model, graph, plan, record)))
    expected = torch.tensor([s for line in cut(record, plan.layers).weights.values() for s in line])
    assert len(expected) < len(flat)
    assert torch.equal(made[f"{SCALES}.weight"]["exp_avg"], expected)


def test_cut_equals_muted_while_quantized(net: tuple[torch.nn.Module, Quantization]) -> None:
    """The oracle of every cut, with fake-quantization on: scales per channel go with their channels."""
    model, record = copy.deepcopy(net[0]).double(), net[1]
    graph = channel_graph(model, (64, 64))
    keeps = random_keeps(graph, seed=3, ratio=0.4)
    smaller, muted = cut_and_mute(model, graph, keeps)
    attach(
        smaller,
        cut(record, {name: LayerKeep(in_=s["in"], out=s["out"]) for name, s in graph.layer_keeps(keeps).items()}),
    )
    attach(muted, record)
    image = IMAGE.double()
    with torch.no_grad():
        a, b = smaller(image)[0], muted(image)[0]
    assert smaller.get_submodule("model.3.conv").weight.shape != model.get_submodule("model.3.conv").weight.shape
    assert (a - b).abs().max() < 1e-6 * b.abs().max()
