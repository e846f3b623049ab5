"""A model as a flat program of ATen operators, traced by `torch.export`.

Rules:
- Tracing changes nothing and reads no weight: it works on a *shell*, a copy whose parameters have shapes
  but no storage, in eval mode, at the real input size.
- Layers that only training reads (an auxiliary head, a keypoint's sigma) must be cut with the others. So
  the blocks that hold them run once more in their training form, within the same program; what only that
  form computes is named in `training_only` and costs nothing at inference. Normalisation and dropout stay
  in eval mode for it.
- Two layers that share one parameter can't be cut apart: refused by name.

Source: https://docs.pytorch.org/docs/stable/export.html (non-strict mode, `ExportGraphSignature`).
"""

from __future__ import annotations

import copy
import inspect
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_leaves

from edgeprune.errors import ModelError


@dataclass(frozen=True)
class Program:
    """What `trace` returns.

    Attributes:
        nodes: The operators in execution order, with placeholders and the output node; every node's
            `meta["val"]` holds what it returns, as tensors without storage, at the real input size.
        states: Placeholder name -> qualified name of the parameter or buffer in the model.
        input_name: Placeholder of the image.
        training_only: Names of the nodes that inference doesn't run.
    """

    nodes: tuple[torch.fx.Node, ...]
    states: dict[str, str]
    input_name: str
    training_only: frozenset[str]


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
        ModelError: The model can't be exported, or two of its layers share a parameter.
    """
    _refuse_shared(model)
    forms = _Forms(_shell(model).eval(), outputs)
    image = torch.zeros(1, *input_shape[1:], device="meta")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            forms.find_training_blocks(image)
            exported = torch.export.export(forms, (image,), strict=False)
    except Exception as error:  # torch.export raises a wide family of its own; all of them mean the same here
        raise ModelError(
            "The model can't be traced by torch.export.",
            where=f"{type(model).__name__} ({inspect.getsourcefile(type(model))})",
            got=f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}",
            next_step="make its forward free of data-dependent control flow",
        ) from error
    nodes = tuple(exported.graph.nodes)
    signature = exported.graph_signature
    states = {
        placeholder: name.removeprefix("traced.")
        for placeholder, name in {**signature.inputs_to_parameters, **signature.inputs_to_buffers}.items()
    }
    returned = list(nodes[-1].args[0])
    inference, training = (
        _ancestors(leaves) for leaves in (returned[: forms.inference_leaves], returned[forms.inference_leaves :])
    )
    training_only = frozenset(node.name for node in training - inference)
    return Program(nodes, states, signature.user_inputs[0], training_only)


def dry_run(model: nn.Module, input_shape: tuple[int, int, int, int]) -> None:
    """Run `model` without weights, for its shapes alone. Raises what its forward raises."""
    with torch.no_grad():
        _shell(model).eval()(torch.zeros(1, *input_shape[1:], device="meta"))


def module_path(node: torch.fx.Node) -> str:
    """Dotted path of the module whose forward ran this node ('' for the model itself)."""
    stack = node.meta.get("nn_module_stack") or {}
    return next(reversed(list(stack.values())))[0].removeprefix("traced").removeprefix(".") if stack else ""


def source_line(node: torch.fx.Node) -> str:
    """File, line and text of the Python statement that made this node, where the trace has kept it."""
    lines = [line.strip() for line in (node.meta.get("stack_trace") or "").strip().splitlines()]
    frames = [i for i, line in enumerate(lines) if line.startswith("File ") and "/torch/" not in line]
    return " ".join(lines[frames[-1] : frames[-1] + 2]) if frames else "unknown"


def _shell(model: nn.Module) -> nn.Module:
    """A copy whose parameters and buffers have shapes but no storage (torch's meta device), in FP32."""

    def bare(tensor: torch.Tensor) -> torch.Tensor:
        return torch.empty_like(tensor, device="meta", dtype=torch.float32 if tensor.is_floating_point() else None)

    memo: dict[int, Any] = {id(p): nn.Parameter(bare(p), requires_grad=False) for p in model.parameters()}
    memo.update({id(b): bare(b) for b in model.buffers()})
    return copy.deepcopy(model, memo)


def _refuse_shared(model: nn.Module) -> None:
    owners: dict[int, tuple[nn.Module, str]] = {}
    for path, module in model.named_modules():
        for name, parameter in module.named_parameters(path, recurse=False):
            owner, known = owners.setdefault(id(parameter), (module, name))
            if owner is not module:
                raise ModelError(
                    "Two layers share a parameter: they can't be cut apart.",
                    where=f"{known} and {name}",
                    expected="a parameter of its own for every layer",
                    next_step="give one of them a copy, or use one module in both places",
                )


def _ancestors(leaves: list[Any]) -> set[torch.fx.Node]:
    found: set[torch.fx.Node] = set()
    todo = [leaf for leaf in leaves if isinstance(leaf, torch.fx.Node)]
    while todo:
        node = todo.pop()
        if node not in found:
            found.add(node)
            todo.extend(node.all_input_nodes)
    return found


class _Forms(nn.Module):
    """The model, with the blocks that training reads more of run in both forms."""

    def __init__(self, traced: nn.Module, outputs: Callable[[Any], Any]) -> None:
        super().__init__()
        self.traced = traced
        self.outputs = outputs
        self.training_outputs: list[Any] = []
        self.inference_leaves = 0

    def find_training_blocks(self, image: torch.Tensor) -> None:
        """Run once, which also fills what the model caches by image size (anchors); then hook the outermost
        blocks below the model that ran and hold parameters that nothing read."""
        ran: set[str] = set()
        hooks = [
            module.register_forward_pre_hook(lambda _m, _a, path=path: ran.add(path))
            for path, module in self.traced.named_modules()
        ]
        with _Reading() as reading:
            self.inference_leaves = len(tree_leaves(self.outputs(self.traced(image))))
        for hook in hooks:
            hook.remove()
        unread = [name for name, p in self.traced.named_parameters() if id(p) not in reading.seen]
        blocks = {next((p for p in _paths_to(name) if p in ran), "") for name in unread}
        for path in sorted(blocks):
            self.traced.get_submodule(path).register_forward_hook(self._again, with_kwargs=True)
        if blocks:
            self.forward(image)

    def _again(self, block: nn.Module, args: Any, kwargs: Any, output: Any) -> None:
        with _training_form(block):
            self.training_outputs.append(self.outputs(block.forward(*args, **kwargs)))

    def forward(self, image: torch.Tensor) -> Any:
        self.training_outputs.clear()
        inference = self.outputs(self.traced(image))
        return inference, list(self.training_outputs)


class _Reading(TorchFunctionMode):
    """Notes every tensor that a torch function is given."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: set[int] = set()

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.seen.update(id(leaf) for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, torch.Tensor))
        return func(*args, **(kwargs or {}))


def _paths_to(parameter: str) -> Iterator[str]:
    """The modules that hold a parameter, outermost first, without the model itself."""
    parts = parameter.split(".")[:-1]
    return (".".join(parts[: i + 1]) for i in range(len(parts)))


@contextmanager
def _training_form(block: nn.Module) -> Iterator[None]:
    still = (nn.modules.batchnorm._NormBase, nn.modules.dropout._DropoutNd)
    switched = [m for m in block.modules() if not isinstance(m, still)]
    for module in switched:
        module.training = True
    try:
        yield
    finally:
        for module in switched:
            module.training = False
