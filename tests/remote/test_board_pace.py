"""A goal in time for a board that builds its engines itself, over a real sshd on loopback: its latency table, its pace,
a plan that it measured. Its TensorRT is simulated (tests/sim says what that shows): no latency here is a board's."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path

import pytest

from edgeprune.errors import DeviceError, EdgepruneError
from edgeprune.job import find_target
from edgeprune.latency import table as tables
from edgeprune.latency.subject import Subject
from edgeprune.pipeline import build
from edgeprune.records import PrunePlan, TargetProfile, read_json
from edgeprune.records.latency import LatencyTable, Pace
from edgeprune.remote.bench import bench_at
from edgeprune.remote.setup import ROOT as BELOW_HOME
from tests.remote.conftest import Board, boards
from tests.short import shorten_tables
from tests.sim.board import SimulatedTensorRt
from tests.test_pace import Ear, recipe

LAYERS = ".cache/edgeprune/layers"


@dataclass
class Sut:
    """A board with its TensorRT, and a target for it."""

    board: Board
    tensorrt: SimulatedTensorRt

    def target(self, edge: int, **keys: object) -> TargetProfile:
        own = {"input_shape": (1, 3, edge, edge), "device": str(self.board.address), "precisions": ("fp16",)}
        return TargetProfile.model_validate(find_target("jetson-orin-nano").model_dump() | own | keys)

    @property
    def engines(self) -> list[Path]:
        return [path for path in (self.board.home / LAYERS).glob("*/*/*/*") if path.name != "timing.cache"]


@pytest.fixture(scope="module")
def sut(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sut]:
    folder = tmp_path_factory.mktemp("sut")
    with pytest.MonkeyPatch.context() as patch:
        shorten_tables(patch)
        patch.setattr(import_module("edgeprune.stages.pace"), "ROUNDS", 4)
        making = boards(folder, patch)
        board = next(making)()
        board.start()
        patch.setenv("HOME", str(board.host))
        simulated = SimulatedTensorRt(folder / "jetpack")
        simulated.interpreter(board.home / BELOW_HOME / "current/bin/python")
        yield Sut(board, simulated)
        for _ in making:
            raise AssertionError("one device a fixture")


def test_every_layer_is_built_by_the_board_once_and_timed(
    sut: Sut, tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tables, "LEVELS", (0.0, 1.0))
    before = set(sut.engines)
    target = sut.target(64, precisions=("fp16", "int8"))
    bench = bench_at(target.device)
    subject = Subject.of(tiny, target, "int8", bench, None)
    heard: list[str] = []
    made = tables.make_table(
        subject, bench, target.settings.of("int8"), tmp_path, target="nano", multiple=64,
        on_step=lambda what, done, total: heard.append(what),
    )  # fmt: skip
    names = {name for layer in made.layers if layer.kind == "convolution" for name in layer.names}
    assert names == {n for n, c in subject.graph.layers.items() if c.kind == "conv" and not n.endswith("dfl.conv")}
    assert sum("INT8" in layer.what for layer in made.layers) > 10
    assert (made.runtime, made.version) == ("tensorrt", "10.3.0+simulated")
    assert made.error.plans == 2
    graphs = list((tmp_path / "graphs").iterdir())
    built = set(sut.engines) - before
    assert len(built) == len({path.read_bytes() for path in graphs}), "one engine for each graph that is another one"
    assert "engines built" in heard[0]
    times = {path: path.stat().st_ino for path in built}
    tables.time_whole(subject, bench, target.settings.of("int8"), tmp_path / "again", [subject.costs.widths])
    assert {path: path.stat().st_ino for path in built} == times, "what was built is taken again"


def test_what_the_board_refuses_is_told_in_its_words(sut: Sut, tiny: Path, tmp_path: Path) -> None:
    target = sut.target(64)
    bench = bench_at(target.device)
    subject = Subject.of(tiny, target, "fp16", bench, None)
    for settings, words in ({"SIM_CUDA_NONE": "1"}, "There is no GPU"), ({"SIM_CUDA_FULL": "1"}, "out of memory"):
        sut.tensorrt.set(**settings)
        with pytest.raises(DeviceError, match=words):
            tables.time_whole(subject, bench, target.settings, tmp_path, [subject.costs.widths])
    sut.tensorrt.set()
    assert tables.time_whole(subject, bench, target.settings, tmp_path, [subject.costs.widths])[0].ms > 0


def test_widths_are_chosen_by_what_the_board_measured(
    sut: Sut, tiny: Path, scenes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tables, "LEVELS", (0.0, 0.5, 1.0))
    ear = Ear()

    def ask() -> None:
        build(
            model=tiny, data=scenes, target=sut.target(128), recipe=recipe(speedup=1.1), out=tmp_path, folder="a",
            until="prune", listener=ear,
        )  # fmt: skip

    ask()
    assert ear.heard["build parent fp16 on the device"] == "done", ear.heard
    assert not any("pruned" in stage for stage in ear.heard)
    plan = read_json(tmp_path / "a/plan.json", PrunePlan, EdgepruneError)
    (paced,) = (tmp_path / "a/latency").glob("pace-fp16-*.json")
    found = read_json(paced, Pace, DeviceError)
    assert plan.time is not None
    assert plan.time.budget_ms == pytest.approx(found.parent_ms / 1.1)
    assert plan.time.chosen.measured_ms is not None
    assert plan.time.chosen.measured_ms <= plan.time.budget_ms
    assert found.around_ms == pytest.approx(max(found.parent_ms - found.reference_ms, 0))
    assert read_json(tmp_path / "a/latency/fp16.json", LatencyTable, DeviceError).runtime == "tensorrt"
    ask()
    assert set(ear.heard.values()) == {"done before"}
