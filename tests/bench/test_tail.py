"""The slow end: an injected tail decides, an engine against itself doesn't, too few samples say so."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from edgeprune.bench.early_stopping import estimate
from edgeprune.bench.measure import compare, measure, summarise
from edgeprune.bench.tail import compare_tails
from edgeprune.records import Accuracy, Goal, Measurement
from edgeprune.report.verdict import judge
from tests.bench import faults
from tests.bench.test_measure import engine, net

IMAGES = np.random.default_rng(0).random((2, 3, 32, 32), dtype=np.float32)
GOAL = Goal(max_map_drop=0.01)


def measured(name: str, blocks: list[np.ndarray]) -> Measurement:
    kept = tuple(tuple(block.tolist()) for block in blocks)
    return Measurement(
        engine=name, artifact_sha256="0" * 64, runtime="r", precision="fp32", threads=1, blocks_ms=kept,
        latency_ms=summarise(np.concatenate(blocks).tolist()), cold_start_ms=1.0,
    )  # fmt: skip


def as_good(*names: str) -> list[Accuracy]:
    return [Accuracy(engine=name, map50_95=0.6, map50=0.8, images=10) for name in names]


def geometric(values: np.ndarray) -> float:
    return float(np.exp(np.log(values).mean()))


def noisy(generator: np.random.Generator, drift: np.ndarray, size: int, kind: str) -> list[np.ndarray]:
    """Blocks of 5 ms under drift, neighbours alike; with rare slow calls (spikes), with slow bursts, or plain."""
    blocks = []
    for level in drift:
        steps = generator.normal(0, 0.03, size)
        for i in range(1, size):
            steps[i] += 0.9 * steps[i - 1]
        block = 5 * level * np.exp(steps)
        if kind == "spikes":
            block *= np.where(generator.random(size) < 0.012, 1 + 3 * generator.pareto(1.2, size), 1)
        elif kind == "bursts" and generator.random() < 0.2:
            at = generator.integers(size)
            block[at : at + size // 6] *= 4
        blocks.append(block)
    return blocks


def test_injected_tail_shows_in_p99_and_in_the_verdict(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Real processes. The build has half of its parent's layers, and every hundredth call of it is ten real ones: five
    times the parent's. A machine so busy that the parent's own calls do that can't show it, and says so."""
    for name, value in faults.environment(tail="tailed.onnx").items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr("edgeprune.bench.measure.BLOCK_SECONDS", 1e-3)  # many short blocks, alike anywhere:
    monkeypatch.setattr("edgeprune.bench.measure.MIN_INFERENCES", 30)  # 25 of 2520 calls are slow
    engines = [
        engine("parent fp32", net(tmp_path / "parent.onnx", 16, 32)),
        engine("pruned fp32", net(tmp_path / "pruned.onnx", 8, 32)),
        engine("tailed fp32", net(tmp_path / "tailed.onnx", 8, 32)),
    ]
    for seed in range(3):
        parent, sound, tailed = measure(engines, IMAGES, rounds=84, seed=seed).measurements
        both = compare(sound, parent).tail, compare(parent, sound).tail
        assert all(tail is not None and tail.percentile == 0.99 for tail in both)
        noise = max(tail.parent_behind_ms / m.latency_ms.p50 for tail, m in zip(both, (parent, sound), strict=True))
        if noise < 2 and both[0].behind_high < 1.5 and both[1].behind_high < 4:
            break  # the sound engines' own tails are short, and known well enough
    else:
        pytest.skip("left out: the machine is so busy that its own tail hides the injected one")
    known = as_good("parent fp32", "pruned fp32", "tailed fp32")
    bound = estimate([ms for block in tailed.blocks_ms for ms in block], 0.99).estimate_ms
    assert bound is not None
    assert bound > 4 * tailed.latency_ms.p50
    verdict, _ = judge([parent], [tailed], known, GOAL)
    tail = verdict.comparison.tail
    assert tail is not None
    assert tail.percentile == 0.99
    assert tail.build_behind_ms > 4 * tailed.latency_ms.p50
    assert verdict.comparison.faster  # by its median it would be taken
    assert tail.slower
    assert not verdict.accepted
    assert verdict.reasons[2].startswith("NOT as quick at its slowest: p99 ")
    chosen, _ = judge([parent], [tailed, sound], known, GOAL)
    assert chosen.comparison.build == "pruned fp32"  # the build whose tail holds is offered instead


def test_an_engine_measured_against_itself_shows_no_difference(tmp_path: Path) -> None:
    """A/A with real processes. One in a hundred such runs may err, so three would have to, one after the other."""
    file = net(tmp_path / "same.onnx", 8)
    found = []
    for seed in range(3):
        a, b = measure([engine("a", file), engine("b", file)], IMAGES, rounds=12, seed=seed).measurements
        both = compare(a, b), compare(b, a)
        assert all(one.tail is not None and one.tail.percentile == 0.99 for one in both)
        found.append([one for one in both if one.faster or (one.tail and one.tail.slower)])
        if not found[-1]:
            return
    pytest.fail(f"three runs of an engine against itself all report a difference: {found}")


@pytest.mark.parametrize("kind", ["plain", "spikes", "bursts"])
def test_recorded_noise_of_one_engine_is_seldom_called_a_slower_tail(kind: str) -> None:
    """A/A without a clock: drift that both share, neighbours alike, rare slow calls. By seed, so the count is fixed."""
    generator, called, trials = np.random.default_rng(1), 0, 100
    for trial in range(trials):
        drift = np.exp(np.cumsum(generator.normal(0, 0.02, 40)))
        a, b = (noisy(generator, drift, 30, kind) for _ in "ab")
        picks = np.random.default_rng(trial).integers(0, 40, (4000, 40))
        tail = compare_tails(a, b, picks, 0.99)
        assert tail is not None
        called += tail.slower
    assert called <= trials // 100  # alpha: 1 % at 99 % confidence


@pytest.mark.parametrize("seed", range(4))
def test_one_slow_call_in_a_hundred_is_found_in_recorded_noise_and_decides(seed: int) -> None:
    generator = np.random.default_rng(seed)
    drift = np.exp(np.cumsum(generator.normal(0, 0.02, 40)))
    parent, quicker = (noisy(generator, drift, 30, "plain") for _ in "ab")
    build = [0.9 * np.where(generator.random(30) < 0.01, 10 * block, block) for block in quicker]
    engines = measured("parent fp32", parent), measured("pruned fp32", build)
    known = as_good("parent fp32", "pruned fp32")
    verdict, _ = judge(engines[:1], engines[1:], known, GOAL)
    assert verdict.comparison.tail is not None
    assert verdict.comparison.tail.slower
    assert verdict.comparison.faster
    assert not verdict.accepted
    assert verdict.reasons[2].startswith("NOT as quick at its slowest: p99 ")
    sound = measured("pruned fp32", [0.9 * block for block in quicker])
    assert judge(engines[:1], [sound], known, GOAL)[0].accepted
    assert judge(engines[:1], [engines[1], sound], known, GOAL)[0].accepted  # the one whose tail holds is taken


def test_figures_are_those_of_all_samples_sorted_at_once() -> None:
    generator = np.random.default_rng(2)
    build, parent = ([generator.lognormal(0, 0.5, size) for _ in range(30)] for size in (40, 25))
    tail = compare_tails(build, parent, generator.integers(0, 30, (500, 30)), 0.99)
    assert tail is not None
    pooled = np.sort(np.concatenate(build))
    assert tail.build_ms == pytest.approx(np.percentile(pooled, 99))
    assert tail.build_behind_ms == pytest.approx(geometric(pooled[-12:]))
    assert tail.parent_ms == pytest.approx(np.percentile(np.concatenate(parent), 99))
    assert tail.low < tail.build_ms / tail.parent_ms < tail.high


def test_resample_is_what_its_rounds_pooled_would_give() -> None:
    generator = np.random.default_rng(3)
    build, parent = ([generator.lognormal(0, 0.5, 30) for _ in range(30)] for _ in "ab")
    one = generator.integers(0, 30, (1, 30))
    tail = compare_tails(build, parent, one, 0.99)
    assert tail is not None
    picked = [np.sort(np.concatenate([blocks[i] for i in one[0]])) for blocks in (build, parent)]
    assert tail.low == tail.high == pytest.approx(np.percentile(picked[0], 99) / np.percentile(picked[1], 99))
    assert tail.behind_low == pytest.approx(geometric(picked[0][-9:]) / geometric(picked[1][-9:]))


@pytest.mark.parametrize(
    ("samples", "percentile", "said"),
    [
        (670, 0.99, "tail not slower beyond the interval: p99"),
        (660, 0.9, "660 samples can't tell p99, which asks for 662"),
        (60, None, "tail unknown: 60 samples of an engine, and p90 asks for 64"),
    ],
)
def test_too_few_samples_say_less_and_the_verdict_says_so(samples: int, percentile: float | None, said: str) -> None:
    generator = np.random.default_rng(4)
    parent, build = (
        measured(name, [ms * generator.lognormal(0, 0.02, samples // 10) for _ in range(10)])
        for name, ms in (("parent fp32", 10), ("pruned fp32", 6))
    )
    verdict, _ = judge([parent], [build], as_good("parent fp32", "pruned fp32"), GOAL)
    tail = verdict.comparison.tail
    assert (tail and tail.percentile) == percentile
    assert said in verdict.reasons[2]
    assert verdict.accepted  # what wasn't seen doesn't decide
