"""Conditions: what a network is given besides x_t and t, and how a missing one is marked.

A condition is absent item by item, or entry by entry, without a mask of its own:

    label     integers               -1 is no label
    context   numbers                NaN is unknown
    tokens    rows of an encoder     a row with a NaN is ignored
    image     pixels                 a pixel with a NaN is unknown

Leaving a condition out marks it absent for every item; the result is the same. Unknown numbers enter a
network as 0, beside a flag of 0 or 1. Whatever depends on values is a tensor operation, never a branch,
so that nothing is read from the device and a network compiles into one graph. For the same reason
labels are not compared with the number of classes; on a CPU the embedding does that.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from math import gcd
from typing import Any, NamedTuple, TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from anydiff.checks import check_range, check_shape

__all__ = [
    "Conditioned", "Conditions", "CrossAttention", "Tokens", "added", "check_context",
    "check_image", "flagged", "label_rows", "read_image", "read_tokens", "zeroed",
]  # fmt: skip

Module = TypeVar("Module", bound=nn.Module)


def zeroed(module: Module) -> Module:
    """The module with all its parameters at zero, so that at first it contributes nothing."""
    for parameter in module.parameters():
        nn.init.zeros_(parameter)
    return module


def check_absent(option: str, **given: Tensor | None) -> None:
    """Check that a network that was built without a condition is not given it.

    Arguments:
        option: The argument of the constructor that is 0.
        given: What was given to `forward`, by its names.

    Raises:
        ValueError: If something was given.
    """
    for name, value in given.items():
        if value is not None:
            raise ValueError(
                f"{name} is {tuple(value.shape)} but the network was built with {option}=0; leave it "
                "out, or build one that takes it."
            )


def added(x: Tensor, *terms: Tensor | None) -> Tensor:
    """x plus those of the terms that are not None."""
    for term in terms:
        x = x if term is None else x + term
    return x


def label_rows(embedding: nn.Embedding | None, label: Tensor | None, items: int) -> Tensor | None:
    """The embeddings of labels.

    Arguments:
        embedding: Of the network's classes; None in a network without.
        label: (B,) integers, -1 for no label.
        items: B, the items of the batch.

    Returns:
        (B, F), zero where the label is -1; None without labels.

    Raises:
        ValueError: If there is not one integer for each item, or the network has no classes.
    """
    if label is None or embedding is None:
        check_absent("classes", label=label)
        return None
    check_shape((items,), "give one label for each item", label=label)
    if label.is_floating_point() or label.dtype == torch.bool:
        raise ValueError(f"the label is of {label.dtype}; give integers, -1 for none.")
    label = label.long()  # from a file, they may be of a byte each
    known = (label >= 0).to(embedding.weight.dtype)[:, None]
    rows: Tensor = embedding(label.clamp(min=0))
    return known * rows


def check_context(context: Tensor | None, columns: int, *leading: tuple[int, ...]) -> None:
    """Check the shape of a context.

    Arguments:
        context: (\\*leading, columns), or None.
        columns: The number that the network was built with.
        leading: The leading shapes that are allowed.

    Raises:
        ValueError: If its shape is another.
    """
    if context is None or not columns:
        return check_absent("context", context=context)
    shapes = [(*shape, columns) for shape in dict.fromkeys(leading)]
    if tuple(context.shape) not in shapes:
        ways = " or ".join(map(str, shapes))
        raise ValueError(f"context is {tuple(context.shape)}; give {ways} to this network.")


def flagged(
    context: Tensor | None, items: int, columns: int, like: Tensor
) -> tuple[Tensor, Tensor]:
    """The context with 0 in place of unknown numbers, and its flags, 1 where a number is unknown.

    Both are shaped like the context; (items, columns) if it is None, that is wholly unknown.

    Arguments:
        context: (…, columns), NaN where a number is unknown; None if all are.
        items: B.
        columns: Of the context.
        like: Gives the dtype and the device.
    """
    if context is None:
        return like.new_zeros(items, columns), like.new_ones(items, columns)
    context = context.to(like.dtype)
    unknown = context.isnan()
    return context.masked_fill(unknown, 0), unknown.to(like.dtype)


class Tokens(NamedTuple):
    """What the rows of each item may attend to.

    Arguments:
        rows: (B, L, W), zero where a token is ignored.
        mask: (B, 1, 1, 1 + L), True where a token is valid; the first is the null token.
    """

    rows: Tensor
    mask: Tensor


def read_tokens(
    tokens: Tensor | None, mask: Tensor | None, items: int, width: int, like: Tensor
) -> Tokens | None:
    """Check tokens and their mask.

    Arguments:
        tokens: (B, L, width); a row with a NaN is ignored.
        mask: (B, L), True where a token is valid; all are if None.
        items: B, the items of the batch.
        width: Of the tokens, which the network was built with.
        like: Its dtype is that of the result.

    Returns:
        The tokens; None for a network without, of width 0.

    Raises:
        ValueError: If they do not fit each other, the batch, or the network's width.
    """
    if not width:
        check_absent("tokens", tokens=tokens, tokens_mask=mask)
        return None
    if tokens is None:
        if mask is not None:
            raise ValueError(
                "tokens_mask is given and there are no tokens; leave both out for none."
            )
        tokens = like.new_zeros(items, 0, width)
    check_shape((items, None, width), f"the network has tokens={width}", tokens=tokens)
    check_shape(tokens.shape[:2], "it is True where a token is valid", torch.bool, tokens_mask=mask)
    valid = ~tokens.isnan().any(2)
    if mask is not None:
        valid = valid & mask
    rows = tokens.to(like.dtype).masked_fill(~valid[..., None], 0)
    return Tokens(rows, F.pad(valid, (1, 0), value=True)[:, None, None])


class CrossAttention(nn.Module):
    r"""Rows attend to the tokens of their item, on a residual branch.

    .. math:: h \mathrel{+}= O\, \mathrm{softmax}(Q\, LN(h)\, K^\top / \sqrt d)\, V, \qquad
              K, V = W\, [\text{null}, \text{tokens}]

    The null token is learned and always present: an item without tokens attends to it alone. O starts
    at zero. Tokens should be of order one, as they are after the last norm of an encoder.

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
        self.out = zeroed(nn.Linear(width, width))

    def forward(self, h: Tensor, tokens: Tokens) -> Tensor:
        """(B, N, width) -> (B, N, width)."""
        B, N, C = h.shape
        null = self.null.to(tokens.rows.dtype).expand(B, 1, -1)
        rows = torch.cat([null, tokens.rows], 1)
        q = self.q(self.norm(h)).view(B, N, self.heads, -1).transpose(1, 2)
        k, v = self.kv(rows).view(B, -1, 2, self.heads, C // self.heads).permute(2, 0, 3, 1, 4)
        y = F.scaled_dot_product_attention(q, k, v, attn_mask=tokens.mask)
        out: Tensor = self.out(y.transpose(1, 2).reshape(B, N, C))
        return h + out


class Conditions(NamedTuple):
    """The conditions of a batch as a network on rows reads them.

    Arguments:
        label: (B, hidden), the embeddings of the labels.
        context: (…, columns), one row for each row of x_t, 0 where unknown.
        flags: (…, F), what is added to the first features where the context is unknown.
        tokens: What rows may attend to.
        given: The context as it was given, (B, columns) or for each row, 0 where unknown, and its flags.
    """

    label: Tensor | None
    context: Tensor
    flags: Tensor | None
    tokens: Tokens | None
    given: tuple[Tensor, Tensor]


class Conditioned(nn.Module, ABC):
    """A network on rows that takes labels, context and tokens: the modules that read them.

    A subclass calls `_build_readers` in its constructor, and `_read` in its forward.

    Arguments:
        context: Columns of the context; 0 for none.
        classes: Number of labels; 0 for none.
        tokens: Width of the tokens; 0 for none.

    Raises:
        ValueError: If a number is below 0.
    """

    embed_label: nn.Embedding | None
    unknown: nn.Linear | None
    crosses: nn.ModuleList

    def __init__(self, context: int, classes: int, tokens: int) -> None:
        super().__init__()
        check_range("[0, inf)", context=context, classes=classes, tokens=tokens)
        self.context, self.classes, self.tokens = context, classes, tokens

    def _build_readers(
        self, width: int, layers: int, heads: int | None = None, flags: int | None = None
    ) -> None:
        """The modules that read the conditions; flags and tokens have no effect at first.

        Arguments:
            width: Of the rows.
            layers: How many times the rows attend to the tokens.
            heads: Of the attention; four if None, or as many as divide the width.
            flags: Width of what the flags of unknown context are added to, if not `width`.
        """
        self.embed_label = nn.Embedding(self.classes, width) if self.classes else None
        linear = nn.Linear(self.context, flags or width, bias=False) if self.context else None
        self.unknown = None if linear is None else zeroed(linear)
        self.crosses = nn.ModuleList(
            CrossAttention(width, self.tokens, heads or gcd(width, 4))
            for _ in range(layers if self.tokens else 0)
        )

    def _read(
        self, x_t: Tensor, t: Tensor, spread: Callable[[Tensor], Tensor], *given: Tensor | None
    ) -> Conditions:
        """Read label, context, tokens and tokens_mask; `spread` makes a context row for each of x_t."""
        label, context, tokens, tokens_mask = given
        as_given = flagged(context, t.shape[0], self.context, x_t)
        values, unknown = map(spread, as_given)
        return Conditions(
            label_rows(self.embed_label, label, t.shape[0]),
            values,
            None if self.unknown is None else self.unknown(unknown),
            read_tokens(tokens, tokens_mask, t.shape[0], self.tokens, x_t),
            as_given,
        )

    @abstractmethod
    def _predict(self, x_t: Tensor, t: Tensor, space: Any, cond: Conditions) -> Tensor:
        """What `forward` returns, from inputs that are checked and conditions that are read."""


def check_image(
    image: Tensor | None, image_t: Tensor | None, channels: int, items: int, dims: int
) -> None:
    """Check that an image and its times fit the batch and the network.

    Arguments:
        image: (B, channels, h, w), or (B, channels, l) with dims=1; or None.
        image_t: (B,), or None.
        channels: The number that the network was built with.
        items: B, the items of the batch.
        dims: 2, or 1.

    Raises:
        ValueError: If one of them does not fit.
    """
    if not channels:
        check_absent("image", image=image, image_t=image_t)
    shape = items, channels, *[None] * dims
    check_shape(shape, f"the network was built with image={channels}", image=image)
    check_shape((items,), "give a time for each image", image_t=image_t)


def read_image(image: Tensor | None, channels: int, x_t: Tensor) -> Tensor:
    """An image at the size of x_t, and a flag for each pixel.

    An image of another size is resized by bilinear interpolation, as in SR3; where it is much larger,
    pixels in between are skipped, so average it first. A pixel that is interpolated from an unknown one
    is unknown.

    Arguments:
        image: (B, channels, h, w), or (B, channels, l) of a signal; a pixel with a NaN is unknown, and
            all are if None.
        channels: Of the image.
        x_t: (B, C, H, W).

    Returns:
        (B, channels + 1, H, W): the image, 0 where it is unknown, and the flag, 1 there.

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
