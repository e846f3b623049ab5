"""Searching the widths that keep the most importance within a budget of time. Pure.

A *point* is a rung for every cluster. Its time is known for the whole engine alone and is no sum over clusters: a
convolution's depends on what it reads and what it makes. So a search carries a table: at the point where it stands,
what the time would be if one cluster alone stood elsewhere. After a move only the clusters that share a layer with one
that moved are looked up anew; what the table says of several moves together is an estimate, and every point is judged
by its own time.

Rules:
- Time may have steps and cliffs, noise too: a rung down may save nothing, or cost. So a price is that of the best
  later rung, however far, and a rung that saves nothing has none.
- Importance that can stay within the budget stays: no search ends with a cluster that could be wider.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import cached_property

import numpy as np
import numpy.typing as npt

from edgeprune.graph.channels import ChannelGraph
from edgeprune.prune.ladder import Ladder, uniform_rungs, widths_at
from edgeprune.prune.time import TimeModel

Rungs = npt.NDArray[np.intp]
Floats = npt.NDArray[np.float64]

#: Two times or importances that differ by less than this share are the same number.
_TINY = 1e-9
#: Pairs of moves that are tried by their own time before a point counts as settled.
_TRIED_PAIRS = 40
#: Moves of neighbours may take less together than each by itself lets think (a wider one makes more of what a narrower
#: one saves): so much over the budget is tried too, as a share of it.
MIXED = 0.01


class Space:
    """Every point there is, with its time (remembered) and what it loses.

    Attributes:
        of, rung, lost: Cluster, rung and importance lost of every option, clusters one after the other.
        first: Where each cluster's options begin.
        neighbours: Of each cluster, those that share a layer with it, itself among them.
    """

    def __init__(self, graph: ChannelGraph, ladders: Sequence[Ladder], time: TimeModel) -> None:
        self.ladders = tuple(ladders)
        self.time = time
        sizes = np.array([len(ladder.widths) for ladder in ladders])
        self.of: Rungs = np.repeat(np.arange(len(ladders)), sizes)
        self.first: Rungs = np.concatenate(([0], np.cumsum(sizes)[:-1])).astype(np.intp)
        self.rung: Rungs = np.arange(sizes.sum()) - self.first[self.of]
        self.lost: Floats = np.concatenate([ladder.lost for ladder in ladders])
        self.neighbours = _neighbours(graph)
        self._ms: dict[bytes, float] = {}

    @property
    def whole(self) -> Rungs:
        return np.zeros(len(self.ladders), dtype=np.intp)

    @property
    def narrowest(self) -> Rungs:
        return np.array([ladder.last for ladder in self.ladders], dtype=np.intp)

    @cached_property
    def alike(self) -> tuple[Rungs, ...]:
        """The points where every cluster keeps the same share, the widest first."""
        return tuple(np.array(rungs, dtype=np.intp) for rungs in uniform_rungs(self.ladders))

    def first_within(self, points: Iterable[Rungs], budget: float) -> Rungs | None:
        """The first that takes the budget at most."""
        return next((point for point in points if self.ms(point) <= budget), None)

    def ms(self, point: Rungs) -> float:
        """The time of a point, predicted."""
        key = point.tobytes()
        if key not in self._ms:
            self._ms[key] = self.time.ms(widths_at(self.ladders, point))
        return self._ms[key]

    def loss(self, point: Rungs) -> float:
        """Importance lost at a point."""
        return float(self.lost[self.first + point].sum())

    @cached_property
    def fastest(self) -> Rungs:
        """The least time that moves of one cluster lead to, from the narrowest; the widest of what is alike."""
        walk = Walk(self, self.narrowest)
        while True:
            best = int(np.lexsort((self.rung, walk.change))[0])
            if walk.change[best] >= -_TINY * walk.ms:
                return walk.settle(walk.ms)
            walk.try_move(best, below=walk.ms)  # or the table was out of date, and knows better now


class Walk:
    """A point, and what the time would change by if one cluster moved.

    Attributes:
        point: A rung for every cluster.
        ms: Its time.
        change: Of every option of the space, in ms: that cluster there, the others where they are.
    """

    def __init__(self, space: Space, point: Rungs) -> None:
        self.space = space
        self.point = point.copy()
        self.ms = space.ms(point)
        self.change: Floats = np.zeros(len(space.of))
        self._look(range(len(space.ladders)))

    @property
    def gain(self) -> Floats:
        """Importance that each option would win back (over 0) or lose (under 0)."""
        here = self.space.lost[self.space.first + self.point]
        gain: Floats = here[self.space.of] - self.space.lost
        return gain

    def go(self, options: Iterable[int]) -> None:
        """Move to these options."""
        moved = list(options)
        for option in moved:
            self.point[self.space.of[option]] = self.space.rung[option]
        self.ms = self.space.ms(self.point)
        self._look(sorted(set().union(*(self.space.neighbours[int(self.space.of[o])] for o in moved))))

    def ms_with(self, *options: int) -> float:
        """The time at these options, the other clusters where they are."""
        there = self.point.copy()
        for option in options:
            there[self.space.of[option]] = self.space.rung[option]
        return self.space.ms(there)

    def try_move(self, option: int, below: float) -> bool:
        """Move there if the time is then less than `below`; else the table learns what it was."""
        ms = self.ms_with(option)
        if ms < below:
            self.go([option])
            return True
        self.change[option] = ms - self.ms
        return False

    def narrow(self, budget: float) -> bool:
        """Greedy: from here the step with the least importance lost per ms saved, until the budget holds.

        Returns:
            Whether it does; not where nothing saves time any more.
        """
        looked = False
        while self.ms > budget:
            later = self.space.rung > self.point[self.space.of]
            saves = later & (self.change < -_TINY * self.ms)
            if not saves.any():
                if looked:
                    return False
                self._look(range(len(self.space.ladders)))
                looked = True
                continue
            price = np.where(saves, -self.gain, np.inf) / np.where(saves, -self.change, 1.0)
            looked &= not self.try_move(int(price.argmin()), below=self.ms)
        return True

    def widen(self, budget: float) -> Rungs:
        """Give back what fits: first what costs no time beyond the spread, then the most importance per ms."""
        while True:
            gain = self.gain
            fits = (gain > 0) & (self.ms + self.change <= budget)
            if not fits.any():
                return self.point.copy()
            free = fits & (self.change <= self.space.time.spread * self.ms)
            worth = gain / np.maximum(self.change, _TINY * self.ms)
            among = free if free.any() else fits
            most = int(np.where(among, worth, -np.inf).argmax())
            if not self.try_move(most, below=np.nextafter(budget, np.inf)):
                self.change[most] += _TINY * self.ms  # or it fits again, by rounding

    def settle(self, budget: float) -> Rungs:
        """Give back until every cluster, looked at by its own time, costs the budget if it were any wider."""
        while True:
            here = self.widen(budget)
            self._look(range(len(self.space.ladders)))
            if (self.widen(budget) == here).all():
                return self.point.copy()

    def swap(self, budget: float) -> Rungs:
        """Better by two moves at once, a wider one and any other, until none of the likely ones is."""
        self.widen(budget)
        while self._swap_once(budget):
            self.widen(budget)
        return self.point.copy()

    def _swap_once(self, budget: float) -> bool:
        gain, change = self.gain, self.change
        least = _TINY * max(self.space.loss(self.point), _TINY)
        wider = np.flatnonzero(gain > least)
        together = gain[wider, None] + gain[None, :]
        fits = (change[wider, None] + change[None, :] <= budget * (1 + MIXED) - self.ms) & (together > least)
        fits &= self.space.of[wider, None] != self.space.of[None, :]
        rows, columns = np.nonzero(fits)
        order = np.lexsort((columns, rows, -together[rows, columns]))[:_TRIED_PAIRS]
        for row, column in zip(rows[order], columns[order], strict=True):
            pair = (int(wider[row]), int(column))
            if self.ms_with(*pair) <= budget:
                self.go(pair)
                return True
        return False

    def _look(self, clusters: Iterable[int]) -> None:
        for cluster in clusters:
            there = self.point.copy()
            begin = int(self.space.first[cluster])
            for rung in range(len(self.space.ladders[cluster].widths)):
                there[cluster] = rung
                self.change[begin + rung] = self.space.ms(there) - self.ms


def greedy(space: Space, budget: float) -> Rungs | None:
    """Narrow from whole, then give back; None where it gets stuck above the budget."""
    walk = Walk(space, space.whole)
    return walk.settle(budget) if walk.narrow(budget) else None


def _neighbours(graph: ChannelGraph) -> tuple[frozenset[int], ...]:
    cluster_of = {g: index for index, cluster in enumerate(graph.clusters) for g in cluster}
    near: list[set[int]] = [{index} for index in range(len(graph.clusters))]
    lines = [(*layer.in_, *layer.out) for layer in graph.layers.values()]
    lines += [(*(cost.a or ()), *(cost.b or ())) for cost in graph.costs]
    for line in lines:
        here = {cluster_of[channel[0]] for channel in set(line) if channel is not None}
        for cluster in here:
            near[cluster] |= here
    return tuple(frozenset(n) for n in near)
