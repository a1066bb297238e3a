r"""PairNet: an equivariant network that visits each unordered pair of points once, for short training.

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
reflects and permutes with the input. Every layer uses the distances and directions of the input, which
need no gradient in training; wide matrices act on points, which are few, not on pairs. After a layer
h_i may attend to the item's tokens, of a text for instance (`CrossAttention`); conditions enter as
invariants. `anydiff.denoisers.inputs` says how absent ones are represented. There are no cutoffs (all
pairs interact), and positions are not updated between layers.

Time and conditions enter the first h. Where it is `modulated` they reach every layer, whose LayerNorm(h)
becomes (1 + γ) LayerNorm(h) + β; through a and b they reach the pairs as well.

With `pairs`, the state also has numbers e_ij = e_ji for each pair, such as bonds. A linear map of them is
added to the first p_ij, and their noise is a linear map of the last z_ij: bonds cost two small matrices.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd import Function

from anydiff.checks import check_shape, check_whole
from anydiff.denoisers.configured import configured
from anydiff.denoisers.embeddings import time_features
from anydiff.denoisers.inputs import Conditions, zeroed
from anydiff.denoisers.points.sets import Bags, PointDenoiser, by_point, once_per_space, total
from anydiff.spaces import Packed, Ragged

__all__ = ["PairNet"]


class Pairs(NamedTuple):
    """The unordered pairs of a batch: for each its rows i < j, and for each row the pairs it is in."""

    ends: Bags  # bag of a pair: its two rows
    pairs: Bags  # bag of a row: its pairs
    signs: tuple[Tensor, Tensor]  # 1 for i and −1 for j, in the order of `ends` and of `pairs`


@once_per_space
def pairs_of(space: Ragged) -> Pairs:
    """The pairs of a batch."""
    i, j = space.edge_index
    forward = i < j
    number = forward.cumsum(0) - 1
    degree = (space.sizes - 1)[space.index]
    starts = degree.cumsum(0) - degree

    low, high = torch.minimum(i, j), torch.maximum(i, j)
    edge = starts[low] + high - space.ptr[space.index[low]] - 1  # where (low, high) is
    ends = space.pairs.t().flatten()
    first = torch.arange(0, len(ends), 2, device=i.device)
    sign = torch.ones_like(ends)
    sign[1::2] = -1
    return Pairs((ends, first), (number[edge], starts), (sign, torch.where(forward, 1, -1)))


class Incidence(Function):
    """The (signed) sums of rows in each pair, or of pairs in each row; either is the other's gradient."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, pairs: Pairs, signed: bool, to_rows: bool) -> Tensor:
        ctx.transposed = pairs, signed, not to_rows
        sign = pairs.signs[to_rows].to(x.dtype) if signed else None
        return total(x, pairs.pairs if to_rows else pairs.ends, sign)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None, None]:
        return incidence(grad, *ctx.transposed), None, None, None


def incidence(x: Tensor, pairs: Pairs, signed: bool, to_rows: bool) -> Tensor:
    y: Tensor = Incidence.apply(x, pairs, signed, to_rows)  # type: ignore[no-untyped-call]
    return y


def to_pairs(x: Tensor, pairs: Pairs, signed: bool = False) -> Tensor:
    """x_i + x_j for each pair, or x_i − x_j if `signed`; (N, F) -> (P, F)."""
    return incidence(x, pairs, signed, to_rows=False)


def to_rows(z: Tensor, pairs: Pairs, signed: bool = False) -> Tensor:
    """Σ_j z_ij for each row i, or Σ_j ±z_ij if z_ij = −z_ji is `signed`; (P, F) -> (N, F)."""
    return incidence(z, pairs, signed, to_rows=True)


def bases_of(d: Tensor, bases: int) -> Tensor:
    """Gaussians of exp(−d / 2), and d itself, (P, bases + 1).

    Arguments:
        d: Distances, (P, 1).
        bases: The number of Gaussians.
    """
    centers = torch.linspace(0, 1, bases, dtype=d.dtype, device=d.device)[:, None]
    # the long axis last, which is faster; the floor keeps exp out of the denormals, which are slow
    exponent = -0.7 * ((torch.exp(-d / 2).t() - centers) * (bases - 1)).square()
    return torch.cat([exponent.clamp(min=-30).exp(), 0.2 * d.t()]).t()


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
        self,
        pairs: Pairs,
        u: Tensor,
        scale: Tensor,
        h: Tensor,
        V: Tensor,
        p: Tensor,
        z: Tensor,
        modulation: Tensor | None,
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        N, _, C = V.shape
        h_norm = self.norm(h)
        if modulation is not None:
            gamma, beta = modulation.chunk(2, dim=1)
            h_norm = torch.addcmul(h_norm + beta, h_norm, gamma)
        a, b = self.ends(h_norm).chunk(2, dim=1)

        difference = to_pairs(shorten(V).view(N, 3 * C), pairs, signed=True).view(-1, 3, C)
        p = torch.addmm(p, z, self.W.weight.t())
        p = torch.addmm(p, (difference * u).sum(1), self.Q.weight.t())
        p = p + to_pairs(a, pairs)
        z = F.silu(p)

        # Σ_j z_ij b_j from the symmetric Σ_j z_ij (b_i + b_j)
        m = to_rows(z, pairs)
        m = m + to_rows(z * to_pairs(b, pairs), pairs) - b * m
        pull = (u * self.S(z)[:, None]).view(-1, 3 * C)
        V = V + (to_rows(pull, pairs, signed=True) * scale).view(N, 3, C)

        k, q, r = self.mix(shorten(V)).chunk(3, dim=2)
        length = torch.sqrt(r.square().sum(1) + 1e-6)
        invariants = torch.cat([h_norm, m * scale, (k * q).sum(1), length], dim=1)
        update = self.second(F.silu(self.first(invariants)))
        delta, g = update.split([h.shape[1], C], dim=1)
        return h + delta, V + k * g[:, None], p, z


@configured
class PairNet(PointDenoiser):
    r"""A denoiser for batches of point clouds, with one narrow state for each pair of points.

    Rotations and reflections of the input positions act on the position part of the output alone;
    translations change nothing. Both parts start as t times the input, roughly the best linear
    estimate of the noise, and learn a correction: the network is made to predict `eps`.

    With `pairs`, the space is Packed, of two fields of any names: the points, and one row for each of
    `Ragged.pairs`, which all motions leave as they are::

        atoms = Ragged(index, num_items, centered=3)
        bonds = atoms.pair_space
        space = Packed({"atoms": (atoms, (N, 3 + features)), "bonds": (bonds, (P, pairs))})

    Arguments:
        features: Feature columns after the three of the position.
        hidden: Width of the points' features h.
        pair: Width of the pairs' states z.
        vectors: Number C of vectors of a point.
        layers: Number of layers.
        bases: Number of Gaussians that represent a distance.
        context: Columns of conditions.
        classes: Number of labels; 0 for none.
        tokens: Width of the tokens that the points attend to; 0 for none.
        pairs: Numbers of a pair in the state; 0 for none.
        modulated: Whether time, label and context scale and shift the features in every layer. They
            have no effect there at first.

    Raises:
        ValueError: If `context`, `classes`, `tokens` or `pairs` is negative.

    References:
        Equivariant Diffusion for Molecule Generation in 3D (Hoogeboom et al., 2022).
        https://arxiv.org/abs/2203.17003

        Scalable Diffusion Models with Transformers (Peebles & Xie, 2023), section 3.2: modulation that is
        zero at first. https://arxiv.org/abs/2212.09748

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
        pairs: int = 0,
        modulated: bool = False,
    ) -> None:
        super().__init__(features, context, classes, tokens)
        check_whole("[0, inf)", pairs=pairs)
        self.vectors, self.bases, self.pairs, self.modulated = vectors, bases, pairs, modulated

        self.time = nn.Sequential(nn.Linear(25, 64), nn.SiLU(), nn.Linear(64, 64), nn.SiLU())
        self.embedding = nn.Linear(features + 64 + context, hidden)
        self.distance = nn.Linear(bases + 1, pair)
        self.layers = nn.ModuleList(Layer(hidden, pair, vectors) for _ in range(layers))
        self.norm = nn.LayerNorm(hidden)
        # at first the output is t times the input
        self.readout = nn.Sequential(
            nn.Linear(hidden, hidden), nn.SiLU(), zeroed(nn.Linear(hidden, features + vectors))
        )
        self.pull = zeroed(nn.Linear(pair, 1))
        self.skip = zeroed(nn.Linear(64, 2))
        self._build_readers(hidden, layers)
        if pairs:
            self.pair_in = zeroed(nn.Linear(pairs, pair, bias=False))
            self.pair_out = zeroed(nn.Linear(pair, pairs))
            self.pair_skip = zeroed(nn.Linear(64, 1))
        if modulated:
            self.told = nn.Linear(64 + 2 * context + (hidden if classes else 0), 64)
            self.modulations = nn.ModuleList(
                zeroed(nn.Linear(64, 2 * hidden)) for _ in range(layers)
            )

    def _points(self, x_t: Tensor, space: Any) -> tuple[Tensor, Ragged]:
        if not self.pairs:
            return super()._points(x_t, space)
        fields = list(space.fields.values()) if isinstance(space, Packed) else []
        if len(fields) != 2 or not isinstance(fields[0][0], Ragged):
            kinds = ", ".join(type(field).__name__ for field, _ in fields)
            raise ValueError(
                f"the space is {type(space).__name__}{kinds and f' of {kinds}'}, and PairNet with pairs="
                f"{self.pairs} needs Packed of two fields: the points, whose space is Ragged, and a row "
                "for each of its `pairs`."
            )
        x, e = space.unpack(x_t).values()
        rows, points = super()._points(x, fields[0][0])
        hint = f"give {self.pairs} numbers for each of the points' `pairs`"
        check_shape((points.pairs.shape[1], self.pairs), hint, **{list(space.fields)[1]: e})
        return rows, points

    def _predict(self, x_t: Tensor, t: Tensor, space: Any, cond: Conditions) -> Tensor:
        if not self.pairs:
            return self._of_fields(x_t, None, t, space, cond)[0]
        (points, _), _ = space.fields.values()
        x, e = space.unpack(x_t).values()
        out = self._of_fields(x, e, t, points, cond)
        packed: Tensor = space.pack(dict(zip(space.fields, out, strict=True)))
        return packed

    def _of_fields(
        self, x_t: Tensor, e: Tensor | None, t: Tensor, space: Ragged, cond: Conditions
    ) -> tuple[Tensor, ...]:
        """The prediction for the rows of the points, and for those of the pairs if there are any."""
        pairs = pairs_of(space)
        x, f = x_t[:, :3], x_t[:, 3:]
        scale = space.sizes.to(x_t.dtype).rsqrt()[space.index, None]

        difference = to_pairs(x, pairs, signed=True)
        d = torch.sqrt(difference.square().sum(1, keepdim=True) + 1e-6)
        u = (difference / (d + 0.1))[:, :, None]
        p = self.distance(bases_of(d, self.bases))
        if e is not None:
            p = p + self.pair_in(2 * e)

        time = self.time(time_features(t))
        h = self._embed([2 * f, time.index_select(0, space.index)], space, cond)

        V = h.new_zeros(len(h), 3, self.vectors)
        z = F.silu(p)
        told = self._tell(time, space, cond) if self.modulated else None
        for k, layer in enumerate(self.layers):
            modulation = None if told is None else by_point(self.modulations[k](told), space)
            h, V, p, z = layer(pairs, u, scale, h, V, p, z, modulation)
            h = self._attend(k, h, space, cond)

        out_f, g = self.readout(self.norm(h)).split([self.features, self.vectors], dim=1)
        pull = to_rows(u[:, :, 0] * self.pull(z), pairs, signed=True)
        out_x = (V * g[:, None]).sum(2) + scale * pull
        skip_x, skip_f = (self.skip(time) + t[:, None]).index_select(0, space.index).chunk(2, dim=1)
        out = torch.cat([space.center(out_x + skip_x * x), out_f + skip_f * f], dim=1)
        if e is None:
            return (out,)
        skip_e = (self.pair_skip(time) + t[:, None]).index_select(0, space.pair_space.index)
        return out, self.pair_out(z) + skip_e * e

    def _tell(self, time: Tensor, space: Ragged, cond: Conditions) -> Tensor:
        """What is told in every layer, (B, 64); (N, 64) if each point has a context of its own."""
        told = [time]
        if self.embed_label is not None:
            none = time.new_zeros(len(time), self.embed_label.embedding_dim)
            told.append(none if cond.label is None else cond.label)
        if len(cond.given[0]) != len(time):
            told = [by_point(each, space) for each in told]
        return F.silu(self.told(torch.cat([*told, *cond.given], dim=1)))
