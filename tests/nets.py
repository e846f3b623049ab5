"""Small nets, each with one thing that a channel graph must get right."""

from __future__ import annotations

import torch
from torch import nn


class Net(nn.Module):
    """A net from a function of an image; ends in a convolution, so that something is left to cut."""

    def __init__(self, **modules: nn.Module) -> None:
        super().__init__()
        for name, module in modules.items():
            self.add_module(name, module)


def conv(i: int, o: int, k: int = 1, groups: int = 1) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(i, o, k, padding=k // 2, groups=groups, bias=False), nn.BatchNorm2d(o), nn.SiLU())


class Residual(Net):
    def __init__(self) -> None:
        super().__init__(a=conv(3, 16, 3), b=conv(16, 16, 3), out=nn.Conv2d(16, 4, 1))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        a = self.a(x)
        return self.out(a + self.b(a))


class Concat(Net):
    def __init__(self) -> None:
        super().__init__(a=conv(3, 8), b=conv(3, 16), c=conv(3, 24), out=nn.Conv2d(56, 4, 1))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        a, b, c = self.a(x), self.b(x), self.c(x)
        return self.out(torch.cat((b, a, c, a), 1))


class Chunk(Net):
    def __init__(self) -> None:
        super().__init__(a=conv(3, 32), m=conv(16, 16, 3), out=nn.Conv2d(48, 4, 1))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = list(self.a(x).chunk(2, 1))
        y.append(self.m(y[-1]))
        return self.out(torch.cat(y, 1))


class Depthwise(Net):
    def __init__(self) -> None:
        super().__init__(a=conv(3, 16), d=conv(16, 16, 3, groups=16), out=nn.Conv2d(16, 4, 1))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.out(self.d(self.a(x)))


class DepthMultiplier(Net):
    def __init__(self) -> None:
        super().__init__(a=conv(3, 8), d=conv(8, 24, 3, groups=8), out=nn.Conv2d(24, 4, 1))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.out(self.d(self.a(x)))


class Grouped(Net):
    def __init__(self) -> None:
        super().__init__(a=conv(3, 32), g=conv(32, 48, 3, groups=4), out=nn.Conv2d(48, 4, 1))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.out(self.g(self.a(x)))


class Gate(Net):
    """Squeeze and excite: the gate's channels go with those that it scales."""

    def __init__(self) -> None:
        super().__init__(a=conv(3, 16, 3), down=nn.Conv2d(16, 8, 1), up=nn.Conv2d(8, 16, 1), out=nn.Conv2d(16, 4, 1))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        a = self.a(x)
        gate = self.up(torch.relu(self.down(nn.functional.adaptive_avg_pool2d(a, 1)))).sigmoid()
        return self.out(a * gate)


class Heads(Net):
    """Attention as Ultralytics writes it, with two heads, q and k half as wide as v."""

    heads, key, value = 2, 8, 16

    def __init__(self) -> None:
        super().__init__(
            a=conv(3, 24, 3), qkv=nn.Conv2d(24, self.heads * (2 * self.key + self.value), 1), proj=nn.Conv2d(32, 4, 1)
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        qkv = self.qkv(self.a(x))
        batch, _, height, width = qkv.shape
        key, value = self.widths()
        q, k, v = qkv.view(batch, self.heads, 2 * key + value, height * width).split([key, key, value], dim=2)
        attention = ((q * self.key**-0.5).transpose(-2, -1) @ k).softmax(dim=-1)
        return self.proj((v @ attention.transpose(-2, -1)).reshape(batch, self.heads * value, height, width))

    def widths(self) -> tuple[int, int]:
        """Of a head's q (and k) and of its v, from the convolutions as they are."""
        value = self.proj.in_channels // self.heads
        return (self.qkv.out_channels // self.heads - value) // 2, value


class LayerScale(Net):
    def __init__(self) -> None:
        super().__init__(a=conv(3, 16), out=nn.Conv2d(16, 4, 1))
        self.gamma = nn.Parameter(torch.linspace(0.5, 1.5, 16))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.out(self.a(x) * self.gamma.view(1, -1, 1, 1))


class Flat(Net):
    """A linear layer that reads every channel at every position."""

    def __init__(self) -> None:
        super().__init__(a=conv(3, 16), pool=nn.AdaptiveAvgPool2d(2), hidden=nn.Linear(64, 24), out=nn.Linear(24, 4))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.out(torch.relu(self.hidden(self.pool(self.a(x)).flatten(1))))


class Shared(Net):
    """One convolution that runs twice."""

    def __init__(self) -> None:
        super().__init__(a=conv(3, 16), b=conv(3, 16), m=conv(16, 16, 3), out=nn.Conv2d(16, 4, 1))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.out(self.m(self.a(x)) + self.m(self.b(x)))


class Unknown(Net):
    """An operator that no rule is written for."""

    def __init__(self) -> None:
        super().__init__(a=conv(3, 8), out=nn.Conv2d(8, 4, 1))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.out(torch.cumsum(self.a(x), 1))


ALL = (Residual, Concat, Chunk, Depthwise, DepthMultiplier, Grouped, Gate, Heads, LayerScale, Flat, Shared)
