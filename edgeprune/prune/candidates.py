"""What a candidate cut loses before any training: the detection loss of the cut model on a few training batches.

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
from edgeprune.quant import fold
from edgeprune.quant.fake import attach
from edgeprune.records import Quantization, files
from edgeprune.yolo import blocks
from edgeprune.yolo.loss import mean_loss

#: What a loss counts as that isn't finite.
HOPELESS = 1e9
Batch = dict[str, Any]


class Candidates:
    """Cuts of one model, judged.

    Args:
        model: What is cut; it isn't changed.
        record: Its scales, where it is quantized.
        draw: Draws the training batches, on the device where losses are to be computed.
    """

    def __init__(
        self,
        model: nn.Module,
        graph: ChannelGraph,
        costs: CostModel,
        record: Quantization | None,
        draw: Callable[[], Iterable[Batch]],
    ) -> None:
        self.model, self._graph, self._costs, self._record, self._draw = model, graph, costs, record, draw

    def of(self, model: nn.Module) -> Candidates:
        """The same for other weights of the same model."""
        other = Candidates(model, self._graph, self._costs, self._record, self._draw)
        other.__dict__["batches"] = self.batches
        return other

    @cached_property
    def batches(self) -> Sequence[Batch]:
        return tuple(self._draw())

    def loss(self, keeps: Mapping[str, tuple[int, ...]], *, recalibrated: bool = False) -> float:
        """Mean detection loss an image."""
        plan = make_plan(
            self._graph, self._costs, dict(keeps), importance="", allocation="", channel_multiple=1, seed=0
        )
        cut: Any = apply(self.model, self._graph, plan, blocks.settle).to(self.batches[0]["img"].device)
        if recalibrated:
            recalibrate(cut, [batch["img"] for batch in self.batches])
        if self._record is not None:
            cut = attach(cut, fold.cut(self._record, plan.layers)).to(self.batches[0]["img"].device)
        return mean_loss(cut, self.batches)


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


def remembered(loss: CutLoss, file: Path | None) -> CutLoss:
    """The same loss, taken once a candidate; from the file where it was taken before.

    Args:
        file: A line of JSON a candidate; made if it isn't there. None: in memory.
    """
    known = {} if file is None else _read(file)

    def look(keeps: Mapping[str, tuple[int, ...]]) -> float:
        key = hashlib.sha256(json.dumps(keeps, sort_keys=True).encode()).hexdigest()
        if key not in known:
            taken = loss(keeps)
            known[key] = taken if math.isfinite(taken) else HOPELESS
            if file is not None:
                with open(file, "a", encoding="utf-8") as lines:
                    lines.write(json.dumps({"keeps": key, "loss": known[key]}) + "\n")
        return known[key]

    return look


def _read(file: Path) -> dict[str, float]:
    """What an interrupted run left; a last line that it didn't finish is dropped, there too."""
    lines = file.read_text(encoding="utf-8").splitlines(keepends=True) if file.is_file() else []
    whole = [line for line in lines if line.endswith("\n")]
    files.write_bytes(file, "".join(whole).encode())
    return {entry["keeps"]: float(entry["loss"]) for entry in map(json.loads, whole)}
