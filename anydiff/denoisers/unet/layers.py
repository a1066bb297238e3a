r"""What a :class:`~anydiff.denoisers.unet.network.UNet` is made of.

All take images (B, C, H, W) in channels-last memory. A signal is an image one pixel high; `dims` is the
number of axes along which kernels reach and resolutions change.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from anydiff.denoisers.inputs import CrossAttention, Tokens, zeroed

__all__ = ["Attention", "Downsample", "NoAttention", "ResBlock", "Resolution", "Upsample"]

Size = tuple[int, ...]


class Resolution(nn.Module):
    """The blocks of one resolution, each with its attention, and the way to the next resolution.

    Arguments:
        before: Input channels of each block.
        width: Output channels of every block.
        block: (input channels, output channels) -> a block.
        attention: Channels -> an attention, or a `NoAttention`.
        resample: Channels -> the layer that leads to the next resolution; None for the last.
    """

    def __init__(
        self,
        before: Sequence[int],
        width: int,
        block: Callable[[int, int], nn.Module],
        attention: Callable[[int], nn.Module],
        resample: Callable[[int], nn.Module] | None,
    ) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(block(channels, width) for channels in before)
        # built before the attentions and kept behind them, so that seeds and weights keep their order
        change = None if resample is None else resample(width)
        self.attentions = nn.ModuleList(attention(width) for _ in before)
        self.resample = change

    def down(self, h: Tensor, c: Tensor, tokens: Tokens | None) -> list[Tensor]:
        """The outputs of all blocks, and the last one at the next resolution."""
        outputs = []
        for block, attend in zip(self.blocks, self.attentions, strict=True):
            h = attend(block(h, c), tokens)
            outputs.append(h)
        return outputs if self.resample is None else [*outputs, self.resample(h, c)]

    def up(self, h: Tensor, c: Tensor, tokens: Tokens | None, skips: list[Tensor]) -> Tensor:
        """The output at the next resolution; each block takes the last of the skips off the list."""
        for block, attend in zip(self.blocks, self.attentions, strict=True):
            h = attend(block(torch.cat([h, skips.pop()], 1), c), tokens)
        return h if self.resample is None else self.resample(h, c, skips[-1].shape[2:])


class ResBlock(nn.Module):
    """Twice norm, SiLU and convolution, on a residual branch; the time enters in between.

    Arguments:
        before: Channels of the input.
        after: Channels of the output.
        condition: Width of the embedding of time and conditions; 0 for none.
        adaptive: It scales and shifts after the second norm; without, it is added before.
        change: "down" or "up": the resolution changes before the first convolution.
        dropout: Share of activations dropped in training, before the second convolution.
        groups, eps: Of the group norms.
        dims: 2, or 1.
    """

    def __init__(
        self,
        before: int,
        after: int,
        condition: int,
        *,
        adaptive: bool,
        change: str | None = None,
        dropout: float,
        groups: int,
        eps: float,
        dims: int,
    ) -> None:
        super().__init__()
        self.adaptive, self.change, self.dims = adaptive, change, dims
        self.norm1 = nn.GroupNorm(groups, before, eps)
        self.conv1 = conv(before, after, dims)
        width = 2 * after if adaptive else after
        self.modulation = nn.Linear(condition, width) if condition else None
        self.norm2 = nn.GroupNorm(groups, after, eps)
        self.dropout = nn.Dropout(dropout)
        self.conv2 = zeroed(conv(after, after, dims))  # at first a block is its shortcut
        self.shortcut = nn.Identity() if before == after else nn.Conv2d(before, after, 1)

    def forward(self, x: Tensor, c: Tensor | None = None, size: Size | None = None) -> Tensor:
        """(B, before, H, W) and (B, condition) -> (B, after, H', W').

        Arguments:
            x: The input.
            c: The embedding of time and conditions, if there is one.
            size: H' and W' where the resolution goes up; twice H and W if None.
        """
        h = F.silu(self.norm1(x))
        if self.change == "down":
            h, x = average(h, self.dims), average(x, self.dims)
        elif self.change == "up":
            h, x = repeat(h, self.dims, size), repeat(x, self.dims, size)
        h = self.conv1(h)

        told = None if self.modulation is None else self.modulation(c)[:, :, None, None]
        if told is not None and self.adaptive:
            scale, shift = told.chunk(2, dim=1)
            h = torch.addcmul(shift, self.norm2(h), 1 + scale)
        else:
            h = self.norm2(h if told is None else h + told)
        y: Tensor = self.shortcut(x) + self.conv2(self.dropout(F.silu(h)))
        return y


class Attention(nn.Module):
    """Every pixel attends to every other pixel of its image, and then to its tokens.

    Arguments:
        width: Channels.
        head_channels: Channels of a head; one head if None.
        groups, eps: Of the group norm.
        tokens: Width of the tokens; 0 for none.
    """

    def __init__(
        self, width: int, head_channels: int | None, groups: int, eps: float, tokens: int = 0
    ) -> None:
        super().__init__()
        self.heads = 1 if head_channels is None else width // head_channels
        self.norm = nn.GroupNorm(groups, width, eps)
        self.qkv = nn.Linear(width, 3 * width)
        self.out = zeroed(nn.Linear(width, width))
        self.cross = CrossAttention(width, tokens, self.heads) if tokens else None

    def forward(self, x: Tensor, tokens: Tokens | None = None) -> Tensor:
        B, C, H, W = x.shape
        pixels = self.norm(x).flatten(2).mT  # (B, H W, C), a view of channels-last
        qkv = self.qkv(pixels).view(B, H * W, 3, self.heads, C // self.heads)
        q, k, v = qkv.permute(2, 0, 3, 1, 4)
        h = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(B, H * W, C)
        x = x + self.out(h).mT.view(B, C, H, W)
        if self.cross is not None and tokens is not None:
            x = self.cross(x.flatten(2).mT, tokens).mT.view(B, C, H, W)
        return x


class NoAttention(nn.Identity):
    """Takes the place of `Attention` at resolutions without."""

    def forward(self, x: Tensor, tokens: Tokens | None = None) -> Tensor:
        return x


class Downsample(nn.Module):
    """A convolution of stride 2, to half the side, rounded up.

    Arguments:
        width: Channels.
        dims: 2 for images, 1 for signals.
        centered: Pad both ends, whatever the side; otherwise the first end of odd sides alone.
    """

    def __init__(self, width: int, dims: int, centered: bool) -> None:
        super().__init__()
        self.dims, self.centered = dims, centered
        self.conv = nn.Conv2d(width, width, side(3, dims), side(2, dims))

    def forward(self, x: Tensor, c: Tensor | None = None, size: Size | None = None) -> Tensor:
        # the window of an even side starts at the first pixel, that of an odd side one before it
        before = [1 if self.centered else n % 2 for n in x.shape[2:]]
        pads = [before[1], 1, before[0], 1] if self.dims == 2 else [before[1], 1, 0, 0]
        y: Tensor = self.conv(F.pad(x, pads))
        return y


class Upsample(nn.Module):
    """Nearest-neighbour upsampling to twice the side, then a convolution, computed as one.

    Two neighbours with the same value need one product with the sum of their weights: of a kernel
    (w0, w1, w2), even outputs are (w0, w1 + w2) times the pixels (i - 1, i), and odd ones (w0 + w1, w2)
    times (i, i + 1).

    Arguments:
        width: Channels.
        dims: 2 for images, 1 for signals.
    """

    merge: Tensor

    def __init__(self, width: int, dims: int) -> None:
        super().__init__()
        self.dims = dims
        self.conv = conv(width, width, dims)
        # even or odd output, tap, position in the kernel
        merge = torch.tensor([[[1.0, 0, 0], [0, 1, 1]], [[1, 1, 0], [0, 0, 1]]])
        self.register_buffer("merge", merge, persistent=False)

    def forward(self, x: Tensor, c: Tensor | None = None, size: Size | None = None) -> Tensor:
        B, C, H, W = x.shape
        weight, columns = self.conv.weight, self.merge.to(x.dtype)
        rows = columns if self.dims == 2 else columns.new_ones(1, 1, 1)
        A = len(rows)  # outputs for each input along a column, 2 or 1
        taps = torch.einsum("apk,bql,oikl->aboipq", rows, columns, weight).reshape(-1, C, A, 2)
        taps = taps.contiguous(memory_format=torch.channels_last)

        y: Tensor = F.conv2d(x, taps, padding=(A - 1, 1)).permute(0, 2, 3, 1)
        y = y.reshape(B, H + A - 1, W + 1, A, 2, C)
        y = Interleave.apply(y).view(B, A * H, 2 * W, C)  # type: ignore[no-untyped-call]
        y = y + self.conv.bias.to(y.dtype)  # type: ignore[union-attr]
        y = y.permute(0, 3, 1, 2)  # channels-last again
        return y if size is None else y[:, :, : size[0], : size[1]]


class Interleave(torch.autograd.Function):
    """The outputs for each pixel put side by side: (B, H + A - 1, W + 1, A, 2, C) -> (B, H, A, W, 2, C).

    Its gradient is written once, where that of slices would be summed up.
    """

    generate_vmap_rule = True

    @staticmethod
    def forward(y: Tensor) -> Tensor:
        H, W, A = y.shape[1] - y.shape[3] + 1, y.shape[2] - 1, y.shape[3]
        lines = [
            torch.stack([y[:, a : a + H, b : b + W, a, b] for b in (0, 1)], 3) for a in range(A)
        ]
        return torch.stack(lines, 2)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor], output: Tensor) -> None:
        ctx.shape = inputs[0].shape

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        H, A, W = grad.shape[1:4]
        whole = grad.new_zeros(ctx.shape)
        for a in range(A):
            for b in (0, 1):
                whole[:, a : a + H, b : b + W, a, b] = grad[:, :, a, :, b]
        return whole


def conv(before: int, after: int, dims: int) -> nn.Conv2d:
    """A convolution of kernel 3 that keeps the size."""
    return nn.Conv2d(before, after, side(3, dims), padding=(dims - 1, 1))


def side(n: int, dims: int) -> tuple[int, int]:
    """(n, n), or (1, n) for signals."""
    return (n, n) if dims == 2 else (1, n)


def average(x: Tensor, dims: int) -> Tensor:
    """Means of neighbours, to half the side; the last pixel of an odd side stays alone."""
    window = side(2, dims)
    return F.avg_pool2d(x, window, window, ceil_mode=True)


def repeat(x: Tensor, dims: int, size: Size | None) -> Tensor:
    """Nearest-neighbour upsampling to twice the side, cut to a size."""
    y = F.interpolate(x, scale_factor=[float(n) for n in side(2, dims)], mode="nearest")
    return y if size is None else y[:, :, : size[0], : size[1]]
