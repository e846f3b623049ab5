"""A made-up machine: the time of a graph's layers, with steps, cliffs and noise as real ones have them."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from edgeprune.graph.channels import ChannelGraph
from edgeprune.graph.cost import Widths, counts

#: How many channels a kernel sees of so many, and how much longer it takes for each.
Kernel = Callable[[Widths], Widths]


def smooth(channels: Widths) -> Widths:
    return channels


def steps(channels: Widths) -> Widths:
    """Vectors of 8, blocks of 16 from 64 channels on, and a kernel half as good under 32: narrower can be slower."""
    block = np.where(channels < 64, 8, 16)
    blocks: Widths = np.ceil(channels / block) * block * np.where(channels < 32, 1.4, 1.0)
    return blocks


class Machine:
    """Layers one after the other: an overhead each, then work that is a product of what kernels make of in and out.

    Args:
        ms: Of the whole model without the floor.
        error: Spread of what each layer of the machine takes against what a smooth model would say, by seed.
        noise: Relative, of a measurement.
    """

    def __init__(
        self, graph: ChannelGraph, kernel: Kernel = steps, *, ms: float = 10.0, floor_ms: float = 0.2,
        spread: float = 0.005, error: float = 0.0, noise: float = 0.0, seed: int = 0,
    ) -> None:  # fmt: skip
        self.floor_ms, self.spread, self.calls = floor_ms, spread, 0
        self._kernel, self._noise, self._random = kernel, noise, np.random.default_rng(seed)
        groups = len(graph.groups)
        self._left, self._left_fixed = counts([c.a for c in graph.costs], groups)
        self._right, self._right_fixed = counts([c.b for c in graph.costs], groups)
        self._rate = np.array([c.coefficient for c in graph.costs])
        self._rate = self._rate * np.exp(error * self._random.standard_normal(len(self._rate)))
        whole = np.array([g.size for g in graph.groups], dtype=np.float64)
        self._rate *= ms / self._work(whole).sum()

    def ms(self, widths: Widths) -> float:
        self.calls += 1
        return float(self.floor_ms + self._work(widths).sum())

    def all_ms(self, rows: Widths) -> Widths:
        """Of many rows of widths at once."""
        times: Widths = self.floor_ms + self._work(rows).sum(1)
        return times

    def measure(self, candidates: Sequence[Widths]) -> list[float]:
        return [self.ms(w) * (1 + self._noise * float(self._random.standard_normal())) for w in candidates]

    def _work(self, widths: Widths) -> Widths:
        left = self._kernel(widths @ self._left.T + self._left_fixed)
        right = self._kernel(widths @ self._right.T + self._right_fixed)
        work: Widths = self._rate * left * right
        return work
