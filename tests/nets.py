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


class Shuffle(Net):
    """Pixel shuffle: four channels become one."""

    def __init__(self) -> None:
        super().__init__(a=conv(3, 32), b=conv(8, 16, 3), out=nn.Conv2d(64, 4, 1))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        larger = nn.functional.pixel_shuffle(self.a(x), 2)
        return self.out(nn.functional.pixel_unshuffle(self.b(larger), 2))


class SpaceByReshape(Net):
    """Pixel shuffle and its reverse, written as view and permute."""

    def __init__(self) -> None:
        super().__init__(a=conv(3, 32), b=conv(8, 16, 3), out=nn.Conv2d(64, 4, 1))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.a(x)
        b, c, h, w = y.shape
        y = y.view(b, 2, 2, c // 4, h, w).permute(0, 3, 4, 1, 5, 2).reshape(b, c // 4, 2 * h, 2 * w)
        y = self.b(y)
        c = y.shape[1]
        return self.out(y.view(b, c, h, 2, w, 2).permute(0, 3, 5, 1, 2, 4).reshape(b, 4 * c, h, w))


class ShuffledGroups(Net):
    """ShuffleNet's: group convolutions with a channel shuffle between them."""

    def __init__(self) -> None:
        super().__init__(
            a=conv(3, 24), g=conv(24, 24, 3, groups=3), h=conv(24, 24, 3, groups=3), out=nn.Conv2d(24, 4, 1)
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.g(self.a(x))
        b, c, h, w = y.shape
        return self.out(self.h(y.view(b, 3, c // 3, h, w).transpose(1, 2).reshape(b, c, h, w)))


class SpatialGate(Net):
    """A gate of one channel is spread over all others; it is read from their mean and largest value."""

    def __init__(self) -> None:
        super().__init__(a=conv(3, 16), g=nn.Conv2d(8, 1, 3, padding=1), b=conv(3, 8), out=nn.Conv2d(16, 4, 1))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.out(self.a(x) * self.g(self.b(x)).sigmoid())


class OverChannels(Net):
    """CBAM's spatial attention: mean and maximum over the channels, which a cut would change."""

    def __init__(self) -> None:
        super().__init__(a=conv(3, 16), b=conv(3, 16), g=nn.Conv2d(2, 1, 3, padding=1), out=nn.Conv2d(16, 4, 1))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        a = self.a(x)
        read = torch.cat((a.mean(1, keepdim=True), a.amax(1, keepdim=True)), 1)
        return self.out(self.b(x) * self.g(read).sigmoid())


class Transposed(Net):
    """Transposed convolutions: whole, grouped and depthwise."""

    def __init__(self) -> None:
        super().__init__(
            a=conv(3, 16), t=nn.ConvTranspose2d(16, 24, 2, 2), g=nn.ConvTranspose2d(24, 32, 2, 2, groups=2),
            d=nn.ConvTranspose2d(32, 64, 3, 1, 1, groups=32), out=nn.Conv2d(64, 4, 1),
        )  # fmt: skip

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.out(self.d(self.g(self.t(self.a(x)))))


class Padded(Net):
    """A shortcut whose missing channels are zeros."""

    def __init__(self) -> None:
        super().__init__(a=conv(3, 8), b=conv(8, 16), out=nn.Conv2d(16, 4, 1))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        a = self.a(x)
        wide = self.b(nn.functional.pad(a, (1, 1, 1, 1)))[:, :, 1:-1, 1:-1]
        return self.out(wide + nn.functional.pad(a, (0, 0, 0, 0, 4, wide.shape[1] - a.shape[1] - 4)))


class Stacked(Net):
    """A sum over stacked feature maps is an addition; an image added to channels keeps them."""

    def __init__(self) -> None:
        super().__init__(a=conv(3, 16), b=conv(3, 16), c=conv(16, 3), out=nn.Conv2d(3, 4, 1))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.out(self.c(torch.stack((self.a(x), self.b(x))).sum(0)) + x)


class Tokens(Net):
    """A transformer's feed-forward part: layer norm fixes the tokens' width, not the hidden one."""

    def __init__(self) -> None:
        super().__init__(
            a=conv(3, 16), norm=nn.LayerNorm(16), up=nn.Linear(16, 32), act=nn.GELU(), down=nn.Linear(32, 16),
            out=nn.Linear(16, 4),
        )  # fmt: skip

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        tokens = self.a(x).flatten(2).transpose(1, 2)
        return self.out(tokens + self.down(self.act(self.up(self.norm(tokens)))))


class SelfAttention(Net):
    """torch's own multi-head attention packs its projections: it is fixed, what is around it isn't."""

    def __init__(self) -> None:
        super().__init__(
            a=conv(3, 16), b=conv(16, 24), ma=nn.MultiheadAttention(24, 2, batch_first=True), out=nn.Linear(24, 4)
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        tokens = self.b(self.a(x)).flatten(2).transpose(1, 2)
        return self.out(self.ma(tokens, tokens, tokens)[0])


class Activations(Net):
    """PReLU has a weight a channel; GLU multiplies halves."""

    def __init__(self) -> None:
        super().__init__(a=conv(3, 32), p=nn.PReLU(16), b=conv(16, 16), out=nn.Conv2d(16, 4, 1))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.b(self.p(nn.functional.glu(self.a(x), 1)))
        return self.out(torch.where(y > 0, y, 0.1 * y) + nn.functional.hardswish(y))


class Written(Net):
    """In-place writes into a view: of channels, and into zeros."""

    def __init__(self) -> None:
        super().__init__(a=conv(3, 16), b=conv(3, 8), out=nn.Conv2d(24, 4, 1))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        a, b = self.a(x), self.b(x)
        y = a.clone()
        y[:, :, ::2] = y[:, :, ::2].sigmoid()
        zeros = torch.zeros_like(b)
        zeros[:, 2:] = b[:, 2:]
        return self.out(torch.cat((y, zeros), 1))


class FixedTable(Net):
    """A learned position code of its own width, added to the channels: they must stay."""

    def __init__(self) -> None:
        super().__init__(a=conv(3, 16), b=conv(16, 8), out=nn.Conv2d(8, 4, 1))
        self.code = nn.Parameter(torch.rand(1, 16, 8, 8))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.out(self.b(self.a(x) + self.code))


class Counted(Net):
    """A position code computed from the width at run time: another width would be another code."""

    def __init__(self) -> None:
        super().__init__(a=conv(3, 16), b=conv(16, 8), out=nn.Conv2d(8, 4, 1))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        a = self.a(x)
        code = torch.sin(torch.arange(a.shape[1], dtype=a.dtype, device=a.device) / a.shape[1])
        return self.out(self.b(a + code.view(1, -1, 1, 1)).flip(1))


class Auxiliary(Net):
    """A head that only training reads."""

    def __init__(self) -> None:
        super().__init__(a=conv(3, 16), b=conv(16, 8), aux=nn.Conv2d(16, 2, 1), out=nn.Conv2d(8, 4, 1))

    def forward(self, x: torch.Tensor) -> object:
        a = self.a(x)
        out = self.out(self.b(a))
        return (out, self.aux(a)) if self.training else out


class Unknown(Net):
    """An operator that no rule is written for."""

    def __init__(self) -> None:
        super().__init__(a=conv(3, 8), out=nn.Conv2d(8, 4, 1))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.out(torch.cumsum(self.a(x), 1))


ALL = (
    Residual, Concat, Chunk, Depthwise, DepthMultiplier, Grouped, Gate, Heads, LayerScale, Flat, Shared, Shuffle,
    SpaceByReshape, ShuffledGroups, SpatialGate, OverChannels, Transposed, Padded, Stacked, Tokens, SelfAttention,
    Activations, Written, FixedTable, Counted, Auxiliary,
)  # fmt: skip


# --- random nets --------------------------------------------------------------------------------------


class Block(nn.Module):
    """One of `KINDS`, from `i` to `o` channels at the same image size."""

    heads = 2

    def __init__(self, kind: str, i: int, o: int) -> None:
        super().__init__()
        self.kind = kind
        self.a = conv(i, 4 * o if kind == "pixel_shuffle" else 2 * o if kind in {"chunk", "glu"} else o, 3)
        if kind == "depthwise":
            self.b: nn.Module = conv(o, o, 3, groups=o)
        elif kind == "grouped":
            self.b = conv(o, o, 3, groups=4)
        elif kind == "split":
            self.p, self.q = conv(o // 4, o // 2), conv(o - o // 4, o // 2)
        elif kind in {"attention", "attention_cat"}:
            self.q, self.k, self.v = (nn.Conv2d(o, w, 1, bias=False) for w in (o // 2, o // 2, o))
            self.b = conv(2 * o if kind == "attention_cat" else o, o)
        elif kind == "squeeze_excite":
            self.down, self.up = nn.Conv2d(o, 4, 1), nn.Conv2d(4, o, 1)
        elif kind in {"residual", "gate", "cat"}:
            self.b = conv(o, o, 3)
        elif kind == "pixel_shuffle":
            self.b = nn.Conv2d(o, o, 2, stride=2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return getattr(self, f"_{self.kind}")(self.a(x))

    def _conv(self, y: torch.Tensor) -> torch.Tensor:
        return y

    def _depthwise(self, y: torch.Tensor) -> torch.Tensor:
        return self.b(y)

    _grouped = _depthwise

    def _chunk(self, y: torch.Tensor) -> torch.Tensor:
        a, b = y.chunk(2, 1)
        return a * b.sigmoid() + b

    def _glu(self, y: torch.Tensor) -> torch.Tensor:
        return nn.functional.glu(y, 1)

    def _split(self, y: torch.Tensor) -> torch.Tensor:
        a, b = y.split([self.p[0].in_channels, self.q[0].in_channels], 1)
        return torch.cat((self.q(b), self.p(a)), 1)

    def _residual(self, y: torch.Tensor) -> torch.Tensor:
        return y + self.b(y)

    def _gate(self, y: torch.Tensor) -> torch.Tensor:
        return y * self.b(y).sigmoid()

    def _cat(self, y: torch.Tensor) -> torch.Tensor:
        return torch.cat((self.b(y), y), 1)

    def _squeeze_excite(self, y: torch.Tensor) -> torch.Tensor:
        return y * self.up(torch.relu(self.down(y.mean((2, 3), keepdim=True)))).sigmoid()

    def _pixel_shuffle(self, y: torch.Tensor) -> torch.Tensor:
        return self.b(nn.functional.pixel_shuffle(y, 2))

    def _channel_shuffle(self, y: torch.Tensor) -> torch.Tensor:
        b, c, h, w = y.shape
        return y.reshape(b, 2, c // 2, h, w).transpose(1, 2).flatten(1, 2)

    def _attended(self, y: torch.Tensor) -> torch.Tensor:
        b, _, h, w = y.shape
        q, k, v = (m(y).view(b, self.heads, -1, h * w) for m in (self.q, self.k, self.v))
        weights = (0.3 * q.transpose(-2, -1) @ k).softmax(-1)
        return (v @ weights.transpose(-2, -1)).reshape(b, -1, h, w)

    def _attention(self, y: torch.Tensor) -> torch.Tensor:
        return self.b(self._attended(y))

    def _attention_cat(self, y: torch.Tensor) -> torch.Tensor:
        return self.b(torch.cat((self._attended(y), y), 1))


KINDS = (
    "conv", "depthwise", "grouped", "chunk", "glu", "split", "residual", "gate", "cat", "squeeze_excite",
    "pixel_shuffle", "channel_shuffle", "attention", "attention_cat",
)  # fmt: skip


class Random(nn.Module):
    """Blocks in a row; each may take an earlier feature map beside the last: added where the widths agree, else
    concatenated."""

    def __init__(self, blocks: list[tuple[str, int, int | None]]) -> None:
        super().__init__()
        widths, self.blocks, self.taken, self.added = [3], nn.ModuleList(), [], []
        for kind, width, earlier in blocks:
            skip = None if earlier is None or len(widths) < 3 else 1 + earlier % (len(widths) - 2)
            add = skip is not None and widths[skip] == widths[-1]
            self.blocks.append(Block(kind, widths[-1] + (widths[skip] if skip is not None and not add else 0), width))
            self.taken.append(skip)
            self.added.append(add)
            widths.append(2 * width if kind == "cat" else width)
        self.out = nn.Conv2d(widths[-1], 4, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        maps = [x]
        for block, skip, add in zip(self.blocks, self.taken, self.added, strict=True):
            last = maps[-1]
            if skip is not None:
                last = last + maps[skip] if add else torch.cat((last, maps[skip]), 1)
            maps.append(block(last))
        return self.out(maps[-1])
