"""The zoo: every model YAML of Ultralytics, and what must hold for each. `make zoo` prints it as a table.

A specimen is built with random weights, traced at its real input size, cut by random keeps at several
ratios and by real plans, and held against the muted model in float64, in both forms.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console
from rich.table import Table
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from edgeprune.errors import EdgepruneError
from edgeprune.graph.channels import ChannelGraph
from edgeprune.graph.cost import CostModel
from edgeprune.prune import importance
from edgeprune.prune.allocate import Budget, allocate
from edgeprune.prune.apply import apply, make_plan
from edgeprune.prune.ladder import Limits
from edgeprune.prune.traced import channel_graph
from edgeprune.yolo import blocks
from edgeprune.yolo.load import load, predictions
from tests.mute import cut_and_mute, give_life, largest_error, random_keeps

#: Float64 sums in another order differ by 1e-16 a term; over some 10^4 terms and 100 layers 1e-12 is reached.
TOLERANCE = 1e-9

#: One size of every family and task: what CI runs.
FAMILIES = [
    "yolov3-tiny", "yolov5n", "yolov6n", "yolov8n", "yolov8n-ghost", "yolov8n-rtdetr", "yolov9t", "yolov9e", "yolov10n",
    "yolo11n", "yolo12n", "yolo26n", "yolo26n-seg", "yolo26n-pose", "yolo26n-obb", "yolo26n-cls", "yolo26n-sem",
    "yolo26n-depth",
]  # fmt: skip

#: The rest: other sizes (blocks change with size: C3k2 with C3k from m on, C2fCIB, A2C2f's residuals …) and variants.
OTHERS = [
    "yolov8n-p2", "yolov8n-seg", "yolov8n-pose", "yolov8n-obb", "yolov8n-cls", "yolo26n-p2", "yolov3", "yolov3-spp",
    *(f"yolov5{s}" for s in "smlx"), "yolov5n-p6", "yolov5x-p6",
    *(f"yolov6{s}" for s in "smlx"), *(f"yolov8{s}" for s in "smlx"), "yolov8x-p2", "yolov8n-p6", "yolov8x-p6",
    "yolov8x-ghost", "yolov8n-ghost-p2", "yolov8n-ghost-p6", "yolov8x-seg", "yolov8n-seg-p6", "yolov8x-pose",
    "yolov8n-pose-p6", "yolov8x-obb", "yolov8x-cls", "yolov8-cls-resnet50", "yolov8-cls-resnet101", "yolov8x-rtdetr",
    "yolov9s", "yolov9m", "yolov9c", "yolov9c-seg", "yolov9e-seg", *(f"yolov10{s}" for s in "smblx"),
    *(f"yolo11{s}" for s in "smlx"), "yolo11n-seg", "yolo11x-seg", "yolo11n-pose", "yolo11x-pose", "yolo11n-obb",
    "yolo11x-obb", "yolo11n-cls", "yolo11x-cls", "yolo11-cls-resnet18", *(f"yolo12{s}" for s in "smlx"), "yolo12n-seg",
    "yolo12x-seg", "yolo12n-pose", "yolo12n-obb", "yolo12n-cls", *(f"yolo26{s}" for s in "smlx"), "yolo26n-p6",
    "yolo26x-p2", "yolo26x-seg", "yolo26x-pose", "yolo26x-obb", "yolo26x-cls", "yolo26x-sem", "yolo26x-depth",
    "rtdetr-l", "rtdetr-x", "rtdetr-resnet50", "rtdetr-resnet101",
]  # fmt: skip

#: Refused in one sentence.
OPEN_VOCABULARY = ["yolov8s-world", "yolov8s-worldv2", "yoloe-v8s", "yoloe-v8s-seg", "yoloe-11s", "yoloe-11s-seg",
                   "yoloe-26s", "yoloe-26s-seg"]  # fmt: skip


@dataclass(frozen=True)
class Specimen:
    """One model of the zoo.

    Attributes:
        model: FP32, eval mode, with life in it.
        graph: Its channel graph at the real input size.
        seconds: For tracing and building the graph.
    """

    name: str
    model: nn.Module
    graph: ChannelGraph
    seconds: float

    @property
    def small(self) -> int:
        """Pixels of an image that leaves two positions at the last level."""
        return 2 * int(max(self.model.stride.max(), 32))


def catch(name: str, size: int | None = None) -> Specimen:
    """Build a specimen; `size` is its input's edge in pixels (640, or 224 for a classifier, unless told)."""
    model = give_life(load(Path(f"{name}.yaml")).model)
    size = size or (224 if "cls" in name else 1280 if "p6" in name else 640)
    started = time.perf_counter()
    graph = channel_graph(model, (size, size))
    return Specimen(name, model, graph, time.perf_counter() - started)


def plans(specimen: Specimen) -> Iterator[tuple[float, dict[str, tuple[int, ...]]]]:
    """Ratio and keeps: random ones, and a real plan."""
    for seed, ratio in enumerate((0.1, 0.4, 0.7)):
        yield ratio, random_keeps(specimen.graph, seed, ratio)
    graph, model = specimen.graph, specimen.model
    scores = importance.magnitude(graph, model, 2)
    limits = Limits(channel_multiple=8)
    yield 0.6, allocate(graph, CostModel(graph, model), scores, Budget(macs_ratio=0.6), "global", limits)


def error(specimen: Specimen, keeps: dict[str, tuple[int, ...]]) -> float:
    """Largest relative difference of cut and muted model, inference and training form, all outputs."""
    model, edge = specimen.model.double(), specimen.small
    cut, muted = cut_and_mute(model, specimen.graph, keeps)
    image = torch.rand(2, 3, edge, edge, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    worst = 0.0
    with torch.no_grad():
        for training in (False, True):
            a, b = (predictions(m.train(training)(image)) for m in (cut, muted))
            worst = max(worst, largest_error(a, b))
    specimen.model.float()
    return worst


def without_gradient(specimen: Specimen, keeps: dict[str, tuple[int, ...]]) -> list[str]:
    """Parameters of the cut model that a backward pass through all training outputs doesn't reach, though it
    reaches them in the parent."""

    def unreached(model: nn.Module) -> set[str]:
        image = torch.rand(2, 3, specimen.small, specimen.small, generator=torch.Generator().manual_seed(0))
        outputs = predictions(model.train().requires_grad_(True)(image))
        total = sum(o.float().sum() for o in torch.utils._pytree.tree_leaves(outputs) if _differentiable(o))
        total.backward()
        return {name for name, p in model.named_parameters() if p.grad is None or not p.grad.isfinite().all()}

    cut, _ = cut_and_mute(specimen.model, specimen.graph, keeps)
    _, parent = cut_and_mute(specimen.model, specimen.graph, {})
    return sorted(unreached(cut) - unreached(parent))


def _differentiable(output: Any) -> bool:
    return isinstance(output, torch.Tensor) and output.requires_grad


def counted(model: nn.Module, size: int) -> tuple[float, int]:
    """MACs (by torch's own counter, one image) and parameters of a model: the independent count."""
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model.eval()(torch.zeros(1, 3, size, size))
    return counter.get_total_flops() / 2, sum(p.numel() for p in model.parameters())


def costs_agree(specimen: Specimen, keeps: dict[str, tuple[int, ...]]) -> bool:
    """Whether the cost model says what the counter finds, before and after the cut, at the small size."""
    graph = channel_graph(specimen.model, (specimen.small, specimen.small))
    assert graph.sha256 == specimen.graph.sha256
    costs = CostModel(graph, specimen.model)
    cut, _ = cut_and_mute(specimen.model, graph, keeps)
    widths = np.array([float(len(keeps.get(g.name, range(g.size)))) for g in graph.groups])
    return all(
        (costs.macs(at), round(costs.parameters(at))) == counted(model, specimen.small)
        for model, at in ((specimen.model, costs.widths), (cut, widths))
    )


def locked_macs(specimen: Specimen) -> float:
    """Share of the MACs in convolutions whose outputs are wholly locked, the model's own outputs and DFL aside."""
    graph, costs = specimen.graph, CostModel(specimen.graph, specimen.model)
    by_layer = costs.macs_by_layer(costs.widths)
    total = 0.0
    for name, layer in graph.layers.items():
        reasons = {graph.groups[c[0]].locked if c else "no channel" for c in layer.out}
        if layer.kind.startswith("conv") and None not in reasons and "it reaches the model's output" not in reasons:
            total += by_layer.get(name, 0.0)
    return total / costs.macs(costs.widths)


def examine(name: str) -> tuple[tuple[str, ...], bool]:
    """A model's row of the table, and whether everything held."""
    specimen = catch(name)
    worst, keeps = 0.0, {}
    for _, keeps in plans(specimen):
        worst = max(worst, error(specimen, keeps))
    plan = make_plan(
        specimen.graph, CostModel(specimen.graph, specimen.model), keeps,
        importance="l2", allocation="global", channel_multiple=8, seed=0,
    )  # fmt: skip
    started = time.perf_counter()
    apply(specimen.model, specimen.graph, plan, blocks.settle)
    seconds = time.perf_counter() - started
    row = (
        name, str(len(specimen.graph.groups)), f"{locked_macs(specimen):.2%}", f"{worst:.1e}",
        f"{specimen.seconds:.1f}", f"{seconds:.2f}",
    )  # fmt: skip
    return row, worst <= TOLERANCE and costs_agree(specimen, keeps)


def main(names: list[str]) -> int:
    console, failed = Console(width=110), []
    table = Table(box=None)
    for heading in ("model", "channel groups", "locked MACs", "largest error", "trace s", "cut s"):
        table.add_column(heading, justify="left" if heading == "model" else "right")
    for name in names or FAMILIES + OTHERS:
        try:
            row, holds = examine(name)
        except EdgepruneError as error:
            row, holds = (name, str(error)), False
        console.print(*row)
        table.add_row(*row)
        if not holds:
            failed.append(name)
    console.print(table)
    console.print(f"{len(names or FAMILIES + OTHERS)} models, {len(failed)} failed {failed or ''}")
    return bool(failed)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
