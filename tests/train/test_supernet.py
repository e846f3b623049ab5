"""The supernet: a sub-net is the cut, the sandwich rule makes narrow nets better, and a stop costs nothing."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from edgeprune.demo import NAMES
from edgeprune.errors import EdgepruneError
from edgeprune.graph.cost import CostModel
from edgeprune.prune.candidates import Candidates
from edgeprune.prune.importance import magnitude
from edgeprune.prune.ladder import Limits, ladders_of
from edgeprune.prune.make import prune_checkpoint
from edgeprune.prune.problem import Means, Problem, Share
from edgeprune.prune.request import Request
from edgeprune.prune.search import Space
from edgeprune.prune.traced import channel_graph
from edgeprune.records import Recipe
from edgeprune.records.dataset import read_dataset
from edgeprune.records.model import ModelFiles
from edgeprune.train.supernet import muted, train_supernet
from edgeprune.yolo.data import batches, make_view
from edgeprune.yolo.load import load, predictions
from tests.mute import cut_and_mute, give_life, largest_error, random_keeps
from tests.prune.test_candidates import SMALL


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("small") / "small.yaml"
    file.write_text(SMALL.replace("nc: 3", f"nc: {len(NAMES)}"))
    return file


@pytest.fixture(scope="module")
def view(scenes: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_view(read_dataset(scenes), tmp_path_factory.mktemp("view"))


def problem_of(model: Any) -> tuple[Problem, CostModel]:
    graph = channel_graph(model, (64, 64))
    costs, scores = CostModel(graph, model), magnitude(graph, model, 2)
    space = Space(graph, ladders_of(graph, scores, Limits()), Share(costs.macs))
    return Problem(graph, scores, space, 0.5, False, Means(model)), costs


@pytest.mark.parametrize("training", [False, True])
def test_sub_net_is_the_cut_model(small: Path, training: bool) -> None:
    model = give_life(load(small).model).double()
    problem, _ = problem_of(model.float())
    keeps = random_keeps(problem.graph, 0, 0.4)
    cut, _ = cut_and_mute(model, problem.graph, keeps)
    image = torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    model.train(training)
    cut.train(training)
    with torch.no_grad():
        whole = predictions(model(image))
        with muted(model, problem.graph, keeps):
            found = predictions(model(image))
        assert largest_error(predictions(cut(image)), found) < 1e-4
        if not training:  # in training mode each pass moves BatchNorm's running statistics, not what comes out
            assert largest_error(predictions(model(image)), whole) < 1e-6
    assert largest_error(found, whole) > 1e-2


def test_narrow_nets_come_to_agree_and_a_stop_changes_nothing(small: Path, view: Path, tmp_path: Path) -> None:
    start = load(small).model
    problem, costs = problem_of(start)
    device = torch.device("cpu")

    def draw(epoch: int, stop: int | None = None) -> Iterator[dict[str, Any]]:
        if epoch == stop:
            raise KeyboardInterrupt
        return batches(view, 64, 8, 3, epoch, device)

    def trained(kept: Path, stop: int | None = None) -> Any:
        model = copy.deepcopy(start)
        train_supernet(
            model, problem, draw=lambda epoch: draw(epoch, stop), epochs=4, steps=3, learning_rate=2e-3, kept=kept
        )
        return model

    whole = trained(tmp_path / "whole.pt")
    with pytest.raises(KeyboardInterrupt):
        trained(tmp_path / "stopped.pt", stop=2)
    again = trained(tmp_path / "stopped.pt")
    for name, tensor in whole.state_dict().items():
        assert torch.equal(tensor, again.state_dict()[name]), name
    keeps = problem.keeps(problem.space.narrowest)
    drawn = tuple(batches(view, 64, 8, 3, 99, device))
    before, after = (
        Candidates(model, problem.graph, costs, None, lambda: drawn).loss(keeps, recalibrated=True)
        for model in (start, whole)
    )
    assert after < before
    assert {p.requires_grad for p in whole.parameters()} == {p.requires_grad for p in start.parameters()}
    assert not whole.training


def test_detector_is_cut_by_a_search_of_its_trained_supernet(small: Path, view: Path, tmp_path: Path) -> None:
    trained: list[int] = []

    def learn(net: Any, problem: Problem) -> None:
        trained.append(1)
        train_supernet(
            net, problem, draw=lambda epoch: batches(view, 64, 8, 2, epoch, torch.device("cpu")), epochs=1, steps=2,
            learning_rate=1e-3, kept=tmp_path / "supernet.pt",
        )  # fmt: skip

    request = Request(
        model=small, image_size=(64, 64), importance="l2", allocation="nsga2", macs_ratio=0.6, view=view, batch=4,
        trials=5, trial_batches=1, train_supernet=learn, work=tmp_path,
    )  # fmt: skip
    before, plan = prune_checkpoint(request, files=ModelFiles(tmp_path / "pruned.pt", tmp_path / "plan.json"))
    assert trained == [1]
    assert 0.2 < plan.macs_ratio <= 0.6
    kept = np.array(plan.groups["model.0.conv"].keep)
    cut, parent = load(tmp_path / "pruned.pt").model, before.model
    assert torch.equal(cut.model[0].conv.weight, parent.model[0].conv.weight[kept])  # not the supernet's weights


def test_supernet_that_nothing_searches_is_refused() -> None:
    with pytest.raises((EdgepruneError, ValueError), match="nsga2 or tpe searches"):
        Recipe(supernet_epochs=2)
    assert Recipe(supernet_epochs=2, allocation="tpe").supernet_epochs == 2
