"""What must hold for every model of Ultralytics: one size of each family here, the rest under `slow`."""

from __future__ import annotations

import importlib.util
import json
import re
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
import ultralytics
import yaml
from typer.testing import CliRunner

from edgeprune.cli import app
from edgeprune.errors import PlanError
from edgeprune.prune.make import prune_checkpoint
from edgeprune.prune.request import Request
from edgeprune.prune.traced import channel_graph
from edgeprune.records import PrunePlan, read_json
from edgeprune.records.model import ModelFiles
from edgeprune.yolo.checkpoint import pack
from edgeprune.yolo.load import load, predictions, untrained
from tests import zoo
from tests.mute import largest_error, mute

NAMES = [*zoo.FAMILIES, *(pytest.param(name, marks=pytest.mark.slow) for name in zoo.OTHERS)]


@pytest.fixture(scope="module", params=NAMES)
def specimen(request: pytest.FixtureRequest) -> zoo.Specimen:
    return zoo.catch(request.param)


def test_cut_equals_muted_in_every_output_of_both_forms(specimen: zoo.Specimen) -> None:
    for ratio, keeps in zoo.plans(specimen):
        assert sum(map(len, keeps.values())) < sum(g.size for g in specimen.graph.groups)
        assert zoo.error(specimen, keeps) < zoo.TOLERANCE, f"ratio {ratio}"


def test_gradients_flow_through_the_cut_model(specimen: zoo.Specimen) -> None:
    _, keeps = next(zoo.plans(specimen))
    assert zoo.without_gradient(specimen, keeps) == []


def test_costs_equal_an_independent_count(specimen: zoo.Specimen) -> None:
    _, keeps = next(zoo.plans(specimen))
    assert zoo.costs_agree(specimen, keeps)


def test_few_macs_are_locked_and_each_has_a_sentence(specimen: zoo.Specimen) -> None:
    assert zoo.locked_macs(specimen) <= 0.1
    for cluster in specimen.graph.clusters:
        reasons = [specimen.graph.groups[g].locked for g in cluster]
        assert all(reasons) or not any(reasons)


OUTSIDE = ["yolov8n", "yolo12n", "yolo26n-pose"]
REST = [pytest.param(name, marks=pytest.mark.slow) for name in zoo.FAMILIES if name not in OUTSIDE]


@pytest.mark.parametrize("name", OUTSIDE + REST)
def test_plan_can_be_checked_from_outside(tmp_path: Path, name: str) -> None:
    """parent.pt, plan.json and pruned.pt alone: silence in the parent what the plan removes."""
    command = ["prune", f"{name}.yaml", "--ratio", "0.4", "--importance", "random", "--seed", "3", "--imgsz", "64"]
    done = CliRunner().invoke(app, [*command, "--out", str(tmp_path)])
    assert done.exit_code == 0, done.output
    layers = json.loads((tmp_path / "plan.json").read_text())["layers"]
    parent, pruned = (load(tmp_path / f"{kind}.pt").model.double().eval() for kind in ("parent", "pruned"))
    modules = dict(parent.named_modules())
    for path, keep in layers.items():
        module = modules.get(path)
        axis = -1 if isinstance(module, torch.nn.Linear) else 1
        if keep["in"]:
            module.register_forward_pre_hook(lambda _m, a, k=keep["in"], d=axis: (_only(a[0], k, d), *a[1:]))
        if module is not None:
            module.register_forward_hook(lambda _m, _a, out, k=keep["out"], d=axis: _only(out, k, d))
    image = torch.rand(1, 3, 64, 64, dtype=torch.float64)
    with torch.no_grad():
        assert largest_error(predictions(pruned(image)), predictions(parent(image))) < zoo.TOLERANCE
    assert sum(p.numel() for p in pruned.parameters()) < sum(p.numel() for p in parent.parameters())


def _only(tensor: torch.Tensor, keep: list[int], axis: int) -> torch.Tensor:
    silent = torch.zeros_like(tensor)
    index = torch.tensor(keep)
    return silent.index_copy(axis, index, tensor.index_select(axis, index))


def test_zoo_names_every_model_yaml() -> None:
    folder = Path(ultralytics.__file__).parent / "cfg" / "models"
    known = {_unscaled(name) for name in zoo.FAMILIES + zoo.OTHERS + zoo.OPEN_VOCABULARY}
    missing = {file.stem for file in folder.rglob("yolo*.yaml")} | {file.stem for file in folder.rglob("rtdetr*.yaml")}
    missing -= known | set(zoo.FAMILIES + zoo.OTHERS)
    assert missing == set()


def _unscaled(name: str) -> str:
    """yolov8n-p2 -> yolov8-p2."""
    return re.sub(r"^(yolo(?:e-)?v?\d+)[nsmlx](?=-|$)", r"\1", name)


CUSTOM = """
import torch
from torch import nn

class Squeeze(nn.Module):
    '''A block of a user's own package.'''

    def __init__(self, c1, c2):
        super().__init__()
        self.a, self.b = nn.Conv2d(c1, 2 * c2, 3, padding=1, bias=False), nn.Conv2d(c2, c2, 1)
        self.bn = nn.BatchNorm2d(2 * c2)
        self.width = c2

    def forward(self, x):
        left, right = torch.relu(self.bn(self.a(x))).chunk(2, 1)
        return self.b(left * right.mean((2, 3), keepdim=True).sigmoid())

class Stubborn(Squeeze):
    def forward(self, x):
        left, right = torch.relu(self.bn(self.a(x))).split([self.width, self.width], 1)
        return self.b(left + right)
"""


def _with_custom_block(folder: Path, block: str) -> Path:
    """A checkpoint of a YOLOv8n whose second layer is a block from a module that lies in `folder`."""
    (folder / "user_blocks.py").write_text(CUSTOM)
    spec = importlib.util.spec_from_file_location("user_blocks", folder / "user_blocks.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["user_blocks"] = module
    spec.loader.exec_module(module)
    model = untrained("yolov8n.yaml", {0: "a", 1: "b"}, 0)
    old = model.model[2]
    new = getattr(module, block)(32, 32)
    new.i, new.f, new.type, new.np = old.i, old.f, block, 0
    model.model[2] = new
    file = folder / "custom.pt"
    file.write_bytes(pack(model, {"train_args": {"imgsz": 64}}, half=False))
    return file


@pytest.fixture
def user_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    monkeypatch.syspath_prepend(str(tmp_path))
    yield tmp_path
    sys.modules.pop("user_blocks", None)


def test_block_of_a_users_package_is_cut_exactly(user_package: Path) -> None:

    file = _with_custom_block(user_package, "Squeeze")
    request = Request(model=file, image_size=(64, 64), importance="l2", macs_ratio=0.5)
    prune_checkpoint(request, files=ModelFiles(user_package / "pruned.pt", user_package / "plan.json"))
    plan = read_json(user_package / "plan.json", PrunePlan, PlanError)
    parent, pruned = load(file).model.double(), load(user_package / "pruned.pt").model.double()
    graph = channel_graph(parent, (64, 64))
    muted = mute(parent, graph, {name: group.keep for name, group in plan.groups.items()})
    image = torch.rand(1, 3, 64, 64, dtype=torch.float64)
    with torch.no_grad():
        assert largest_error(predictions(pruned(image)), predictions(muted(image))) < zoo.TOLERANCE
    assert pruned.model[2].a.out_channels < 64


def test_block_that_keeps_its_width_for_itself_is_refused_by_line(user_package: Path) -> None:

    file = _with_custom_block(user_package, "Stubborn")
    request = Request(model=file, image_size=(64, 64), importance="random", channel_ratio=0.5)
    with pytest.raises(PlanError, match="computes with a width that it keeps for itself") as caught:
        prune_checkpoint(request, files=ModelFiles(user_package / "pruned.pt", user_package / "plan.json"))
    assert "user_blocks.py" in str(caught.value)
    assert not (user_package / "plan.json").exists()
    assert not (user_package / "pruned.pt").exists()


@pytest.mark.parametrize(
    ("base", "changes"),
    [
        ("yolov8", {"scales": {"n": [0.67, 0.2, 768]}}),
        ("yolo11", {"scales": {"n": [0.33, 0.3, 1024]}, "activation": "torch.nn.ReLU()"}),
        ("yolov8", {"activation": "torch.nn.PReLU()"}),
        ("yolo12", {"activation": "torch.nn.LeakyReLU(0.1)"}),
    ],
)
def test_yaml_of_a_users_own_is_cut_exactly(tmp_path: Path, base: str, changes: dict[str, object]) -> None:
    folder = Path(ultralytics.__file__).parent / "cfg" / "models"
    content = yaml.safe_load(next(folder.rglob(f"{base}.yaml")).read_text())
    file = tmp_path / f"{base}n-own.yaml"
    file.write_text(yaml.safe_dump({**content, **changes}))
    own = zoo.catch(str(file.with_suffix("")), 64)
    for _, keeps in zoo.plans(own):
        assert zoo.error(own, keeps) < zoo.TOLERANCE
