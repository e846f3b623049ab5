"""Repeats of stock blocks that can be taken out whole, so that the model equals one with `nn.Identity` in their place.

Rules:
- A repeat is an element of a block's list of bottlenecks. It can be taken out where it makes what it reads the shape
  of: in a detector that was cut before, repeats without a shortcut may not.
- Repeats in a row (`m` of C3, C3k, RepCSP, RepC3, C2, C2PSA, BottleneckCSP; a Sequential of YOLOv3's): the row is one
  shorter.
- Repeats whose results are all kept beside each other (`m` of C2f and its kin, C3k2 among them, and of A2C2f): what a
  repeat of identity makes is its input again, so `cv2` would read that twice. Its columns are summed, and the list is
  one shorter.
- Nothing but a list's length and one weight changes: the checkpoint stays a stock one.

Source: ultralytics/nn/modules/block.py, 8.4.190.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable, Sequence
from typing import Any, TypeVar

import torch
from torch import nn
from ultralytics.nn.modules.block import (
    C2,
    C2PSA,
    C3,
    A2C2f,
    Bottleneck,
    BottleneckCSP,
    C2f,
    C3k,
    GhostBottleneck,
    RepC3,
)

from edgeprune.errors import PlanError

Model = TypeVar("Model", bound=nn.Module)
#: Repeat -> shapes of what it read and made.
_Shapes = dict[str, tuple[torch.Size, torch.Size]]

#: Blocks with repeats in a row, under `m`.
_IN_A_ROW = (C2, C2PSA, C3, BottleneckCSP, RepC3)
#: What a Sequential that the YAML itself asks for may repeat.
_BOTTLENECKS = (Bottleneck, BottleneckCSP, C3k, GhostBottleneck)


def repeats(model: nn.Module, input_shape: tuple[int, int, int, int]) -> list[str]:
    """The names of all repeats that can be taken out, in the model's order."""
    return _whole(_shapes(model, input_shape))


def without(model: Model, names: Iterable[str], input_shape: tuple[int, int, int, int]) -> Model:
    """A copy with these repeats taken out.

    Args:
        names: As `repeats` has them, in the model's own numbering. One within another that goes too is fine.
        input_shape: A shape that the model runs with.

    Raises:
        PlanError: A name that isn't among `repeats`.
    """
    goes, shapes = set(names), _shapes(model, input_shape)
    unknown = goes - set(_whole(shapes))
    if unknown:
        raise PlanError(
            "There is no such repeat to take out.", where=sorted(unknown)[0], expected="a repeat of this model, whole",
            next_step="take the plan's own parent",
        )  # fmt: skip
    shorter = copy.deepcopy(model)
    modules = dict(shorter.named_modules())
    for owner, line in reversed(_lists(shorter)):  # the inner before the outer
        indices = [i for i in range(len(line)) if f"{owner}.{i}" in goes]
        if not indices:
            continue
        block = modules[owner.rpartition(".")[0]]
        if isinstance(block, (C2f, A2C2f)):
            _merge(block, [shapes[f"{owner}.{i}"][1][1] for i in range(len(line))], indices)
        for index in reversed(indices):
            del line[index]
    return shorter


def _lists(model: nn.Module) -> list[tuple[str, Any]]:
    """Name and list of every block's repeats, in the model's order."""
    found = []
    for name, module in model.named_modules():
        inner = getattr(module, "m", None)
        if isinstance(module, (C2f, A2C2f)) or (isinstance(module, _IN_A_ROW) and isinstance(inner, nn.Sequential)):
            found.append((f"{name}.m", inner))
        elif name.count(".") == 1 and isinstance(module, nn.Sequential) and hasattr(module, "f") and _alike(module):
            found.append((name, module))
    return found


def _alike(row: nn.Sequential) -> bool:
    """Whether a Sequential that the YAML asks for repeats bottlenecks."""
    return len(row) > 0 and all(isinstance(one, _BOTTLENECKS) for one in row)


def _whole(shapes: _Shapes) -> list[str]:
    """The repeats that make what they read the shape of."""
    return [name for name, (read, made) in shapes.items() if read == made]


def _shapes(model: nn.Module, input_shape: tuple[int, int, int, int]) -> _Shapes:
    """Of all repeats that run, in the model's order."""
    names = [f"{owner}.{index}" for owner, line in _lists(model) for index in range(len(line))]
    found: _Shapes = {}
    running = copy.deepcopy(model).eval()  # heads remember the last image's anchors
    modules = dict(running.named_modules())

    def note(name: str, inputs: Any, made: Any) -> None:
        if isinstance(inputs[0], torch.Tensor) and isinstance(made, torch.Tensor):
            found[name] = inputs[0].shape, made.shape

    for name in names:
        modules[name].register_forward_hook(lambda _m, args, made, n=name: note(n, args, made))
    like = next(running.parameters())
    with torch.no_grad():
        running(torch.zeros(1, *input_shape[1:], dtype=like.dtype, device=like.device))
    return {name: found[name] for name in names if name in found}


def _merge(block: C2f | A2C2f, made: Sequence[int], indices: Sequence[int]) -> None:
    """Sum the columns of `cv2` that read what a repeat of identity makes with those that read its input.

    Args:
        made: Channels that each repeat makes.
    """
    conv = block.cv2.conv
    first = conv.weight.shape[1] - sum(made)
    before = [first] if isinstance(block, A2C2f) else [first // 2, first - first // 2]
    pieces: list[torch.Tensor] = []
    for place, columns in enumerate(conv.weight.detach().split([*before, *made], dim=1)):
        if place - len(before) in indices:
            pieces[-1] = pieces[-1] + columns
        else:
            pieces.append(columns)
    conv.weight = nn.Parameter(torch.cat(pieces, 1), conv.weight.requires_grad)
    conv.in_channels = conv.weight.shape[1]
