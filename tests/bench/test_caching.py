"""Answers that are remembered void a run; a machine's noise doesn't."""

from __future__ import annotations

import numpy as np
import pytest

from edgeprune.bench import caching
from edgeprune.runtime.preprocess import Pixels

HELD = [np.random.default_rng(number).integers(0, 256, (20, 30, 3), dtype=np.uint8) for number in range(3)]


class Engine:
    """Takes 5 ms with noise; what it remembers, 0.1 ms."""

    def __init__(self, remembers: int, generator: np.random.Generator) -> None:
        self.seen, self._remembers, self._generator = list[bytes](), remembers, generator

    def infer(self, image: Pixels) -> int:
        key = image.tobytes()
        known = self._remembers and key in self.seen[-self._remembers :]
        self.seen.append(key)
        return round((0.1e6 if known else 5e6) * self._generator.lognormal(0, 0.1))


@pytest.mark.parametrize("remembers", [1, 10_000])
def test_engine_that_remembers_its_last_or_all_of_its_inputs_is_found(remembers: int) -> None:
    engine = Engine(remembers, np.random.default_rng(0))
    for image in HELD * 5:  # a timed run has come before
        engine.infer(image)
    found = caching.check(engine.infer, HELD)
    assert found.ratio < 0.05
    (why,) = caching.void(found)
    assert "takes 0.02 of a new one's time" in why
    assert "answers are remembered" in why


def test_new_inputs_were_never_seen_and_repeated_ones_are() -> None:
    engine = Engine(0, np.random.default_rng(0))
    found = caching.check(engine.infer, HELD)
    calls = caching.PAIRS * caching.CALLS
    assert len(engine.seen) == 2 * calls
    held = {image.tobytes() for image in HELD}
    assert len([key for key in engine.seen if key in held]) == calls
    assert len({key for key in engine.seen if key not in held}) == calls
    assert [len(block) for block in (*found.repeated_ms, *found.new_ms)] == [caching.CALLS] * 2 * caching.PAIRS
    alone = Engine(0, np.random.default_rng(0))
    caching.check(alone.infer, HELD[:1])  # one image is enough
    assert len(set(alone.seen)) == 1 + calls


def test_noise_of_a_busy_machine_is_not_called_caching() -> None:
    """Neighbours that make whole stretches up to four times slower, and single calls wild; by seed."""
    generator, called = np.random.default_rng(0), 0
    for _ in range(200):
        levels = np.repeat(generator.choice([1.0, 1.4, 4.0], 40, p=[0.6, 0.2, 0.2]), 8)[: 2 * caching.PAIRS]
        blocks = levels[:, None] * generator.lognormal(0, 0.15, (2 * caching.PAIRS, caching.CALLS))
        blocks *= np.where(generator.random(blocks.shape) < 0.1, 3, 1)
        swap = generator.random(caching.PAIRS) < 0.5
        pairs = [(b, a) if other else (a, b) for other, (a, b) in zip(swap, blocks.reshape(-1, 2, caching.CALLS))]  # noqa: B905
        called += bool(caching.void(caching.judged(*zip(*pairs, strict=True), generator)))
    assert called == 0


@pytest.mark.parametrize(("ratio", "counts"), [(0.95, True), (0.91, True), (0.85, False)])
def test_ten_per_cent_are_let_pass(ratio: float, counts: bool) -> None:
    generator = np.random.default_rng(1)
    new = generator.lognormal(0, 0.02, (24, 5))
    repeated = ratio * generator.lognormal(0, 0.02, (24, 5))
    assert (caching.void(caching.judged(repeated, new, generator)) == ()) is counts
