"""Who is muted while a model trains: ramp values, drop and grow sets, what a mute is."""

from __future__ import annotations

import pickle

import pytest
import torch
from torch import nn

from edgeprune.prune.apply import apply
from edgeprune.prune.owned import Owned
from edgeprune.prune.sparse import record
from edgeprune.records.methods import METHODS, function_at
from edgeprune.train.mute import Muting, exchanged, gradual, ramp, regrowth, soft
from edgeprune.train.units import Channels, Weights, units_of
from edgeprune.train.whole import Whole
from tests import nets
from tests.train.fakes import Two, graph_of, trainer_of, whole_of


@pytest.mark.parametrize(
    ("progress", "there"),
    # of 16 channels 8 will go: 8 x (1 - 0.75^3) = 4.6, 8 x (1 - 0.5^3) = 7, 8 x (1 - 0.1^3) = 7.99
    [(0.0, 16), (0.25, 11), (0.5, 9), (0.9, 8), (1.0, 8), (1.2, 8)],
)
def test_gradual_follows_the_cubic_ramp(progress: float, there: int) -> None:
    assert ramp(16, 8, progress) == there


def test_regrowth_drops_the_lowest_and_grows_the_steepest() -> None:
    muted = torch.tensor([False, False, False, False, True, True, False])  # the last is nobody
    magnitudes = torch.tensor([5.0, 1.0, 4.0, 3.0, 0.0, 0.0])
    slopes = torch.tensor([9.0, 0.5, 9.0, 9.0, 2.0, 1.0])
    groups = {"g": range(6)}
    one = exchanged(groups, muted, magnitudes, slopes, 0.25)  # one of four open ones: 1 goes, 4 comes
    assert one.tolist() == [False, True, False, False, False, True, False]
    two = exchanged(groups, muted, magnitudes, slopes, 0.5)  # 1 and 3 go; of 1, 3, 4, 5 the steepest are 3 and 4
    assert two.tolist() == [False, True, False, False, False, True, False]
    slopes[1] = 8.0  # what is dropped may be grown at once (algorithm 1: all but those that are still active)
    assert exchanged(groups, muted, magnitudes, slopes, 0.25).tolist() == muted.tolist()
    assert exchanged(groups, muted, magnitudes, slopes, 0.2).tolist() == muted.tolist()  # 0.8 of a channel: none


def test_the_lowest_go_group_by_group() -> None:
    groups = {"g": range(3), "h": range(3, 5)}
    units = Channels(groups, {"g": 2, "h": 1}, Owned(groups, ()))
    found = units.lowest(torch.tensor([2.0, 1.0, 3.0, 0.1, 0.2]))
    assert found.tolist() == [False, True, False, True, False, False]


@pytest.mark.parametrize("kind", [nets.Residual, nets.Concat, nets.Chunk, nets.Depthwise, nets.Grouped])
def test_a_muted_model_is_the_cut_one(kind: type[nets.Net]) -> None:
    """Zero gates are zeros wherever they are read: SiLU of 0 is 0."""
    torch.manual_seed(0)
    model = kind().eval()
    graph = graph_of(model)
    keeps = {
        group.name: tuple(range(1, group.size, 2))
        for cluster in graph.clusters
        if not graph.locked(cluster)
        for group in (graph.groups[index] for index in cluster)
    }
    whole = whole_of(model, keeps)
    assert whole.plan is not None
    keeper = Muting(units_of(whole))
    keeper.muted = whole.goes
    image = torch.rand(2, 3, 8, 8)
    cut = apply(model, graph, whole.plan)
    before = model(image)
    keeper.mute(model)
    torch.testing.assert_close(model(image), cut(image), rtol=1e-4, atol=1e-5)
    assert not torch.allclose(before, cut(image), atol=1e-3)
    silent, owned = Owned.silent(graph, model)
    assert silent.tolist() == whole.goes[: owned.count].tolist()


def test_gradual_mutes_the_lowest_norm_first_and_keeps_it_muted() -> None:
    model = Two()  # norms: root of 14 and of 46
    trainer = trainer_of(model, steps=4)
    keeper = gradual(whole_of(model, keeps={"a": (1,)}, channels=1))
    model.bn.weight.grad.fill_(1.0)
    keeper.optimizer_step(trainer)  # 1 - 0.75^3 = 0.58 of one channel
    assert keeper.muted.tolist() == [True, False, False]
    assert model.bn.weight.grad.tolist() == [0.0, 1.0]
    keeper.on_before_zero_grad(trainer)
    assert model.bn.weight.tolist() == [0.0, -4.0]
    assert model.a.weight.flatten().tolist() == [3.0, -1.0]  # still there: its gate has a gradient
    with torch.no_grad():
        model.a.weight[0] = 100.0
    keeper.optimizer_step(trainer)
    assert keeper.muted.tolist() == [True, False, False]
    assert trainer.ema.ema.bn.weight.tolist() == [2.0, -4.0]
    keeper.on_train_epoch_end(trainer)
    assert trainer.ema.ema.bn.weight.tolist() == [0.0, -4.0]


def test_regrowth_begins_muted_and_brings_a_channel_back_from_zero() -> None:
    model = Two()
    trainer = trainer_of(model, steps=40)
    keeper = regrowth(whole_of(model, keeps={"a": (0,)}, channels=1))
    keeper.on_train_start(trainer)
    assert keeper.muted.tolist() == [True, False, False]  # by norm, whoever the plan had
    assert model.bn.weight.tolist() == [0.0, -4.0]
    keeper.muted = exchanged(keeper.units.groups, keeper.muted, torch.tensor([0.0, 4.0]), torch.tensor([1.0, 0.0]), 1.0)
    keeper.mute(model)
    assert keeper.muted.tolist() == [False, True, False]
    assert model.bn.weight.tolist() == [0.0, 0.0]  # grown from zero
    other = regrowth(whole_of(Two(), keeps={"a": (0,)}, channels=1))
    other.load_state_dict(keeper.state_dict())
    assert other.muted.tolist() == [False, True, False]


def test_soft_zeroes_weak_filters_and_lets_them_train_on() -> None:
    model = Two()  # filters 3 and -1
    trainer = trainer_of(model)
    keeper = soft(whole_of(model, keeps={"a": (1,)}, channels=1))
    keeper.on_train_epoch_end(trainer)
    assert model.a.weight.flatten().tolist() == [3.0, 0.0]
    assert trainer.ema.ema.a.weight.flatten().tolist() == [3.0, 0.0]
    assert model.bn.weight.tolist() == [2.0, -4.0]
    with torch.no_grad():
        model.a.weight.copy_(torch.tensor([1.0, 2.0]).view(2, 1, 1, 1))  # it has grown back past the other
    keeper.on_train_epoch_end(trainer)
    assert model.a.weight.flatten().tolist() == [0.0, 2.0]


def weights_whole(model: nn.Module, zeros: int = 2) -> Whole:
    """A plan that leaves so many zeros among the four weights of `out`."""
    plan = whole_of(model, keeps={}, channels=1).plan
    assert plan is not None
    goes = torch.arange(4).view(1, 4, 1, 1) < zeros
    return Whole.of(graph_of(model, 1), model, plan.model_copy(update={"zeros": record({"out": goes})}))


class Four(nets.Net):
    """conv (4 channels) -> conv (1 channel), weights 3, -1, 2 and 4."""

    def __init__(self) -> None:
        super().__init__(a=nn.Conv2d(1, 4, 1, bias=False), out=nn.Conv2d(4, 1, 1, bias=False))
        with torch.no_grad():
            self.out.weight.copy_(torch.tensor([3.0, -1.0, 2.0, 4.0]).view(1, 4, 1, 1))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.out(torch.relu(self.a(x)))


def test_weights_ramp_to_zero_by_magnitude() -> None:
    model = Four()
    trainer = trainer_of(model, steps=4)
    keeper = gradual(weights_whole(model))
    assert isinstance(keeper.units, Weights)
    there = []
    for _ in range(4):
        keeper.optimizer_step(trainer)
        keeper.on_before_zero_grad(trainer)
        there.append(model.out.weight.flatten().tolist())
    # of 4 weights 2 will go: 2 x (1 - 0.75^3) = 1.2, 2 x (1 - 0.5^3) = 1.75
    assert there[0] == [3.0, 0.0, 2.0, 4.0]
    assert there[1:] == [[3.0, 0.0, 0.0, 4.0]] * 3
    assert model.a.weight.count_nonzero() == 4  # the plan has nothing of it
    keeper.on_train_epoch_end(trainer)
    assert trainer.ema.ema.out.weight.flatten().tolist() == [3.0, 0.0, 0.0, 4.0]


def test_rigl_on_single_weights_drops_the_smallest_and_grows_the_steepest() -> None:
    """With alpha 0.6 the first exchange, step 2 of 30, is of 0.3 x (1 + cos(0.21)) = 0.59 of two open weights: one."""
    model = Four()
    trainer = trainer_of(model, steps=40)
    keeper = regrowth(weights_whole(model))
    keeper.on_train_start(trainer)
    assert model.out.weight.flatten().tolist() == [3.0, 0.0, 0.0, 4.0]
    model.out.weight.grad.copy_(torch.tensor([1.0, 5.0, 2.0, 1.0]).view(1, 4, 1, 1))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("edgeprune.train.mute.EXCHANGED", 0.6)
        keeper.optimizer_step(trainer)
        assert keeper.muted.tolist() == [False, True, True, False, False]  # not at every step
        assert model.out.weight.grad.flatten().tolist() == [1.0, 0.0, 0.0, 1.0]  # what is muted learns nothing
        model.out.weight.grad.copy_(torch.tensor([1.0, 5.0, 2.0, 1.0]).view(1, 4, 1, 1))
        keeper.optimizer_step(trainer)
    assert keeper.muted.tolist() == [True, False, True, False, False]
    keeper.on_before_zero_grad(trainer)
    assert model.out.weight.flatten().tolist() == [0.0, 0.0, 0.0, 4.0]  # grown from zero
    assert model.out.weight.grad.flatten().tolist() == [0.0, 5.0, 0.0, 1.0]


def test_soft_zeroes_weak_weights_and_lets_them_train_on() -> None:
    model = Four()
    trainer = trainer_of(model)
    keeper = soft(weights_whole(model))
    keeper.on_train_epoch_end(trainer)
    assert model.out.weight.flatten().tolist() == [3.0, 0.0, 0.0, 4.0]
    with torch.no_grad():
        model.out.weight.copy_(torch.tensor([1.0, 2.0, 0.0, 4.0]).view(1, 4, 1, 1))
    keeper.on_train_epoch_end(trainer)
    assert model.out.weight.flatten().tolist() == [0.0, 2.0, 0.0, 4.0]
    assert trainer.ema.ema.out.weight.flatten().tolist() == [0.0, 0.0, 0.0, 4.0]


@pytest.mark.parametrize("whole", [weights_whole(Four()), whole_of(nets.Concat(), keeps={})])
@pytest.mark.parametrize(
    "at", [m.at for m in METHODS["regularization"].values() if m.at]
    + [f"train.mute:{name}" for name in ("gradual", "soft", "regrowth")],
)  # fmt: skip
def test_keepers_travel_to_the_processes_that_train(at: str, whole: Whole) -> None:
    """DDP's workers unpickle the callbacks."""
    keeper = function_at(at)(whole)
    again = pickle.loads(pickle.dumps(keeper))
    assert vars(again).keys() == vars(keeper).keys()
