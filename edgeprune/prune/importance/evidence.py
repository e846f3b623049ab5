"""What importances look at. Everything that costs a pass over data is drawn when it is asked for."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from edgeprune.errors import RecipeError
from edgeprune.graph.channels import ChannelGraph, Side

#: Channel group -> a number a channel.
Scores = dict[str, npt.NDArray[np.float64]]
#: Parameter name -> tensor.
Tensors = Mapping[str, torch.Tensor]
#: What a channel took on, (channels, values) -> a number a channel.
Measure = Callable[[torch.Tensor], torch.Tensor]
#: A batch's loss, with what it takes to differentiate it (twice too), and the parameters by name.
Loss = tuple[torch.Tensor, Mapping[str, nn.Parameter]]
#: Detection loss an image, on some training batches, of the model that keeps these channels (group -> indices; one not
#: named stays whole), cut and not trained.
CutLoss = Callable[[Mapping[str, tuple[int, ...]]], float]


def no_images(keeps: Mapping[str, tuple[int, ...]]) -> float:
    """The loss where there are no training images to take it on."""
    raise RecipeError(
        "What the recipe asks for needs training data.", where="importance, allocation", expected="--data data.yaml",
        got="none", next_step="give the data set, or take a method that doesn't need it (edgeprune methods)",
    )  # fmt: skip


@dataclass(frozen=True)
class Evidence:
    """What a method may look at. The functions raise RecipeError where there is no training data.

    Attributes:
        graph: The model's channel graph.
        model: As it computes; weights rounded where it is quantized.
        seed: Of everything random.
        gradients: Draws training batches and gives the loss' gradients, a mapping from parameter names a batch.
        image_gradients: The same for as many images, each by itself.
        activations: Draws training batches and gives, a batch, a measure of what every layer's side took on: layer and
            'in' (what it reads) or 'out' (what it makes) -> a number a position.
        losses: Draws training batches and gives their losses, to be differentiated.
        cut_loss: What cuts of the model lose.
        masks: Weight name -> what torch.nn.utils.prune left of it: 1 = stays, 0 = pruned.
    """

    graph: ChannelGraph
    model: nn.Module
    seed: int
    gradients: Callable[[], Iterable[Tensors]] = lambda: ()
    image_gradients: Callable[[], Iterable[Tensors]] = lambda: ()
    activations: Callable[[Measure], Iterable[Mapping[Side, torch.Tensor]]] = lambda measure: ()
    losses: Callable[[], Iterable[Loss]] = lambda: ()
    cut_loss: CutLoss = no_images
    masks: Tensors = field(default_factory=dict)
