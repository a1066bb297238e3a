"""What networks are told besides x_t and t, and how they are told that it is absent.

A condition is absent item by item, or entry by entry, without another mask:

    label     integers               -1 is none
    context   numbers                a NaN is unknown
    tokens    rows of an encoder     a row with a NaN is no row
    image     pixels                 a pixel with a NaN is unknown

and None, the condition left out, is all of it absent: the same function. Unknown numbers enter as 0,
beside a flag of 0 or 1. What depends on data is a tensor operation and no branch, so that nothing is
read from the device and a network compiles as one graph. Labels are not compared with the number of
classes for the same reason; the embedding of a CPU does it.
"""

from __future__ import annotations

from math import gcd
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

__all__ = [
    "CrossAttention",
    "Tokens",
    "check_context",
    "check_counts",
    "check_image",
    "flagged",
    "flags_map",
    "heads_of",
    "label_rows",
    "read_image",
    "read_tokens",
]


def check_counts(**counts: int) -> None:
    """That a constructor's numbers of classes, columns, … are no less than 0."""
    what = {"classes": "labels", "context": "columns", "tokens": "a token's numbers"}
    for name, value in counts.items():
        if value < 0:
            raise ValueError(
                f"{name} is {value}; give the number of {what.get(name, 'channels')}, 0 for none."
            )


def label_rows(embedding: nn.Embedding | None, label: Tensor | None, items: int) -> Tensor | None:
    """The embeddings of the labels (B,), zero for -1, (B, F); None without labels.

    Raises:
        ValueError: If there is not one integer for each item, or the network has no classes.
    """
    if label is None:
        return None
    if embedding is None or label.shape != (items,):
        classes = 0 if embedding is None else embedding.num_embeddings
        raise ValueError(
            f"the label is {tuple(label.shape)} for {items} items, and the network was built "
            f"with classes={classes}; give one label for each, to a network of classes."
        )
    if label.is_floating_point() or label.dtype == torch.bool:
        raise ValueError(f"the label is of {label.dtype}; give integers, -1 for none.")
    known = (label >= 0).to(embedding.weight.dtype)[:, None]
    return known * embedding(label.clamp(min=0))


def check_context(context: Tensor | None, columns: int, *leading: tuple[int, ...]) -> None:
    """That a context is of so many columns, and of one of the shapes (*leading, columns)."""
    if context is None:
        return
    ways = " or ".join(str((*shape, columns)) for shape in dict.fromkeys(leading))
    given = context.shape[-1] if context.ndim else 0
    if given != columns or columns == 0:
        raise ValueError(
            f"context has {given} columns but the network was built with context={columns}; "
            + (f"give {ways}." if columns else "leave it out, or build one with as many.")
        )
    if tuple(context.shape[:-1]) not in leading:
        raise ValueError(f"context is {tuple(context.shape)}; give {ways}.")


def flagged(
    context: Tensor | None, items: int, columns: int, like: Tensor
) -> tuple[Tensor, Tensor]:
    """The context with 0 for what is unknown, and 1 there; (items, columns) of both without any."""
    if context is None:
        return like.new_zeros(items, columns), like.new_ones(items, columns)
    context = context.to(like.dtype)
    unknown = context.isnan()
    return context.masked_fill(unknown, 0), unknown.to(like.dtype)


def flags_map(columns: int, width: int) -> nn.Linear | None:
    """What a network with so many columns of context does with the flags: nothing at first."""
    if not columns:
        return None
    linear = nn.Linear(columns, width, bias=False)
    nn.init.zeros_(linear.weight)
    return linear


class Tokens(NamedTuple):
    """What the items' rows may attend to."""

    rows: Tensor  # (B, L, W), zero where there is none
    mask: Tensor  # (B, 1, 1, 1 + L), True where there is one; the first is that of nothing


def read_tokens(
    tokens: Tensor | None, mask: Tensor | None, items: int, width: int, like: Tensor
) -> Tokens | None:
    """Tokens (B, L, width) with their mask (B, L), checked; None for a network without.

    Raises:
        ValueError: If they don't fit each other, the batch, or the network's width.
    """
    given = mask if tokens is None else tokens
    if given is not None and not width:
        raise ValueError(
            f"tokens are {tuple(given.shape)} but the network was built with tokens=0; build it with "
            "the tokens' width, or leave them and tokens_mask out."
        )
    if tokens is None and mask is not None:
        raise ValueError(
            f"tokens_mask is {tuple(mask.shape)} and there are no tokens; leave both out for none."
        )
    if not width:
        return None
    if tokens is None:
        tokens = like.new_zeros(items, 0, width)
    if tokens.ndim != 3 or tokens.shape[0] != items or tokens.shape[2] != width:
        raise ValueError(
            f"tokens are {tuple(tokens.shape)}; expected ({items}, L, {width}), as the network was "
            f"built with tokens={width}."
        )
    if mask is not None and (mask.shape != tokens.shape[:2] or mask.dtype != torch.bool):
        raise ValueError(
            f"tokens_mask is {tuple(mask.shape)} of {mask.dtype}; give a boolean tensor "
            f"{tuple(tokens.shape[:2])} that is True where a token is valid."
        )
    valid = ~tokens.isnan().any(2)
    if mask is not None:
        valid = valid & mask
    rows = tokens.to(like.dtype).masked_fill(~valid[..., None], 0)
    return Tokens(rows, F.pad(valid, (1, 0), value=True)[:, None, None])


class CrossAttention(nn.Module):
    r"""Rows attend to the tokens of their item, beside the input.

    .. math:: h \mathrel{+}= O\, \mathrm{softmax}(Q\, LN(h)\, K^\top / \sqrt d)\, V, \qquad
              K, V = W\, [\text{null}, \text{tokens}]

    The null token is learned and always there: an item without tokens attends to it alone. O starts at
    zero. Tokens should be of order one, which an encoder's last norm sees to.

    Arguments:
        width: Of the rows.
        tokens: Width of a token.
        heads: A divisor of `width`.

    References:
        High-Resolution Image Synthesis with Latent Diffusion Models (Rombach et al., 2022), section 3.3.
        https://arxiv.org/abs/2112.10752
    """

    def __init__(self, width: int, tokens: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm = nn.LayerNorm(width)
        self.null = nn.Parameter(torch.zeros(tokens))
        self.q = nn.Linear(width, width)
        self.kv = nn.Linear(tokens, 2 * width)
        self.out = nn.Linear(width, width)
        nn.init.zeros_(self.out.weight)
        nn.init.zeros_(self.out.bias)

    def forward(self, h: Tensor, tokens: Tokens) -> Tensor:
        """(B, N, width) -> (B, N, width)."""
        B, N, C = h.shape
        null = self.null.to(tokens.rows.dtype).expand(B, 1, -1)
        rows = torch.cat([null, tokens.rows], 1)
        q = self.q(self.norm(h)).view(B, N, self.heads, -1).transpose(1, 2)
        k, v = self.kv(rows).view(B, -1, 2, self.heads, C // self.heads).permute(2, 0, 3, 1, 4)
        y = F.scaled_dot_product_attention(q, k, v, attn_mask=tokens.mask)
        return h + self.out(y.transpose(1, 2).reshape(B, N, C))


def heads_of(width: int) -> int:
    """Four, or as many as divide the width."""
    return gcd(width, 4)


def check_image(
    image: Tensor | None, image_t: Tensor | None, channels: int, items: int, dims: int
) -> None:
    """That an image and its times fit the batch, and a network of so many channels and axes."""
    for name, value in (("image", image), ("image_t", image_t)):
        if value is not None and not channels:
            raise ValueError(
                f"{name} is {tuple(value.shape)} but the network was built with image=0; build it with "
                "the image's channels, or leave image and image_t out."
            )
    if image is not None and (image.ndim != dims + 2 or image.shape[:2] != (items, channels)):
        raise ValueError(
            f"image is {tuple(image.shape)}; expected ({items}, {channels}, "
            f"{'l' if dims == 1 else 'h, w'}), as the network was built with image={channels}."
        )
    if image_t is not None and image_t.shape != (items,):
        raise ValueError(
            f"image_t is {tuple(image_t.shape)}; expected ({items},), a time for each image."
        )


def read_image(image: Tensor | None, channels: int, x_t: Tensor) -> Tensor:
    """An image (B, channels, h, w), or (B, channels, l) of one pixel's height, in the size of x_t
    (B, C, H, W), and 1 where it is unknown.

    Another size is brought to x_t's by bilinear interpolation, as SR3 does; of a larger one every other
    pixel may go unseen, so average it first. A pixel that an unknown one enters is unknown.

    Returns:
        (B, channels + 1, H, W).

    References:
        Image Super-Resolution via Iterative Refinement (Saharia et al., 2021).
        https://arxiv.org/abs/2104.07636
    """
    B, _, *size = x_t.shape
    if image is None:
        nothing = x_t.new_zeros(B, channels, *size)
        return torch.cat([nothing, x_t.new_ones(B, 1, *size)], 1)
    image = (image if image.ndim == 4 else image[:, :, None]).to(x_t.dtype)
    if list(image.shape[2:]) != size:
        image = F.interpolate(image, size, mode="bilinear")
    unknown = image.isnan().any(1, keepdim=True)
    return torch.cat([image.masked_fill(unknown, 0), unknown.to(x_t.dtype)], 1)
