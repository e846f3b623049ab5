"""Taking hooks off again. A model that is trained is pickled and copied, so nobody can hold on to a hook's handle."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import nn


def remove_hooks(module: nn.Module, mine: Callable[[Any], bool]) -> None:
    """Take those forward hooks off `module` that are `mine`, pre-hooks too. Mutates it."""
    for hooks in (module._forward_pre_hooks, module._forward_hooks):
        for key in [k for k, hook in hooks.items() if mine(hook)]:
            del hooks[key]
            module._forward_hooks_always_called.pop(key, None)
