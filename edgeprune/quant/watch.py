"""Following a forward pass by name, without touching the model's code.

Every operator that torch runs gets a name from the convolution that ran last: 'model.2.cv1.conv' is what that
convolution made, 'model.2.cv1.conv>batch_norm.0' the first BatchNorm after it, 'model.2.m.0.cv2.conv>add.0' the
first addition after that one. The names are the same in training, in evaluation, on every device and at every
size, since a forward without data-dependent control flow runs the same operators in the same order.

- SiLU is followed as what it is, x times its gate sigmoid(x): '…>act.0' and '…>act.0:gate'. Other activation
  functions have the same name, so that a model keeps its names when its activation is swapped.
- The image is 'images'.
- What runs after a convolution of another model (a parent that teaches in the same loss) has no name.

Source: torch.overrides.TorchFunctionMode (https://docs.pytorch.org/docs/stable/torch.overrides.html).
"""

from __future__ import annotations

from collections import Counter
from typing import Any

import torch
from torch import nn
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_leaves

IMAGE = "images"
#: torch's activation functions by name; in-place forms end in an underscore.
ACTIVATIONS = frozenset({"silu", "relu", "relu6", "hardtanh", "hardswish", "leaky_relu", "gelu", "mish"})
#: Two spellings of one operator.
_SAME = {"__add__": "add", "__radd__": "add", "__iadd__": "add", "concat": "cat", "concatenate": "cat"}


class Watch(TorchFunctionMode):
    """Calls `made` with every tensor that an operator of the model makes; subclasses say what becomes of it.

    Args:
        model: The model that runs; its convolutions are known by their weights.
    """

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self._model = model
        self.convolutions = {id(m.weight): name for name, m in model.named_modules() if isinstance(m, nn.Conv2d)}
        self._place: str | None = None
        self._seen: Counter[str] = Counter()

    def made(self, name: str, kind: str, value: Any, inputs: Any) -> Any:
        """Returns what the model goes on with instead of `value`."""
        return value

    def weight(self, name: str, weight: torch.Tensor) -> torch.Tensor:
        """The weight that a convolution computes with."""
        return weight

    def image(self, image: torch.Tensor) -> torch.Tensor:
        """To be called with the model's input before the pass begins; returns what the model is to be given."""
        self._place, self._seen = IMAGE, Counter()
        result: torch.Tensor = self.made(IMAGE, "image", image, ())
        return result

    def run(self, image: torch.Tensor) -> Any:
        """One pass of the model, watched, without gradients. Returns what the model returns."""
        with torch.no_grad():
            given = self.image(image)
            with self:
                return self._model(given)

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        kind = _SAME.get(func.__name__, func.__name__)
        if kind == "conv2d":
            image, weight, *rest = args
            self._place, self._seen = self.convolutions.get(id(weight)), Counter()
            if self._place is None:
                return func(*args, **kwargs)
            value = func(image, self.weight(self._place, weight), *rest, **kwargs)
            return self.made(self._place, kind, value, (image,))
        if self._place is None or kind == "__get__":
            return func(*args, **kwargs)
        if kind.rstrip("_") in ACTIVATIONS:
            return self._activation(kind.rstrip("_"), func, args, kwargs)
        value = func(*args, **kwargs)
        if not any(isinstance(leaf, torch.Tensor) for leaf in tree_leaves(value)):
            return value
        return self.made(self._name(kind), kind, value, (args, kwargs))

    def _activation(self, kind: str, func: Any, args: Any, kwargs: Any) -> torch.Tensor:
        name, x = self._name("act"), args[0]
        if kind != "silu":
            result: torch.Tensor = self.made(name, kind, func(*args, **kwargs), (x,))
            return result
        gate = self.made(f"{name}:gate", "sigmoid", None, (x,))
        value = func(*args, **kwargs) if gate is None else x * gate
        product: torch.Tensor = self.made(name, kind, value, (x, gate))
        return product

    def _name(self, kind: str) -> str:
        self._seen[kind] += 1
        return f"{self._place}>{kind}.{self._seen[kind] - 1}"
