"""A build beside everybody else's exports: really exported, raced and scored, on both runtimes, with a tiny detector."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

import edgeprune
from edgeprune import comparison
from edgeprune.comparison import compare
from edgeprune.errors import BundleError, DeviceError, ProfileError, RecipeError
from edgeprune.records import Compared, Goal, Recipe, read_json
from edgeprune.workshop import Listener

RECIPE = Recipe(
    goal=Goal(macs_ratio=0.5, max_map_drop=0.5), epochs=1, batch=8, importance="l2", torch_device="cpu"
)  # fmt: skip
RUNTIMES = ("onnxruntime", "openvino")


class Ear(Listener):
    def __init__(self) -> None:
        self.ran: list[str] = []

    def event(self, stage: str, what: str) -> None:
        if what == "runs":
            self.ran.append(stage)


def target(folder: Path, runtime: str) -> str:
    file = folder / f"{runtime}.yaml"
    file.write_text(
        f"description: d\nruntime: {runtime}\ninput_shape: [1, 3, 64, 64]\nprecisions: [fp32]\nthreads: [0, 1]\n"
    )
    return str(file)


@pytest.fixture(scope="module")
def out(tmp_path_factory: pytest.TempPathFactory, tiny: Path, scenes: Path) -> Path:
    """Builds for both runtimes."""
    folder = tmp_path_factory.mktemp("compare")
    for runtime in RUNTIMES:
        edgeprune.build(model=tiny, data=scenes, target=target(folder, runtime), recipe=RECIPE, out=folder)
    return folder


@pytest.fixture(scope="module", params=RUNTIMES)
def found(request: pytest.FixtureRequest, out: Path, tiny: Path, scenes: Path) -> Compared:
    return compare(
        model=tiny, data=scenes, target=str(out / f"{request.param}.yaml"), out=out, without=("qat",), rounds=3
    )


def test_every_export_is_raced_beside_the_build_and_the_parent(found: Compared) -> None:
    print(json.dumps([(r.name, r.arithmetic, r.latency_ms.p50) for r in found.rows]), found.left_out, found.notes)
