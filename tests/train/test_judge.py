"""mAP of a detector in torch: what its finished engine scores, and less where channels that matter are gone."""

from __future__ import annotations

import copy
from pathlib import Path

import pytest
import torch

from edgeprune.graph.cost import CostModel
from edgeprune.prune.candidates import Candidates
from edgeprune.prune.traced import channel_graph
from edgeprune.records.dataset import read_dataset
from edgeprune.train.judge import map_lost
from edgeprune.yolo.data import batches, make_view
from edgeprune.yolo.load import load
from tests.conftest import SHARED


class Finds(torch.nn.Module):
    """A detector that finds what it is told to: boxes as (1, 4 + 2 classes, anchors) in pixels."""

    def __init__(self, found: torch.Tensor) -> None:
        super().__init__()
        self.found = found

    def forward(self, images: torch.Tensor) -> tuple[torch.Tensor, None]:
        return self.found.expand(len(images), -1, -1), None


def test_it_is_one_minus_map_by_hand() -> None:
    """Two boxes of 20 px: one is found exactly, of the other one half: IoU 0.5, which counts at the first threshold
    alone. So AP is 1 for class 0, and 1 of 10 for class 1."""
    batch = {
        "img": torch.zeros(1, 3, 64, 64), "batch_idx": torch.zeros(2), "cls": torch.tensor([[0.0], [1.0]]),
        "bboxes": torch.tensor([[20, 20, 20, 20], [40, 40, 20, 20]]) / 64,
    }  # fmt: skip
    found = torch.tensor([[20.0, 20, 20, 20, 0.9, 0], [40, 35, 20, 10, 0, 0.8]]).T[None]
    assert map_lost(Finds(found), [batch]) == pytest.approx(1 - (1 + 0.1) / 2, abs=1e-6)
    assert map_lost(Finds(found[..., :0]), [batch]) == 1.0
    twice = {**batch, "img": torch.zeros(2, 3, 64, 64)}
    assert map_lost(Finds(found), [twice]) > 1 - (1 + 0.1) / 2  # on an empty image the same boxes are false


@pytest.mark.skipif(not SHARED.is_dir(), reason="needs ../shared")
def test_a_real_detector_loses_map_with_what_it_is_cut_by(tmp_path: Path) -> None:
    detector = load(SHARED / "weights/yolov8n-bccd.pt")
    view = make_view(read_dataset(SHARED / "data/bccd/data.yaml"), tmp_path / "view")
    drawn = list(batches(view, 320, 16, 1, 0, torch.device("cpu")))
    whole = map_lost(copy.deepcopy(detector.model), drawn)
    assert whole < 0.4  # it was trained on these
    graph = channel_graph(detector.model, (320, 320))
    candidates = Candidates(
        detector.model, graph, CostModel(graph, detector.model), None, lambda: iter(drawn), map_lost
    )
    assert candidates.loss({}) == pytest.approx(whole, abs=2e-3)
    some = {
        g.name: tuple(range(g.size // 2)) for g in graph.groups if g.locked is None and g.name.startswith("model.4")
    }
    assert candidates.loss(some) > whole + 0.1
