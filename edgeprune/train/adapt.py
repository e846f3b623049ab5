"""Short-term fine-tuning: a candidate of a search gets used to its cut before it is judged.

Rules:
- The model trains whole with what it lacks muted, which equals training the cut (train/supernet.py), so that its
  weights stay in the whole model's numbering and can be cut further.
- The labels alone teach it; nothing decays what is muted.

Source: Yang et al. 2018 (NetAdapt), algorithm 1 (ShortTermFineTune).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch

from edgeprune.graph.channels import ChannelGraph
from edgeprune.train.supernet import learners, muted
from edgeprune.yolo.loss import with_criterion


def adapt(
    model: Any,
    graph: ChannelGraph,
    keeps: Mapping[str, tuple[int, ...]],
    batches: Sequence[dict[str, Any]],
    *,
    learning_rate: float,
) -> None:
    """Train `model`, which it changes, cut to `keeps`, a step a batch; on the batches' device."""
    model.to(batches[0]["img"].device)
    criterion = with_criterion(model).train().init_criterion()
    optimizer = torch.optim.AdamW(learners(model), lr=learning_rate, weight_decay=0.0)
    with muted(model, graph, keeps):
        for batch in batches:
            optimizer.zero_grad(set_to_none=True)
            criterion(model(batch["img"]), batch)[0].sum().backward()
            optimizer.step()
    model.cpu().eval()
