"""The real detection loss of a detector, and its gradients."""

from __future__ import annotations

import copy
import os
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import torch
from ultralytics.cfg import get_cfg
from ultralytics.nn.tasks import DetectionModel


def losses(
    model: DetectionModel, batches: Iterable[dict[str, Any]]
) -> Iterator[tuple[torch.Tensor, dict[str, torch.nn.Parameter]]]:
    """The detection loss, one batch at a time, to be differentiated.

    BatchNorm uses its running statistics (eval mode), as the deployed model does, so that the gradient of a
    channel is that of the function that will be cut. The caller's model isn't changed.

    Yields:
        The loss of a batch, and the parameters by name.
    """
    torch.set_num_threads(os.cpu_count() or 1)  # Ultralytics leaves one core idle
    model = with_criterion(copy.deepcopy(model)).eval().requires_grad_(True)
    for batch in batches:
        loss, _ = model(batch)
        yield loss.sum(), dict(model.named_parameters())


def gradients(model: DetectionModel, batches: Iterable[dict[str, Any]]) -> Iterator[dict[str, torch.Tensor]]:
    """Gradients of the detection loss, one batch at a time.

    Yields:
        Parameter name -> gradient of the loss by it, for every parameter that the loss reaches.
    """
    for loss, parameters in losses(model, batches):
        found = torch.autograd.grad(loss, list(parameters.values()), allow_unused=True)
        yield {name: g for name, g in zip(parameters, found, strict=True) if g is not None}


def mean_loss(model: DetectionModel, batches: Sequence[dict[str, Any]]) -> float:
    """Mean detection loss an image, without gradients; BatchNorm uses its running statistics.

    Args:
        model: Takes a criterion for it; no weight of it changes.
    """
    torch.set_num_threads(os.cpu_count() or 1)
    model = with_criterion(model).eval()
    with torch.no_grad():
        total = sum(float(model(batch)[0].sum()) for batch in batches)
    return total / sum(len(batch["img"]) for batch in batches)


def with_criterion(model: DetectionModel) -> DetectionModel:
    """`model`, ready to compute its loss. Mutates it."""
    # the loss' gains are hyper-parameters of training; a checkpoint holds them as a dict
    model.args = get_cfg(overrides={k: v for k, v in dict(model.args).items() if k in {"box", "cls", "dfl"}})
    model.criterion = None
    return model
