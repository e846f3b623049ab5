"""Whole repeats of bottlenecks are taken out first, then channels are cut for what is left of the goal.

Rules:
- A repeat's importance is that of what it makes: the sum of the scores of its results, scored apart from the residual
  stream that they are added to. That is what muting it would lose, and compares with what channels lose.
- The order is least importance lost per multiply-accumulate saved, or per millisecond predicted.
- A repeat goes as long as that beats channels: importance lost by all that have gone and by the channels that must be
  cut besides is less with it than without.
- An allocation that searches (`Method.depth`) is asked for how many of them go, in that order, together with widths.
- They go in the first cut. Later rounds cut channels: after those, what a repeat reads and what it makes are no longer
  the same channels.

Source: depth pruning by importance and cost, Elkerdawy et al. 2020, 'To Filter Prune, or to Layer Prune, That Is The
Question', section 3; the importances are this build's own.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import cache, partial

import numpy as np

from edgeprune.graph.channels import Channel, ChannelGraph, ChannelGroup
from edgeprune.prune.granularity import Left, Pruned, Task
from edgeprune.prune.importance import Scores


def blocks(task: Task) -> Pruned:
    """Whole repeats go, then channels."""
    whole = task.whole
    scores = task.scores(whole.graph)
    weighs = importances(task, task.repeats())

    @cache
    def there(gone: tuple[str, ...]) -> tuple[Left, Scores]:
        left = task.without(gone) if gone else whole
        return left, left.scores(whole.graph, scores) if gone else scores

    depths = _one_by_one(_in_order(task, weighs))
    if task.search is not None:
        chosen = depths[task.search([partial(there, gone) for gone in depths])]
    else:
        chosen = _as_long_as_it_pays(task, weighs, depths, there)
    left, rest = there(chosen)
    keeps, time = task.widths(left, rest)
    return Pruned(keeps, time, left=left)


def _one_by_one(order: Sequence[str]) -> list[tuple[str, ...]]:
    """What is gone when none of these repeats is, the first, the first two …; one that holds others stands for them."""
    depths: list[tuple[str, ...]] = [()]
    for name in order:
        gone = depths[-1]
        if not any(name.startswith(f"{outer}.") for outer in gone):
            depths.append((*(inner for inner in gone if not inner.startswith(f"{name}.")), name))
    return depths


def _as_long_as_it_pays(
    task: Task,
    weighs: Mapping[str, float],
    depths: Sequence[tuple[str, ...]],
    there: Callable[[tuple[str, ...]], tuple[Left, Scores]],
) -> tuple[str, ...]:
    chosen, best = depths[0], task.lost(*there(depths[0]))
    for more in depths[1:]:
        loses = sum(weighs[one] for one in more) + task.lost(*there(more))
        if loses >= best and np.isfinite(best):
            break
        best, chosen = loses, more
    return chosen


def importances(task: Task, repeats: Sequence[str]) -> dict[str, float]:
    """Of every repeat. Those within others are scored apart from them, so that each is looked at as what it makes."""
    found: dict[str, float] = {}
    outer = [name for name in repeats if not any(name.startswith(f"{other}.") for other in repeats)]
    for level in (outer, [name for name in repeats if name not in outer]):
        if level:
            graph = apart(task.whole.graph, level)
            scores = task.scores(graph)
            found |= {
                name: sum(float(scores[g.name].sum()) for g in graph.groups if g.name.startswith(f"{name}>"))
                for name in level
            }
    return found


def apart(graph: ChannelGraph, repeats: Sequence[str]) -> ChannelGraph:
    """The graph, with what each of these repeats makes for others as channel groups 'REPEAT>GROUP' of its own. For
    scores alone: such a graph can't be cut."""
    layers, groups = dict(graph.layers), list(graph.groups)
    for repeat in repeats:
        inside = {name for name in graph.layers if name.startswith(f"{repeat}.")}
        moved: dict[int, int] = {}
        for index, group in enumerate(graph.groups):
            sides = tuple((name, side) for name, side in group.sides if name in inside and side == "out")
            if sides and not all(name in inside for name, _ in group.sides):
                moved[index] = len(groups)
                groups.append(ChannelGroup(f"{repeat}>{group.name}", group.size, sides, None))
        for name in inside:
            out = tuple(_moved(channel, moved) for channel in layers[name].out)
            layers[name] = replace(layers[name], out=out)
    return replace(graph, layers=layers, groups=tuple(groups))


def _moved(channel: Channel, moved: dict[int, int]) -> Channel:
    return channel if channel is None else (moved.get(channel[0], channel[0]), channel[1])


def _in_order(task: Task, weighs: dict[str, float]) -> list[str]:
    """Repeats, the least importance per saving first; those that save nothing are left out."""
    whole = task.spends(task.whole)
    prices: dict[str, float] = {}
    for name, importance in weighs.items():
        saves = whole - task.spends(task.without((name,)))
        if saves > 0:
            prices[name] = importance / saves
    return sorted(prices, key=lambda name: (prices[name], name))
