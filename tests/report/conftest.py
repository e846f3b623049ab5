"""What is made once for all tests of this folder: an explained detector, builds with their figures, a browser."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from torch import nn

from edgeprune.benchmark import benchmark
from edgeprune.graph.channels import ChannelGraph
from edgeprune.graph.cost import CostModel
from edgeprune.records import Benchmark, LayerKeep, Load, PrunedGroup, PrunePlan
from edgeprune.report.explanation import Explanation
from tests.bench.colours import bundle
from tests.browser import chromium
from tests.report.builds import Built, build

IMAGE = 64


@dataclass(frozen=True)
class Explained:
    """What an explanation was made from, and the explanation with and without a plan."""

    model: nn.Module
    graph: ChannelGraph
    plan: PrunePlan
    alone: Explanation
    planned: Explanation


def half(graph: ChannelGraph, model: nn.Module) -> PrunePlan:
    """A plan that keeps every other channel of every cluster that can be halved."""
    keeps: dict[str, tuple[int, ...]] = {}
    for cluster in graph.clusters:
        sizes = [graph.groups[g].size for g in cluster]
        if graph.locked(cluster) or any(size % 2 for size in sizes):
            continue
        if tuple(size // 2 for size in sizes) in graph.proportions(cluster):
            keeps.update({graph.groups[g].name: tuple(range(0, graph.groups[g].size, 2)) for g in cluster})
    whole = {g.name: PrunedGroup(size=g.size, keep=keeps.get(g.name, tuple(range(g.size)))) for g in graph.groups}
    costs = CostModel(graph, model)
    widths = np.array([len(g.keep) for g in whole.values()], dtype=np.float64)
    layers = graph.layer_keeps({name: group.keep for name, group in whole.items()})
    return PrunePlan(
        graph_sha256=graph.sha256,
        groups=whole,
        layers={name: LayerKeep(in_=tuple(s["in"]), out=tuple(s["out"])) for name, s in layers.items()},
        macs=(costs.macs(costs.widths), costs.macs(widths)),
        parameters=(round(costs.parameters(costs.widths)), round(costs.parameters(widths))),
        importance="random", allocation="global", channel_multiple=1, seed=0,
    )  # fmt: skip


@pytest.fixture(scope="session")
def explained() -> Explained:
    """yolov8n with random weights at 64 px."""
    from edgeprune.prune.traced import traced_graph
    from edgeprune.report.explain import gather
    from edgeprune.yolo.load import load

    model = load(Path("yolov8n.yaml"), 0).model
    program, graph = traced_graph(model, (IMAGE, IMAGE))
    plan = half(graph, model)
    alone = gather("yolov8n.yaml", model, program, graph)
    return Explained(model, graph, plan, alone, gather("yolov8n.yaml", model, program, graph, plan))


@pytest.fixture(scope="session")
def accepted(tmp_path_factory: pytest.TempPathFactory, explained: Explained) -> Built:
    folder = tmp_path_factory.mktemp("accepted") / "colours"
    return Built(folder, build(folder, explained.model, explained.plan))


@pytest.fixture(scope="session")
def measured(tmp_path_factory: pytest.TempPathFactory, accepted: Built) -> Benchmark:
    """A real run of half a second."""
    folder = tmp_path_factory.mktemp("measured")
    data = accepted.folder.parent / "colours-scenes" / "data.yaml"
    made, load = bundle(folder / "bundle"), Load(min_duration_s=0.5, sustained=True)
    return benchmark("colours", made, data, load, folder / "benchmark.json")


Tabs = Callable[..., Any]


@pytest.fixture(scope="package")  # no longer: while it is open, no other test of the session can run asyncio
def browser() -> Iterator[Any]:
    yield from chromium()


@pytest.fixture
def tabs(browser: Any, tmp_path: Path) -> Iterator[Tabs]:
    """Opens a page from its file. A request beyond that file, an error on the page or a message in its console fails
    the test."""
    asked: list[str] = []
    complaints: list[str] = []
    contexts: list[Any] = []

    def open_page(content: bytes, width: int = 1280, height: int = 800, theme: str = "light") -> Any:
        file = tmp_path / "page.html"
        file.write_bytes(content)
        context = browser.new_context(viewport={"width": width, "height": height}, color_scheme=theme)
        contexts.append(context)
        context.route(lambda url: not url.startswith(("file:", "data:")), lambda route: route.abort())
        tab = context.new_page()
        inside = (file.as_uri(), "data:image/jpeg")
        tab.on("request", lambda request: asked.append(request.url) if not request.url.startswith(inside) else None)
        tab.on("console", lambda message: complaints.append(message.text))
        tab.on("pageerror", lambda error: complaints.append(str(error)))
        tab.on("dialog", lambda dialog: (complaints.append(dialog.message), dialog.dismiss()))
        tab.goto(file.as_uri())
        return tab

    yield open_page
    for context in contexts:
        context.close()
    assert asked == []
    assert complaints == []
