"""What an explanation says, against the cost model and the channel graph that it was made from."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from rich.console import Console
from torch import nn

from edgeprune.errors import PlanError, RecipeError
from edgeprune.graph.build import build
from edgeprune.graph.cost import CostModel
from edgeprune.graph.trace import trace
from edgeprune.report.explain import explain, gather, ranges
from edgeprune.report.tree import one_group, show
from tests.report.conftest import Explained
from tests.test_cli import edgeprune, refused


def printed(explained: Explained, group: str | None = None, planned: bool = False, width: int = 110) -> str:
    console = Console(record=True, width=width, force_terminal=False, file=open("/dev/null", "w"))  # noqa: SIM115
    show(explained.planned if planned else explained.alone, console, group)
    return console.export_text()


# --- numbers ------------------------------------------------------------------------------------------


def test_layers_and_blocks_add_up_to_the_model(explained: Explained) -> None:
    costs = CostModel(explained.graph, explained.model)
    after = np.array([len(g.keep) for g in explained.plan.groups.values()], dtype=np.float64)
    for found, widths in ((explained.alone, costs.widths), (explained.planned, after)):
        assert found.macs == pytest.approx((costs.macs(costs.widths), costs.macs(widths)))
        assert found.parameters == pytest.approx((costs.parameters(costs.widths), costs.parameters(widths)))
        for parts in (found.layers.values(), found.blocks):
            for moment in (0, 1):
                assert sum(p.macs[moment] for p in parts) == pytest.approx(found.macs[moment])
                assert sum(p.parameters[moment] for p in parts) == pytest.approx(found.parameters[moment])
    assert explained.planned.macs == pytest.approx(explained.plan.macs)


def test_parameters_are_the_models_own(explained: Explained) -> None:
    assert explained.alone.parameters[0] == sum(p.numel() for p in explained.model.parameters())
    module = explained.model.get_submodule("model.4.cv1.conv")
    assert explained.alone.layers["model.4.cv1.conv"].parameters[0] == sum(p.numel() for p in module.parameters())


def test_what_a_channel_carries_is_what_the_cost_model_saves(explained: Explained) -> None:
    costs = CostModel(explained.graph, explained.model)
    for index, group in enumerate(explained.alone.groups):
        cluster = explained.alone.clusters[group.cluster]
        step = cluster.step[cluster.groups.index(index)]
        fewer = costs.widths.copy()
        fewer[index] -= step
        assert group.macs_per_channel == pytest.approx((costs.macs(costs.widths) - costs.macs(fewer)) / step)
        saved = costs.parameters(costs.widths) - costs.parameters(fewer)
        assert group.parameters_per_channel == pytest.approx(saved / step)
    for cluster in explained.alone.clusters:
        fewer = costs.widths.copy()
        fewer[list(cluster.groups)] -= cluster.step
        assert cluster.macs_per_step == pytest.approx(costs.macs(costs.widths) - costs.macs(fewer))


def test_members_own_exactly_the_graphs_positions(explained: Explained) -> None:
    owned: dict[tuple[str, str], list[int]] = {}
    for index, group in enumerate(explained.alone.groups):
        assert {(m.layer, m.side) for m in group.members} == set(explained.graph.groups[index].sides)
        for member in group.members:
            positions = [p for start, stop in member.positions for p in range(start, stop)]
            owned.setdefault((member.layer, member.side), []).extend(positions)
    for name, layer in explained.graph.layers.items():
        for side in ("in", "out"):
            channels = layer.side(side)
            assert sorted(owned.get((name, side), [])) == [i for i, c in enumerate(channels) if c is not None]


def test_locked_share_is_that_of_layers_that_make_nothing_but_locked_channels(explained: Explained) -> None:
    costs = CostModel(explained.graph, explained.model)
    by_layer = costs.macs_by_layer(costs.widths)
    locked = [
        name
        for name, layer in explained.graph.layers.items()
        if all(c is None or explained.graph.groups[c[0]].locked for c in layer.out)
    ]
    share = sum(by_layer.get(name, 0.0) for name in locked) / costs.macs(costs.widths)
    assert explained.alone.locked_macs == pytest.approx(share)
    assert 0 < share < 0.2


def test_widths_after_are_the_plans(explained: Explained) -> None:
    for name, keep in explained.plan.layers.items():
        assert explained.planned.layers[name].widths_in[1] == len(keep.in_)
        assert explained.planned.layers[name].widths_out[1] == len(keep.out)
    for group in explained.planned.groups:
        stays = explained.plan.groups[group.name]
        assert (group.size, group.after) == (stays.size, len(stays.keep))
        assert [i for start, stop in group.keep for i in range(start, stop)] == list(stays.keep)


def test_every_group_and_layer_has_its_place_in_a_block(explained: Explained) -> None:
    blocks = {block.name for block in explained.alone.blocks}
    assert {group.block for group in explained.alone.groups} <= blocks
    placed = [name for block in explained.alone.blocks for row in block.rows for name in row.layers]
    assert sorted(placed) == sorted(explained.alone.layers)


def test_ties_are_explained(explained: Explained) -> None:
    by_name = {g.name: g for g in explained.alone.groups}
    cluster = explained.alone.clusters[by_name["model.4.cv1.conv[0:32]"].cluster]
    assert len(cluster.groups) == 2
    assert cluster.why == ("chunk in model.4 splits the channels",)


def test_the_same_explanation_every_time(explained: Explained) -> None:
    assert json.loads(json.dumps(explained.planned.as_json())) == json.loads(json.dumps(explained.planned.as_json()))
    assert json.loads(json.dumps(explained.alone.as_json()))["groups"][0]["name"] == "model.0.conv"


@pytest.mark.parametrize(
    ("indices", "expected"), [((), ()), ((0,), ((0, 1),)), ((0, 1, 2, 5, 7, 8), ((0, 3), (5, 6), (7, 9)))]
)
def test_ranges(indices: tuple[int, ...], expected: tuple[tuple[int, int], ...]) -> None:
    assert ranges(indices) == expected


class Plain(nn.Module):
    """No detector: bare operators, a layer scale, a linear layer at the end."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.out = nn.Conv2d(3, 8, 3), nn.Conv2d(3, 8, 3), nn.Linear(16, 4)
        self.gamma = nn.Parameter(torch.ones(8))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        joined = torch.cat((self.a(x) * self.gamma.view(1, -1, 1, 1), self.b(x)), 1)
        return self.out(joined.mean((2, 3)))


def test_any_module_can_be_explained() -> None:
    model = Plain().eval()
    program = trace(model, (1, 3, 64, 64))
    found = gather("plain", model, program, build(program))
    assert [b.name for b in found.blocks] == ["image", "a", "b", "cat", "out", "output"]
    assert sum(b.macs[0] for b in found.blocks) == pytest.approx(found.macs[0])
    assert sum(b.parameters[0] for b in found.blocks) == sum(p.numel() for p in model.parameters())


# --- the tree -----------------------------------------------------------------------------------------


def test_the_tree_names_every_block_group_and_lock(explained: Explained) -> None:
    text = printed(explained)
    assert f"{len(explained.alone.groups)} channel groups" in text
    for group in explained.alone.groups:
        assert group.name.removeprefix(f"{group.block}.") in text
        if group.locked:
            assert group.locked in " ".join(text.replace("│", " ").split())
    assert "model.22  Detect" in text
    assert "tied to cv1.conv[32:64]" in text
    assert max(map(len, text.splitlines())) <= 110


def test_the_tree_shows_before_and_after(explained: Explained) -> None:
    text = printed(explained, planned=True)
    assert "plan: importance random" in text
    assert "→ 16" in text
    assert "GMACs" in text


def test_one_group_in_full(explained: Explained) -> None:
    text = printed(explained, "model.4.cv1.conv[32:64]", planned=True)
    assert "model.4.m.0.cv2.conv" in text
    assert "32:64 of 64" in text
    assert "model.4.cv1.conv[0:32]" in text
    assert "16 of 32 channels stay: 0, 2, 4" in text
    assert "one step of all of them saves" in text
    locked = next(g for g in explained.alone.groups if g.locked)
    assert f"locked: {locked.locked}" in printed(explained, locked.name)


def test_an_unknown_group_names_the_nearest(explained: Explained) -> None:
    with pytest.raises(PlanError, match=r"did you mean .*model\.4\.cv2\.conv"):
        one_group(explained.alone, "model.4.cv2.con")


def test_a_plan_of_another_model_is_refused(explained: Explained) -> None:
    model = Plain().eval()
    program = trace(model, (1, 3, 64, 64))
    with pytest.raises(PlanError, match="another model"):
        gather("plain", model, program, build(program), explained.plan)


def test_an_image_size_that_the_stride_doesnt_divide_is_refused() -> None:
    with pytest.raises(RecipeError, match="stride"):
        explain(Path("yolov8n.yaml"), (100, 100))


# --- the command --------------------------------------------------------------------------------------


def test_the_command_prints_a_tree_and_writes_a_page(tmp_path: Path, tiny: Path) -> None:
    done = edgeprune("explain", tiny, "--imgsz", 64)
    assert done.returncode == 0, done.stderr
    assert "channel groups" in done.stdout
    assert "locked:" in done.stdout
    done = edgeprune("explain", tiny, "--imgsz", 64, "--html", tmp_path / "out" / "page.html")
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "out" / "page.html").read_text().startswith("<!doctype html>")


def test_the_command_refuses_in_words(tmp_path: Path, tiny: Path) -> None:
    assert "did you mean model.0.conv" in refused("explain", tiny, "--imgsz", 64, "--group", "model.0.cnv")
    assert "--group or --html" in refused("explain", tiny, "--group", "x", "--html", tmp_path / "x.html")
    (tmp_path / "plan.json").write_text("{}")
    assert "plan.json" in refused("explain", tiny, "--plan", tmp_path / "plan.json")
