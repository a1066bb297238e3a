r"""The likelihood of the data in the last step of a bound: densities, and probabilities of levels.

A decoder is (x0, mean, log_variance, space) -> log p(x0), in nats, (B,): a density for real-valued data
(:class:`ContinuousGaussian`), probabilities for data on a grid of levels (:class:`DiscretizedGaussian`).
The probability-flow ODE only gives a density. :class:`Dequantize` makes it comparable: uniform noise over
the bins turns levels into real numbers, whose mean log-density plus the log-volume of a bin is a lower
bound of the log-probability of the levels.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise
from typing import Protocol

import torch
from torch import Tensor

from anydiff.checks import (
    check_floating,
    check_kind,
    check_range,
    check_shape,
    check_whole,
    frozen,
    numbers,
    shown,
)
from anydiff.likelihood.gaussians import log_normal
from anydiff.spaces import DENSE, Random, Space, check_space

__all__ = ["ContinuousGaussian", "Decoder", "Dequantize", "DiscretizedGaussian", "bits_per_dim"]


class Decoder(Protocol):
    """The likelihood of x0 under a distribution with a given mean and variance."""

    def __call__(self, x0: Tensor, mean: Tensor, log_variance: Tensor, space: Space) -> Tensor:
        """log p(x0) in nats, (B,).

        Arguments:
            x0: Data, in the space.
            mean: The mean of the distribution, shaped like x0.
            log_variance: Its log-variance; broadcasts with x0.
            space: The batch's space.
        """


@frozen()
class ContinuousGaussian:
    """The density of a normal distribution, for real-valued data in any space."""

    def __call__(self, x0: Tensor, mean: Tensor, log_variance: Tensor, space: Space) -> Tensor:
        return log_normal(x0 - mean, log_variance, space)


@frozen()
class DiscretizedGaussian:
    r"""The probability of each level's bin under a normal distribution; the outer bins are unbounded.

    .. math:: p(x_0) = \int_{lower(x_0)}^{upper(x_0)} N(x; \mu, \sigma^2)\, dx

    The edges of the bins lie half-way between neighbouring levels. A value between the levels belongs to
    the bin in which it lies.

    Arguments:
        bits: There are 2 ** bits levels, evenly spaced from `low` to `high`.
        low, high: The first level and the last.
        levels: The levels themselves, rising, in place of these three.

    Raises:
        ValueError: If the levels do not rise, or if `bits` lies outside [1, 16].

    References:
        Denoising Diffusion Probabilistic Models (Ho et al., 2020), eq. 13.
        https://arxiv.org/abs/2006.11239
    """

    bits: int = 8
    low: float = -1.0
    high: float = 1.0
    levels: Sequence[float] | None = None

    def __post_init__(self) -> None:
        if self.levels is None:
            _check_grid(self.bits, self.low, self.high)
            return
        levels = tuple(numbers(self.levels).tolist())
        if len(levels) < 2 or not all(a < b for a, b in pairwise(levels)):
            raise ValueError(f"the levels are {shown(self.levels)}; give two or more that rise.")
        object.__setattr__(self, "levels", levels)

    @property
    def edges(self) -> Tensor:
        """The edges between bins, rising, (number of levels - 1,), float64."""
        if self.levels is None:
            levels = torch.linspace(self.low, self.high, 2**self.bits, dtype=torch.float64)
        else:
            levels = torch.tensor(self.levels, dtype=torch.float64)
        return (levels[1:] + levels[:-1]) / 2

    @property
    def resolution(self) -> float:
        """The least distance of two levels."""
        if self.levels is None:
            return (self.high - self.low) / float(2**self.bits - 1)
        return min(b - a for a, b in pairwise(self.levels))

    def __call__(self, x0: Tensor, mean: Tensor, log_variance: Tensor, space: Space) -> Tensor:
        _check_free(space)
        return space.sum(self.log_probs(x0, mean, log_variance))

    def log_probs(self, x0: Tensor, mean: Tensor, log_variance: Tensor) -> Tensor:
        """The log-probability of each entry, shaped like x0.

        Arguments:
            x0: Data.
            mean: The mean of the normal distribution, shaped like x0.
            log_variance: Its log-variance; broadcasts with x0.
        """
        edges = self.edges.to(x0.device)
        bins = torch.bucketize(x0.detach().double(), edges)
        # float64: the probability of a narrow bin is a difference of two nearly equal numbers
        scale = torch.exp(-0.5 * log_variance.double())
        below = (edges[(bins - 1).clamp(min=0)] - mean.double()) * scale
        above = (edges[bins.clamp(max=len(edges) - 1)] - mean.double()) * scale
        first, last = bins == 0, bins == len(edges)
        # a finite value for the unbounded side of an outer bin keeps the gradient of `where` finite
        below, above = torch.where(first, above - 1, below), torch.where(last, below + 1, above)

        # above the mean, reflect both edges: the difference of upper tails avoids cancellation
        mirrored = below > 0
        lower, upper = torch.where(mirrored, -above, below), torch.where(mirrored, -below, above)
        log_lower, log_upper = torch.special.log_ndtr(lower), torch.special.log_ndtr(upper)
        inner = log_upper + torch.log(-torch.expm1(log_lower - log_upper))

        result = torch.where(first, torch.special.log_ndtr(above), inner)
        return torch.where(last, torch.special.log_ndtr(-below), result).to(x0.dtype)


@frozen()
class Dequantize:
    r"""Uniform dequantisation of data on a grid of levels, and the resulting bits per dimension.

    .. code-block:: python

        grid = Dequantize(bits=8)                      # levels in [-1, 1]
        log_p = log_prob(diffusion.predictor(), grid(x0))
        bits = grid.bits_per_dim(log_p, space.dim(x0))

    On average over the noise, these bits are an upper bound of the bits of the levels.

    Arguments:
        bits: There are 2 ** bits levels, evenly spaced from `low` to `high`, the middles of the bins.
        low, high: The first level and the last.

    Raises:
        ValueError: If `low` is not below `high`, or if `bits` lies outside [1, 16].

    References:
        A note on the evaluation of generative models (Theis et al., 2016), section 3.1.
        https://arxiv.org/abs/1511.01844
    """

    bits: int = 8
    low: float = -1.0
    high: float = 1.0

    def __post_init__(self) -> None:
        _check_grid(self.bits, self.low, self.high)

    @property
    def width(self) -> float:
        """The width of a bin, in the units of the data."""
        return (self.high - self.low) / (2.0**self.bits - 1)

    def __call__(self, x0: Tensor, *, space: Space = DENSE, generator: Random = None) -> Tensor:
        """Add uniform noise over the bin of each level; shaped like x0.

        Arguments:
            x0: Data on the grid of levels, in the space.
            space: The batch's space.
            generator: The source of noise: one generator, or one per item.

        Raises:
            ValueError: If the data are not floating-point, or if the space mixes entries.
        """
        check_space(space=space)
        check_floating(x0=x0)
        _check_free(space)
        # space.noise takes any kind of generator; the normal's CDF makes it uniform
        uniform = torch.special.ndtr(space.noise(x0, generator))
        return x0 + space.project(self.width * (uniform - 0.5))

    def bits_per_dim(self, log_prob: Tensor, dim: Tensor) -> Tensor:
        """The bits per dimension of the levels, from the log-density of the dequantised data, (B,).

        Arguments:
            log_prob: The log-density of the dequantised data in nats, (B,).
            dim: The dimension of each item, ``space.dim(x0)``, (B,).

        Raises:
            ValueError: If there is not one dimension for each item.
        """
        return bits_per_dim(log_prob, dim, self.width)


def bits_per_dim(log_prob: Tensor, dim: Tensor, width: float = 1.0) -> Tensor:
    r"""Bits per dimension of a log-probability in nats, (B,).

    .. math:: - \frac{\log p}{\dim \log 2} - \log_2 width

    Arguments:
        log_prob: The log-probability of discrete data, or the log-density of dequantised data, (B,).
        dim: The dimension of each item, ``space.dim(x0)``, (B,).
        width: For a density, the distance of neighbouring levels in the units of the data: 2 / 255 for
            256 levels in [-1, 1]. The probability of a bin is its density times its volume.

    Raises:
        ValueError: If the width is not above 0, or there is not one dimension for each item.
    """
    check_range("(0, inf)", width=width)
    check_kind(Tensor, "a tensor (B,)", log_prob=log_prob)
    check_kind(Tensor, "space.dim(x0)", dim=dim)
    if dim.numel() != 1:
        check_shape(log_prob.shape, "give space.dim(x0)", dim=dim)
    return -log_prob / (dim.clamp(min=1) * math.log(2)) - math.log2(width)


def _check_grid(bits: int, low: float, high: float) -> None:
    check_whole("[1, 16]", bits=bits)
    check_range(f"({low}, inf)", high=high)


def _check_free(space: Space) -> None:
    if not space.free:
        raise ValueError(
            f"{type(space).__name__} mixes entries, as centring does, and mixed entries lie on no grid "
            "of levels; use a density for these, ContinuousGaussian()."
        )
