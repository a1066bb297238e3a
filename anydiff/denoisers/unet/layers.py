r"""What a :class:`~anydiff.denoisers.unet.network.UNet` is made of.

All take pictures (B, C, H, W) that lie channels-last; a signal is a picture one pixel high, and `dims`
says along how many axes kernels and resolutions reach.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from anydiff.denoisers.inputs import CrossAttention, Tokens

__all__ = ["Attention", "Downsample", "Level", "NoAttention", "ResBlock", "Upsample"]

Size = tuple[int, ...]


class Level(nn.Module):
    """What happens at one resolution, and the way to the next."""

    def __init__(
        self, blocks: list[ResBlock], attentions: list[nn.Module], resample: nn.Module | None
    ) -> None:
        super().__init__()
        self.blocks, self.attentions = nn.ModuleList(blocks), nn.ModuleList(attentions)
        self.resample = resample


class ResBlock(nn.Module):
    """Norm, SiLU, convolution, twice, beside the input; the time comes in between.

    Arguments:
        change: "down" or "up": the resolution changes before the first convolution.
    """

    def __init__(
        self,
        before: int,
        after: int,
        condition: int,
        *,
        adaptive: bool,
        change: str | None,
        dropout: float,
        groups: int,
        eps: float,
        dims: int,
    ) -> None:
        super().__init__()
        self.adaptive, self.change, self.dims = adaptive, change, dims
        self.norm1 = nn.GroupNorm(groups, before, eps)
        self.conv1 = conv(before, after, dims)
        self.modulation = nn.Linear(condition, 2 * after if adaptive else after)
        self.norm2 = nn.GroupNorm(groups, after, eps)
        self.dropout = nn.Dropout(dropout)
        self.conv2 = conv(after, after, dims)
        self.shortcut = nn.Identity() if before == after else nn.Conv2d(before, after, 1)
        # a block does nothing at first
        nn.init.zeros_(self.conv2.weight)
        nn.init.zeros_(self.conv2.bias)  # type: ignore[arg-type]

    def forward(self, x: Tensor, c: Tensor, size: Size | None = None) -> Tensor:
        """(B, before, H, W) and the condition (B, D) -> (B, after, H', W'); `size` of what "up" gives."""
        h = F.silu(self.norm1(x))
        if self.change == "down":
            h, x = average(h, self.dims), average(x, self.dims)
        elif self.change == "up":
            h, x = repeat(h, self.dims, size), repeat(x, self.dims, size)
        h = self.conv1(h)

        c = self.modulation(c)[:, :, None, None]
        if self.adaptive:
            scale, shift = c.chunk(2, dim=1)
            h = torch.addcmul(shift, self.norm2(h), 1 + scale)
        else:
            h = self.norm2(h + c)
        return self.shortcut(x) + self.conv2(self.dropout(F.silu(h)))


class Attention(nn.Module):
    """Every pixel attends to every other of its picture, and then to its tokens, beside the input.

    Arguments:
        tokens: Width of the tokens; 0 for none.
    """

    def __init__(
        self, width: int, head_channels: int | None, groups: int, eps: float, tokens: int = 0
    ) -> None:
        super().__init__()
        self.heads = 1 if head_channels is None else width // head_channels
        self.norm = nn.GroupNorm(groups, width, eps)
        self.qkv = nn.Linear(width, 3 * width)
        self.out = nn.Linear(width, width)
        nn.init.zeros_(self.out.weight)
        nn.init.zeros_(self.out.bias)
        self.cross = CrossAttention(width, tokens, self.heads) if tokens else None

    def forward(self, x: Tensor, tokens: Tokens | None = None) -> Tensor:
        B, C, H, W = x.shape
        pixels = self.norm(x).flatten(2).mT  # (B, H W, C), a view of channels-last
        q, k, v = (
            self.qkv(pixels).view(B, H * W, 3, self.heads, C // self.heads).permute(2, 0, 3, 1, 4)
        )
        h = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(B, H * W, C)
        x = x + self.out(h).mT.view(B, C, H, W)
        if self.cross is None or tokens is None:
            return x
        return self.cross(x.flatten(2).mT, tokens).mT.view(B, C, H, W)


class NoAttention(nn.Identity):
    """What the levels without attention have in its place."""

    def forward(self, x: Tensor, tokens: Tokens | None = None) -> Tensor:
        return x


class Downsample(nn.Module):
    """A convolution of stride 2, to half the side, rounded up."""

    def __init__(self, width: int, dims: int, centered: bool) -> None:
        super().__init__()
        self.dims, self.centered = dims, centered
        self.conv = nn.Conv2d(width, width, side(3, dims), side(2, dims))

    def forward(self, x: Tensor, c: Tensor, size: Size | None = None) -> Tensor:
        # the window of an even side starts at its first pixel, that of an odd one before it
        before = [1 if self.centered else n % 2 for n in x.shape[2:]]
        pads = [before[1], 1, before[0], 1] if self.dims == 2 else [before[1], 1, 0, 0]
        return self.conv(F.pad(x, pads))


class Upsample(nn.Module):
    """Every pixel twice along each side, then a convolution.

    Two neighbours that are equal need one product with the sum of their weights: of a kernel
    (w0, w1, w2), even places take (w0, w1 + w2) of the pixels i - 1, i and odd ones (w0 + w1, w2) of
    i, i + 1.
    """

    merge: Tensor

    def __init__(self, width: int, dims: int) -> None:
        super().__init__()
        self.dims = dims
        self.conv = conv(width, width, dims)
        merge = torch.tensor(
            [[[1.0, 0, 0], [0, 1, 1]], [[1, 1, 0], [0, 0, 1]]]
        )  # place, tap, kernel
        self.register_buffer("merge", merge, persistent=False)

    def forward(self, x: Tensor, c: Tensor, size: Size | None = None) -> Tensor:
        B, C, H, W = x.shape
        weight, columns = self.conv.weight, self.merge.to(x.dtype)
        rows = columns if self.dims == 2 else columns.new_ones(1, 1, 1)
        A = len(rows)  # places along a column, 2 or 1
        taps = torch.einsum("apk,bql,oikl->aboipq", rows, columns, weight).reshape(-1, C, A, 2)
        taps = taps.contiguous(memory_format=torch.channels_last)

        y = F.conv2d(x, taps, padding=(A - 1, 1)).permute(0, 2, 3, 1)
        y = y.view(B, H + A - 1, W + 1, A, 2, C)
        y = Interleave.apply(y).view(B, A * H, 2 * W, C)
        y = y + self.conv.bias.to(y.dtype)  # type: ignore[union-attr]
        y = y.permute(0, 3, 1, 2)  # channels-last again
        return y if size is None else y[:, :, : size[0], : size[1]]


class Interleave(torch.autograd.Function):
    """What lies at each place of a pixel, beside one another: (B, H + A - 1, W + 1, A, 2, C) ->
    (B, H, A, W, 2, C). Its gradient is written once, where that of slices would be summed up."""

    @staticmethod
    def forward(ctx: Any, y: Tensor) -> Tensor:
        ctx.shape = y.shape
        H, W, A = y.shape[1] - y.shape[3] + 1, y.shape[2] - 1, y.shape[3]
        lines = [
            torch.stack([y[:, a : a + H, b : b + W, a, b] for b in (0, 1)], 3) for a in range(A)
        ]
        return torch.stack(lines, 2)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:  # type: ignore[override]
        H, A, W = grad.shape[1:4]
        whole = grad.new_zeros(ctx.shape)
        for a in range(A):
            for b in (0, 1):
                whole[:, a : a + H, b : b + W, a, b] = grad[:, :, a, :, b]
        return whole


def conv(before: int, after: int, dims: int) -> nn.Conv2d:
    return nn.Conv2d(before, after, side(3, dims), padding=(dims - 1, 1))


def side(n: int, dims: int) -> tuple[int, int]:
    """n along each side that there is."""
    return (n, n) if dims == 2 else (1, n)


def average(x: Tensor, dims: int) -> Tensor:
    """Means of neighbours; the last pixel of an odd side alone."""
    window = side(2, dims)
    return F.avg_pool2d(x, window, window, ceil_mode=True)


def repeat(x: Tensor, dims: int, size: Size | None) -> Tensor:
    """Every pixel twice along each side, cut to a size."""
    y = F.interpolate(x, scale_factor=[float(n) for n in side(2, dims)], mode="nearest")
    return y if size is None else y[:, :, : size[0], : size[1]]
