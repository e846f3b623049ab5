"""AMC: an agent walks over the layers and says of each how much of it goes; it learns from what the whole cut loses.

Rules:
- An episode takes the clusters that can be cut in the graph's order. An action is a pruning ratio, 0 to 1; the rung
  that comes nearest is taken. The limits' widest cut stands for the paper's a_max.
- The action is bounded so that the budget always holds (algorithm 1: what this layer must give up at least if all
  that follow give up as much as they can): the first rung from there on with which the clusters so far, and the rest at
  their fastest, stay within the budget. What is spent is told by the time model, so that this holds in ms too.
- The reward is -loss of the cut, untrained model, against the whole one's (R_err), at the end of the episode, with a
  discount of 1: all actions of an episode share it, as in the paper.
- Another budget is answered by the agent that has learned, and by its best episodes, under that budget's bounds.
- The agent is Stable-Baselines3's DDPG with the paper's sizes: 300 and 300 units, batches of 64, 2000 transitions kept,
  tau 0.01; noise of 0.5 for the first quarter of the episodes, then falling by 0.95 each. It runs on the CPU, writes
  nothing and is the same for the same seed.

State (section 3.1): (t, n, c, h, w, stride, k, MACs[t], reduced, rest, a[t-1]), each divided by its largest.
Source: He et al. 2018, 'AMC: AutoML for Model Compression and Acceleration on Mobile Devices', sections 3.1 to 3.3,
algorithm 1.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from edgeprune.errors import missing_package
from edgeprune.prune.importance.gather import WEIGHTED
from edgeprune.prune.problem import Problem, Solvers
from edgeprune.prune.search import Rungs

Floats = npt.NDArray[np.float32]
Policy = Callable[[Floats], float]

#: Share of the episodes that explore.
WARM_UP = 0.25
NOISE, FALL = 0.5, 0.95
#: Episodes that another budget is answered from.
_BEST = 8


def amc(problem: Problem) -> Solvers:
    """An agent (DDPG) gives every cluster t a ratio a_t in 0..1, bounded so that the budget holds, and learns from the
    reward -loss(cut) / loss(whole); the best of all episodes. Raises DeviceError without the extra 'search'.
    Source: He et al. 2018 (AMC), sections 3.1 to 3.3, algorithm 1."""
    try:
        import stable_baselines3  # noqa: F401
    except ImportError as error:
        raise missing_package("stable-baselines3", "search") from error
    learned: list[tuple[Policy, list[tuple[float, tuple[float, ...]]]]] = []

    def solve(budget: float) -> Rungs:
        if not learned:
            learned.append(_learn(problem, budget))
        policy, episodes = learned[0]
        best = sorted(episodes)[:_BEST]
        walks = [run(problem, budget, policy), *(run(problem, budget, replayed(actions)) for _, actions in best)]
        return min((walk.point for walk in walks), key=problem.loss)

    return Solvers({"amc": solve}, problem.loss)


class Episode:
    """One walk over the clusters, the budget held.

    Attributes:
        point: Where it has come to: clusters ahead are whole.
        actions: As they were bounded.
    """

    def __init__(self, problem: Problem, budget: float) -> None:
        self._space, self._budget, self._problem = problem.space, budget, problem
        self.order = [i for i, ladder in enumerate(self._space.ladders) if ladder.last]
        self.point = self._space.whole
        self.actions: list[float] = []
        self._features = _features(problem, self.order)

    @property
    def done(self) -> bool:
        return len(self.actions) == len(self.order)

    @property
    def state(self) -> Floats:
        """What the agent sees of the cluster at hand: 11 numbers, 0 to 1."""
        at = min(len(self.actions), len(self.order) - 1)
        whole, here = self._space.ms(self._space.whole), self._space.ms(self.point)
        least = self._space.ms(self._ahead(at, self.point))
        reduced, rest = 1 - here / whole, (here - least) / whole
        before = self.actions[-1] if self.actions else 0.0
        return np.clip([*self._features[at], reduced, rest, before], 0, 1).astype(np.float32)

    def step(self, action: float) -> None:
        """Cut the cluster at hand by this ratio, or by more where the budget wants it."""
        cluster = self.order[len(self.actions)]
        ladder = self._space.ladders[cluster]
        gone = [1 - row[0] / ladder.widths[0][0] for row in ladder.widths]
        wanted = int(np.abs(np.array(gone) - action).argmin())
        rung = next((r for r in range(wanted, ladder.last + 1) if self._holds(cluster, r)), None)
        self.point[cluster] = self._space.fastest[cluster] if rung is None else rung
        self.actions.append(gone[self.point[cluster]])

    def _holds(self, cluster: int, rung: int) -> bool:
        there = self.point.copy()
        there[cluster] = rung
        return self._space.ms(self._ahead(len(self.actions) + 1, there)) <= self._budget

    def _ahead(self, start: int, point: Rungs) -> Rungs:
        """The point with all clusters from `start` on at their fastest."""
        there = point.copy()
        there[self.order[start:]] = self._space.fastest[self.order[start:]]
        return there


def run(problem: Problem, budget: float, policy: Policy) -> Episode:
    """A whole episode."""
    episode = Episode(problem, budget)
    while not episode.done:
        episode.step(policy(episode.state))
    return episode


def replayed(actions: Sequence[float]) -> Policy:
    """The same actions again, whatever the state."""
    left = iter(actions)
    return lambda state: next(left)


def _features(problem: Problem, order: Sequence[int]) -> npt.NDArray[np.float64]:
    """(t, n, c, h, w, stride, k, MACs) of the first layer that makes each cluster's channels."""
    modules = dict(problem.means.model.named_modules())
    pixels = {cost.where: cost.coefficient for cost in problem.graph.costs}
    rows = []
    for t, cluster in enumerate(order):
        sides = [s for g in problem.space.ladders[cluster].cluster for s in problem.graph.groups[g].sides]
        name = next(
            (layer for layer, side in sides if side == "out" and problem.graph.layers[layer].kind in WEIGHTED),
            sides[0][0],
        )
        layer, module = problem.graph.layers[name], modules.get(name)
        kernel = float(np.prod(getattr(module, "kernel_size", (1,))))
        edge = float(np.sqrt(pixels.get(name, 1.0) / kernel))
        stride = float(max(getattr(module, "stride", (1,))))
        macs = pixels.get(name, 0.0) * max(len(layer.in_), 1) * len(layer.out)
        rows.append([t, len(layer.out), len(layer.in_), edge, edge, stride, np.sqrt(kernel), macs])
    table = np.array(rows, dtype=np.float64)
    largest = table.max(0)
    scaled: npt.NDArray[np.float64] = table / np.where(largest > 0, largest, 1)
    return scaled


@dataclass
class _Falling:
    """Noise of an action: as much as ever in the first episodes, then less with each."""

    random: np.random.Generator
    warm_up: int
    episodes: int = 0

    def __call__(self) -> Floats:
        spread = NOISE * FALL ** max(self.episodes - self.warm_up, 0)
        return self.random.normal(0.0, 2 * spread, size=1).astype(np.float32)  # the agent's own actions are -1 to 1

    def reset(self) -> None:
        """The end of an episode."""
        self.episodes += 1


def _learn(problem: Problem, budget: float) -> tuple[Policy, list[tuple[float, tuple[float, ...]]]]:
    """An agent that has learned, and every episode's loss and actions."""
    from stable_baselines3 import DDPG
    from stable_baselines3.common.logger import Logger

    count = problem.means.trials
    episodes: list[tuple[float, tuple[float, ...]]] = []
    walk = _environment(problem, budget, episodes)
    length = len(Episode(problem, budget).order)
    warm_up = max(1, round(WARM_UP * count))
    agent = DDPG(
        "MlpPolicy", walk, seed=problem.means.seed, device="cpu", gamma=1.0, tau=0.01, batch_size=64,
        buffer_size=2000, learning_rate=1e-3, learning_starts=warm_up * length, train_freq=(1, "episode"),
        gradient_steps=-1, policy_kwargs={"net_arch": [300, 300]},
        action_noise=_noise(_Falling(np.random.default_rng(problem.means.seed), warm_up)),
    )  # fmt: skip
    agent.set_logger(Logger(folder=None, output_formats=[]))  # the usual one makes a folder in /tmp
    agent.learn(total_timesteps=count * length)
    return lambda state: float(agent.predict(state, deterministic=True)[0][0]), episodes


def _noise(falling: _Falling) -> Any:
    from stable_baselines3.common.noise import ActionNoise

    class Noise(ActionNoise):
        def __call__(self) -> Floats:
            return falling()

        def reset(self) -> None:
            falling.reset()

    return Noise()


def _environment(problem: Problem, budget: float, episodes: list[tuple[float, tuple[float, ...]]]) -> Any:
    import gymnasium

    class Layers(gymnasium.Env[Floats, Floats]):
        observation_space = gymnasium.spaces.Box(0.0, 1.0, (11,), np.float32)
        action_space = gymnasium.spaces.Box(0.0, 1.0, (1,), np.float32)

        def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[Floats, dict[str, Any]]:
            super().reset(seed=seed)
            self.episode = Episode(problem, budget)
            return self.episode.state, {}

        def step(self, action: Floats) -> tuple[Floats, float, bool, bool, dict[str, Any]]:
            self.episode.step(float(action[0]))
            reward = 0.0
            if self.episode.done:
                loss = problem.loss(self.episode.point)
                reward = -loss / max(problem.loss(problem.space.whole), 1e-9)
                episodes.append((loss, tuple(self.episode.actions)))
                problem.means.on_trial(len(episodes), problem.means.trials)
            return self.episode.state, reward, self.episode.done, False, {}

    return Layers()
