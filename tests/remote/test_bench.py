"""Engines on a device over SSH: what is asked there is what would have been asked here.

The device's interpreter is this one behind a script, since installing takes half a minute; tests/remote/test_setup.py
installs for real, and so does tests/remote/test_whole_way.py.
"""

from __future__ import annotations

import json
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest

from edgeprune.bench import ask
from edgeprune.bench.local import LocalBench
from edgeprune.bench.store import DAY_S, clean, unpack
from edgeprune.errors import DeviceError, ExitCode
from edgeprune.records import Benchmark, BenchRequest, Settings, read_json
from edgeprune.records.dataset import read_dataset
from edgeprune.records.files import sha256_file
from edgeprune.records.request import Engine
from edgeprune.remote.bench import SshBench, _pack
from edgeprune.remote.setup import ROOT as BELOW_HOME
from tests.bench.colours import bundle, detector
from tests.disk import small_disk
from tests.remote.conftest import Board
from tests.scenes import SIZE, draw
from tests.test_cli import edgeprune

SHAPE = (1, 3, SIZE, SIZE)


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, ...]:
    return read_dataset(draw(tmp_path_factory.mktemp("data"), "detect")).splits["val"]


@pytest.fixture
def engine(tmp_path: Path) -> Engine:
    file = detector(tmp_path / "model.onnx")
    return Engine(name="colours", runtime="onnxruntime", precision="fp32", file=str(file), settings=Settings(threads=1))


@pytest.fixture
def ready(board: Board) -> Board:
    """A device whose device side is this checkout's."""
    python = root(board) / "current" / "bin" / "python"
    python.parent.mkdir(parents=True)
    python.write_text(f'#!/bin/sh\nexec {sys.executable} "$@"\n')
    python.chmod(0o755)
    return board


def root(board: Board) -> Path:
    return board.home / BELOW_HOME


def stored(board: Board) -> set[str]:
    return {entry.name for entry in (root(board) / "files").iterdir()}


def test_detections_there_are_those_here(ready: Board, engine: Engine, images: tuple[Path, ...]) -> None:
    here = ask.detections(LocalBench(), engine, images, SHAPE)
    assert here
    assert ask.detections(SshBench(ready.address), engine, images, SHAPE) == here
    assert list((root(ready) / "requests").iterdir()) == []


def test_a_file_is_sent_once(ready: Board, engine: Engine, images: tuple[Path, ...], tmp_path: Path) -> None:
    bench = SshBench(ready.address)
    ask.detections(bench, engine, images, SHAPE)
    sent = ready.log("sftp").count(".tar.part")
    assert stored(ready) == {f"{sha256_file(i)}{i.suffix}" for i in images} | {f"{sha256_file(Path(engine.file))}.onnx"}
    again = SshBench(ready.address)
    ask.detections(again, engine, images[:2], SHAPE)
    assert ready.log("sftp").count(".tar.part") == sent
    (tmp_path / "other.onnx").write_bytes(Path(engine.file).read_bytes() + b"")
    ask.detections(again, engine.moved(lambda _: str(tmp_path / "other.onnx")), images, SHAPE)
    assert ready.log("sftp").count(".tar.part") == sent, "the same content under another name"


def test_a_race_and_tensors_come_back(ready: Board, engine: Engine, images: tuple[Path, ...]) -> None:
    bench, seen = SshBench(ready.address), []
    run = ask.race(
        bench, [engine, engine.model_copy(update={"name": "again"})], images, SHAPE, seed=0, rounds=2,
        on_round=lambda done, total: seen.append((done, total)),
    )  # fmt: skip
    assert [m.engine for m in run.measurements] == ["colours", "again"]
    assert run.measurements[0].artifact_sha256 == sha256_file(Path(engine.file))
    assert seen[-1] == (2, 2)
    pixels = np.random.default_rng(0).random(SHAPE, dtype=np.float32)
    (there,), (here,) = (ask.tensors(b, engine, [{"images": pixels}]) for b in (bench, LocalBench()))
    assert there.keys() == {"output0"}
    np.testing.assert_array_equal(there["output0"], here["output0"])
    assert not [name for name in stored(ready) if name.endswith(".npz")], "tensors are of no use to anyone later"
    assert ask.about(bench, "onnxruntime", ["fp32"]).lacking == {}
    assert bench.versions("onnxruntime") == LocalBench().versions("onnxruntime")


def test_an_openvino_engine_travels_with_its_folder(ready: Board, tmp_path: Path, images: tuple[Path, ...]) -> None:
    from edgeprune.export.engine import build_engine, engine_file

    (tmp_path / "made").mkdir()
    made = build_engine("openvino", detector(tmp_path / "model.onnx"), tmp_path / "made")
    one = Settings(threads=1)
    engine = Engine(name="o", runtime="openvino", precision="fp32", file=str(engine_file(made)), settings=one)
    there = ask.detections(SshBench(ready.address), engine, images, SHAPE)
    assert there == ask.detections(LocalBench(), engine, images, SHAPE)
    assert sha256_file(made) in stored(ready)


def test_what_the_device_refuses_comes_back_in_its_words(
    ready: Board, tmp_path: Path, images: tuple[Path, ...]
) -> None:
    (tmp_path / "x.onnx").write_bytes(b"nonsense")
    engine = Engine(name="x", runtime="onnxruntime", precision="fp32", file=str(tmp_path / "x.onnx"))
    with pytest.raises(DeviceError, match="onnxruntime can't load the engine"):
        ask.detections(SshBench(ready.address), engine, images, SHAPE)
    assert list((root(ready) / "requests").iterdir()) == []


def test_a_runtime_that_is_not_there_is_said_with_the_command(board: Board) -> None:
    with pytest.raises(DeviceError, match=r"not installed there(.|\n)*device setup") as caught:
        SshBench(board.address).versions("onnxruntime")
    assert caught.value.code == ExitCode.NOT_SET_UP


def test_a_connection_that_breaks_off_is_opened_again(ready: Board, engine: Engine, images: tuple[Path, ...]) -> None:
    """The cable is pulled while the device measures: it stops, and is asked again."""
    request = BenchRequest(
        engine=engine.file, runtime="onnxruntime", precision="fp32", settings=Settings(threads=1), input_shape=SHAPE,
        images=tuple(map(str, images)), load={"min_duration_s": 3, "quick": True, "sustained": True},
    )  # fmt: skip
    cut = threading.Event()

    def pull(what: str, done: float, total: float) -> None:
        if what == "single-stream" and not cut.is_set():
            cut.set()
            ready.cut()

    answer = ask.load(SshBench(ready.address), request, pull)
    assert cut.is_set()
    assert answer.run.result.latency_ms.samples >= 64
    for _ in range(200):
        if not subprocess.run(["pgrep", "-f", f"edgeprune.bench {ready.home}"], capture_output=True).stdout:
            break
        time.sleep(0.05)
    else:
        raise AssertionError("the first measurement still runs")


def test_two_measurements_on_one_machine_wait_for_each_other(engine: Engine, images: tuple[Path, ...]) -> None:
    request = BenchRequest(
        engine=engine.file, runtime="onnxruntime", precision="fp32", settings=Settings(threads=1), input_shape=SHAPE,
        images=tuple(map(str, images)), load={"min_duration_s": 2, "quick": True},
    )  # fmt: skip
    said: list[str] = []
    first = threading.Thread(target=ask.load, args=(LocalBench(), request, lambda what, *_: begun.set()))
    begun = threading.Event()
    first.start()
    assert begun.wait(60)
    ask.detections(Told(said), engine, images, SHAPE)
    first.join()
    assert any("waiting for another measurement" in what for what in said)


class Told(LocalBench):
    """This machine, and all that it says of its progress."""

    def __init__(self, said: list[str]) -> None:
        self.said = said

    def ask(self, request, into, on_progress=ask.silent) -> None:  # type: ignore[no-untyped-def]
        super().ask(request, into, lambda what, done, total: self.said.append(what))


def test_a_bundle_is_measured_over_ssh(ready: Board, tmp_path: Path) -> None:
    data = draw(tmp_path / "data", "detect")
    done = edgeprune(
        "bench", "colours", "--bundle", bundle(tmp_path / "bundle"), "--data", data, "--duration", "0.5s",
        "--sustained", "--out", tmp_path / "out", "--device", ready.address, HOME=str(ready.host),
    )  # fmt: skip
    assert done.returncode in {0, 1}, done.stderr
    found = read_json(tmp_path / "out" / "colours" / "benchmark.json", Benchmark, DeviceError)
    assert found.device == str(ready.address)
    assert found.accuracy is not None
    assert found.accuracy.map50 > 0.9
    assert str(ready.address) in done.stdout
    assert json.loads((tmp_path / "out" / "colours" / "benchmark-predictions.json").read_text())


def test_a_device_whose_disk_is_full(ready: Board, engine: Engine, images: tuple[Path, ...], tmp_path: Path) -> None:
    big = tmp_path / "big.png"
    big.write_bytes(np.random.default_rng(0).bytes(3 << 20))
    with small_disk(root(ready).parent / "disk", 4) as disk:
        target = disk / "edgeprune"
        root(ready).rename(root(ready).with_name("kept"))
        root(ready).symlink_to(target)
        (root(ready).with_name("kept") / "current").rename(root(ready).with_name("current"))
        target.mkdir()
        (target / "current").symlink_to(root(ready).with_name("current"))
        with pytest.raises(DeviceError, match="disk is full") as caught:
            ask.detections(SshBench(ready.address), engine, [*images, big], SHAPE)
        assert caught.value.code == ExitCode.DISK_FULL
        assert sorted(p.name for p in target.iterdir()) in (["current"], ["current", "files"])


def test_a_disk_that_fills_up_while_unpacking_leaves_nothing(tmp_path: Path) -> None:
    """The archive fits, its contents beside it don't."""
    big = tmp_path / "big.png"
    big.write_bytes(np.random.default_rng(0).bytes(5 << 19))
    with small_disk(tmp_path / "disk", 4) as disk:
        _pack(disk / "x.tar", [(f"{sha256_file(big)}.png", big)])
        with pytest.raises(DeviceError, match="disk is full") as caught:
            unpack(disk, disk / "x.tar")
        assert caught.value.code == ExitCode.DISK_FULL
        assert not [p for p in disk.rglob("*") if p.is_file()]


def test_what_arrived_differently_is_not_kept(tmp_path: Path) -> None:
    (tmp_path / "a.onnx").write_bytes(b"a")
    _pack(tmp_path / "x.tar", [("0" * 64 + ".onnx", tmp_path / "a.onnx")])
    with pytest.raises(DeviceError, match="arrived differently"):
        unpack(tmp_path / "root", tmp_path / "x.tar")
    assert not list((tmp_path / "root").rglob("*.onnx"))
    assert not (tmp_path / "x.tar").exists()


def test_a_path_that_leads_out_of_the_store_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"a")
    _pack(tmp_path / "x.tar", [("../../escaped", tmp_path / "a")])
    with pytest.raises(DeviceError, match="isn't a file of its own"):
        unpack(tmp_path / "root" / "deep", tmp_path / "x.tar")
    assert not (tmp_path / "escaped").exists()


def test_engines_go_after_a_day_and_images_after_thirty(tmp_path: Path) -> None:
    for name in ("files/1.onnx", "files/2.jpg", "requests/x/request.json", "half.tar.part"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(b"x")
    clean(tmp_path, time.time() + 0.5 * DAY_S)
    assert len([p for p in tmp_path.rglob("*") if p.is_file()]) == 4
    clean(tmp_path, time.time() + 2 * DAY_S)
    assert [p.name for p in tmp_path.rglob("*") if p.is_file()] == ["2.jpg"]
    clean(tmp_path, time.time() + 31 * DAY_S)
    assert not [p for p in tmp_path.rglob("*") if p.is_file()]
