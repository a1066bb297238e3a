r"""An equivariant network that visits every pair of points once: much learnt in little time.

Each point i has features h_i and C vectors V_i; each unordered pair has one symmetric state
z_ij = z_ji. With d_ij = \|x_i − x_j\|, u_ij = (x_i − x_j) / (d_ij + 0.1), n points in the item and
V̂ = V / √(1 + mean \|V\|²), a layer computes

    p_ij += W z_ij + Q (u_ij · (V̂_i − V̂_j)) + a_i + a_j,   z_ij = SiLU(p_ij)      pairs
    m_i   = Σ_j z_ij ⊙ (1 + b_j) / √n                                               messages
    V_i  += Σ_j u_ij (S z_ij) / √n                                                   vectors
    h_i  += δ_i,   V_i += g_i k_i,   δ_i, g_i = MLP(h_i, m_i, ⟨k_i, q_i⟩, \|r_i\|)     points

where a and b are linear in LayerNorm(h), which the MLP sees too, and k, q, r are linear in V̂ across
the C channels. p_ij starts as a linear map of Gaussians of exp(−d_ij / 2), narrow where bonds are
and wide beyond. The dot products tell a pair about the directions of its neighbours, hence about
angles.

Everything is built from distances, differences and linear maps of vectors, so the output rotates,
reflects and permutes with the input. The geometry is that of the input in every layer: its part of
the graph needs no gradient in training, and wide matrices act on points, of which there are few.
After a layer h_i may attend to tokens of the item's own, a text's for instance (`CrossAttention`);
what the conditions say is invariant. How they are left out is said in `anydiff.denoisers.inputs`.
It leaves out: cutoffs (all pairs interact) and any update of the positions between layers.
"""

from __future__ import annotations

from typing import Any, NamedTuple
from weakref import WeakKeyDictionary

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd import Function

from anydiff.denoisers.embeddings import time_features
from anydiff.denoisers.inputs import (
    CrossAttention,
    check_counts,
    flags_map,
    heads_of,
    label_rows,
    read_tokens,
)
from anydiff.denoisers.points.rows import Bags, attend, check_rows, context_rows, total
from anydiff.spaces import Ragged

__all__ = ["PairNet"]


class Pairs(NamedTuple):
    """The unordered pairs of a batch, and for every row the pairs that it is in."""

    ends: Bags  # bag of a pair: its rows i < j
    pairs: Bags  # bag of a row: the pairs that it is in
    signs: tuple[Tensor, Tensor]  # 1 for i and −1 for j, in the order of `ends` and of `pairs`

    @classmethod
    def of(cls, space: Ragged) -> Pairs:
        i, j = space.edge_index
        forward = i < j
        number = forward.cumsum(0) - 1
        degree = (space.sizes - 1)[space.index]
        starts = degree.cumsum(0) - degree

        low, high = torch.minimum(i, j), torch.maximum(i, j)
        edge = starts[low] + high - space.ptr[space.index[low]] - 1  # where (low, high) is
        ends = torch.stack([i[forward], j[forward]], dim=1).flatten()
        first = torch.arange(0, len(ends), 2, device=i.device)
        sign = torch.ones_like(ends)
        sign[1::2] = -1
        return cls((ends, first), (number[edge], starts), (sign, torch.where(forward, 1, -1)))


_pairs: WeakKeyDictionary[Ragged, Pairs] = WeakKeyDictionary()


def pairs_of(space: Ragged) -> Pairs:
    """The pairs of a batch, built once for all steps that share the space."""
    if space not in _pairs:
        _pairs[space] = Pairs.of(space)
    return _pairs[space]


def signed_total(x: Tensor, bags: Bags, sign: Tensor | None) -> Tensor:
    return total(x, bags, None if sign is None else sign.to(x.dtype))


class ToPairs(Function):
    """x_i + x_j of each pair, or x_i − x_j if `signed`; (N, F) -> (P, F). ToRows' transpose."""

    @staticmethod
    def forward(ctx, x: Tensor, pairs: Pairs, signed: bool) -> Tensor:
        ctx.pairs, ctx.signed = pairs, signed
        return signed_total(x, pairs.ends, pairs.signs[0] if signed else None)

    @staticmethod
    def backward(ctx, grad: Tensor):
        return ToRows.apply(grad, ctx.pairs, ctx.signed), None, None


class ToRows(Function):
    """Σ_j z_ij for each row i, or Σ_j ±z_ij if z_ij = −z_ji is `signed`; (P, F) -> (N, F)."""

    @staticmethod
    def forward(ctx, z: Tensor, pairs: Pairs, signed: bool) -> Tensor:
        ctx.pairs, ctx.signed = pairs, signed
        return signed_total(z, pairs.pairs, pairs.signs[1] if signed else None)

    @staticmethod
    def backward(ctx, grad: Tensor):
        return ToPairs.apply(grad, ctx.pairs, ctx.signed), None, None


def shorten(V: Tensor) -> Tensor:
    """V / √(1 + mean squared length of a row's vectors), (N, 3, C)."""
    return V * torch.rsqrt(1 + V.square().sum(1, keepdim=True).mean(2, keepdim=True))


class Layer(nn.Module):
    """One update of pairs, vectors and points; the module's docstring has the equations."""

    def __init__(self, hidden: int, pair: int, vectors: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(hidden)
        self.ends = nn.Linear(hidden, 2 * pair)  # a, b
        self.W = nn.Linear(pair, pair, bias=False)
        self.Q = nn.Linear(vectors, pair, bias=False)
        self.S = nn.Linear(pair, vectors, bias=False)
        self.mix = nn.Linear(vectors, 3 * vectors, bias=False)  # k, q, r
        self.first = nn.Linear(hidden + pair + 2 * vectors, hidden)
        self.second = nn.Linear(hidden, hidden + vectors)  # δ, g
        with torch.no_grad():
            self.second.weight.mul_(0.5)

    def forward(
        self, pairs: Pairs, u: Tensor, scale: Tensor, h: Tensor, V: Tensor, p: Tensor, z: Tensor
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        N, _, C = V.shape
        h_norm = self.norm(h)
        a, b = self.ends(h_norm).chunk(2, dim=1)

        difference = ToPairs.apply(shorten(V).view(N, 3 * C), pairs, True).view(-1, 3, C)
        p = torch.addmm(p, z, self.W.weight.t())
        p = torch.addmm(p, (difference * u).sum(1), self.Q.weight.t())
        p = p + ToPairs.apply(a, pairs, False)
        z = F.silu(p)

        # Σ_j z_ij b_j from the symmetric Σ_j z_ij (b_i + b_j)
        m = ToRows.apply(z, pairs, False)
        m = m + ToRows.apply(z * ToPairs.apply(b, pairs, False), pairs, False) - b * m
        pull = (u * self.S(z)[:, None]).view(-1, 3 * C)
        V = V + (ToRows.apply(pull, pairs, True) * scale).view(N, 3, C)

        k, q, r = self.mix(shorten(V)).chunk(3, dim=2)
        length = torch.sqrt(r.square().sum(1) + 1e-6)
        invariants = torch.cat([h_norm, m * scale, (k * q).sum(1), length], dim=1)
        update = self.second(F.silu(self.first(invariants)))
        delta, g = update.split([h.shape[1], C], dim=1)
        return h + delta, V + k * g[:, None], p, z


class PairNet(nn.Module):
    r"""A denoiser for batches of point clouds whose cost lies in one narrow state for each pair.

    Rotations and reflections of the input positions act on the position part of the output alone;
    translations change nothing. Both parts start as t times the input, roughly the best linear
    guess of the noise, and learn the rest: the network is made for `eps`.

    Arguments:
        features: Feature columns after the three of the position.
        hidden: Width of the points' features h.
        pair: Width of the pairs' states z.
        vectors: Number C of vectors of a point.
        layers: Number of layers.
        bases: Number of Gaussians that see a distance.
        context: Columns of conditions.
        classes: Number of labels; 0 for none.
        tokens: Width of the tokens that the points attend to; 0 for none.

    References:
        Equivariant Diffusion for Molecule Generation in 3D (Hoogeboom et al., 2022).
        https://arxiv.org/abs/2203.17003

        Equivariant message passing for the prediction of tensorial properties and molecular spectra
        (Schütt et al., 2021): vectors of a point beside its features. https://arxiv.org/abs/2102.03150

        PhysNet (Unke & Meuwly, 2019): Gaussians of exp(−d). https://arxiv.org/abs/1902.08408
    """

    def __init__(
        self,
        features: int,
        hidden: int = 128,
        pair: int = 64,
        vectors: int = 16,
        layers: int = 6,
        bases: int = 32,
        context: int = 0,
        classes: int = 0,
        tokens: int = 0,
    ) -> None:
        super().__init__()
        check_counts(context=context, classes=classes, tokens=tokens)
        self.config: dict[str, Any] = {
            "features": features,
            "hidden": hidden,
            "pair": pair,
            "vectors": vectors,
            "layers": layers,
            "bases": bases,
            "context": context,
            "classes": classes,
            "tokens": tokens,
        }
        self.features = features
        self.vectors = vectors
        self.bases = bases
        self.context = context
        self.tokens = tokens

        self.time = nn.Sequential(nn.Linear(25, 64), nn.SiLU(), nn.Linear(64, 64), nn.SiLU())
        self.embedding = nn.Linear(features + 64 + context, hidden)
        self.distance = nn.Linear(bases + 1, pair)
        self.layers = nn.ModuleList(Layer(hidden, pair, vectors) for _ in range(layers))
        self.norm = nn.LayerNorm(hidden)
        self.readout = nn.Sequential(
            nn.Linear(hidden, hidden), nn.SiLU(), nn.Linear(hidden, features + vectors)
        )
        self.pull = nn.Linear(pair, 1)
        self.skip = nn.Linear(64, 2)
        # nothing but the skip at first
        for parameter in (
            p for m in (self.readout[2], self.pull, self.skip) for p in m.parameters()
        ):
            nn.init.zeros_(parameter)
        self.embed_label = nn.Embedding(classes, hidden) if classes else None
        self.unknown = flags_map(context, hidden)
        self.crosses = nn.ModuleList(
            CrossAttention(hidden, tokens, heads_of(hidden)) for _ in range(layers if tokens else 0)
        )

    def forward(
        self,
        x_t: Tensor,
        t: Tensor,
        *,
        space: Ragged,
        label: Tensor | None = None,
        context: Tensor | None = None,
        tokens: Tensor | None = None,
        tokens_mask: Tensor | None = None,
    ) -> Tensor:
        """The prediction for rows [position | features], shaped like x_t.

        Arguments:
            x_t: (N, 3 + features), positions in Å.
            t: (B,), times in [0, 1].
            space: The batch's space; gives its items and pairs.
            label: (B,) integers in [0, classes), -1 for none.
            context: (N, context) or (B, context), NaN where unknown.
            tokens: (B, L, tokens); a row with a NaN is none.
            tokens_mask: (B, L), True where a token is valid; all are if None.

        None for a condition is none of it for any item, in a network that was built with it.
        """
        check_rows(x_t, t, space, context, self.features, self.context)
        told = read_tokens(tokens, tokens_mask, space.num_items, self.tokens, x_t)
        pairs = pairs_of(space)
        x, f = x_t[:, :3], x_t[:, 3:]
        t = t.to(x_t.dtype)
        scale = space.sizes.to(x_t.dtype).rsqrt()[space.index, None]

        difference = ToPairs.apply(x, pairs, True)
        d = torch.sqrt(difference.square().sum(1, keepdim=True) + 1e-6)
        u = (difference / (d + 0.1))[:, :, None]
        p = self.distance(self._bases(d))

        time = self.time(time_features(t))
        values, unknown = context_rows(context, self.context, space, x_t)
        h = self.embedding(torch.cat([2 * f, time[space.index], values], dim=1))
        if self.unknown is not None:
            h = h + self.unknown(unknown)
        if (named := label_rows(self.embed_label, label, space.num_items)) is not None:
            h = h + named[space.index]

        V = h.new_zeros(len(h), 3, self.vectors)
        z = F.silu(p)
        for k, layer in enumerate(self.layers):
            h, V, p, z = layer(pairs, u, scale, h, V, p, z)
            if told is not None:
                h = attend(self.crosses[k], h, told, space)

        out_f, g = self.readout(self.norm(h)).split([self.features, self.vectors], dim=1)
        out_x = (V * g[:, None]).sum(2) + scale * ToRows.apply(
            u[:, :, 0] * self.pull(z), pairs, True
        )
        skip_x, skip_f = (self.skip(time) + t[:, None])[space.index].chunk(2, dim=1)
        return torch.cat([space.center(out_x + skip_x * x), out_f + skip_f * f], dim=1)

    def _bases(self, d: Tensor) -> Tensor:
        """Gaussians of exp(−d / 2), and d itself, (P, bases + 1)."""
        centers = torch.linspace(0, 1, self.bases, dtype=d.dtype, device=d.device)[:, None]
        # the long axis last, which is faster; the floor keeps exp out of the denormals, which are slow
        exponent = -0.7 * ((torch.exp(-d / 2).t() - centers) * (self.bases - 1)).square()
        return torch.cat([exponent.clamp(min=-30).exp(), 0.2 * d.t()]).t()
