"""A training run that is one stretch of a longer one.

Rules:
- One cosine over all epochs, whichever stretch they are in; mosaic augmentation ends once, for the last quarter.
- The optimizer's moments go from one stretch to the next, by parameter name: a cut between them cuts both.
- BatchNorm's statistics can be frozen from an epoch on: from there on, training computes what will be exported.

Everything rides on the stock callbacks. Source: `BaseTrainer` in ultralytics 8.4.190.
"""

from __future__ import annotations

import io
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn
from ultralytics.utils.torch_utils import one_cycle, unwrap_model

from edgeprune.records import files


@dataclass(frozen=True)
class Stretch:
    """Where a run's epochs lie among all.

    Attributes:
        first, count, total: Epochs before this run, in it, and in all.
        moments_in: The optimizer's moments to start with.
        moments_out: Where to leave them, where another run goes on from this one.
        freeze_share: Share of all epochs, at the end, with frozen BatchNorm statistics.
    """

    first: int
    count: int
    total: int
    moments_in: Path | None = None
    moments_out: Path | None = None
    freeze_share: float = 0.0

    @property
    def close_mosaic(self) -> int:
        """Epochs at the end of this run without mosaic."""
        without_from = self.total - max(1, self.total // 4)
        return min(max(self.first + self.count - without_from, 0), self.count)

    def on_train_start(self, trainer: Any) -> None:
        if self.total > self.count:
            whole = one_cycle(1, trainer.args.lrf, self.total)
            trainer.lf = lambda epoch: whole(epoch + self.first)
            trainer.scheduler.lr_lambdas = [trainer.lf] * len(trainer.optimizer.param_groups)
            for group in trainer.optimizer.param_groups:
                group["lr"] = group["initial_lr"] * trainer.lf(trainer.start_epoch)
        if self.moments_in is not None and not trainer.resume:
            moments = torch.load(self.moments_in, weights_only=True, map_location=trainer.device)
            for name, parameter in unwrap_model(trainer.model).named_parameters():
                if name in moments and moments[name]["exp_avg"].shape == parameter.shape:
                    trainer.optimizer.state[parameter] = moments[name]

    def on_train_batch_start(self, trainer: Any) -> None:
        if self.first + trainer.epoch >= self.total - round(self.total * self.freeze_share):
            for module in unwrap_model(trainer.model).modules():
                if isinstance(module, nn.BatchNorm2d):
                    module.eval()

    def on_model_save(self, trainer: Any) -> None:
        if self.moments_out is None or trainer.epoch + 1 < self.count:
            return
        moments = {
            name: dict(trainer.optimizer.state[parameter])
            for name, parameter in unwrap_model(trainer.model).named_parameters()
            if parameter in trainer.optimizer.state
        }
        buffer = io.BytesIO()
        torch.save(moments, buffer)
        files.write_bytes(self.moments_out, buffer.getvalue())
