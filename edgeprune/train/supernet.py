"""The weight-sharing supernet: a detector trained so that it can be cut to any widths and still detect.

Rules:
- The sandwich rule: of every batch, the whole net, the narrowest one and two random ones learn; one step for all.
- The whole net learns from the labels, the others from what it says of the same batch (in-place distillation), by the
  loss that pruned models learn from their parents by (train/distill.py).
- A sub-net is the net with what it lacks muted where it is made and read, which equals the cut (tests/mute.py's
  oracle), so that all share their weights. BatchNorm's statistics serve none of them; each takes its own
  before it is scored (prune/candidates.py).
- After every epoch everything is kept, in one file that is replaced whole: an interrupted training goes on from there,
  and ends in the same weights.

Source: Yu and Huang 2019, 'Universally Slimmable Networks and Improved Training Techniques', sections 3.1 (sandwich
rule), 3.2 (in-place distillation) and algorithm 1; widths differ layer by layer as in OFA (Cai et al. 2020).
"""

from __future__ import annotations

import io
import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from edgeprune.graph.channels import ChannelGraph
from edgeprune.prune.problem import Problem
from edgeprune.records import files
from edgeprune.train.distill import by_head, distillation_loss
from edgeprune.yolo.loss import with_criterion

#: Sub-nets of random widths in every step, beside the narrowest. The paper's n = 4 with the whole net.
RANDOM = 2
Batch = dict[str, Any]


def train_supernet(
    model: Any,
    problem: Problem,
    *,
    draw: Callable[[int], Iterator[Batch]],
    epochs: int,
    steps: int,
    learning_rate: float,
    kept: Path,
    on_epoch: Callable[[int, int], None] = lambda done, total: None,
) -> None:
    """Train `model`, which it changes, to be the supernet of a problem.

    Args:
        draw: An epoch's number -> its batches, on the device to train on.
        steps: Batches an epoch.
        learning_rate: Peak of a cosine.
        kept: File that an interrupted training goes on from.
        on_epoch: Told (epochs done, in all).
    """
    usual = [(p, p.requires_grad) for p in model.parameters()]
    optimizer = torch.optim.AdamW(learners(model), lr=learning_rate)
    first = _restore(kept, model, optimizer)
    for epoch in range(first, epochs):
        random = np.random.default_rng([problem.means.seed, epoch])
        for number, batch in enumerate(draw(epoch)):
            way = (epoch * steps + number) / (epochs * steps)
            for group in optimizer.param_groups:
                group["lr"] = learning_rate * (1 + math.cos(math.pi * way)) / 2
            model.to(batch["img"].device)
            _step(model, problem, batch, optimizer, random)
        buffer = io.BytesIO()
        torch.save({"epoch": epoch + 1, "model": model.state_dict(), "optimizer": optimizer.state_dict()}, buffer)
        files.write_bytes(kept, buffer.getvalue())
        on_epoch(epoch + 1, epochs)
    for parameter, wanted in usual:
        parameter.requires_grad_(wanted)
    model.cpu().eval()


def learners(model: nn.Module) -> list[nn.Parameter]:
    """The parameters that learn, which are told so: all but DFL's constant, as in the stock trainer."""
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(".dfl." not in name)
    return [parameter for parameter in model.parameters() if parameter.requires_grad]


def _restore(kept: Path, model: nn.Module, optimizer: torch.optim.Optimizer) -> int:
    """Epochs done."""
    if not kept.is_file():
        return 0
    state = torch.load(kept, weights_only=True, map_location="cpu")
    model.load_state_dict(state["model"])
    optimizer.load_state_dict(state["optimizer"])
    return int(state["epoch"])


def _step(
    model: Any, problem: Problem, batch: Batch, optimizer: torch.optim.Optimizer, random: np.random.Generator
) -> None:
    """One step of the sandwich rule."""
    criterion = with_criterion(model).train().init_criterion()
    optimizer.zero_grad(set_to_none=True)
    predictions = model(batch["img"])
    criterion(predictions, batch)[0].sum().backward()
    wanted = _detached(predictions)
    space = problem.space
    drawn = [[random.integers(ladder.last + 1) for ladder in space.ladders] for _ in range(RANDOM)]
    for point in (space.narrowest, *(np.array(rungs, dtype=np.intp) for rungs in drawn)):
        with muted(model, problem.graph, problem.keeps(point)):
            (by_head(distillation_loss, model(batch["img"]), wanted) * len(batch["img"])).backward()
    optimizer.step()


@contextmanager
def muted(model: nn.Module, graph: ChannelGraph, keeps: Mapping[str, tuple[int, ...]]) -> Iterator[None]:
    """For as long as it lasts, the model's layers read and make zeros where a cut to `keeps` leaves nothing."""
    modules, hooks = dict(model.named_modules()), []
    for name, sides in graph.layer_keeps(keeps).items():
        layer = graph.layers[name]
        if layer.kind == "parameter":
            continue
        axis = -1 if layer.kind == "linear" else 1
        if layer.in_ and len(sides["in"]) < len(layer.in_):
            hooks.append(
                modules[name].register_forward_pre_hook(
                    lambda _, given, keep=sides["in"], axis=axis: (_silence(given[0], keep, axis), *given[1:])
                )
            )
        if len(sides["out"]) < len(layer.out):
            hooks.append(
                modules[name].register_forward_hook(
                    lambda _, __, made, keep=sides["out"], axis=axis: _silence(made, keep, axis)
                )
            )
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


def _silence(tensor: torch.Tensor, keep: list[int], axis: int) -> torch.Tensor:
    gate = torch.zeros(tensor.shape[axis], dtype=tensor.dtype, device=tensor.device)
    gate[keep] = 1
    return tensor * gate.reshape([-1 if d == axis % tensor.dim() else 1 for d in range(tensor.dim())])


def _detached(predictions: Any) -> Any:
    if isinstance(predictions, dict):
        return {name: _detached(value) for name, value in predictions.items()}
    return predictions.detach() if isinstance(predictions, torch.Tensor) else predictions
