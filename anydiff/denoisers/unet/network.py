r"""The U-Net of Ho et al. and Dhariwal & Nichol, for images and for signals.

Residual blocks at falling resolutions and back up, where each block also takes the output of its
counterpart on the way down; self-attention at chosen resolutions; the time, and the conditions, enter
every block. `UNet.ddpm` and `UNet.adm` are the two published networks, and everything between them is
an argument. Any number of channels, any height and width: a resolution has half the side of the one
before, rounded up, and the way back crops.

Conditions: an image is concatenated to the input; labels, context and the time of the image's noise are
added to the embedding of the time; where pixels attend to one another, they attend to tokens next
(`CrossAttention`). `anydiff.denoisers.inputs` says how absent conditions are represented.

Weights and activations lie channels-last, so that convolutions, norms and attention need no copies. A
signal (dims=1) is an image one pixel high. Upsampling and the convolution after it are computed as one
convolution of four times the channels at the lower resolution, with 4/9 of the products.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from anydiff.checks import check_choice, check_range, check_shape
from anydiff.denoisers import inputs
from anydiff.denoisers.configured import configured
from anydiff.denoisers.embeddings import FourierTime, SinusoidalTime
from anydiff.denoisers.unet import layers
from anydiff.denoisers.unet.layers import Resolution, Size, conv, side
from anydiff.spaces import Space

__all__ = ["UNet"]

Block = Callable[..., layers.ResBlock]  # (input channels, output channels)
Make = Callable[[int], nn.Module]  # of the number of channels


@configured
class UNet(nn.Module):
    """A denoiser for images (B, C, H, W), or signals (B, C, L) with dims=1.

    Arguments:
        channels: C, of the input.
        widths: Channels at each resolution, from the full one down; each has half the side of the one
            before.
        blocks: Residual blocks at a resolution on the way down; there is one more on the way up.
        attention: The resolutions with self-attention after every block, counted from 0; the last if
            None. The middle always has it.
        head_channels: Channels of an attention head; one head if None.
        out_channels: Of the output, if not `channels`. Twice as many are a prediction and a learned
            variance, and `forward` returns the two as a tuple.
        time: "sinusoidal", waves of falling frequencies; or "fourier", of random ones.
        steps, shift: Of the sinusoidal waves: the number of steps that t is counted in, and the ratio of
            the frequencies, see `SinusoidalTime`.
        modulation: "add", the time is added between a block's convolutions; or "scale_shift", it
            scales and shifts there (adaptive group norm).
        resample: "conv", strided convolution and nearest neighbours with a convolution; or "block",
            averages and nearest neighbours inside a residual block.
        centered: Strided convolutions see one pixel before and one after. Otherwise they pad as
            TensorFlow's "same", as Ho et al. do: an even side behind only.
        dropout: Share of activations dropped in training, before the last convolution of a block.
        classes: Number of labels; 0 for none.
        groups, eps: Of the group norms.
        patch: Side, in pixels, of the patches that enter as channels: 2 costs a quarter of 1.
        dims: 2, or 1.
        context: Columns of conditions; 0 for none.
        tokens: Width of the tokens that the pixels attend to; 0 for none.
        image: Channels of an image beside the input, such as a smaller image, its grey values, or
            classes as one-hot channels; 0 for none.

    Raises:
        ValueError: If an argument is out of its range, or a width is no multiple of `groups` or
            `head_channels`.

    References:
        Denoising Diffusion Probabilistic Models (Ho et al., 2020), appendix B.
        https://arxiv.org/abs/2006.11239

        Diffusion Models Beat GANs on Image Synthesis (Dhariwal & Nichol, 2021), section 3.
        https://arxiv.org/abs/2105.05233

        Image Super-Resolution via Iterative Refinement (Saharia et al., 2021): `image`.
        https://arxiv.org/abs/2104.07636

        Cascaded Diffusion Models (Ho et al., 2022): `image_t`. https://arxiv.org/abs/2106.15282
    """

    def __init__(
        self,
        channels: int = 3,
        widths: Sequence[int] = (32, 64, 128),
        blocks: int = 1,
        attention: Sequence[int] | None = None,
        *,
        head_channels: int | None = None,
        out_channels: int | None = None,
        time: Literal["sinusoidal", "fourier"] = "sinusoidal",
        steps: int = 1000,
        shift: float = 1,
        modulation: Literal["add", "scale_shift"] = "add",
        resample: Literal["conv", "block"] = "conv",
        centered: bool = False,
        dropout: float = 0.0,
        classes: int = 0,
        groups: int = 8,
        eps: float = 1e-6,
        patch: int = 1,
        dims: Literal[1, 2] = 2,
        context: int = 0,
        tokens: int = 0,
        image: int = 0,
    ) -> None:
        super().__init__()
        widths, last = tuple(widths), len(widths) - 1
        attention = (last,) if attention is None else tuple(attention)
        check_range("[0, inf)", classes=classes, context=context, tokens=tokens, image=image)
        check_range("[1, inf)", channels=channels, patch=patch)
        check_range("[1, 1000]", blocks=blocks)
        _check_widths(widths, attention, head_channels, groups)
        check_choice(("sinusoidal", "fourier"), time=time)
        check_choice(("add", "scale_shift"), modulation=modulation)
        check_choice(("conv", "block"), resample=resample)
        check_choice((1, 2), dims=dims)
        self.channels, self.classes, self.dims, self.patch = channels, classes, dims, patch
        self.context, self.tokens, self.image = context, tokens, image
        self.learns_variance = out_channels == 2 * channels

        wide = 4 * widths[0]
        embed = partial(_time_embedding, time, widths[0], steps, shift)
        self.embed_time = embed()
        self.embed_label = nn.Embedding(classes, wide) if classes else None
        self.embed_context = nn.Linear(2 * context, wide) if context else None  # values, flags
        self.embed_image_t = embed() if image else None

        cells, extra = patch**dims, image + 1 if image else 0  # the image and its flags
        self.conv_in = conv((channels + extra) * cells, widths[0], dims)
        block = partial(
            layers.ResBlock, condition=wide, adaptive=modulation == "scale_shift",
            dropout=dropout, groups=groups, eps=eps, dims=dims,
        )  # fmt: skip
        attend = partial(
            layers.Attention, head_channels=head_channels, groups=groups, eps=eps, tokens=tokens
        )
        attends = [attend if k in attention else layers.NoAttention for k in range(len(widths))]
        halve: Make = partial(layers.Downsample, dims=dims, centered=centered)
        double: Make = partial(layers.Upsample, dims=dims)
        if resample == "block":
            halve, double = (partial(_changing, block, change) for change in ("down", "up"))
        down, up = _input_channels(widths, blocks)
        self.down = nn.ModuleList(
            Resolution(down[k], widths[k], block, attends[k], halve if k < last else None)
            for k in range(len(widths))
        )
        deep = widths[-1]
        self.mid = nn.ModuleList([block(deep, deep), attend(deep), block(deep, deep)])
        self.up = nn.ModuleList(
            Resolution(up[k], widths[k], block, attends[k], double if k > 0 else None)
            for k in range(last, -1, -1)
        )

        self.norm_out = nn.GroupNorm(groups, widths[0], eps)
        self.conv_out = inputs.zeroed(conv(widths[0], (out_channels or channels) * cells, dims))
        self.to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    @classmethod
    def ddpm(cls, channels: int = 3, **options: Any) -> UNet:
        """The network of Ho et al. for CIFAR-10, with 35.7 million parameters.

        Arguments:
            channels: C, of the input.
            **options: Other arguments of the constructor, in place of the published ones.
        """
        published = {
            "widths": (128, 256, 256, 256), "blocks": 2, "attention": (1,), "dropout": 0.1, "groups": 32,
        }  # fmt: skip
        return cls(channels, **{**published, **options})

    @classmethod
    def adm(cls, channels: int = 3, **options: Any) -> UNet:
        """The network of Dhariwal & Nichol for ImageNet at 64 × 64, with 296 million parameters.

        It takes one of 1,000 labels. The published one also learns a variance: `out_channels=6`.

        Arguments:
            channels: C, of the input.
            **options: Other arguments of the constructor, in place of the published ones.
        """
        published = {
            "widths": (192, 384, 576, 768), "blocks": 3, "attention": (1, 2, 3), "dropout": 0.1,
            "head_channels": 64, "modulation": "scale_shift", "resample": "block",
            "shift": 0, "classes": 1000, "groups": 32, "eps": 1e-5,
        }  # fmt: skip
        return cls(channels, **{**published, **options})

    def forward(
        self,
        x_t: Tensor,
        t: Tensor,
        *,
        space: Space | None = None,
        label: Tensor | None = None,
        context: Tensor | None = None,
        tokens: Tensor | None = None,
        tokens_mask: Tensor | None = None,
        image: Tensor | None = None,
        image_t: Tensor | None = None,
    ) -> Tensor | tuple[Tensor, Tensor]:
        """The prediction.

        Leaving a condition out marks it absent for every item. The network answers sensibly without a
        condition if it was trained with batches or items without.

        Arguments:
            x_t: (B, C, H, W), or (B, C, L) with dims=1.
            t: (B,), times in [0, 1].
            space: The batch's space, which changes nothing: every pixel is read. The diffusion projects
                what is returned.
            label: (B,) integers in [0, classes), -1 for no label.
            context: (B, context), NaN where unknown.
            tokens: (B, L, tokens); a row with a NaN is ignored.
            tokens_mask: (B, L), True where a token is valid; all are if None.
            image: (B, image, h, w), or (B, image, l) with dims=1; a pixel with a NaN is unknown. It is
                resized to the size of x_t, see `read_image`.
            image_t: (B,), the time in [0, 1] to which the image was noised; 0 if None, or NaN.

        Returns:
            (B, out_channels, H, W), or (B, out_channels, L). If `out_channels` is twice `channels`, a
            tuple of the prediction and a learned variance, both shaped like x_t.

        Raises:
            ValueError: If the inputs do not fit each other or the network.
        """
        shape = None, self.channels, *[None] * self.dims
        check_shape(
            shape, f"the network has {self.channels} channels and dims={self.dims}", x_t=x_t
        )
        x = x_t.to(self.conv_in.weight.dtype)
        inputs.check_context(context, self.context, tuple(t.shape))
        inputs.check_image(image, image_t, self.image, t.shape[0], self.dims)
        read = inputs.read_tokens(tokens, tokens_mask, t.shape[0], self.tokens, x)
        c = F.silu(self._embedding(t, label, context, image_t))

        x = x if self.dims == 2 else x[:, :, None]
        size = x.shape[2:]
        if self.image:
            x = torch.cat([x, inputs.read_image(image, self.image, x)], 1)
        x = _fold(x, self.patch, self.dims).contiguous(memory_format=torch.channels_last)
        states = [self.conv_in(x)]
        level: Any
        for level in self.down:
            states += level.down(states[-1], c, read)
        first, attend, second = self.mid
        h = second(attend(first(states[-1], c), read), c)
        for level in self.up:
            h = level.up(h, c, read, states)

        y = self.conv_out(F.silu(self.norm_out(h)))
        y = _unfold(y, self.patch, self.dims, size)
        y = y.contiguous() if self.dims == 2 else y[:, :, 0]
        C = x_t.shape[1]
        return (y[:, :C], y[:, C:]) if self.learns_variance else y

    def _embedding(
        self, t: Tensor, label: Tensor | None, context: Tensor | None, image_t: Tensor | None
    ) -> Tensor:
        """The embedding of the time and of all conditions but pixels and tokens, (B, 4 widths[0])."""
        like = self.conv_in.weight
        label_rows = inputs.label_rows(self.embed_label, label, t.shape[0])
        c = inputs.added(_embed(self.embed_time, t, like.dtype), label_rows)
        if self.embed_context is not None:
            columns = inputs.flagged(context, t.shape[0], self.context, like)
            c = c + self.embed_context(torch.cat(columns, 1))
        if self.embed_image_t is not None:
            clean = torch.zeros_like(t) if image_t is None else image_t
            c = c + _embed(self.embed_image_t, clean.masked_fill(clean.isnan(), 0), like.dtype)
        return c


def _time_embedding(kind: str, width: int, steps: int, shift: float) -> nn.Sequential:
    waves = SinusoidalTime(width, steps, shift) if kind == "sinusoidal" else FourierTime(width)
    wide = 4 * width
    return nn.Sequential(waves, nn.Linear(width, wide), nn.SiLU(), nn.Linear(wide, wide))


def _embed(embedding: nn.Sequential, t: Tensor, dtype: torch.dtype) -> Tensor:
    waves, *rest = embedding
    # of t in its own precision: 1000 t has more digits than half precision holds
    c: Tensor = waves(t).to(dtype)
    for layer in rest:
        c = layer(c)
    return c


def _changing(block: Block, change: str, width: int) -> layers.ResBlock:
    return block(width, width, change=change)


def _input_channels(widths: Size, blocks: int) -> tuple[list[list[int]], list[list[int]]]:
    """The input channels of every block of each resolution, on the way down and on the way up."""
    down, up, last = [], [], len(widths) - 1
    states = [widths[0]]  # channels of what the way down leaves for the blocks of the way up
    for k, width in enumerate(widths):
        down.append([states[-1], *[width] * (blocks - 1)])
        states += [width] * (blocks + (k < last))
    for k in range(last, -1, -1):
        entering = [widths[min(k + 1, last)], *[widths[k]] * blocks]
        up.append([channels + states.pop() for channels in entering])
    return down, up[::-1]


def _fold(x: Tensor, patch: int, dims: int) -> Tensor:
    """Patches as channels, (B, C, H, W) -> (B, C p p, H / p, W / p); sides are padded with zeros."""
    if patch == 1:
        return x
    p, q = side(patch, dims)
    x = F.pad(x, [0, -x.shape[3] % q, 0, -x.shape[2] % p])
    B, C, H, W = x.shape
    x = x.view(B, C, H // p, p, W // q, q).permute(0, 1, 3, 5, 2, 4)
    return x.reshape(B, C * p * q, H // p, W // q)


def _unfold(y: Tensor, patch: int, dims: int, size: Size) -> Tensor:
    """The inverse of `_fold`, cut to the size before it."""
    if patch == 1:
        return y
    p, q = side(patch, dims)
    B, C, H, W = y.shape
    y = y.reshape(B, C // (p * q), p, q, H, W).permute(0, 1, 4, 2, 5, 3)
    return y.reshape(B, C // (p * q), H * p, W * q)[:, :, : size[0], : size[1]]


def _check_widths(widths: Size, attention: Size, head: int | None, groups: int) -> None:
    check_range("[1, inf)", groups=groups, head_channels=1 if head is None else head)
    check_range("[1, inf)", number_of_widths=len(widths), smallest_width=min(widths, default=1))
    for level in attention:
        check_range(f"[0, {len(widths) - 1}]", attention=level)
    if widths[0] % 2:
        raise ValueError(f"the first width is {widths[0]}; it is even, for sines and cosines.")
    divisors = [(width, groups, "groups of the norms") for width in widths]
    if head is not None:
        attending = [widths[k] for k in {*attention, len(widths) - 1}]
        divisors += [(width, head, "channels of an attention head") for width in attending]
    for width, divisor, what in divisors:
        if width % divisor:
            raise ValueError(f"a width is {width}; give multiples of the {divisor} {what}.")
