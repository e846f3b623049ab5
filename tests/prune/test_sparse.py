"""What leaves zeros: which weights they are, that a plan says so and is replayed, and that training keeps them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from torch import nn

from edgeprune.errors import PlanError, RecipeError
from edgeprune.graph.build import build
from edgeprune.graph.trace import trace
from edgeprune.prune import sparse
from edgeprune.prune.granularity import Left, Pruned, Task
from edgeprune.prune.make import prune_checkpoint, replay
from edgeprune.prune.request import Request
from edgeprune.quant.calibrate import Image, calibrate
from edgeprune.records import Goal, PrunePlan, Recipe, read_json, write_json
from edgeprune.records.base import parse
from edgeprune.records.dataset import read_dataset
from edgeprune.records.model import ModelFiles
from edgeprune.records.quantization import Scheme
from edgeprune.train.finetune import finetune
from edgeprune.yolo import blocks
from edgeprune.yolo.data import make_view
from edgeprune.yolo.load import load
from edgeprune.yolo.stretch import Stretch
from tests import nets


class Pair(nets.Net):
    """conv (2 -> 2, 1 x 3 kernels) -> ReLU -> conv (2 -> 1, 1 x 1 kernels)."""

    def __init__(self) -> None:
        super().__init__(a=nn.Conv2d(2, 2, (1, 3), padding=(0, 1), bias=False), out=nn.Conv2d(2, 1, 1, bias=False))
        with torch.no_grad():
            self.a.weight.copy_(torch.tensor([[[9, 1, 8], [2, 2, 2]], [[0, 0, 3], [7, 6, 5]]]).view(2, 2, 1, 3))
            self.out.weight.copy_(torch.tensor([4.0, 10.0]).view(1, 2, 1, 1))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.out(torch.relu(self.a(x)))


def task(model: nn.Module, sparsity: float, allocation: str = "global") -> Task:
    """Scored by absolute values."""
    each = {name: p.detach().abs().double() for name, p in model.named_parameters()}
    return Task(
        Left(model, build(trace(model, (1, 2, 4, 4))), {}), scores=lambda graph: {}, each=lambda: each,
        widths=lambda *_: ({}, None),
        sparsity=sparsity, allocation=allocation,
    )  # fmt: skip


def zeros(pruned: Pruned) -> dict[str, list[object]]:
    return {name: where.flatten(2).int().tolist() for name, where in pruned.zeros.items()}


def test_the_least_weights_of_all_layers_become_zero() -> None:
    # 14 weights, half of them: 0 0 1 2 2 2 3 and not 4
    found = zeros(sparse.weights(task(Pair(), 0.5)))
    assert found == {"a": [[[0, 1, 0], [1, 1, 1]], [[1, 1, 1], [0, 0, 0]]], "out": [[[0], [0]]]}


def test_uniform_takes_the_same_share_of_every_layer() -> None:
    found = zeros(sparse.weights(task(Pair(), 0.5, "uniform")))
    assert found == {"a": [[[0, 1, 0], [1, 1, 1]], [[1, 1, 0], [0, 0, 0]]], "out": [[[1], [0]]]}


def test_kernels_go_by_score_per_weight() -> None:
    # means of kernels: 6, 2 | 1, 6; the 1 x 1 ones 4 and 10: the third, the second and the 4, 7 weights
    found = zeros(sparse.kernels(task(Pair(), 0.5)))
    assert found == {"a": [[[0, 0, 0], [1, 1, 1]], [[1, 1, 1], [0, 0, 0]]], "out": [[[1], [0]]]}


def test_a_layers_best_unit_stays_and_more_is_refused() -> None:
    found = sparse.weights(task(Pair(), 12 / 14)).zeros
    assert [int((~where).sum()) for where in found.values()] == [1, 1]
    with pytest.raises(PlanError, match="without weights"):
        sparse.weights(task(Pair(), 13 / 14))


def test_n_of_m_keeps_the_best_of_neighbours_along_the_input_channels() -> None:
    scores = torch.tensor([[5.0, 1, 2, 3, 9, 9, 9, 9], [1, 2, 3, 4, 4, 3, 2, 1]]).view(2, 8, 1, 1)
    two = sparse.best_of(scores, 2, 4).flatten(1).int().tolist()
    assert two == [[1, 0, 0, 1, 1, 1, 0, 0], [0, 0, 1, 1, 1, 1, 0, 0]]
    one = sparse.best_of(scores, 1, 2).flatten(1).int().tolist()
    assert one == [[1, 0, 0, 1, 1, 0, 1, 0], [0, 1, 0, 1, 1, 0, 1, 0]]


@pytest.mark.parametrize(("n", "m"), [(2, 4), (1, 4), (1, 2)])
def test_pattern_holds_at_every_position_of_a_kernel_and_skips_what_it_cannot_hold_in(n: int, m: int) -> None:
    model = nets.Residual()  # 3 -> 16 -> 16 -> 4
    each = {name: torch.rand(p.shape) for name, p in model.named_parameters()}
    asked = Task(
        Left(model, build(trace(model, (1, 3, 8, 8))), {}), scores=lambda graph: {}, each=lambda: each,
        widths=lambda *_: ({}, None),
        sparsity=1 - n / m,
    )  # fmt: skip
    found = sparse.n_of_m(asked, n, m).zeros
    assert set(found) == {"b.0", "out"}  # three input channels have no fours
    stays = (~found["b.0"]).reshape(16, 16 // m, m, 3, 3).sum(2)
    assert (stays == n).all()


def test_pattern_that_fits_nowhere_is_refused() -> None:
    with pytest.raises(PlanError, match="No layer can be 2:4"):
        sparse.two_of_four(task(Pair(), 0.5))


@pytest.mark.parametrize(("granularity", "importance"), [("weights", "lamp"), ("2:4", "l1"), ("kernels", "synapses")])
def test_plan_says_where_zeros_are_and_is_replayed_to_the_bit(
    tmp_path: Path, tiny: Path, granularity: str, importance: str
) -> None:
    request = Request(
        model=tiny, image_size=(64, 64), importance=importance, granularity=granularity, sparsity=0.5,
    )  # fmt: skip
    prune_checkpoint(request, files=ModelFiles(tmp_path / "pruned.pt", tmp_path / "plan.json"))
    plan = read_json(tmp_path / "plan.json", PrunePlan, PlanError)
    assert plan.zeros is not None
    assert plan.pruning_ratio == 0
    assert plan.sparsity == pytest.approx(0.5, abs=1e-3)
    before, after = load(tiny).model, load(tmp_path / "pruned.pt").model
    assert not set(plan.zeros) & blocks.constants(before)
    for name, module in after.named_modules():
        old = dict(before.named_modules())[name]
        if not isinstance(module, nn.Conv2d):
            continue
        if name in plan.zeros:
            assert int((module.weight == 0).sum()) == plan.zeros[name].zeros
            assert torch.equal(module.weight[module.weight != 0], old.weight[module.weight != 0])
        else:
            assert torch.equal(module.weight, old.weight)
    replay(tiny, tmp_path / "plan.json", tmp_path / "again.pt")
    assert (tmp_path / "again.pt").read_bytes() == (tmp_path / "pruned.pt").read_bytes()
    content = json.loads((tmp_path / "plan.json").read_text())
    name = next(n for n, layer in content["zeros"].items() if layer["zeros"])
    content["zeros"][name]["zeros"] -= 1
    (tmp_path / "plan.json").write_text(json.dumps(content))
    with pytest.raises(PlanError, match="don't agree with each other"):
        replay(tiny, tmp_path / "plan.json", tmp_path / "none.pt")
    assert not (tmp_path / "none.pt").exists()


def test_rounds_compose_and_keep_what_was_zero(tmp_path: Path, tiny: Path) -> None:
    def cut(model: Path, sparsity: float, seed: int, name: str, before: Path | None) -> PrunePlan:
        request = Request(
            model=model, parent=tiny, before=before, image_size=(64, 64), importance="random", granularity="weights",
            sparsity=sparsity, seed=seed,
        )  # fmt: skip
        return prune_checkpoint(request, files=ModelFiles(tmp_path / f"{name}.pt", tmp_path / f"{name}.json"))[1]

    one = cut(tiny, 0.3, 0, "one", None)
    two = cut(tmp_path / "one.pt", 0.6, 1, "two", tmp_path / "one.json")
    assert two.sparsity == pytest.approx(0.6, abs=1e-6)
    assert one.zeros is not None
    assert two.zeros is not None
    for name, zeroed in one.zeros.items():
        assert not (sparse.read(zeroed, name) & ~sparse.read(two.zeros[name], name)).any()
    replay(tiny, tmp_path / "two.json", tmp_path / "at-once.pt")
    a, b = (load(tmp_path / f"{name}.pt").model.state_dict() for name in ("two", "at-once"))
    assert all(torch.equal(a[key], b[key]) for key in a)


@pytest.mark.parametrize("quantized", [False, True])
def test_training_keeps_zeros_zero_and_moves_the_rest(
    tmp_path: Path, tiny: Path, scenes: Path, quantized: bool
) -> None:
    request = Request(model=tiny, image_size=(64, 64), importance="l1", granularity="2:4", sparsity=0.5)
    _, plan = prune_checkpoint(request, files=ModelFiles(tmp_path / "pruned.pt", tmp_path / "plan.json"))
    start = ModelFiles(tmp_path / "pruned.pt")
    if quantized:
        images = [Image(f"{n}", torch.rand(1, 3, 64, 64).numpy()) for n in range(2)]
        model = load(start.checkpoint).model
        record = calibrate(model, images, Scheme(), blocks.float_layers(model), "minmax", "0" * 64)
        write_json(tmp_path / "scales.json", record)
        start = ModelFiles(start.checkpoint, quantization=tmp_path / "scales.json")
    finetune(
        start, parent=tiny, view=make_view(read_dataset(scenes), tmp_path / "view"), learning_rate=0.01,
        recipe=Recipe(granularity="2:4", goal=Goal(sparsity=0.5), batch=8, torch_device="cpu"),
        stretch=Stretch(0, 1, 1), follow=False, image_size=64, work=tmp_path / "work", log=tmp_path / "log",
        destination=ModelFiles(tmp_path / "tuned.pt", quantization=tmp_path / "tuned.json"),
    )  # fmt: skip
    before, after = load(tmp_path / "pruned.pt").model, load(tmp_path / "tuned.pt").model
    assert plan.zeros is not None
    moved = 0
    for name in plan.zeros:
        old, new = before.get_submodule(name).weight, after.get_submodule(name).weight
        assert not new[old == 0].any(), name
        moved += int((new[old != 0] != old[old != 0]).sum())
    assert moved > 100_000
    assert torch.load(tmp_path / "work/resume.pt", weights_only=True)["keepers"][0]


@pytest.mark.parametrize(
    ("recipe", "says"),
    [
        ({"goal": {"sparsity": 0.5}}, "goal sparsity and granularity channels"),
        ({"granularity": "weights"}, "goal macs_ratio and granularity weights"),
        ({"granularity": "kernels", "goal": {"speedup": 2}}, "goal speedup and granularity kernels"),
        ({"granularity": "weights", "goal": {"sparsity": 0.5}, "importance": "fpgm"}, "importance fpgm"),
        ({"granularity": "2:4", "goal": {"sparsity": 0.7}}, "granularity 2:4: the pattern leaves half"),
        ({"granularity": "2:4", "goal": {"sparsity": 0.5}, "rounds": 2}, "in 2 rounds and granularity 2:4"),
    ],
)
def test_what_makes_no_sense_together_is_refused(recipe: dict[str, object], says: str) -> None:
    with pytest.raises(RecipeError, match=says):
        parse(Recipe, recipe, RecipeError, where="recipe")


def test_every_round_takes_an_equal_factor_of_what_is_not_zero() -> None:
    goal = Goal(sparsity=0.75)
    assert goal.sparsity_after(0.5) == pytest.approx(0.5)
    assert goal.sparsity_after(1.0) == 0.75
    assert not goal.in_time
