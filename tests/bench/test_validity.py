"""What voids a run, and what only needs saying."""

from __future__ import annotations

import pytest

from edgeprune.bench.device import processor_time
from edgeprune.bench.validity import judge
from edgeprune.records.benchmark import CpuUse, Load, Reading

STEADY = [10.0] * 100
QUIET = CpuUse(own_s=19.0, busy_s=19.2, available_s=20.0)


def void(readings: list[Reading], cpu: CpuUse | None = QUIET, query_ms: list[float] = STEADY, **load: object) -> str:
    reasons, _ = judge(Load.model_validate(load), readings, cpu, query_ms)
    return "; ".join(reasons)


def bits(*values: int | None) -> list[Reading]:
    return [Reading(at_s=at, throttled=value) for at, value in enumerate(values)]


def test_cool_quiet_steady_run_counts() -> None:
    assert void(bits(0, 0, 0)) == ""


@pytest.mark.parametrize(
    ("values", "why"),
    [
        ((0, 0x4, 0x40000), "throttled (bit 2)"),
        ((0, None, 0x80000), "soft temperature limit (bit 3)"),
        ((0x20002, 0x20002), "frequency capped (bit 1)"),
        ((0x10000, 0x10001, 0x10000), "under-voltage (bit 0)"),
    ],
)
def test_throttle_bit_voids_the_run(values: tuple[int | None, ...], why: str) -> None:
    assert void(bits(*values)) == f"throttled: {why}"


def test_bit_of_an_earlier_day_doesnt_void_but_is_said_where_it_hides_another() -> None:
    assert void(bits(0x50000, 0x50000, 0x50000)) == ""
    assert judge(Load(), bits(0x50000, 0x50000, 0x50000), QUIET, STEADY)[1] == ()
    (note,) = judge(Load(), bits(0x50000, None, 0x50000), QUIET, STEADY)[1]
    assert "under-voltage, throttled had occurred before the run" in note


def test_counter_that_went_up_voids_the_run() -> None:
    readings = [Reading(at_s=at, throttle_events={"a": 3, "b": count}) for at, count in enumerate((5, 5, 7))]
    assert void(readings) == "throttled: b went up by 2"


def test_frequency_limit_that_fell_for_a_while_voids_the_run() -> None:
    readings = [Reading(at_s=at, frequency_limit_mhz={"policy0": mhz}) for at, mhz in enumerate((1800, 1500, 1800))]
    assert void(readings) == "throttled: the limit of policy0 fell from 1800 to 1500 MHz"


def test_gpu_limit_that_fell_voids_the_run() -> None:
    readings = [Reading(at_s=at, frequency_limit_mhz={"17000000.gpu": mhz}) for at, mhz in enumerate((1020, 918))]
    assert void(readings) == "throttled: the limit of 17000000.gpu fell from 1020 to 918 MHz"


def test_neighbour_voids_the_run() -> None:
    assert "others had 6.0% of the processor time" in void(bits(0, 0), CpuUse(own_s=10, busy_s=11.2, available_s=20))
    assert void(bits(0, 0), CpuUse(own_s=10, busy_s=10.9, available_s=20)) == ""


def test_emulated_run_is_void_sustained_or_not() -> None:
    for load in (Load(), Load(sustained=True)):
        assert judge(load, bits(0, 0), QUIET, STEADY, "by qemu")[0] == ("emulated: by qemu",)


def test_drift_voids_the_run() -> None:
    slowing = [10 + i * 0.02 for i in range(100)]
    assert void(bits(0, 0), query_ms=slowing) == "drifted: the median went from 10.19 to 11.79 ms over the run"
    assert void(bits(0, 0), query_ms=slowing[::-1]).startswith("drifted")
    assert void(bits(0, 0), query_ms=[*STEADY, 500.0]) == ""


def test_sustained_run_notes_heat_and_is_still_void_for_other_reasons() -> None:
    hot, slowing = bits(0, 0xC, 0xC0000), [10 + i * 0.05 for i in range(100)]
    reasons, notes = judge(Load(sustained=True), hot, QUIET, slowing)
    assert reasons == ()
    assert [note.split(":")[0] for note in notes] == ["sustained"] * 3
    assert "under-voltage" in void(bits(0, 0x1), sustained=True)
    assert "noisy" in void(hot, CpuUse(own_s=1, busy_s=9, available_s=20), sustained=True)


def test_what_cant_be_known_is_said() -> None:
    _, notes = judge(Load(), bits(None, None), None, STEADY)
    assert [note.split(":")[0] for note in notes] == ["throttling", "noise"]


def test_processor_time_is_of_the_cores_that_count_and_includes_steal() -> None:
    stat = (
        "cpu  999 9 9 9 9 9 9 9 0 0\n"
        "cpu0 100 1 50 8000 70 2 3 4 90 0\n"
        "cpu1 200 0 0 9000 0 0 0 0 0 0\n"
        "cpu10 700 0 0 0 0 0 0 0 0 0\nintr 5\n"
    )
    assert processor_time(stat, {0}) == pytest.approx(1.60)
    assert processor_time(stat, {0, 1}) == pytest.approx(3.60)
    assert processor_time(stat, {0, 2}) is None
    assert processor_time("", {0}) is None
