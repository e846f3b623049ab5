"""Blocks: what they weigh, when they go, that the plan says so, is replayed and composed."""

from __future__ import annotations

import io
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from edgeprune.demo import NAMES as SHAPES
from edgeprune.errors import RecipeError
from edgeprune.graph.channels import ChannelGraph
from edgeprune.graph.cost import CostModel, Widths
from edgeprune.prune.apply import apply, make_plan
from edgeprune.prune.depth import apart, blocks, importances
from edgeprune.prune.granularity import Left, Task
from edgeprune.prune.importance import Evidence, Scores
from edgeprune.prune.importance import weights as of_weights
from edgeprune.prune.make import cut_moments, prune_checkpoint, replay
from edgeprune.prune.request import Request
from edgeprune.prune.time import Timing
from edgeprune.prune.traced import channel_graph
from edgeprune.records import PrunePlan, Recipe
from edgeprune.records.dataset import read_dataset
from edgeprune.records.model import ModelFiles
from edgeprune.records.plan import name_in_parent
from edgeprune.report.figures import layer_widths
from edgeprune.schedule import phases
from edgeprune.yolo import repeats
from edgeprune.yolo.blocks import settle
from edgeprune.yolo.checkpoint import pack
from edgeprune.yolo.data import make_view
from edgeprune.yolo.load import load, predictions, untrained
from tests.mute import give_life, largest_error
from tests.prune.evidence import evidence
from tests.stock import WITHOUT_EDGEPRUNE
from tests.yolo.test_repeats import bypassed

NAMES = dict(enumerate(SHAPES))
SHAPE = (1, 3, 64, 64)


def _squares(found: Evidence) -> Scores:
    """Squares that compare as they are: with a mean per group, what does little weighs as much as all else."""
    return of_weights._powers(found.graph, found.model, 2)


@pytest.fixture(autouse=True)
def as_they_are(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(of_weights, "l2", _squares)


@pytest.fixture(scope="module")
def parent(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A YOLOv8s whose repeats in layers 4 and 6 do next to nothing: their BatchNorm scales are small."""
    model = give_life(untrained("yolov8s.yaml", NAMES, 0))
    with torch.no_grad():
        for layer in (4, 6):
            for repeat in model.model[layer].m:
                for block in (repeat.cv1, repeat.cv2):
                    for parameter in block.parameters():
                        parameter.mul_(1e-3)
    file = tmp_path_factory.mktemp("depth") / "parent.pt"
    file.write_bytes(pack(model, {"train_args": {"imgsz": 64}}, half=False))
    return file


def cut(start: Path, folder: Path, **asked: object) -> PrunePlan:
    request = Request(
        model=start, image_size=(64, 64), granularity="blocks", **{"importance": "random", "macs_ratio": 0.7, **asked}
    )  # type: ignore[arg-type]
    return prune_checkpoint(request, files=ModelFiles(folder / "pruned.pt", folder / "plan.json"))[1]


def test_names_in_the_parent_count_what_is_gone() -> None:
    gone = ("model.4.m.0", "model.4.m.2", "model.6.m.1.m.0")
    assert name_in_parent("model.4.m.0.cv1.conv", gone) == "model.4.m.1.cv1.conv"
    assert name_in_parent("model.4.m.1.cv1.conv", gone) == "model.4.m.3.cv1.conv"
    assert name_in_parent("model.6.m.1.m.0.cv2.bn", gone) == "model.6.m.1.m.1.cv2.bn"
    assert name_in_parent("model.2.m.0.cv1.conv", gone) == "model.2.m.0.cv1.conv"


def test_a_repeat_weighs_what_it_makes_apart_from_the_stream(parent: Path) -> None:
    """yolov8s: a repeat's last convolution and BatchNorm, and not those of the stream that they are added to."""
    model = load(parent).model
    graph = channel_graph(model, (64, 64))
    split = apart(graph, ["model.4.m.0", "model.12.m.0"])
    made = {g.name: set(g.sides) for g in split.groups[len(graph.groups) :]}
    stream = next(g.name for g in graph.groups if ("model.4.m.0.cv2.conv", "out") in g.sides)
    assert made == {
        f"model.4.m.0>{stream}": {("model.4.m.0.cv2.conv", "out"), ("model.4.m.0.cv2.bn", "out")},
        "model.12.m.0>model.12.m.0.cv2.conv": {("model.12.m.0.cv2.conv", "out"), ("model.12.m.0.cv2.bn", "out")},
    }
    task = Task(
        Left(model, graph, {}), lambda graph: _squares(evidence(graph, model=model)), dict, lambda *_: ({}, None)
    )
    cv2 = model.model[4].m[0].cv2
    expected = sum(float((p.double() ** 2).sum()) for p in cv2.parameters())
    assert importances(task, ["model.4.m.0", "model.12.m.0"])["model.4.m.0"] == pytest.approx(expected)


def test_repeats_within_repeats_are_weighed_each(tmp_path: Path) -> None:
    model = load(Path("yolo11m.yaml")).model
    graph = channel_graph(model, (64, 64))
    names = repeats.repeats(model, SHAPE)
    seen: list[int] = []

    def scores(graph: ChannelGraph) -> Scores:
        seen.append(len(graph.groups))
        return {g.name: np.ones(g.size) for g in graph.groups}

    found = importances(Task(Left(model, graph, {}), scores, dict, lambda *_: ({}, None)), names)
    assert found.keys() == set(names)
    assert len(seen) == 2
    assert found["model.2.m.0"] == found["model.2.m.0.m.0"] * 2  # C3k works at half its width


@pytest.mark.parametrize(
    ("lost", "gone"), [([10, 8, 7, 9], ("a", "b")), ([10, 11], ()), ([10, 3, 2, 0], ("a", "b", "c"))]
)
def test_repeats_go_as_long_as_that_beats_channels(lost: list[float], gone: tuple[str, ...]) -> None:
    """Each of three repeats weighs nothing and saves 3, 2 and 1; channels lose what is given, by repeats that went."""

    class Fake(Left):
        def scores(self, whole: ChannelGraph, scores: Scores) -> Scores:
            return scores

    graph = ChannelGraph({}, (), (), (), (), "")
    lefts = {
        names: Fake(torch.nn.Module(), graph, {n: n for n in names}, names)
        for names in [(), ("a",), ("b",), ("c",), ("a", "b"), ("a", "b", "c")]
    }
    saved = {"a": 3, "b": 2, "c": 1}
    task = Task(
        lefts[()], scores=lambda graph: {}, each=dict, widths=lambda left, scores: ({}, None),
        repeats=lambda: ("c", "a", "b"),
        without=lambda names: lefts[tuple(names)], spends=lambda left: 10 - sum(saved[n] for n in left.names),
        lost=lambda left, scores: lost[len(left.names)],
    )  # fmt: skip
    assert blocks(task).blocks == gone


def test_blocks_that_do_nothing_go_first_and_channels_for_the_rest(parent: Path, tmp_path: Path) -> None:
    plan = cut(parent, tmp_path, importance="l2")
    assert plan.blocks is not None
    assert {f"model.{layer}.m.{n}" for layer in (4, 6) for n in (0, 1)} <= set(plan.blocks)
    assert plan.macs_ratio <= 0.7
    assert 0 < plan.pruning_ratio < 1
    whole, made = load(parent).model, load(tmp_path / "pruned.pt").model
    graph = channel_graph(whole, (64, 64))
    costs = CostModel(graph, whole)
    assert plan.macs[0] == costs.macs(costs.widths)
    assert plan.parameters == tuple(sum(p.numel() for p in m.parameters()) for m in (whole, made))
    widths = {n: m.out_channels for n, m in whole.named_modules() if isinstance(m, torch.nn.Conv2d)}
    told = {row.layer for row in layer_widths(widths, plan)}
    assert (
        widths.keys() - told
        == {n for n in widths if any(n.startswith(f"{b}.") for b in plan.blocks)} | {"model.22.dfl.conv"} - told
    )


@pytest.mark.slow
@pytest.mark.parametrize("allocation", ["nsga2", "tpe"])
def test_depth_is_searched_with_widths(parent: Path, scenes: Path, tmp_path: Path, allocation: str) -> None:
    """What does nothing goes: a net without it has the same loss and more of its budget left."""
    view = make_view(read_dataset(scenes), tmp_path / "view")
    looked: list[tuple[int, int]] = []
    request = Request(
        model=parent, image_size=(64, 64), granularity="blocks", importance="l2", macs_ratio=0.6, view=view, batch=4,
        allocation=allocation, trials=16, trial_batches=1, work=tmp_path, torch_device="cpu",
    )  # fmt: skip
    files = ModelFiles(tmp_path / "pruned.pt", tmp_path / "plan.json")
    _, plan = prune_checkpoint(request, files=files, on_trial=lambda done, total: looked.append((done, total)))
    assert looked == [(n + 1, 16) for n in range(16)] * 2  # for the depth, and for the widths at that depth
    assert plan.blocks is not None
    assert plan.macs_ratio <= 0.6
    assert len(list(tmp_path.glob("supernet-losses-*.jsonl"))) > 1  # several depths were scored
    assert load(tmp_path / "pruned.pt").model(torch.rand(SHAPE)) is not None


def test_plan_with_blocks_is_replayed_and_is_bypass_and_mute(parent: Path, tmp_path: Path) -> None:
    plan = cut(parent, tmp_path, importance="l2", macs_ratio=0.8)
    replay(parent, tmp_path / "plan.json", tmp_path / "again.pt")
    assert (tmp_path / "again.pt").read_bytes() == (tmp_path / "pruned.pt").read_bytes()
    assert plan.blocks is not None
    content = json.loads((tmp_path / "plan.json").read_text())
    whole = load(parent).model.double()
    if plan.pruning_ratio == 0:
        image = torch.rand(SHAPE, dtype=torch.float64)
        with torch.no_grad():
            a, b = load(tmp_path / "pruned.pt").model.double(), bypassed(whole, list(plan.blocks))
            assert largest_error(predictions(a(image)), predictions(b(image))) < 1e-6  # columns summed in FP32
    content["blocks"] = ["model.99.m.0"]
    (tmp_path / "plan.json").write_text(json.dumps(content))
    with pytest.raises(Exception, match="no such repeat"):
        replay(parent, tmp_path / "plan.json", tmp_path / "none.pt")
    assert not (tmp_path / "none.pt").exists()


@pytest.mark.slow
def test_later_round_cuts_channels_and_composes(parent: Path, tmp_path: Path) -> None:
    first = cut(parent, tmp_path, importance="l2", macs_ratio=0.8)
    (tmp_path / "2").mkdir()
    second = cut(
        tmp_path / "pruned.pt", tmp_path / "2", importance="l2", macs_ratio=0.5, parent=parent,
        before=tmp_path / "plan.json",
    )  # fmt: skip
    assert second.blocks == first.blocks
    assert second.macs[0] == first.macs[0]
    assert second.macs_ratio <= 0.5
    replay(parent, tmp_path / "2/plan.json", tmp_path / "at-once.pt")
    a, b = (load(f).model.state_dict() for f in (tmp_path / "2/pruned.pt", tmp_path / "at-once.pt"))
    assert all(torch.equal(a[key], b[key]) for key in a)


def test_moments_lose_what_a_block_had_and_move_up_with_the_rest(parent: Path, tmp_path: Path) -> None:
    model, gone = load(parent).model, ["model.4.m.0"]
    moments = {
        name: {"exp_avg": torch.randn_like(p), "exp_avg_sq": torch.rand_like(p), "step": torch.tensor(3.0)}
        for name, p in model.named_parameters()
    }
    torch.save(moments, tmp_path / "moments.pt")
    left = repeats.without(model, gone, SHAPE)
    graph = channel_graph(left, (64, 64))
    how: dict[str, str | int] = {"importance": "l2", "allocation": "global", "channel_multiple": 8, "seed": 0}
    inner = next(g for g in graph.groups if ("model.4.m.0.cv1.conv", "out") in g.sides)
    keep = tuple(range(0, inner.size, 2))
    plan = make_plan(graph, CostModel(graph, left), {inner.name: keep}, blocks=gone, **how)
    bytes_ = cut_moments(tmp_path / "moments.pt", model, graph, plan, shorten=lambda m: repeats.without(m, gone, SHAPE))
    made = torch.load(io.BytesIO(bytes_), weights_only=True)
    cut_model = dict(apply(left, graph, plan, settle).named_parameters())
    assert {name: entry["exp_avg"].shape for name, entry in made.items()} == {n: p.shape for n, p in cut_model.items()}
    moved = made["model.4.m.0.cv1.conv.weight"]
    for key in ("exp_avg", "exp_avg_sq"):
        assert torch.equal(moved[key], moments["model.4.m.1.cv1.conv.weight"][key][list(keep)])
        assert torch.equal(made["model.4.cv1.conv.weight"][key], moments["model.4.cv1.conv.weight"][key])
    assert moved["step"] == 3.0


class _Linear:
    """A machine whose time is MACs, told by the whole model's layers."""

    floor_ms, spread = 0.0, 0.0

    def __init__(self, graph: ChannelGraph, layers: set[str]) -> None:
        assert set(graph.layers) == layers
        self.inputs, self.outputs = np.zeros((2, len(layers), len(graph.groups)))
        for row, layer in enumerate(graph.layers.values()):
            for sides, line in ((self.inputs, layer.in_), (self.outputs, layer.out)):
                sides[row, sorted({channel[0] for channel in line if channel is not None})] = 1

    def ms(self, widths: Widths) -> float:
        return float((self.inputs @ widths) @ (self.outputs @ widths)) / 1e5


@pytest.mark.slow
def test_goal_in_time_sees_the_whole_models_layers(parent: Path, tmp_path: Path) -> None:
    model = load(parent).model
    graph = channel_graph(model, (64, 64))
    layers = set(graph.layers)
    full = _Linear(graph, layers).ms(np.array([g.size for g in graph.groups], dtype=np.float64))

    def clock(graph: ChannelGraph, module: torch.nn.Module, known: ChannelGraph | None = None) -> Timing:
        return Timing(_Linear(known or graph, layers), 0.75 * full)  # a table has all of its layers

    plan = cut(parent, tmp_path, importance="l2", macs_ratio=None, clock=clock)
    assert plan.blocks
    assert plan.time is not None
    assert plan.time.choices[0].predicted_ms <= 0.75 * full


def test_quantized_model_is_refused(parent: Path, tmp_path: Path) -> None:
    from edgeprune.quant.calibrate import Image, calibrate
    from edgeprune.records import write_json
    from edgeprune.records.quantization import Scheme

    model = load(parent).model
    record = calibrate(
        model, [Image("0", np.random.rand(1, 3, 64, 64).astype(np.float32))], Scheme(), {}, "minmax", "0" * 64
    )
    write_json(tmp_path / "scales.json", record)
    with pytest.raises(RecipeError, match="taken out of a float model"):
        cut(parent, tmp_path, quantization=tmp_path / "scales.json")


def test_qap_takes_blocks_out_before_there_are_scales() -> None:
    made = phases(Recipe(granularity="blocks", rounds=2, epochs=4), int8=True)
    assert [(p.share, p.calibrate, p.epochs > 0, p.quantized) for p in made] == [
        (0.5, False, False, False), (None, True, True, True), (1.0, False, True, True), (None, True, True, True)
    ]  # fmt: skip
    assert [(p.share, p.calibrate) for p in phases(Recipe(granularity="blocks"), int8=False)] == [(1.0, False)]


STOCK = (
    f"{WITHOUT_EDGEPRUNE}import sys"
    + """
import torch
from ultralytics import YOLO
yolo = YOLO(sys.argv[1])
x = torch.rand(1, 3, 64, 64, generator=torch.Generator().manual_seed(0))
before = yolo.model.float().eval()(x)[0]
yolo.fuse()
after = yolo.model.eval()(x)[0]
print(float((after - before).abs().max() / before.abs().max()), YOLO(sys.argv[1]).export(format='onnx', imgsz=64))
"""
)


def test_checkpoint_without_blocks_opens_in_a_stock_install(parent: Path, tmp_path: Path) -> None:
    assert cut(parent, tmp_path, importance="l2").blocks
    done = subprocess.run(
        [sys.executable, "-c", STOCK, str(tmp_path / "pruned.pt")], capture_output=True, text=True, cwd=tmp_path,
        timeout=600,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    drift, exported = done.stdout.strip().splitlines()[-1].split()
    assert float(drift) < 1e-3
    assert Path(exported).is_file()
    assert repeats.repeats(load(parent).model, SHAPE)
