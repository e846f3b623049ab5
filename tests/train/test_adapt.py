"""Short-term fine-tuning: muted it learns what the cut would, and every candidate goes on from the last that won."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch

from edgeprune.demo import NAMES
from edgeprune.graph.channels import ChannelGraph
from edgeprune.graph.cost import CostModel
from edgeprune.prune.apply import apply, make_plan
from edgeprune.prune.candidates import Adapted, Candidates
from edgeprune.prune.traced import channel_graph
from edgeprune.records.dataset import read_dataset
from edgeprune.train.adapt import adapt
from edgeprune.yolo import blocks
from edgeprune.yolo.data import batches, make_view
from edgeprune.yolo.load import load
from edgeprune.yolo.loss import with_criterion
from tests.mute import give_life, random_keeps
from tests.prune.test_candidates import SMALL

RATE = 1e-3
Traced = tuple[Any, ChannelGraph]


@pytest.fixture(scope="module")
def drawn(scenes: Path, tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    view = make_view(read_dataset(scenes), tmp_path_factory.mktemp("view"))
    return list(batches(view, 64, 4, 3, 0, torch.device("cpu")))


@pytest.fixture(scope="module")
def traced(tmp_path_factory: pytest.TempPathFactory) -> Traced:
    file = tmp_path_factory.mktemp("small") / "small.yaml"
    file.write_text(SMALL.replace("nc: 3", f"nc: {len(NAMES)}"))
    model = give_life(load(file).model)
    return model, channel_graph(model, (64, 64))


def cut_to(model: Any, graph: ChannelGraph, keeps: dict[str, tuple[int, ...]]) -> Any:
    plan = make_plan(graph, CostModel(graph, model), keeps, importance="", allocation="", channel_multiple=1, seed=0)
    return apply(model, graph, plan, blocks.settle)


def test_muted_it_learns_what_the_cut_learns(traced: Traced, drawn: list[dict[str, Any]]) -> None:
    model, graph = traced
    keeps = random_keeps(graph, 0, 0.4)
    whole = copy.deepcopy(model)
    adapt(whole, graph, keeps, drawn[:1], learning_rate=RATE)
    cut = cut_to(model, graph, keeps)
    before = {name: p.detach().clone() for name, p in cut.named_parameters()}
    criterion = with_criterion(cut).train().init_criterion()
    named = {name: p.requires_grad_(True) for name, p in cut.named_parameters() if ".dfl." not in name}
    optimizer = torch.optim.AdamW(named.values(), lr=RATE, weight_decay=0.0)
    criterion(cut(drawn[0]["img"]), drawn[0])[0].sum().backward()
    gradients = {name: p.grad.clone() for name, p in named.items() if p.grad is not None}
    optimizer.step()
    found = dict(cut_to(whole, graph, keeps).named_parameters())
    for name, parameter in named.items():
        # Adam's first step is the sign of the gradient, wherever that is more than rounding
        sure = gradients[name].abs() > 1e-3 * gradients[name].abs().max()
        torch.testing.assert_close(found[name][sure], parameter[sure], rtol=1e-3, atol=1e-5, msg=name)
        assert not torch.equal(before[name], parameter)
    untouched = dict(model.named_parameters())
    gone = {n: p for n, p in whole.named_parameters() if n.endswith("bn.weight")}
    assert any((p == untouched[n]).any() and not (p == untouched[n]).all() for n, p in gone.items())


def test_a_way_that_is_interrupted_is_gone_again(traced: Traced, drawn: list[dict[str, Any]], tmp_path: Path) -> None:
    model, graph = traced
    candidates = Candidates(model, graph, CostModel(graph, model), None, lambda: drawn[:1])
    first, second, other = (random_keeps(graph, 0, share) for share in (0.2, 0.4, 0.6))
    trained: list[int] = []

    def adapted(work: Path | None) -> Adapted:
        def train(net: Any, graph: ChannelGraph, keeps: Any, batches: Any) -> None:
            trained.append(len(keeps))
            adapt(net, graph, keeps, batches, learning_rate=RATE)

        return Adapted(candidates, graph, train, lambda before: drawn[1 + before : 2 + before], work)

    losses = adapted(tmp_path / "losses.jsonl")
    found = [losses([])(first), losses([])(other), losses([first])(second), losses([first])(other)]
    assert len(set(found)) == 4  # where it goes on from is part of it
    assert candidates.loss(first) not in found
    assert len(trained) == 5  # four candidates, and the one that won once more
    again = adapted(tmp_path / "losses.jsonl")
    assert [again([])(first), again([first])(second)] == found[::2]
    assert len(trained) == 5
    assert adapted(None)([first])(other) == found[3]  # made again, the whole way
    assert len(trained) == 7
