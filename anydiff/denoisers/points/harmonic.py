r"""Harmonic: PairNet's pairs with tensors up to degree 2 in place of vectors, multiplied by e3nn.

Each point i has features h_i and, for each degree l of 1 and 2, C tensors T_l of 2l + 1 components;
each unordered pair has one symmetric state z_ij. With d_ij = \|x_i − x_j\|, u_ij = (x_i − x_j) /
(d_ij + 0.1), Y_1 = u, Y_2 the spherical harmonics of degree 2, n points in the item and T̂ = T / √(1 +
mean T²), a layer computes

    p_ij += W z_ij + Q [u·(T̂1_i − T̂1_j), Y_2·(T̂2_i + T̂2_j)] + a_i + a_j,   z_ij = SiLU(p_ij)    pairs
    m_i   = Σ_j z_ij ⊙ (1 + b_j) / √n                                                       messages
    T_l  += Σ_j Y_l(u_ij) (S_l z_ij) / √n                                                   densities
    B     = k ⊗ q                                                          products, channel by channel
    h_i  += δ_i,   T_l += g_l (k_l + M B_l),   δ_i, g = MLP(h_i, m_i, B_0, \|k\|)                 points

where a and b are linear in LayerNorm(h), and k and q are linear in T̂ across the channels. Y_l(−u) =
(−1)^l Y_l(u), so a harmonic is computed once for both points of a pair. ⊗ multiplies two points' tensors
of any degree into tensors of any degree; its constants and their order are e3nn's, as are the linear maps
k, q and M. It acts on points, which are few: a density is a sum over neighbours, so that a product of two
is a sum over pairs of them, the "density trick" of MACE.

By default parity is kept: Y_1 changes its sign under reflections and Y_2 does not, and only products
whose sign is that of their degree are taken. A mirror image then gives the mirrored output. With
``parity=False`` all products are taken, cross products among them, and only rotations are kept: the
network can tell a left hand from a right one.

e3nn is imported when a network is built.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from anydiff.checks import check_whole
from anydiff.denoisers.configured import configured
from anydiff.denoisers.embeddings import time_features
from anydiff.denoisers.inputs import Conditions, zeroed
from anydiff.denoisers.points.pairnet import Pairs, bases_of, pairs_of, to_pairs, to_rows
from anydiff.denoisers.points.sets import PointDenoiser
from anydiff.extras import extra
from anydiff.spaces import Ragged

if TYPE_CHECKING:
    from anydiff.denoisers.points.algebra import Algebra

__all__ = ["Harmonic"]


def products(parity: bool) -> int:
    """The number of products of each of the degrees 1 and 2, for a channel."""
    return 2 if parity else 4


def parts(T: Tensor) -> tuple[Tensor, Tensor]:
    """The vectors (N, C, 3) and the tensors of degree 2, (N, C, 5), of rows (N, 8C)."""
    N, C = len(T), T.shape[1] // 8
    return T[:, : 3 * C].view(N, C, 3), T[:, 3 * C :].view(N, C, 5)


def rows_of(vectors: Tensor, tensors: Tensor) -> Tensor:
    """The inverse of `parts`."""
    return torch.cat([vectors.flatten(1), tensors.flatten(1)], dim=1)


def shorten(T: Tensor) -> Tensor:
    """T / √(1 + mean square) for each degree of a row, (N, 8C)."""
    return rows_of(*(t * torch.rsqrt(1 + t.square().mean((1, 2), keepdim=True)) for t in parts(T)))


class HarmonicLayer(nn.Module):
    """One update of pairs, tensors and points; the module's docstring has the equations."""

    def __init__(self, hidden: int, pair: int, tensors: int, parity: bool) -> None:
        super().__init__()
        C, D = tensors, products(parity) * tensors
        self.norm = nn.LayerNorm(hidden)
        self.ends = nn.Linear(hidden, 2 * pair)  # a, b
        self.W = nn.Linear(pair, pair, bias=False)
        self.Q = nn.Linear(2 * C, pair, bias=False)
        self.S = nn.Linear(pair, 2 * C, bias=False)
        self.k = nn.Parameter(torch.randn(2, C, C) / C**0.5)
        self.q = nn.Parameter(torch.randn(2, C, C) / C**0.5)
        self.M = nn.Parameter(torch.randn(2 * D, C) / D**0.5)
        self.first = nn.Linear(hidden + pair + 4 * C, hidden)
        self.second = nn.Linear(hidden, hidden + 2 * C)  # δ, g
        with torch.no_grad():
            self.second.weight.mul_(0.5)

    def forward(
        self,
        algebra: Algebra,
        pairs: Pairs,
        Y: tuple[Tensor, Tensor],
        scale: Tensor,
        h: Tensor,
        T: Tensor,
        p: Tensor,
        z: Tensor,
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        N, C = len(h), T.shape[1] // 8
        h_norm = self.norm(h)
        a, b = self.ends(h_norm).chunk(2, dim=1)

        # channels last, which is faster where rows are many
        dots = [
            (to_pairs(t.mT.flatten(1), pairs, signed).view(-1, y.shape[1], C) * y).sum(1)
            for t, y, signed in zip(parts(shorten(T)), Y, (True, False), strict=True)
        ]
        p = torch.addmm(p, z, self.W.weight.t())
        p = torch.addmm(p, torch.cat(dots, dim=1), self.Q.weight.t())
        p = p + to_pairs(a, pairs)
        z = F.silu(p)

        # Σ_j z_ij b_j from the symmetric Σ_j z_ij (b_i + b_j)
        m = to_rows(z, pairs)
        m = m + to_rows(z * to_pairs(b, pairs), pairs) - b * m
        densities = [
            to_rows((y * s[:, None]).flatten(1), pairs, signed).view(N, -1, C).mT
            for s, y, signed in zip(self.S(z).chunk(2, dim=1), Y, (True, False), strict=True)
        ]
        T = T + rows_of(*densities) * scale

        T_short = shorten(T)
        k = algebra.mix(T_short, self.k)
        B_0, B = algebra.product(k, algebra.mix(T_short, self.q)).tensor_split([2 * C], dim=1)
        lengths = [torch.sqrt(t.square().sum(2) + 1e-6) for t in parts(k)]
        update = self.second(
            F.silu(self.first(torch.cat([h_norm, m * scale, B_0, *lengths], dim=1)))
        )
        delta, *g = update.split([h.shape[1], C, C], dim=1)
        step = parts(k + algebra.merge(B, self.M))
        gated = [t * gate[:, :, None] for t, gate in zip(step, g, strict=True)]
        return h + delta, T + rows_of(*gated), p, z


@configured
class Harmonic(PointDenoiser):
    r"""A denoiser for batches of point clouds, with vectors and tensors of degree 2 for each point.

    Rotations of the input positions, and with `parity` reflections, act on the position part of the
    output alone; translations change nothing. Both parts start as t times the input, roughly the best
    linear estimate of the noise, and learn a correction: the network is made to predict `eps`.

    Arguments:
        features: Feature columns after the three of the position.
        hidden: Width of the points' features h.
        pair: Width of the pairs' states z.
        tensors: Number C of tensors of a point, of each degree.
        layers: Number of layers.
        bases: Number of Gaussians that represent a distance.
        parity: Whether the mirror image of the input gives that of the output. Without, the network
            can tell a chiral item from its mirror image.
        context: Columns of conditions.
        classes: Number of labels; 0 for none.
        tokens: Width of the tokens that the points attend to; 0 for none.

    Raises:
        ValueError: If `context`, `classes` or `tokens` is negative, or `tensors` below 1.
        ImportError: If e3nn is not installed.

    References:
        e3nn: Euclidean Neural Networks (Geiger & Smidt, 2022). https://arxiv.org/abs/2207.09453

        Tensor field networks (Thomas et al., 2018): harmonics, products, parity.
        https://arxiv.org/abs/1802.08219

        MACE (Batatia et al., 2022): products at the points. https://arxiv.org/abs/2206.07697
    """

    def __init__(
        self,
        features: int,
        hidden: int = 96,
        pair: int = 48,
        tensors: int = 16,
        layers: int = 4,
        bases: int = 32,
        parity: bool = True,
        context: int = 0,
        classes: int = 0,
        tokens: int = 0,
    ) -> None:
        super().__init__(features, context, classes, tokens)
        check_whole("[1, inf)", tensors=tensors)
        with extra("e3nn"):
            import e3nn.o3  # noqa: F401  # rather here than in the first call
        self.tensors, self.bases, self.parity = tensors, bases, parity

        self.time = nn.Sequential(nn.Linear(25, 64), nn.SiLU(), nn.Linear(64, 64), nn.SiLU())
        self.embedding = nn.Linear(features + 64 + context, hidden)
        self.distance = nn.Linear(bases + 1, pair)
        self.layers = nn.ModuleList(
            HarmonicLayer(hidden, pair, tensors, parity) for _ in range(layers)
        )
        self.norm = nn.LayerNorm(hidden)
        # at first the output is t times the input
        self.readout = nn.Sequential(
            nn.Linear(hidden, hidden), nn.SiLU(), zeroed(nn.Linear(hidden, features + tensors))
        )
        self.pull = zeroed(nn.Linear(pair, 1))
        self.skip = zeroed(nn.Linear(64, 2))
        self._build_readers(hidden, layers)

    def _predict(self, x_t: Tensor, t: Tensor, space: Ragged, cond: Conditions) -> Tensor:
        from anydiff.denoisers.points.algebra import algebra_of

        algebra = algebra_of(self.tensors, self.parity, x_t.dtype, x_t.device)
        pairs = pairs_of(space)
        x, f = x_t[:, :3], x_t[:, 3:]
        scale = space.sizes.to(x_t.dtype).rsqrt()[space.index, None]

        difference = to_pairs(x, pairs, signed=True)
        d = torch.sqrt(difference.square().sum(1, keepdim=True) + 1e-6)
        u = difference / (d + 0.1)  # at most 1, and smooth where two points meet
        Y = u[:, :, None], algebra.harmonics(u)[:, :, None]
        p = self.distance(bases_of(d, self.bases))

        time = self.time(time_features(t))
        h = self._embed([2 * f, time.index_select(0, space.index)], space, cond)

        T = x_t.new_zeros(len(h), 8 * self.tensors)
        z = F.silu(p)
        for k, layer in enumerate(self.layers):
            h, T, p, z = layer(algebra, pairs, Y, scale, h, T, p, z)
            h = self._attend(k, h, space, cond)

        out_f, g = self.readout(self.norm(h)).split([self.features, self.tensors], dim=1)
        pull = to_rows(u * self.pull(z), pairs, signed=True)
        out_x = (parts(T)[0] * g[:, :, None]).sum(1) + scale * pull
        skip_x, skip_f = (self.skip(time) + t[:, None]).index_select(0, space.index).chunk(2, dim=1)
        return torch.cat([space.center(out_x + skip_x * x), out_f + skip_f * f], dim=1)
