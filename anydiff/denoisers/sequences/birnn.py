r"""BiRNN: a bidirectional recurrent network for sequences of any length: strokes, series, trajectories.

Each layer reads the sequence from both ends, so that every row depends on all others at a cost that
grows with the length, not with its square. With LN the layer norm and c the embedding of the time, a
block is

    h += (1 + γ(c)) · W [forward, backward](LN(h) · (1 + α(c)) + β(c))        along the sequence
    h += MLP(LN(h), mean over the item's rows of LN(h))                       across the whole item

The input is the noisy rows, their differences (the "velocity", which the noise hides to another degree
than the position), and how many rows come before and after. The output starts at zero; it is a last
linear map plus a learned multiple of the input.

After each block the rows may attend to the item's tokens, of a text for instance (`CrossAttention`). A
label is added to c, flags of unknown context to the first h. `anydiff.denoisers.inputs` says how absent
conditions are represented.

``residual=False`` is the network of ChiroDiff: a plain stack of recurrent layers, random Fourier
features of t appended to the input and again before the last map. The embedding of a label is appended
to these features; flags of unknown context are added to the input.

Padding changes nothing: an item's output is the same alone and in a batch.
"""

from __future__ import annotations

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from anydiff.checks import check_range
from anydiff.denoisers.configured import configured
from anydiff.denoisers.embeddings import FourierTime, time_features
from anydiff.denoisers.inputs import Conditions, added, zeroed
from anydiff.denoisers.sequences.padded import SequenceDenoiser
from anydiff.denoisers.sequences.recurrent import BiRecurrent
from anydiff.spaces import Masked

__all__ = ["BiRNN"]


class RecurrentBlock(nn.Module):
    """One residual block; the module's docstring has the equations."""

    def __init__(self, hidden: int, cell: Literal["gru", "lstm"]) -> None:
        super().__init__()
        self.film = zeroed(nn.Linear(hidden, 3 * hidden))
        self.recurrent = BiRecurrent(hidden, hidden, cell)
        self.merge = nn.Linear(2 * hidden, hidden)
        self.norm = nn.LayerNorm(hidden)
        self.mlp = nn.Sequential(
            nn.Linear(2 * hidden, 2 * hidden), nn.SiLU(), nn.Linear(2 * hidden, hidden)
        )

    def forward(
        self, h: Tensor, c: Tensor, valid: Tensor, share: Tensor, lengths: Tensor
    ) -> Tensor:
        alpha, beta, gamma = self.film(c)[:, None].chunk(3, dim=2)
        u = F.layer_norm(h, h.shape[2:]) * (1 + alpha) + beta
        h = h + self.merge(self.recurrent(u, lengths)) * (1 + gamma)

        u = self.norm(h)
        mean = (share @ (u * valid)).expand_as(u)
        out: Tensor = h + self.mlp(torch.cat([u, mean], dim=2))
        return out


@configured
class BiRNN(SequenceDenoiser):
    """A denoiser for padded sequences (B, N, C).

    Arguments:
        channels: C, the numbers in a row.
        hidden: Width, and the number of units in each direction of a recurrent layer.
        layers: Number of recurrent layers.
        cell: ``"gru"`` or ``"lstm"``.
        velocity: Number of leading channels whose differences are appended to the input; all if None.
        residual: Blocks with residuals, norms, FiLM and the item's mean; False is ChiroDiff's stack.
        observed: Accept batches with missing values; the mask ``space.observed`` is a further input.
        context: Columns of conditions.
        classes: Number of labels; 0 for none.
        tokens: Width of the tokens that the rows attend to; 0 for none. Only with `residual`.

    Raises:
        ValueError: If a number is out of its range, or ChiroDiff's stack is asked for tokens.

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
        super().__init__(channels, observed, context, classes, tokens)
        if tokens and not residual:
            raise ValueError(
                f"tokens is {tokens}, and ChiroDiff's stack has no attention; give residual=True."
            )
        velocity = channels if velocity is None else velocity
        check_range(f"[0, {channels}]", velocity=velocity)
        self.velocity, self.residual = velocity, residual

        inputs = channels + velocity + channels * observed + context
        self.layers = nn.ModuleList()
        self.time: nn.Module
        if residual:
            self.time = nn.Sequential(nn.Linear(25, hidden), nn.SiLU(), nn.Linear(hidden, hidden))
            self.embedding = nn.Linear(inputs + 3, hidden)
            self.layers.extend(RecurrentBlock(hidden, cell) for _ in range(layers))
            self.norm = nn.LayerNorm(hidden)
            self.head = zeroed(nn.Linear(hidden, channels))
            self.skip = zeroed(nn.Linear(hidden, channels))
        else:
            features = 8
            self.time = FourierTime(features)
            features += hidden * (classes > 0)
            widths = [inputs + features, *[2 * hidden] * (layers - 1)]
            self.layers.extend(BiRecurrent(width, hidden, cell) for width in widths)
            self.merge = nn.Linear(2 * hidden, hidden)
            self.head = nn.Linear(hidden + features + context, channels)
        self._build_readers(hidden, layers, flags=None if residual else inputs + features)

    def _predict(self, x_t: Tensor, t: Tensor, space: Masked, cond: Conditions) -> Tensor:
        inputs = [x_t, self._velocity(x_t, space), *self._seen(x_t, space), cond.context]
        return (self._blocks if self.residual else self._stack)(inputs, t, space, cond)

    def _velocity(self, x_t: Tensor, space: Masked) -> Tensor:
        """Differences to the row before, (B, N, velocity); 0 where either value is missing."""
        v = self.velocity
        step = x_t[:, 1:, :v] - x_t[:, :-1, :v]
        known = space.valid[..., :v]
        return F.pad(step.masked_fill(~(known[:, 1:] & known[:, :-1]), 0), (0, 0, 1, 0))

    def _blocks(self, inputs: list[Tensor], t: Tensor, space: Masked, cond: Conditions) -> Tensor:
        """The network of residual blocks."""
        x_t = inputs[0]
        c = added(self.time(time_features(t)), cond.label)
        valid = space.mask[..., None].to(x_t.dtype)
        lengths = space.lengths[:, None, None]
        share = valid.mT / lengths.clamp(min=1)  # (B, 1, N), the mean as a product
        # 1 … length, constant beyond; counted in integers, which are exact in any precision
        n = space.mask.cumsum(1)[..., None]
        n, left = n.to(x_t.dtype), (lengths - n).to(x_t.dtype)
        # logarithms resolve the neighbourhood of the ends, at any length
        place = torch.cat([n.log1p(), left.log1p(), (n / (n + left)).nan_to_num()], dim=2)

        h = self.embedding(torch.cat([*inputs, place], dim=2)) + c[:, None]
        h = added(h, cond.flags)
        for k, layer in enumerate(self.layers):
            h = layer(h, c, valid, share, space.lengths)
            h = self._attend(k, h, cond)
        y: Tensor = self.head(self.norm(h)) + self.skip(c)[:, None] * x_t
        return y

    def _stack(self, inputs: list[Tensor], t: Tensor, space: Masked, cond: Conditions) -> Tensor:
        """The network of ChiroDiff."""
        time = self.time(t)
        if self.embed_label is not None:
            absent = time.new_zeros(t.shape[0], self.embed_label.embedding_dim)
            time = torch.cat([time, absent if cond.label is None else cond.label], dim=1)
        time = time[:, None].expand(*inputs[0].shape[:2], -1)
        h = added(torch.cat([*inputs, time], dim=2), cond.flags)
        for layer in self.layers:
            h = layer(h, space.lengths)
        y: Tensor = self.head(torch.cat([self.merge(h), time, cond.context], dim=2))
        return y
