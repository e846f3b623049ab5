"""What a candidate cut loses on a few training batches, before any training: detection loss, or mAP.

Rules:
- The batches are drawn once and stay in memory; every candidate is judged on the same ones.
- The model is really cut (which equals muting it) and, where it is quantized, computes with the cut model's scales.
- `recalibrate` takes BatchNorm's statistics anew from the same batches first: another width has others.
  Source: Yu and Huang 2019, 'Universally Slimmable Networks', section 3.3 (post-statistics of BatchNorm).
- A loss that was taken once is remembered, in a file where there is a folder for it: a line each, written whole. All
  searches are repeatable, so one that was interrupted begins again and finds what it had found.
- A loss that is no number is a very bad one.
"""

from __future__ import annotations

import copy
import hashlib
import json
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import nn

from edgeprune.graph.channels import ChannelGraph
from edgeprune.graph.cost import CostModel
from edgeprune.prune.apply import apply, make_plan
from edgeprune.prune.importance import CutLoss
from edgeprune.prune.ladder import Keeps
from edgeprune.quant import fold
from edgeprune.quant.fake import attach
from edgeprune.records import Quantization, files
from edgeprune.yolo import blocks
from edgeprune.yolo.loss import mean_loss

#: What a loss counts as that isn't finite.
HOPELESS = 1e9
Batch = dict[str, Any]
#: Model, batches -> the loss that searches go by; low is good.
Judge = Callable[[Any, Sequence[Batch]], float]


class Candidates:
    """Cuts of one model, judged.

    Args:
        model: What is cut; it isn't changed.
        record: Its scales, where it is quantized.
        draw: Draws the training batches, on the device where losses are to be computed.
        judge: What counts as the loss of a model on batches.
    """

    def __init__(
        self,
        model: nn.Module,
        graph: ChannelGraph,
        costs: CostModel,
        record: Quantization | None,
        draw: Callable[[], Iterable[Batch]],
        judge: Judge = mean_loss,
    ) -> None:
        self.model, self._graph, self._costs, self._record, self._draw = model, graph, costs, record, draw
        self._judge = judge

    def of(self, model: nn.Module) -> Candidates:
        """The same for other weights of the same model."""
        other = Candidates(model, self._graph, self._costs, self._record, self._draw, self._judge)
        other.__dict__["batches"] = self.batches
        return other

    @cached_property
    def batches(self) -> Sequence[Batch]:
        return tuple(self._draw())

    def loss(self, keeps: Mapping[str, tuple[int, ...]], *, recalibrated: bool = False) -> float:
        """What is lost at these keeps: the mean detection loss an image, or what the judge says."""
        plan = make_plan(
            self._graph, self._costs, dict(keeps), importance="", allocation="", channel_multiple=1, seed=0
        )
        cut: Any = apply(self.model, self._graph, plan, blocks.settle).to(self.batches[0]["img"].device)
        if recalibrated:
            recalibrate(cut, [batch["img"] for batch in self.batches])
        if self._record is not None:
            cut = attach(cut, fold.cut(self._record, plan.layers)).to(self.batches[0]["img"].device)
        return self._judge(cut, self.batches)


class Adapted:
    """Losses after short-term fine-tuning: of a candidate that goes on from others, one after the other.

    Args:
        train: Trains a model, which it changes, cut to these keeps, on batches.
        draw: How many have gone before -> the training batches of the next; the same for all that compete.
        work: Where losses are remembered; None: in memory.
    """

    def __init__(
        self,
        candidates: Candidates,
        graph: ChannelGraph,
        train: Callable[[nn.Module, ChannelGraph, Keeps, Sequence[Batch]], None],
        draw: Callable[[int], Iterable[Batch]],
        work: Path | None,
    ) -> None:
        self._candidates, self._graph, self._train, self._draw, self._work = candidates, graph, train, draw, work
        self._last: tuple[str, nn.Module] = ("", candidates.model)
        self._drawn: tuple[int, Sequence[Batch]] = (-1, ())

    def __call__(self, way: Sequence[Keeps]) -> CutLoss:
        """The loss of candidates that go on from the last of these."""

        def loss(keeps: Mapping[str, tuple[int, ...]]) -> float:
            adapted = self._trained(self._at(way), dict(keeps), len(way))
            return self._candidates.of(adapted).loss(keeps)

        return remembered(loss, self._work, _digest(list(way)) if way else "")

    def _at(self, way: Sequence[Keeps]) -> nn.Module:
        """The model that the last of these left; one is kept, the others are made again."""
        if not way:
            return self._candidates.model
        key = _digest(list(way))
        if self._last[0] != key:
            self._last = key, self._trained(self._at(way[:-1]), way[-1], len(way) - 1)
        return self._last[1]

    def _trained(self, model: nn.Module, keeps: Keeps, before: int) -> nn.Module:
        if self._drawn[0] != before:
            self._drawn = before, tuple(self._draw(before))
        model = copy.deepcopy(model)
        self._train(model, self._graph, keeps, self._drawn[1])
        return model


def recalibrate(model: nn.Module, images: Sequence[torch.Tensor]) -> None:
    """BatchNorm's statistics anew, the plain mean over these batches. Mutates `model`."""
    norms = [m for m in model.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]
    usual = [(norm.momentum, norm.training) for norm in norms]
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None  # torch's cumulative average
        norm.train()
    with torch.no_grad():
        for batch in images:
            model(batch)
    for norm, (momentum, training) in zip(norms, usual, strict=True):
        norm.momentum = momentum
        norm.train(training)


def remembered(loss: CutLoss, file: Path | None, among: str = "") -> CutLoss:
    """The same loss, taken once a candidate; from the file where it was taken before.

    Args:
        file: A line of JSON a candidate; made if it isn't there. None: in memory.
        among: What tells these candidates from others in the same file.
    """
    known = {} if file is None else _read(file)

    def look(keeps: Mapping[str, tuple[int, ...]]) -> float:
        key = among + _digest(keeps)
        if key not in known:
            taken = loss(keeps)
            known[key] = taken if math.isfinite(taken) else HOPELESS
            if file is not None:
                with open(file, "a", encoding="utf-8") as lines:
                    lines.write(json.dumps({"keeps": key, "loss": known[key]}) + "\n")
        return known[key]

    return look


def _digest(keeps: object) -> str:
    return hashlib.sha256(json.dumps(keeps, sort_keys=True).encode()).hexdigest()


def _read(file: Path) -> dict[str, float]:
    """What an interrupted run left; a last line that it didn't finish is dropped, there too."""
    lines = file.read_text(encoding="utf-8").splitlines(keepends=True) if file.is_file() else []
    whole = [line for line in lines if line.endswith("\n")]
    files.write_bytes(file, "".join(whole).encode())
    return {entry["keeps"]: float(entry["loss"]) for entry in map(json.loads, whole)}
