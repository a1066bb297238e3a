r"""The U-Net of Ho et al. and Dhariwal & Nichol, for pictures and for signals.

Residual blocks at falling resolutions and back, each block on the way up beside what its counterpart
on the way down gave; self-attention at chosen levels; the time, and a label if there is one, into
every block. `UNet.ddpm` and `UNet.adm` are the two published networks, everything between them is an
argument. Any number of channels, any height and width: a level halves a side and rounds up, and the
way back crops.

Conditions: an image lies beside the input; labels, context and the image's noise are added to the time's
embedding; where pixels attend to one another, they attend to tokens next (`CrossAttention`). How they
are left out is said in `anydiff.denoisers.inputs`.

Weights and activations lie channels-last, in which convolutions, norms and attention need no copy of
them. A signal (dims=1) is a picture one pixel high. Upsampling and the convolution after it are one
convolution of four times the channels at the lower resolution, the same sums in 4/9 of the products.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from anydiff.denoisers.embeddings import FourierTime, SinusoidalTime
from anydiff.denoisers.inputs import (
    check_context,
    check_counts,
    check_image,
    flagged,
    label_rows,
    read_image,
    read_tokens,
)
from anydiff.denoisers.unet.layers import (
    Attention,
    Downsample,
    Level,
    NoAttention,
    ResBlock,
    Size,
    Upsample,
    conv,
    side,
)

__all__ = ["UNet"]


class UNet(nn.Module):
    """A denoiser for pictures (B, C, H, W), or signals (B, C, L) with dims=1.

    Arguments:
        channels: C, of the input.
        widths: Channels of each level, from the full resolution down; each next one has half of it.
        blocks: Residual blocks of a level on the way down; there is one more on the way up.
        attention: The levels with self-attention after every block, from 0; the last if None. The middle
            has it in any case.
        head_channels: Channels of an attention head; one head if None.
        out_channels: Of the output, if not `channels`. Twice as many are a prediction and a learned
            variance, and `forward` returns the two as a tuple.
        time: "sinusoidal", waves of falling frequencies; or "fourier", of random ones.
        steps, shift: Of the sinusoidal waves, see `SinusoidalTime`: T of the chain in whose steps t is
            counted, and which ratio the frequencies have.
        modulation: "add", the time is added between a block's convolutions; or "scale_shift", it
            scales and shifts there (adaptive group norm).
        resample: "conv", strided convolution and nearest neighbours with a convolution; or "block",
            averages and nearest neighbours inside a residual block.
        centered: Strided convolutions see one pixel before and one after. Without, they see as much of
            both sides as TensorFlow's "same", as Ho et al. have it: an even side is padded behind only.
        dropout: Share of activations dropped in training, before the last convolution of a block.
        classes: Number of labels; 0 for none.
        groups, eps: Of the group norms.
        patch: The network sees patches of so many pixels a side as channels: at 2 it costs a quarter.
        dims: 2, or 1.
        context: Columns of conditions; 0 for none.
        tokens: Width of the tokens that the pixels attend to; 0 for none.
        image: Channels of an image beside the input: a smaller one, its greys, classes as one-hot
            channels; 0 for none.

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
        widths = tuple(widths)
        attention = (len(widths) - 1,) if attention is None else tuple(attention)
        check_counts(classes=classes, context=context, tokens=tokens, image=image)
        _check(channels, widths, blocks, attention, head_channels, groups, patch)
        for name, value, known in (
            ("time", time, ("sinusoidal", "fourier")),
            ("modulation", modulation, ("add", "scale_shift")),
            ("resample", resample, ("conv", "block")),
            ("dims", dims, (1, 2)),
        ):
            if value not in known:
                raise ValueError(f"{name} is {value!r}; give {known[0]!r} or {known[1]!r}.")
        self.config: dict[str, Any] = {
            "channels": channels,
            "widths": list(widths),
            "blocks": blocks,
            "attention": list(attention),
            "head_channels": head_channels,
            "out_channels": out_channels,
            "time": time,
            "steps": steps,
            "shift": shift,
            "modulation": modulation,
            "resample": resample,
            "centered": centered,
            "dropout": dropout,
            "classes": classes,
            "groups": groups,
            "eps": eps,
            "patch": patch,
            "dims": dims,
            "context": context,
            "tokens": tokens,
            "image": image,
        }
        self.channels, self.classes, self.dims, self.patch = channels, classes, dims, patch
        self.context, self.tokens, self.image = context, tokens, image
        self.learns_variance = out_channels == 2 * channels

        wide = 4 * widths[0]

        def embed() -> nn.Sequential:
            first = widths[0]
            sinusoidal = time == "sinusoidal"
            waves = SinusoidalTime(first, steps, shift) if sinusoidal else FourierTime(first)
            return nn.Sequential(waves, nn.Linear(first, wide), nn.SiLU(), nn.Linear(wide, wide))

        self.embed_time = embed()
        self.embed_label = nn.Embedding(classes, wide) if classes else None
        self.embed_context = nn.Linear(2 * context, wide) if context else None  # values, flags
        self.embed_image_t = embed() if image else None

        def block(before: int, after: int, change: str | None = None) -> ResBlock:
            return ResBlock(
                before, after, wide,
                adaptive=modulation == "scale_shift", change=change,
                dropout=dropout, groups=groups, eps=eps, dims=dims,
            )  # fmt: skip

        def attend(level: int) -> nn.Module:
            if level not in attention:
                return NoAttention()
            return Attention(widths[level], head_channels, groups, eps, tokens)

        def down(width: int) -> nn.Module:
            return (
                block(width, width, "down")
                if resample == "block"
                else Downsample(width, dims, centered)
            )

        def up(width: int) -> nn.Module:
            return block(width, width, "up") if resample == "block" else Upsample(width, dims)

        last = len(widths) - 1
        cells = patch**dims
        told = image + 1 if image else 0  # and where it is unknown
        self.conv_in = conv((channels + told) * cells, widths[0], dims)
        skips = [widths[0]]  # channels of what is kept for the way up
        self.down = nn.ModuleList()
        for level, width in enumerate(widths):
            stack = []
            for _ in range(blocks):
                stack.append(block(skips[-1], width))
                skips.append(width)
            halve = down(width) if level < last else None
            skips += [width] * (level < last)
            self.down.append(Level(stack, [attend(level) for _ in stack], halve))

        self.mid = nn.ModuleList(
            [
                block(widths[-1], widths[-1]),
                Attention(widths[-1], head_channels, groups, eps, tokens),
                block(widths[-1], widths[-1]),
            ]
        )
        self.up = nn.ModuleList()
        before = widths[-1]
        for level in range(last, -1, -1):
            stack = []
            for _ in range(blocks + 1):
                stack.append(block(before + skips.pop(), widths[level]))
                before = widths[level]
            double = up(before) if level > 0 else None
            self.up.append(Level(stack, [attend(level) for _ in stack], double))

        self.norm_out = nn.GroupNorm(groups, widths[0], eps)
        self.conv_out = conv(widths[0], (out_channels or channels) * cells, dims)
        nn.init.zeros_(self.conv_out.weight)
        nn.init.zeros_(self.conv_out.bias)  # type: ignore[arg-type]
        self.to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    @classmethod
    def ddpm(cls, channels: int = 3, **options: Any) -> UNet:
        """Ho et al.'s network for CIFAR-10, 35.7 million parameters; `options` replace its arguments."""
        published = {
            "widths": (128, 256, 256, 256), "blocks": 2, "attention": (1,), "dropout": 0.1, "groups": 32,
        }  # fmt: skip
        return cls(channels, **{**published, **options})

    @classmethod
    def adm(cls, channels: int = 3, **options: Any) -> UNet:
        """Dhariwal and Nichol's for ImageNet at 64 × 64, with 1,000 labels, 296 million parameters;
        `options` replace its arguments. The published one learns a variance too:
        `out_channels=2 * channels`."""
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
        label: Tensor | None = None,
        context: Tensor | None = None,
        tokens: Tensor | None = None,
        tokens_mask: Tensor | None = None,
        image: Tensor | None = None,
        image_t: Tensor | None = None,
    ) -> Tensor | tuple[Tensor, Tensor]:
        """The prediction, (B, out_channels, H, W); with twice the channels, it and a learned variance.

        Arguments:
            x_t: (B, C, H, W), or (B, C, L) with dims=1.
            t: (B,), times in [0, 1].
            label: (B,) integers in [0, classes), -1 for none.
            context: (B, context), NaN where unknown.
            tokens: (B, L, tokens); a row with a NaN is none.
            tokens_mask: (B, L), True where a token is valid; all are if None.
            image: (B, image, h, w), or (B, image, l) with dims=1; a pixel with a NaN is unknown. Another
                size than that of x_t is resized to it, see `read_image`.
            image_t: (B,), the time in [0, 1] to which the image was noised; 0 if None, or NaN.

        None for a condition is none of it for any item. What a network says without it has learnt from
        batches without, if there were any.
        """
        if x_t.ndim != self.dims + 2 or x_t.shape[1] != self.channels:
            raise ValueError(
                f"x_t is {tuple(x_t.shape)}; this network takes (B, {self.channels}, "
                f"{'L' if self.dims == 1 else 'H, W'})."
            )
        x = x_t.to(self.conv_in.weight.dtype)
        check_context(context, self.context, tuple(t.shape))
        check_image(image, image_t, self.image, len(t), self.dims)
        told = read_tokens(tokens, tokens_mask, len(t), self.tokens, x)

        c = _embed(self.embed_time, t, x.dtype)
        if (named := label_rows(self.embed_label, label, len(t))) is not None:
            c = c + named
        if self.embed_context is not None:
            columns = torch.cat(flagged(context, len(t), self.context, x), 1)
            c = c + self.embed_context(columns)
        if self.embed_image_t is not None:
            clean = torch.zeros_like(t) if image_t is None else image_t
            c = c + _embed(self.embed_image_t, clean.masked_fill(clean.isnan(), 0), x.dtype)
        c = F.silu(c)

        x = x if self.dims == 2 else x[:, :, None]
        size = x.shape[2:]
        if self.image:
            x = torch.cat([x, read_image(image, self.image, x)], 1)
        h = self.conv_in(
            _fold(x, self.patch, self.dims).contiguous(memory_format=torch.channels_last)
        )
        skips = [h]
        level: Any
        for level in self.down:
            for block, attend in zip(level.blocks, level.attentions, strict=True):
                h = attend(block(h, c), told)
                skips.append(h)
            if level.resample is not None:
                h = level.resample(h, c, None)
                skips.append(h)

        first, attend, second = self.mid
        h = second(attend(first(h, c), told), c)

        for level in self.up:
            for block, attend in zip(level.blocks, level.attentions, strict=True):
                h = attend(block(torch.cat([h, skips.pop()], 1), c), told)
            if level.resample is not None:
                h = level.resample(h, c, skips[-1].shape[2:])

        y = self.conv_out(F.silu(self.norm_out(h)))
        y = _unfold(y, self.patch, self.dims, size)
        y = y.contiguous() if self.dims == 2 else y[:, :, 0]
        if not self.learns_variance:
            return y
        y, extra = y.chunk(2, 1)
        return y, extra


def _embed(layers: nn.Sequential, t: Tensor, dtype: torch.dtype) -> Tensor:
    waves, *rest = layers
    c = waves(t).to(dtype)  # of t as it is: 1000 t has more digits than half precision holds
    for layer in rest:
        c = layer(c)
    return c


def _fold(x: Tensor, patch: int, dims: int) -> Tensor:
    """Patches as channels, (B, C, H, W) -> (B, C p p, H / p, W / p); sides are filled up with zeros."""
    if patch == 1:
        return x
    p, q = side(patch, dims)
    x = F.pad(x, [0, -x.shape[3] % q, 0, -x.shape[2] % p])
    B, C, H, W = x.shape
    x = x.view(B, C, H // p, p, W // q, q).permute(0, 1, 3, 5, 2, 4)
    return x.reshape(B, C * p * q, H // p, W // q)


def _unfold(y: Tensor, patch: int, dims: int, size: Size) -> Tensor:
    """What `_fold` did, undone, and cut to the size that it had."""
    if patch == 1:
        return y
    p, q = side(patch, dims)
    B, C, H, W = y.shape
    y = y.reshape(B, C // (p * q), p, q, H, W).permute(0, 1, 4, 2, 5, 3)
    return y.reshape(B, C // (p * q), H * p, W * q)[:, :, : size[0], : size[1]]


def _check(
    channels: int,
    widths: tuple[int, ...],
    blocks: int,
    attention: tuple[int, ...],
    head_channels: int | None,
    groups: int,
    patch: int,
) -> None:
    counts = {"channels": channels, "blocks": blocks, "groups": groups, "patch": patch}
    counts["head_channels"] = 1 if head_channels is None else head_channels
    if not widths or min(*widths, *counts.values()) < 1:
        raise ValueError(
            f"widths are {widths}, {', '.join(f'{k} {v}' for k, v in counts.items())}; give one width or "
            "more, all of them 1 or more."
        )
    if wrong := [w for w in widths if w % groups]:
        raise ValueError(
            f"a width is {wrong[0]}; give multiples of the {groups} groups of the norms."
        )
    if widths[0] % 2:
        raise ValueError(
            f"the first width is {widths[0]}; give an even one, for sines and cosines."
        )
    if wrong := [level for level in attention if not 0 <= level < len(widths)]:
        raise ValueError(f"attention at level {wrong[0]}; there are levels 0 to {len(widths) - 1}.")
    if head_channels is not None and (
        wrong := [widths[k] for k in {*attention, len(widths) - 1} if widths[k] % head_channels]
    ):
        raise ValueError(
            f"a width is {wrong[0]}; where there is attention give multiples of the {head_channels} "
            "channels of a head."
        )
