"""A model as a flat program of ATen operators, traced by `torch.export`.

Rules:
- The program is traced twice, on a small image and on the real input shape. The labels run on the small
  one (labels don't depend on the image size), the costs are read from the real one. Both must be the same
  program, operator by operator: a model that takes another path at another size can't be pruned.
- Tracing changes nothing: it works on a copy, in eval mode, without gradients.

Source: https://docs.pytorch.org/docs/stable/export.html (non-strict mode, `ExportGraphSignature`).
"""

from __future__ import annotations

import copy
import inspect
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from edgeprune.errors import UnsupportedOpError

#: Edge of the small image in pixels: the smallest that every stride-32 detector takes with more than one
#: position left at the last level, so that a spatial axis can be told from a channel axis of one.
SMALL = 64


@dataclass(frozen=True)
class Program:
    """What `trace` returns.

    Attributes:
        nodes: The operators in execution order, with placeholders and the output node.
        states: Placeholder name -> qualified name of the parameter or buffer in the model.
        shapes: Node name -> shape of what it returns at the real input size (tensors only).
        input_name: Placeholder of the image.
    """

    nodes: tuple[torch.fx.Node, ...]
    states: dict[str, str]
    shapes: dict[str, tuple[int, ...]]
    input_name: str


def _everything(output: Any) -> Any:
    return output


def trace(
    model: nn.Module, input_shape: tuple[int, int, int, int], outputs: Callable[[Any], Any] = _everything
) -> Program:
    """Trace `model` on an image of `input_shape` (batch, channels, height, width).

    Args:
        model: Takes one float tensor of that shape; returns tensors, nested in any way.
        input_shape: The shape it will run with. Batch is traced as 1.
        outputs: Picks from what the model returns that whose channels its callers rely on.

    Returns:
        The program. The model isn't changed.

    Raises:
        UnsupportedOpError: The model can't be exported, or takes another path at another size.
    """
    channels, height, width = input_shape[1:]
    model = copy.deepcopy(model).float().cpu().eval().requires_grad_(False)
    picking = _Picking(model, outputs)
    small = _export(picking, torch.zeros(1, channels, min(SMALL, height), min(SMALL, width)))
    real = _export(picking, torch.zeros(1, channels, height, width))
    small_nodes, real_nodes = tuple(small.graph.nodes), tuple(real.graph.nodes)
    if [n.target for n in small_nodes if n.op == "call_function"] != [
        n.target for n in real_nodes if n.op == "call_function"
    ]:
        raise UnsupportedOpError(
            "The model runs other operators on a small image than on its real input.",
            expected="the same operators at every size",
            got=f"{len(small_nodes)} nodes at {SMALL} px, {len(real_nodes)} at {height}x{width}",
            next_step="remove the dependence on the image's size from the model's forward",
        )
    signature = small.graph_signature
    states = {
        placeholder: name.removeprefix("traced.")
        for placeholder, name in {**signature.inputs_to_parameters, **signature.inputs_to_buffers}.items()
    }
    shapes = {
        a.name: tuple(b.meta["val"].shape)
        for a, b in zip(small_nodes, real_nodes, strict=True)
        if isinstance(b.meta.get("val"), torch.Tensor)
    }
    return Program(small_nodes, states, shapes, signature.user_inputs[0])


def module_path(node: torch.fx.Node) -> str:
    """Dotted path of the module whose forward ran this node ('' for the model itself)."""
    stack = node.meta.get("nn_module_stack") or {}
    return next(reversed(list(stack.values())))[0].removeprefix("traced").removeprefix(".") if stack else ""


def source_line(node: torch.fx.Node) -> str:
    """File, line and text of the Python statement that made this node, where the trace has kept it."""
    lines = [line.strip() for line in (node.meta.get("stack_trace") or "").strip().splitlines()]
    frames = [i for i, line in enumerate(lines) if line.startswith("File ") and "/torch/" not in line]
    return " ".join(lines[frames[-1] : frames[-1] + 2]) if frames else "unknown"


class _Picking(nn.Module):
    def __init__(self, traced: nn.Module, outputs: Callable[[Any], Any]) -> None:
        super().__init__()
        self.traced = traced
        self.outputs = outputs

    def forward(self, image: torch.Tensor) -> Any:
        return self.outputs(self.traced(image))


def _export(model: _Picking, image: torch.Tensor) -> Any:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            model(image)  # fills what the model caches by image size (anchors), so that it is traced as constant
            return torch.export.export(model, (image,), strict=False)
    except Exception as error:  # torch.export raises a wide family of its own; all of them mean the same here
        raise UnsupportedOpError(
            "The model can't be traced by torch.export.",
            where=f"{type(model.traced).__name__} ({inspect.getsourcefile(type(model.traced))})",
            got=f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}",
            next_step="make its forward free of data-dependent control flow",
        ) from error
