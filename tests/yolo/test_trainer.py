"""Keepers ride on the trainer's events, and what they keep outlives an interruption."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from edgeprune.records.dataset import read_dataset
from edgeprune.yolo.data import make_view
from edgeprune.yolo.trainer import train

WEIGHT = "model.0.conv.weight"
ARGUMENTS: dict[str, Any] = {
    "epochs": 2, "imgsz": 64, "batch": 8, "nbs": 8, "optimizer": "AdamW", "lr0": 0.001, "amp": False, "device": "cpu",
    "workers": 0, "warmup_epochs": 0.0, "close_mosaic": 0,
}  # fmt: skip


class Stopped(Exception):
    pass


class Mutes:
    """Holds the first convolution's first filter at zero, and notes what it finds."""

    def __init__(self, stop_at: int | None = None) -> None:
        self.seen: list[tuple[str, bool, bool, bool]] = []
        self.steps, self.stop_at = 0, stop_at

    def state_dict(self) -> dict[str, int]:
        return {"steps": self.steps}

    def load_state_dict(self, state: dict[str, int]) -> None:
        self.steps = state["steps"]

    def _note(self, trainer: Any, event: str) -> None:
        weight = trainer.model.get_parameter(WEIGHT)
        averaged = trainer.ema.ema.get_parameter(WEIGHT)
        self.seen.append((event, weight.grad is not None, bool(weight[0].any()), bool(averaged[0].any())))

    def on_train_start(self, trainer: Any) -> None:
        for model in (trainer.model, trainer.ema.ema):
            model.get_parameter(WEIGHT).data[0] = 0

    def on_train_epoch_start(self, trainer: Any) -> None:
        if trainer.epoch == self.stop_at:
            raise Stopped

    def optimizer_step(self, trainer: Any) -> None:
        self._note(trainer, "before")

    def on_before_zero_grad(self, trainer: Any) -> None:
        self._note(trainer, "after")
        self.steps += 1
        trainer.model.get_parameter(WEIGHT).data[0] = 0


def test_keepers_see_gradients_before_a_step_and_weights_before_the_average(
    tmp_path: Path, tiny: Path, scenes: Path
) -> None:
    arguments = {**ARGUMENTS, "data": str(make_view(read_dataset(scenes), tmp_path / "view"))}
    first, second = Mutes(stop_at=1), Mutes()
    with pytest.raises(Stopped):
        train(tiny, tmp_path / "run", seed=0, arguments=arguments, keepers=(first,), log=tmp_path / "log")
    # three batches of eight: a gradient before each step, a filter that the step moves and the average never sees
    assert first.seen == [("before", True, False, False), ("after", True, True, False)] * 3
    model = train(tiny, tmp_path / "run", seed=0, arguments=arguments, keepers=(second,), log=tmp_path / "log")
    assert len(second.seen) == 6
    assert second.steps == 6  # three of this run, three that were kept
    assert torch.count_nonzero(model.get_parameter(WEIGHT)[0]) == 0
    assert torch.count_nonzero(model.get_parameter(WEIGHT)[1]) > 0
