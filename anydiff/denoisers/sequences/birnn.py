r"""A bidirectional recurrent network for sequences of any length: strokes, series, trajectories.

Each layer reads the sequence from both ends, so that every row knows all others at a cost that grows
with the length, not with its square. A block is, with LN the layer norm and c the time's embedding,

    h += (1 + γ(c)) · W [forward, backward](LN(h) · (1 + α(c)) + β(c))        rows talk along the sequence
    h += MLP(LN(h), mean over the item's rows of LN(h))                       and with the whole item

The input is the noisy rows, their differences ("velocities": position and velocity of the same noisy
sequence say different things at different noises), and how many rows come before and after. The last
map starts at zero beside a learned multiple of the input.

After each block the rows may attend to tokens of the item's own, a text's for instance
(`CrossAttention`). A label is added to c, flags of unknown context to the first h. How the conditions
are left out is said in `anydiff.denoisers.inputs`.

``residual=False`` leaves the blocks out and is the network of ChiroDiff: recurrent layers one on the
other, random Fourier features of t beside the input and again before the last map. The embedding of a
label goes the way of these features; flags of unknown context are added to the input.

Rows beyond an item's length change nothing; an item's output is the same alone and in a batch.
"""

from __future__ import annotations

from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from anydiff.denoisers.embeddings import FourierTime, time_features
from anydiff.denoisers.inputs import (
    CrossAttention,
    Tokens,
    check_counts,
    flags_map,
    heads_of,
    label_rows,
    read_tokens,
)
from anydiff.denoisers.sequences.padded import padded_input
from anydiff.denoisers.sequences.recurrent import BiRecurrent
from anydiff.spaces import Dense, Masked

__all__ = ["BiRNN"]


class Block(nn.Module):
    """One residual block; the module's docstring has the equations."""

    def __init__(self, hidden: int, cell: Literal["gru", "lstm"]) -> None:
        super().__init__()
        self.film = nn.Linear(hidden, 3 * hidden)
        self.recurrent = BiRecurrent(hidden, hidden, cell)
        self.merge = nn.Linear(2 * hidden, hidden)
        self.norm = nn.LayerNorm(hidden)
        self.mlp = nn.Sequential(
            nn.Linear(2 * hidden, 2 * hidden), nn.SiLU(), nn.Linear(2 * hidden, hidden)
        )
        nn.init.zeros_(self.film.weight)
        nn.init.zeros_(self.film.bias)

    def forward(
        self, h: Tensor, c: Tensor, valid: Tensor, share: Tensor, lengths: Tensor
    ) -> Tensor:
        alpha, beta, gamma = self.film(c)[:, None].chunk(3, dim=2)
        u = F.layer_norm(h, h.shape[2:]) * (1 + alpha) + beta
        h = h + self.merge(self.recurrent(u, lengths)) * (1 + gamma)

        u = self.norm(h)
        mean = (share @ (u * valid)).expand_as(u)
        return h + self.mlp(torch.cat([u, mean], dim=2))


class BiRNN(nn.Module):
    """A denoiser for padded sequences (B, N, C).

    Arguments:
        channels: C, the numbers in a row.
        hidden: Width; each direction of a recurrent layer has so many units.
        layers: Number of recurrent layers.
        cell: ``"gru"`` or ``"lstm"``.
        velocity: The differences of so many leading channels are appended to the input; all if None.
        residual: Blocks with residuals, norms, FiLM and the item's mean; False is ChiroDiff's stack.
        observed: The batches have missing values: the mask ``space.observed`` is a further input.
        context: Columns of conditions.
        classes: Number of labels; 0 for none.
        tokens: Width of the tokens that the rows attend to; 0 for none.

    References:
        ChiroDiff: Modelling chirographic data with Diffusion Models (Das et al., 2023).
        https://arxiv.org/abs/2304.03785

        FiLM: Visual Reasoning with a General Conditioning Layer (Perez et al., 2018).
        https://arxiv.org/abs/1709.07871
    """

    def __init__(
        self,
        channels: int,
        hidden: int = 128,
        layers: int = 3,
        cell: Literal["gru", "lstm"] = "gru",
        *,
        velocity: int | None = None,
        residual: bool = True,
        observed: bool = False,
        context: int = 0,
        classes: int = 0,
        tokens: int = 0,
    ) -> None:
        super().__init__()
        check_counts(context=context, classes=classes, tokens=tokens)
        if tokens and not residual:
            raise ValueError(
                f"tokens is {tokens}, and ChiroDiff's stack has no attention; build the network with "
                "residual=True, or give what the tokens say as context."
            )
        velocity = channels if velocity is None else velocity
        if not 0 <= velocity <= channels:
            raise ValueError(
                f"velocity is {velocity}; it must be between 0 and {channels} channels."
            )
        self.config: dict[str, Any] = {
            "channels": channels,
            "hidden": hidden,
            "layers": layers,
            "cell": cell,
            "velocity": velocity,
            "residual": residual,
            "observed": observed,
            "context": context,
            "classes": classes,
            "tokens": tokens,
        }
        self.channels, self.velocity = channels, velocity
        self.residual, self.observed, self.context = residual, observed, context
        self.tokens = tokens

        inputs = channels + velocity + channels * observed + context
        self.layers = nn.ModuleList()
        self.time: nn.Module
        if residual:
            self.time = nn.Sequential(nn.Linear(25, hidden), nn.SiLU(), nn.Linear(hidden, hidden))
            self.embedding = nn.Linear(inputs + 3, hidden)
            self.layers.extend(Block(hidden, cell) for _ in range(layers))
            self.norm = nn.LayerNorm(hidden)
            self.head = nn.Linear(hidden, channels)
            self.skip = nn.Linear(hidden, channels)
            for parameter in (*self.head.parameters(), *self.skip.parameters()):
                nn.init.zeros_(parameter)
        else:
            features = 8
            self.time = FourierTime(features)
            features += hidden * (classes > 0)
            widths = [inputs + features, *[2 * hidden] * (layers - 1)]
            self.layers.extend(BiRecurrent(width, hidden, cell) for width in widths)
            self.merge = nn.Linear(2 * hidden, hidden)
            self.head = nn.Linear(hidden + features + context, channels)
        self.embed_label = nn.Embedding(classes, hidden) if classes else None
        self.unknown = flags_map(context, hidden if residual else inputs + features)
        self.crosses = nn.ModuleList(
            CrossAttention(hidden, tokens, heads_of(hidden)) for _ in range(layers if tokens else 0)
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
            x_t: (B, N, C). An item's valid rows are its first ones.
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
        inputs = torch.cat([x_t, self._velocity(x_t, space), *more], dim=2)
        named = label_rows(self.embed_label, label, len(t))
        told = read_tokens(tokens, tokens_mask, len(t), self.tokens, x_t)
        # for the first hidden features, or the first layer's input
        flags = None if self.unknown is None else self.unknown(unknown)

        if self.residual:
            c = self.time(time_features(t))
            c = c if named is None else c + named
            y = self._blocks(x_t, inputs, c, flags, told, space)
        else:
            time = self.time(t)
            if self.embed_label is not None:
                none = time.new_zeros(len(t), self.embed_label.embedding_dim)
                time = torch.cat([time, none if named is None else named], dim=1)
            time = time[:, None].expand(*x_t.shape[:2], -1)
            h = torch.cat([inputs, time], dim=2)
            h = h if flags is None else h + flags
            for layer in self.layers:
                h = layer(h, space.lengths)
            again = more[self.observed :]  # the context, if there is any
            y = self.head(torch.cat([self.merge(h), time, *again], dim=2))
        return space.project(y)

    def _velocity(self, x_t: Tensor, space: Masked) -> Tensor:
        """Against the row before; 0 for the first row, and where either value is missing."""
        v = self.velocity
        step = x_t[:, 1:, :v] - x_t[:, :-1, :v]
        known = space.valid[..., :v]
        return F.pad(step.masked_fill(~(known[:, 1:] & known[:, :-1]), 0), (0, 0, 1, 0))

    def _blocks(
        self,
        x_t: Tensor,
        inputs: Tensor,
        c: Tensor,
        flags: Tensor | None,
        told: Tokens | None,
        space: Masked,
    ) -> Tensor:
        valid = space.mask[..., None].to(x_t.dtype)
        lengths = space.lengths[:, None, None]
        share = valid.mT / lengths.clamp(min=1)  # (B, 1, N), the mean as a product
        # 1 … length, then the same on; counted in integers, which no precision rounds
        n = space.mask.cumsum(1)[..., None]
        n, left = n.to(x_t.dtype), (lengths - n).to(x_t.dtype)
        # logarithms: the neighbourhood of the ends matters, and no length is out of range
        place = torch.cat([n.log1p(), left.log1p(), (n / (n + left)).nan_to_num()], dim=2)

        h = self.embedding(torch.cat([inputs, place], dim=2)) + c[:, None]
        h = h if flags is None else h + flags
        for k, layer in enumerate(self.layers):
            h = layer(h, c, valid, share, space.lengths)
            if told is not None:
                h = self.crosses[k](h, told)
        return self.head(self.norm(h)) + self.skip(c)[:, None] * x_t
