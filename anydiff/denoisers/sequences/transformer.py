r"""A Transformer for padded sequences: every row attends to every other of its item.

It is PyTorch's own encoder (norms first, GELU). A row enters as a linear map of its numbers, plus
sines and cosines of how many rows come before it and after it, plus an embedding of t, which also
scales and shifts the last norm. The last map starts at zero beside a learned multiple of the input.

After each layer the rows may attend to tokens of the item's own, a text's for instance
(`CrossAttention`). How the conditions are left out is said in `anydiff.denoisers.inputs`.

Rows beyond an item's length are attended by none; an item's output is the same alone and in a
batch. The cost grows with the square of the length. It leaves out relative positions: a network
that was trained on short sequences should not be asked for long ones.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn

from anydiff.denoisers.embeddings import time_features
from anydiff.denoisers.inputs import (
    CrossAttention,
    check_counts,
    flags_map,
    label_rows,
    read_tokens,
)
from anydiff.denoisers.sequences.padded import padded_input
from anydiff.spaces import Dense, Masked

__all__ = ["Transformer"]


def waves(n: Tensor, features: int) -> Tensor:
    """sin(w n) and cos(w n) for w from 1 to 1/1000 in equal ratios, (B, N) -> (B, N, features)."""
    half = features // 2
    powers = torch.arange(half, dtype=n.dtype, device=n.device) / max(half - 1, 1)
    angles = n[..., None] * torch.exp(-math.log(1000) * powers)
    return torch.cat([torch.sin(angles), torch.cos(angles)], dim=2)


class Transformer(nn.Module):
    """A denoiser for padded sequences (B, N, C).

    Arguments:
        channels: C, the numbers in a row.
        hidden: Width, a multiple of 4 and of `heads`.
        layers: Number of attention layers.
        heads: Heads of each.
        expansion: Width of the layers' MLPs as a multiple of `hidden`.
        dropout: Share of activations dropped in training.
        observed: The batches have missing values: the mask ``space.observed`` is a further input.
        context: Columns of conditions.
        classes: Number of labels; 0 for none.
        tokens: Width of the tokens that the rows attend to; 0 for none.

    References:
        Attention Is All You Need (Vaswani et al., 2017). https://arxiv.org/abs/1706.03762

        On Layer Normalization in the Transformer Architecture (Xiong et al., 2020): norms first.
        https://arxiv.org/abs/2002.04745
    """

    def __init__(
        self,
        channels: int,
        hidden: int = 128,
        layers: int = 4,
        heads: int = 4,
        *,
        expansion: int = 4,
        dropout: float = 0.0,
        observed: bool = False,
        context: int = 0,
        classes: int = 0,
        tokens: int = 0,
    ) -> None:
        super().__init__()
        check_counts(context=context, classes=classes, tokens=tokens)
        if hidden % 4 or hidden % heads:
            raise ValueError(
                f"hidden is {hidden}; give a multiple of 4, for the waves of the positions, and of "
                f"the {heads} heads."
            )
        self.config: dict[str, Any] = {
            "channels": channels,
            "hidden": hidden,
            "layers": layers,
            "heads": heads,
            "expansion": expansion,
            "dropout": dropout,
            "observed": observed,
            "context": context,
            "classes": classes,
            "tokens": tokens,
        }
        self.channels, self.hidden = channels, hidden
        self.observed, self.context, self.tokens = observed, context, tokens

        def layer() -> nn.TransformerEncoderLayer:
            return nn.TransformerEncoderLayer(
                hidden,
                heads,
                expansion * hidden,
                dropout,
                activation="gelu",
                batch_first=True,
                norm_first=True,
            )

        self.time = nn.Sequential(nn.Linear(25, hidden), nn.SiLU(), nn.Linear(hidden, hidden))
        self.embedding = nn.Linear(channels * (1 + observed) + context, hidden)
        # nested tensors would take another way in eval mode than in training
        self.encoder = nn.TransformerEncoder(layer(), layers, enable_nested_tensor=False)
        # the encoder copies its layer, weights included
        self.encoder.layers = nn.ModuleList(layer() for _ in range(layers))
        self.norm = nn.LayerNorm(hidden, elementwise_affine=False)
        self.film = nn.Linear(hidden, 2 * hidden)
        self.head = nn.Linear(hidden, channels)
        self.skip = nn.Linear(hidden, channels)
        # nothing at first
        for module in (self.film, self.head, self.skip):
            nn.init.zeros_(module.weight)
            nn.init.zeros_(module.bias)
        self.embed_label = nn.Embedding(classes, hidden) if classes else None
        self.unknown = flags_map(context, hidden)
        self.crosses = nn.ModuleList(
            CrossAttention(hidden, tokens, heads) for _ in range(layers if tokens else 0)
        )

    def forward(
        self,
        x_t: Tensor,
        t: Tensor,
        *,
        space: Masked | Dense | None = None,
        label: Tensor | None = None,
        context: Tensor | None = None,
        tokens: Tensor | None = None,
        tokens_mask: Tensor | None = None,
    ) -> Tensor:
        """The prediction, shaped like x_t; zero outside the space.

        Arguments:
            x_t: (B, N, C), zero at padding. An item's valid rows are its first ones.
            t: (B,), times in [0, 1].
            space: The batch's space; without one, all rows of all items are valid.
            label: (B,) integers in [0, classes), -1 for none.
            context: (B, context) or (B, N, context), NaN where unknown.
            tokens: (B, L, tokens); a row with a NaN is none.
            tokens_mask: (B, L), True where a token is valid; all are if None.

        None for a condition is none of it for any item, in a network that was built with it.
        """
        x_t, space, more, unknown = padded_input(
            x_t, t, space, context,
            channels=self.channels, observed=self.observed, columns=self.context,
        )  # fmt: skip
        t = t.to(x_t.dtype)
        B, N, _ = x_t.shape
        told = read_tokens(tokens, tokens_mask, B, self.tokens, x_t)

        before = torch.arange(N, dtype=x_t.dtype, device=x_t.device).expand(B, N)
        after = space.lengths[:, None] - 1 - before
        position = torch.cat([waves(before, self.hidden // 2), waves(after, self.hidden // 2)], 2)
        c = self.time(time_features(t))
        if (named := label_rows(self.embed_label, label, B)) is not None:
            c = c + named
        h = self.embedding(torch.cat([x_t, *more], dim=2)) + position + c[:, None]
        if self.unknown is not None:
            h = h + self.unknown(unknown)

        # an item without rows attends to its padding: the softmax of nothing may be NaN
        ignored = ~space.mask & (space.lengths > 0)[:, None]
        for k, layer in enumerate(self.encoder.layers):
            h = layer(h, src_key_padding_mask=ignored)
            if told is not None:
                h = self.crosses[k](h, told)
        h = self.norm(h)
        scale, shift = self.film(c)[:, None].chunk(2, dim=2)
        y = self.head(h * (1 + scale) + shift) + self.skip(c)[:, None] * x_t
        return space.project(y)
