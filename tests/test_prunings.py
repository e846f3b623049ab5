"""Every way to alternate cutting and training, and every regularization, once through on a small detector."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import yaml

import edgeprune
from edgeprune import stages
from edgeprune.calibration.select import select
from edgeprune.calibration.sets import write_calibration
from edgeprune.errors import EdgepruneError, RecipeError
from edgeprune.job import plan_job
from edgeprune.prune.owned import Owned
from edgeprune.prune.sparse import read
from edgeprune.prune.traced import channel_graph
from edgeprune.records import PrunePlan, Quantization, Recipe, read_json
from edgeprune.records.dataset import read_dataset
from edgeprune.records.files import sha256_file
from edgeprune.schedule import phases
from edgeprune.workshop import Listener
from edgeprune.yolo.load import load

TARGET = """
description: a small input for the tests
runtime: onnxruntime
input_shape: [1, 3, 64, 64]
precisions: [fp32]
"""
#: A detector of six convolutions and a head at two levels: traced and trained in a moment.
DETECTOR = """
nc: 3
backbone:
  - [-1, 1, Conv, [16, 3, 2]]
  - [-1, 1, Conv, [16, 3, 2]]
  - [-1, 1, C2f, [16, True]]
  - [-1, 1, Conv, [32, 3, 2]]
  - [-1, 1, Conv, [32, 3, 2]]
head:
  - [[3, 4], 1, Detect, [nc]]
"""
COMMON = {
    "goal": {"macs_ratio": 0.6}, "batch": 8, "torch_device": "cpu", "importance": "l2", "allocation": "uniform",
    "distillation": "none",
}  # fmt: skip


class Stopped(Exception):
    pass


class StopAfter(Listener):
    """Stops a build when a stage has trained an epoch."""

    def __init__(self, stage: str) -> None:
        self.stage = stage

    def progress(self, stage: str, done: int, total: int, note: str = "") -> None:
        if (stage, done) == (self.stage, 1):
            raise Stopped


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    from edgeprune.demo import NAMES, draw_data_set
    from edgeprune.yolo.checkpoint import pack
    from edgeprune.yolo.load import untrained

    folder = tmp_path_factory.mktemp("inputs")
    (folder / "small-detector.yaml").write_text(DETECTOR)
    detector = untrained(str(folder / "small-detector.yaml"), dict(enumerate(NAMES)), seed=0)
    (folder / "small.pt").write_bytes(pack(detector, {}, half=True))
    draw_data_set(folder / "data", seed=1, train=8, val=4, size=64)
    (folder / "small.yaml").write_text(TARGET)
    return {
        "model": str(folder / "small.pt"),
        "data": str(folder / "data/data.yaml"),
        "target": str(folder / "small.yaml"),
    }


def build(inputs: dict[str, str], out: Path, recipe: dict[str, object], listener: Listener | None = None) -> Path:
    (out / "recipe.yaml").write_text(yaml.safe_dump({**COMMON, **recipe}))
    edgeprune.build(**inputs, recipe=out / "recipe.yaml", out=out, until="finetune", listener=listener)
    return out / "small"


def plan_of(folder: Path) -> PrunePlan:
    return read_json(folder / "plan.json", PrunePlan, EdgepruneError)


def widths(folder: Path) -> dict[str, int]:
    return {name: len(group.keep) for name, group in plan_of(folder).groups.items()}


@pytest.mark.parametrize(
    ("pruning", "regularization"), [("gradual", "growing"), ("soft", "slimming"), ("regrowth", "group-lasso")]
)
def test_the_cut_takes_who_stayed_at_the_widths_that_were_chosen(
    tmp_path: Path, inputs: dict[str, str], pruning: str, regularization: str
) -> None:
    recipe: dict[str, object] = {
        "pruning": pruning, "regularization": regularization, "regularization_epochs": 1, "epochs": 2,
    }  # fmt: skip
    folder = build(inputs, tmp_path, recipe)
    listed = phases(Recipe(**COMMON, **recipe), int8=False)
    deciding = next(p for p in listed if p.keeper.startswith("train.mute"))
    assert widths(folder) == widths(folder / f"phases/{deciding.number}")
    assert plan_of(folder).macs_ratio <= 0.6
    model = load(folder / f"phases/{deciding.number}/finetuned.pt").model
    silent, owned = Owned.silent(channel_graph(model, (64, 64)), model)
    kept = {
        n for name, numbers in owned.groups.items() for n in (numbers[i] for i in plan_of(folder).groups[name].keep)
    }
    assert set(silent.nonzero()[0].tolist()) == set(range(owned.count)) - kept  # all that went had been muted
    shapes = [{n: p.shape for n, p in load(folder / f).model.named_parameters()} for f in ("pruned.pt", "finetuned.pt")]
    assert shapes[0] == shapes[1]
    job = plan_job(**inputs, recipe=tmp_path / "recipe.yaml", out=tmp_path)
    with job.shop.open():
        made = stages.admit(job)
        for phase in listed:
            made = stages.finetune(job, phase, stages.prune(job, phase, made))
    assert job.shop.ran == []


@pytest.mark.parametrize("pruning", ["gradual", "regrowth", "rewind-weights"])
def test_single_weights_go_and_grow_while_the_model_trains(
    tmp_path: Path, inputs: dict[str, str], pruning: str
) -> None:
    recipe = {
        "granularity": "weights", "goal": {"sparsity": 0.5}, "importance": "l1", "allocation": "global",
        "pruning": pruning, "epochs": 4, "batch": 2,
    }  # fmt: skip
    folder = build(inputs, tmp_path, recipe)
    plan = plan_of(folder)
    assert plan.sparsity == pytest.approx(0.5, abs=1e-3)
    deciding = load(folder / f"phases/{2 if pruning == 'rewind-weights' else 1}/finetuned.pt").model
    trained = load(folder / "finetuned.pt").model
    went = crossing = 0
    for name, zeroed in (plan.zeros or {}).items():
        zeros = read(zeroed, name).view(trained.get_submodule(name).weight.shape)
        now = trained.get_submodule(name).weight == 0
        assert now[zeros].all()
        crossing += int((now & ~zeros).sum())
        before = deciding.get_submodule(name).weight
        if pruning != "rewind-weights":
            assert torch.equal(before == 0, zeros)  # all that went had been muted, and nobody else
        went += int(zeros.sum())
    # and nothing else; but where others have grown, some are so small that float16 may round one to zero
    assert crossing <= (pruning == "regrowth")
    first = plan_of(folder / "phases/1").zeros if pruning != "rewind-weights" else plan.zeros
    assert went == sum(zeroed.zeros for zeroed in (first or {}).values())
    if pruning == "regrowth":
        assert first != plan.zeros  # others than who would have gone


def test_a_lottery_ticket_is_cut_out_of_the_early_model(tmp_path: Path, inputs: dict[str, str]) -> None:
    folder = build(inputs, tmp_path, {"pruning": "rewind-weights", "epochs": 4, "importance": "bn"})
    early, trained, cut = (
        load(folder / file).model.state_dict()
        for file in ("phases/1/finetuned.pt", "phases/2/finetuned.pt", "pruned.pt")
    )
    keep = list(plan_of(folder).layers["model.1.conv"].out)
    scales = trained["model.1.bn.weight"].abs()
    assert torch.equal(cut["model.1.bn.weight"], early["model.1.bn.weight"][keep])
    assert not torch.equal(cut["model.1.bn.weight"], trained["model.1.bn.weight"][keep])
    gone = [c for c in range(len(scales)) if c not in keep]
    assert scales[gone].max() <= scales[keep].min()  # chosen by the trained one
    moments = [torch.load(folder / f, weights_only=True) for f in ("phases/1/moments.pt", "pruned-moments.pt")]
    assert torch.equal(moments[1]["model.1.bn.weight"]["exp_avg"], moments[0]["model.1.bn.weight"]["exp_avg"][keep])


def test_a_rewound_rate_begins_again_after_the_cut(tmp_path: Path, inputs: dict[str, str]) -> None:
    folder = build(inputs, tmp_path, {"pruning": "rewind-rate", "epochs": 2, "regularization": "l0"})
    assert (folder / "finetuned.pt").is_file()
    regularized = load(folder / "phases/1/finetuned.pt").model
    assert set(regularized.state_dict()) == set(load(folder / "parent.pt").model.state_dict())  # stock again
    moments = torch.load(folder / "phases/1/moments.pt", weights_only=True)
    assert set(moments) <= set(dict(regularized.named_parameters()))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("pruning", "distillation"), [("gradual", "cwd"), ("rewind-weights", "mgd"), ("regrowth", "ultralytics")]
)
def test_what_trains_before_the_cut_can_be_quantized(
    tmp_path: Path, inputs: dict[str, str], pruning: str, distillation: str
) -> None:
    quantized = TARGET.replace("[fp32]", "[fp32, int8]") + "quantization: {activations: asymmetric, placement: all}\n"
    (tmp_path / "int8.yaml").write_text(quantized)
    data = read_dataset(Path(inputs["data"]))
    few = select(data, 4, 0, name="few", licence="synthetic", input_shape=(1, 3, 64, 64)).calibration
    inputs = {**inputs, "target": str(tmp_path / "int8.yaml"), "calibration": str(write_calibration(few, tmp_path))}
    recipe = {"pruning": pruning, "epochs": 4, "distillation": distillation}
    folder = build(inputs, tmp_path, recipe).parent / "int8"
    record = read_json(folder / "quantization.json", Quantization, EdgepruneError)
    model = load(folder / "finetuned.pt").model
    convolutions = {n: m.out_channels for n, m in model.named_modules() if isinstance(m, torch.nn.Conv2d)}
    assert record.weights
    assert all(len(scales) == convolutions[name] for name, scales in record.weights.items())
    assert plan_of(folder).macs_ratio <= 0.6


def test_gates_that_all_close_end_the_build_and_nothing_is_lost(tmp_path: Path, inputs: dict[str, str]) -> None:
    recipe = {
        "regularization": "l0",
        "regularization_epochs": 2,
        "regularization_strength": 1e9,
        "epochs": 1,
        "batch": 2,
    }
    with pytest.raises(RecipeError, match="lower regularization_strength"):
        build(inputs, tmp_path, {**recipe, "learning_rate": 0.1})
    assert (tmp_path / "small/parent.pt").is_file()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("recipe", "stage"),
    [
        ({"pruning": "regrowth", "epochs": 4, "pruning_share": 0.5}, "finetune 1"),
        ({"regularization": "l0", "regularization_epochs": 2, "epochs": 1}, "finetune 1"),
        ({"regularization": "growing", "regularization_epochs": 2, "epochs": 1}, "finetune 1"),
    ],
)
def test_interrupted_it_ends_in_the_same_weights(
    tmp_path: Path, inputs: dict[str, str], recipe: dict[str, object], stage: str
) -> None:
    for name in ("whole", "stopped"):
        (tmp_path / name).mkdir()
    whole = build(inputs, tmp_path / "whole", recipe)
    with pytest.raises(Stopped):
        build(inputs, tmp_path / "stopped", recipe, StopAfter(stage))
    stopped = build(inputs, tmp_path / "stopped", recipe)
    for file in ("phases/1/finetuned.pt", "finetuned.pt"):
        a, b = (load(folder / file).model.state_dict() for folder in (whole, stopped))
        assert all(torch.equal(a[key], b[key]) for key in a), file
    assert sha256_file(whole / "plan.json") == sha256_file(stopped / "plan.json")
