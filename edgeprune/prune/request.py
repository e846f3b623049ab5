"""What to cut and how."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from edgeprune.graph.channels import ChannelGraph
from edgeprune.prune.ladder import Keeps
from edgeprune.prune.problem import Problem
from edgeprune.prune.time import Clock
from edgeprune.records.model import ModelFiles


@dataclass(frozen=True)
class Request:
    """What to cut and how.

    Attributes:
        model: The checkpoint (or model YAML) to cut.
        parent: The checkpoint that all rounds started from; None where `model` is it.
        before: The plan from parent to model; None in the first round.
        quantization: The model's scales. Channels are then scored as INT8 computes them.
        moments: The optimizer's moments, to be cut with the model.
        carrier: Another training of the same model, with its scales and moments, which is cut in place of the one that
            is scored.
        widths: A plan for this model that says how many channels stay; the scores say which. Instead of a goal.
        image_size: Height and width in pixels that MACs are counted at.
        macs_ratio: MACs that may stay, as a share of the parent's; or
        channel_ratio: channels that may stay, as a share of all; or
        clock: tells the model's time on the target, and its budget.
        sparsity: share of zeros, for granularities that leave them.
        granularity, importance, allocation, channel_multiple, min_width, max_group_ratio, seed: As in Recipe.
        view: data.yaml of a view, for importances and allocations that need data.
        batch, batches: Images a batch and batches, for the same.
        trials, trial_batches: Candidates that an allocation may look at, and batches that each one's loss is taken on.
        judge: What those losses are, of a model on batches; the detection loss without it.
        adapt: Trains a model, which it changes, cut to keeps, on as many batches as `adapt_steps`: the short-term
            fine-tuning of an allocation that has it.
        train_supernet: Trains a model, which it changes, to be the weight-sharing supernet of a problem; none: it is
            one as it is.
        work: Where losses that were taken are kept, for a search that is interrupted; none: in memory.
        torch_device: '' for the first GPU or the CPU.
    """

    model: Path
    image_size: tuple[int, int]
    importance: str
    parent: Path | None = None
    before: Path | None = None
    quantization: Path | None = None
    moments: Path | None = None
    carrier: ModelFiles | None = None
    widths: Path | None = None
    macs_ratio: float | None = None
    channel_ratio: float | None = None
    clock: Clock | None = None
    sparsity: float | None = None
    granularity: str = "channels"
    allocation: str = "global"
    channel_multiple: int = 8
    min_width: int = 8
    max_group_ratio: float = 0.8
    view: Path | None = None
    batch: int = 16
    batches: int = 16
    trials: int = 64
    trial_batches: int = 2
    judge: Callable[[Any, Sequence[dict[str, Any]]], float] | None = None
    adapt: Callable[[nn.Module, ChannelGraph, Keeps, Sequence[dict[str, Any]]], None] | None = None
    adapt_steps: int = 0
    train_supernet: Callable[[nn.Module, Problem], None] | None = None
    work: Path | None = None
    torch_device: str = ""
    seed: int = 0


def device_of(torch_device: str) -> torch.device:
    """Where to compute, as Ultralytics reads it: '' for the first GPU or the CPU; '1,2': the first of them."""
    first = torch_device.split(",")[0]
    return torch.device(
        f"cuda:{first}" if first.isdigit() else first or ("cuda" if torch.cuda.is_available() else "cpu")
    )
