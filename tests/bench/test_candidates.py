"""Which settings are raced, and which cores an engine would be held to."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from edgeprune.bench.ask import about
from edgeprune.bench.candidates import asks_for_choice, candidates
from edgeprune.bench.local import LocalBench
from edgeprune.bench.places import best_first, numbers
from edgeprune.records import Settings, TargetProfile
from tests.bench.trees import plant

CPU = "sys/devices/system/cpu"


def profile(**keys: Any) -> TargetProfile:
    return TargetProfile.model_validate(
        {"description": "d", "runtime": "onnxruntime", "input_shape": (1, 3, 64, 64), **keys}
    )


def test_one_value_leaves_no_choice_and_may_stand_alone() -> None:
    plain = profile(threads=0)
    assert not asks_for_choice(plain)
    assert candidates(plain, (0, 1)) == ((Settings(),), ())
    assert plain.settings == Settings()
    assert not asks_for_choice(profile(threads=2, affinity=[[1, 0]]))
    assert profile(threads=2, affinity=[[1, 0]]).settings.cores == (1, 0)


def test_everything_is_raced_with_everything_once() -> None:
    asked = profile(threads=[1, 2, 0], affinity=["free", "pinned"], spinning=[True, False])
    found, left_out = candidates(asked, (3, 2, 1, 0))
    assert asks_for_choice(asked)
    assert len(found) == len(set(found)) == 10  # 2 with a thread alone, which neither spins nor doesn't
    assert left_out == ()
    assert {s.cores for s in found} == {(), (3,), (3, 2), (3, 2, 1, 0)}
    assert found[0] == Settings(threads=1)


def test_more_threads_than_cores_are_left_out_with_a_sentence() -> None:
    found, left_out = candidates(profile(threads=[1, 4], affinity=["free", "pinned", [5]]), (1, 0))
    assert found == (Settings(threads=1), Settings(threads=1, cores=(1,)), Settings(threads=1, cores=(5,)))
    assert left_out == ("4 threads: the device has 2 cores for them", "4 threads: 5 are 1 core for them")


def test_more_streams_than_threads_are_left_out_with_a_sentence() -> None:
    asked = profile(runtime="openvino", threads=[1, 0], streams=[0, 2, 4], hints=["latency", "throughput"])
    found, left_out = candidates(asked, (1, 0))
    assert {(s.threads, s.streams) for s in found} == {(1, 0), (0, 0), (0, 2)}
    assert len(found) == 6
    assert left_out == (
        "2 streams: 1 thread can't run so many side by side", "4 streams: 1 thread can't run so many side by side",
        "4 streams: 2 threads can't run so many side by side",
    )  # fmt: skip


def test_levels_and_arena_are_raced_with_the_rest_and_every_candidate_has_words_of_its_own() -> None:
    asked = profile(threads=[1, 2], spinning=[True, False], optimization=["all", "extended", "basic"], arena=[1, 0])
    found, _ = candidates(asked, (1, 0))
    assert len(found) == 18
    assert len({s.words() for s in found}) == 18
    assert found[0] == asked.settings == Settings(threads=1)


def test_forms_are_raced_on_cpus_unless_the_target_says_otherwise() -> None:
    assert profile().races_forms
    assert not profile(forms="stock").races_forms
    assert not profile(runtime="openvino", plugin="GPU").races_forms
    assert profile(runtime="openvino", plugin="GPU", forms="race").races_forms
    assert not profile(runtime="tensorrt", precisions=["fp16"], quantization={"activations": "symmetric"}).races_forms


@pytest.mark.parametrize(
    ("keys", "says"),
    [
        ({"plugin": "GPU"}, "plugin is for openvino"),
        ({"hints": ["throughput"]}, "hints is for openvino"),
        ({"streams": [2]}, "streams is for openvino"),
        ({"rest": "bf16", "precisions": ["int8"]}, "rest is for openvino"),
        ({"runtime": "openvino", "rest": "bf16"}, "rest is for int8 on the CPU"),
        ({"runtime": "openvino", "optimization": "basic"}, "optimization is for onnxruntime"),
        ({"runtime": "openvino", "arena": [True, False]}, "arena is for onnxruntime"),
        ({"optimization": "most"}, "optimization"),
        ({"runtime": "openvino", "plugin": "NPU", "streams": 2}, "the plugin is NPU"),
        ({"runtime": "tensorrt", "precisions": ["fp16"], "forms": "race"}, "a board builds its engines of a kit"),
        ({"forms": "all"}, "forms"),
        ({"runtime": "openvino", "spinning": False}, "spinning is for onnxruntime"),
        ({"runtime": "openvino", "plugin": "GPU", "threads": [1, 2]}, "the plugin is GPU"),
        ({"runtime": "openvino", "plugin": "NPU", "affinity": "pinned"}, "the plugin is NPU"),
        ({"threads": [2, 2]}, "distinct"),
        ({"threads": []}, "at least 1"),
        ({"affinity": "stuck"}, "affinity"),
        ({"affinity": [[-1]]}, "affinity"),
    ],
)
def test_a_target_whose_settings_its_runtime_hasnt_got_is_refused(keys: dict[str, Any], says: str) -> None:
    with pytest.raises(ValueError, match=says):
        profile(**keys)


def cores(**files: str) -> dict[str, str]:
    return {f"{CPU}/{name.replace('__', '/')}": f"{content}\n" for name, content in files.items()}


def test_a_bench_says_which_cores_it_would_hold_engines_to() -> None:
    """This machine's, in a process of its own; where cores are kept apart these aren't the allowed ones."""
    places = about(LocalBench(), "onnxruntime", ("fp32",)).places
    assert places == best_first()
    assert len(set(places)) == len(places) >= 1


def test_alike_cores_go_by_number_and_core_0_is_the_last(tmp_path: Path) -> None:
    """A Raspberry Pi: no capacity, one clock for all."""
    alike = cores(**{f"cpu{n}__cpufreq__cpuinfo_max_freq": "2400000" for n in range(4)})
    assert best_first(plant(tmp_path / "pi", alike), {0, 1, 2, 3}) == (1, 2, 3, 0)
    assert best_first(plant(tmp_path / "bare", {}), {0, 1}) == (1, 0)


def test_the_faster_kind_comes_first_on_mixed_cores(tmp_path: Path) -> None:
    """RK3588: four Cortex-A55, four A76."""
    mixed = cores(**{f"cpu{n}__cpu_capacity": "530" if n < 4 else "1024" for n in range(8)})
    assert best_first(plant(tmp_path / "rk", mixed), set(range(8))) == (4, 5, 6, 7, 1, 2, 3, 0)


def test_second_threads_of_a_core_come_after_all_first_ones(tmp_path: Path) -> None:
    pairs = cores(**{f"cpu{n}__topology__thread_siblings_list": f"{n % 2},{n % 2 + 2}" for n in range(4)})
    assert best_first(plant(tmp_path / "smt", pairs), {0, 1, 2, 3}) == (1, 0, 2, 3)


def test_isolated_cores_are_the_only_places_where_there_are_any(tmp_path: Path) -> None:
    apart = cores(isolated="2-3")
    assert best_first(plant(tmp_path / "isolcpus", apart), {0, 1}) == (2, 3)
    assert numbers("0-3,8,10-11") == {0, 1, 2, 3, 8, 10, 11}
    assert numbers("") == set()
