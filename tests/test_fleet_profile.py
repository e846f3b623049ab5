"""Several devices at once: figures of each, spread by kind, and one that fails ends nobody else's."""

from __future__ import annotations

from pathlib import Path

import pytest

from edgeprune.errors import EdgepruneError, RecipeError
from edgeprune.fleet_profile import read_hosts, spreads
from edgeprune.records import Benchmark, Latency, read_json
from edgeprune.records.fleet_profile import DeviceFigures, FleetProfile
from tests.bench.colours import bundle
from tests.scenes import draw
from tests.test_cli import edgeprune


def device(name: str, p50: float, board: str | None = "Raspberry Pi 5", **more: object) -> DeviceFigures:
    latency = Latency(p50=p50, p90=p50, p99=p50, mad=0, samples=9)
    return DeviceFigures.model_validate({"device": name, "board": board, "latency_ms": latency, **more})


def test_boards_are_compared_with_their_own_kind() -> None:
    five = [device("a", 10.0), device("b", 10.4), device("c", 11.9), device("d", 99.0, void=("throttled: hot",))]
    others = [device("x", 50.0, "Jetson"), device("y", 40.0, "Jetson", power_mode="2: 15W"), device("z", 1.0, None)]
    failed = DeviceFigures(device="off", failed="The device can't be reached.")
    pis, jetson, low, unknown = spreads([*five, *others, failed])
    assert pis.devices == ("a", "b", "c")
    assert (pis.median_ms, pis.fastest_ms, pis.slowest_ms) == (10.4, 10.0, 11.9)
    assert pis.range_ratio == pytest.approx(1.9 / 10.4)
    assert pis.outliers == ("c",)
    assert (jetson.devices, low.devices, unknown.devices) == (("x",), ("y",), ("z",))
    assert jetson.range_ratio == 0
    assert spreads([failed]) == ()


@pytest.mark.parametrize(
    ("text", "what"),
    [
        ("hosts: []", "at least 1"),
        ("hosts: [pi@one]", "doesn't begin with ssh://"),
        ("hosts: [local, local]", "twice: local"),
        ("hosts: [local]\nhost: x", "'hosts'?"),
    ],
)
def test_what_is_no_hosts_file(tmp_path: Path, text: str, what: str) -> None:
    (tmp_path / "hosts.yaml").write_text(text)
    with pytest.raises(RecipeError) as caught:
        read_hosts(tmp_path / "hosts.yaml")
    assert what in str(caught.value)


def test_two_devices_and_one_that_is_off(tmp_path: Path) -> None:
    """This machine under its name, and an address where nobody listens."""
    data = draw(tmp_path / "data", "detect")
    (tmp_path / "hosts.yaml").write_text("hosts:\n  - local\n  - ssh://nobody@127.0.0.1:1\n")
    done = edgeprune(
        "bench", "colours", "--bundle", bundle(tmp_path / "bundle"), "--data", data, "--duration", "0.5s",
        "--sustained", "--out", tmp_path / "out", "--hosts", tmp_path / "hosts.yaml", HOME=str(tmp_path),
    )  # fmt: skip
    assert done.returncode == 1, done.stderr
    folder = tmp_path / "out" / "colours" / "fleet"
    found = read_json(folder / "fleet.json", FleetProfile, EdgepruneError)
    here, off = found.devices
    assert here.file == "local.json"
    assert read_json(folder / here.file, Benchmark, EdgepruneError).run.result.latency_ms == here.latency_ms
    assert "can't be reached" in (off.failed or "")
    assert off.latency_ms is None
    assert "ssh://nobody@127.0.0.1:1: The device can't be reached" in done.stdout
    refused = edgeprune(
        "bench", "colours", "--bundle", tmp_path / "bundle", "--data", data, "--quick",
        "--hosts", tmp_path / "hosts.yaml", "--device", "local",
    )  # fmt: skip
    assert refused.returncode == 2
    assert "--hosts or --device" in refused.stderr
