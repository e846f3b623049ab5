"""A table really made, of a small net and quickly; its noise, its resumption."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from edgeprune.bench.local import LocalBench
from edgeprune.errors import DeviceError
from edgeprune.job import find_target
from edgeprune.latency import table as tables
from edgeprune.latency.model import LatencyModel
from edgeprune.latency.subject import Subject
from edgeprune.latency.table import make_table, time_whole
from edgeprune.records.latency import LatencyTable
from edgeprune.records.request import TimeAnswer, TimeRequest
from tests.short import shorten_tables

MULTIPLE = 64


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Few engines, one short pass: that everything is there, not that it is right."""
    shorten_tables(monkeypatch)
    monkeypatch.setattr(tables, "LEVELS", (0.0, 1.0))


@pytest.fixture
def subject(tiny: Path, request: pytest.FixtureRequest) -> Subject:
    name, precision = request.param
    profile = find_target(name).model_copy(update={"input_shape": (1, 3, 64, 64)})
    return Subject.of(tiny, profile, precision, LocalBench(), None)


def made(subject: Subject, work: Path) -> LatencyTable:
    return make_table(
        subject, LocalBench(), subject.profile.settings, work, target="here", multiple=MULTIPLE, seed=0
    )  # fmt: skip


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize(
    "subject",
    [("onnxruntime-x86", "fp32"), ("onnxruntime-x86-int8", "int8"), ("openvino-x86-int8", "int8")],
    indirect=True, ids=lambda pair: "-".join(pair),
)  # fmt: skip
def test_every_convolution_of_the_model_is_in_the_table(subject: Subject, tmp_path: Path) -> None:
    found = made(subject, tmp_path)
    names = [name for layer in found.layers if layer.kind == "convolution" for name in layer.names]
    convolutions = {
        n for n, layer in subject.graph.layers.items() if layer.kind == "conv" and not n.endswith("dfl.conv")
    }
    assert set(names) == convolutions
    assert len(names) == len(set(names))
    assert found.error.plans == 2
    assert len(found.engines) == 2 + 3 + 2
    if subject.precision == "int8":
        assert any("INT8" in layer.what for layer in found.layers)
    model = LatencyModel.of(found, subject.graph)
    assert model.ms(subject.costs.widths) == pytest.approx(found.engines[0].predicted_ms)
    assert found.version == LocalBench().versions(found.runtime)[found.runtime]


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize("subject", [("onnxruntime-x86", "fp32")], indirect=True)
def test_an_interrupted_table_goes_on(subject: Subject, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tables, "BATCH", 40)
    asked = 0
    ask = LocalBench.ask

    def breaking(self: LocalBench, request: TimeRequest, into: Path, *rest: object) -> None:
        nonlocal asked
        asked += 1
        if asked == 3:
            raise KeyboardInterrupt
        ask(self, request, into, *rest)  # type: ignore[arg-type]

    monkeypatch.setattr(LocalBench, "ask", breaking)
    with pytest.raises(KeyboardInterrupt):
        made(subject, tmp_path)
    before = json.loads((tmp_path / "times.json").read_text())["passes"]
    assert len(before) == 80
    found = made(subject, tmp_path)
    after = json.loads((tmp_path / "times.json").read_text())["passes"]
    assert {name: after[name] for name in before} == before
    assert found.engines


@pytest.mark.parametrize("subject", [("onnxruntime-x86", "fp32")], indirect=True)
def test_a_noisy_machine_is_measured_longer_and_then_refused(subject: Subject, tmp_path: Path) -> None:
    bench = _Recorded(noise=1.0)
    with pytest.raises(DeviceError, match="too noisy") as refused:
        time_whole(subject, bench, subject.profile.settings, tmp_path, [subject.costs.widths] * 3)
    assert bench.asked == tables.MOST_PASSES
    assert "beyond that after 9 passes" in str(refused.value)
    calm = _Recorded(noise=0.01)
    times = time_whole(subject, calm, subject.profile.settings, tmp_path, [subject.costs.widths] * 3)
    assert calm.asked == tables.WHOLE_PASSES > tables.PASSES
    assert all(timed.spread < 0.1 for timed in times)


class _Recorded(LocalBench):
    """A machine whose every pass is a given share slower than the one before."""

    def __init__(self, noise: float) -> None:
        self.noise, self.asked = noise, 0

    def ask(self, request: object, into: Path, on_progress: object = None) -> None:
        assert isinstance(request, TimeRequest)
        ms = 2.0 * (1 + self.noise) ** self.asked
        self.asked += 1
        answer = TimeAnswer(passes_ms=tuple((ms,) for _ in request.graphs), environment={})
        (into / "answer.json").write_text(answer.model_dump_json())
