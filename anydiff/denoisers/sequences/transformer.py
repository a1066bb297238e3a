r"""A Transformer for padded sequences: every row attends to every other row of its item.

It is PyTorch's own encoder (norms first, GELU). A row enters as a linear map of its numbers, plus
sines and cosines of how many rows come before it and after it, plus an embedding of t, which also
scales and shifts the last norm. The output starts at zero; it is a last linear map plus a learned
multiple of the input.

After each layer the rows may attend to the item's tokens, of a text for instance (`CrossAttention`).
`anydiff.denoisers.inputs` says how absent conditions are represented.

No row attends to padding; an item's output is the same alone and in a batch. The cost grows with the
square of the length. Positions are absolute: a network that was trained on short sequences is not
expected to work on longer ones.
"""

from __future__ import annotations

import math
from functools import partial

import torch
from torch import Tensor, nn

from anydiff.denoisers.configured import configured
from anydiff.denoisers.embeddings import time_features
from anydiff.denoisers.inputs import Conditions, added, zeroed
from anydiff.denoisers.sequences.padded import SequenceDenoiser
from anydiff.spaces import Masked

__all__ = ["Transformer"]


def waves(n: Tensor, features: int) -> Tensor:
    """sin(w n) and cos(w n) for w from 1 to 1/1000 in equal ratios, (B, N) -> (B, N, features)."""
    half = features // 2
    powers = torch.arange(half, dtype=n.dtype, device=n.device) / max(half - 1, 1)
    angles = n[..., None] * torch.exp(-math.log(1000) * powers)
    return torch.cat([torch.sin(angles), torch.cos(angles)], dim=2)


@configured
class Transformer(SequenceDenoiser):
    """A denoiser for padded sequences (B, N, C).

    Arguments:
        channels: C, the numbers in a row.
        hidden: Width, a multiple of 4 and of `heads`.
        layers: Number of attention layers.
        heads: Attention heads of a layer.
        expansion: Width of the layers' MLPs as a multiple of `hidden`.
        dropout: Share of activations dropped in training.
        observed: Accept batches with missing values; the mask ``space.observed`` is a further input.
        context: Columns of conditions.
        classes: Number of labels; 0 for none.
        tokens: Width of the tokens that the rows attend to; 0 for none.

    Raises:
        ValueError: If `hidden` has no such divisors, or `context`, `classes` or `tokens` is negative.

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
        super().__init__(channels, observed, context, classes, tokens)
        if hidden % 4 or hidden % heads:
            raise ValueError(f"hidden is {hidden}; give a multiple of 4 and of the {heads} heads.")
        self.hidden = hidden

        layer = partial(
            nn.TransformerEncoderLayer, hidden, heads, expansion * hidden, dropout,
            activation="gelu", batch_first=True, norm_first=True,
        )  # fmt: skip
        self.time = nn.Sequential(nn.Linear(25, hidden), nn.SiLU(), nn.Linear(hidden, hidden))
        self.embedding = nn.Linear(channels * (1 + observed) + context, hidden)
        # nested tensors would be used in eval mode but not in training
        self.encoder = nn.TransformerEncoder(layer(), layers, enable_nested_tensor=False)
        # the encoder copies its layer, weights included
        self.encoder.layers = nn.ModuleList(layer() for _ in range(layers))
        self.norm = nn.LayerNorm(hidden, elementwise_affine=False)
        self.film = zeroed(nn.Linear(hidden, 2 * hidden))
        self.head = zeroed(nn.Linear(hidden, channels))
        self.skip = zeroed(nn.Linear(hidden, channels))
        self._build_readers(hidden, layers, heads)

    def _predict(self, x_t: Tensor, t: Tensor, space: Masked, cond: Conditions) -> Tensor:
        B, N, _ = x_t.shape
        before = torch.arange(N, dtype=x_t.dtype, device=x_t.device).expand(B, N)
        after = space.lengths[:, None] - 1 - before
        position = torch.cat([waves(before, self.hidden // 2), waves(after, self.hidden // 2)], 2)
        c = added(self.time(time_features(t)), cond.label)
        columns = torch.cat([x_t, *self._seen(x_t, space), cond.context], dim=2)
        h = added(self.embedding(columns) + position + c[:, None], cond.flags)

        # an item without rows attends to its padding: the softmax of nothing may be NaN
        ignored = ~space.mask & (space.lengths > 0)[:, None]
        for k, layer in enumerate(self.encoder.layers):
            h = layer(h, src_key_padding_mask=ignored)
            h = self._attend(k, h, cond)
        h = self.norm(h)
        scale, shift = self.film(c)[:, None].chunk(2, dim=2)
        y: Tensor = self.head(h * (1 + scale) + shift) + self.skip(c)[:, None] * x_t
        return y
