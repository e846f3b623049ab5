"""Zeros that stay zero while a model is trained.

Rules:
- What is zero in a convolution's or a linear layer's weight when training begins is set to zero again after every
  step of the optimizer, before the EMA follows: that one then never hears of anything else.
- An interrupted run goes on with the zeros that it began with, not with those of its FP16 checkpoint.
- With fake-quantization too: 0 quantizes to 0.
"""

from __future__ import annotations

from typing import Any

import torch

from edgeprune.yolo.left import weighted
from edgeprune.yolo.trainer import trained


class KeepZeros:
    """Keeper for `edgeprune.yolo.trainer.train`."""

    def __init__(self) -> None:
        self._zeros: dict[str, torch.Tensor] = {}

    def on_train_start(self, trainer: Any) -> None:
        self._zeros = {
            f"{name}.weight": module.weight.detach() == 0
            for name, module in weighted(trained(trainer))
            if not module.weight.all()
        }

    def on_before_zero_grad(self, trainer: Any) -> None:
        parameters = dict(trained(trainer).named_parameters())
        with torch.no_grad():
            for name, zeros in self._zeros.items():
                parameters[name].masked_fill_(zeros, 0.0)

    def state_dict(self) -> dict[str, torch.Tensor]:
        return dict(self._zeros)

    def load_state_dict(self, state: dict[str, torch.Tensor]) -> None:
        self._zeros = dict(state)
