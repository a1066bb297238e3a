r"""From a density to the probability of what was measured: the last step of a bound.

A decoder is (x0, mean, log_variance, space) -> log p(x0), in nats, (B,): a density for real-valued data
(:class:`ContinuousGaussian`), probabilities for data on a grid of levels (:class:`DiscretizedGaussian`).
A likelihood that only a density has, that of the probability-flow ODE, is made comparable by
:class:`Dequantize`: uniform noise over the bins turns levels into real numbers, and the log-density of
those, plus the log-volume of a bin, is on average no more than the log-probability of the levels.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise
from typing import Protocol

import torch
from torch import Tensor

from anydiff.checks import check_range, frozen
from anydiff.likelihood.gaussians import log_normal
from anydiff.spaces import DENSE, Random, Space

__all__ = ["ContinuousGaussian", "Decoder", "Dequantize", "DiscretizedGaussian", "bits_per_dim"]


class Decoder(Protocol):
    """How likely x0 is, given a mean and a variance for it."""

    def __call__(self, x0: Tensor, mean: Tensor, log_variance: Tensor, space: Space) -> Tensor:
        """log p(x0) in nats, (B,); log_variance broadcasts with x0."""


@frozen()
class ContinuousGaussian:
    """The density of a normal, for real-valued data in any space."""

    def __call__(self, x0: Tensor, mean: Tensor, log_variance: Tensor, space: Space) -> Tensor:
        return log_normal(x0 - mean, log_variance, space)


@frozen()
class DiscretizedGaussian:
    r"""The probability that a normal gives the bin of each level; the outer bins are open.

    .. math:: p(x_0) = \int_{lower(x_0)}^{upper(x_0)} N(x; \mu, \sigma^2)\, dx

    Bins meet half-way between neighbouring levels. A value beside the levels has the bin that it
    lies in.

    Arguments:
        bits: The levels are 2 ** bits numbers, evenly from `low` to `high`.
        low, high: The first level and the last.
        levels: The levels themselves, rising, in place of the three.

    Raises:
        ValueError: If the levels do not rise, or if bits lie outside [1, 16].

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
        levels = tuple(float(level) for level in self.levels)
        if len(levels) < 2 or any(a >= b for a, b in pairwise(levels)):
            raise ValueError(f"the levels are {levels}; give two or more that rise.")
        object.__setattr__(self, "levels", levels)

    @property
    def edges(self) -> Tensor:
        """Where bins meet, rising, (number of levels - 1,), float64."""
        if self.levels is None:
            levels = torch.linspace(self.low, self.high, 2**self.bits, dtype=torch.float64)
        else:
            levels = torch.tensor(self.levels, dtype=torch.float64)
        return (levels[1:] + levels[:-1]) / 2

    def __call__(self, x0: Tensor, mean: Tensor, log_variance: Tensor, space: Space) -> Tensor:
        _check_free(space)
        return space.sum(self.log_probs(x0, mean, log_variance))

    def log_probs(self, x0: Tensor, mean: Tensor, log_variance: Tensor) -> Tensor:
        """The log-probability of each entry, shaped like x0.

        Arguments:
            x0: Data.
            mean: Of the normal, shaped like x0.
            log_variance: Of the normal; broadcasts with x0.
        """
        edges = self.edges.to(x0.device)
        bins = torch.bucketize(x0.detach().double(), edges)
        # float64: a narrow bin is the small difference of two nearly equal probabilities
        scale = torch.exp(-0.5 * log_variance.double())
        below = (edges[(bins - 1).clamp(min=0)] - mean.double()) * scale
        above = (edges[bins.clamp(max=len(edges) - 1)] - mean.double()) * scale
        first, last = bins == 0, bins == len(edges)
        # an outer bin's open side: any finite stand-in keeps the gradient of `where` finite
        below, above = torch.where(first, above - 1, below), torch.where(last, below + 1, above)

        # where both lie above the mean, their reflections have the digits
        mirrored = below > 0
        lower, upper = torch.where(mirrored, -above, below), torch.where(mirrored, -below, above)
        log_lower, log_upper = torch.special.log_ndtr(lower), torch.special.log_ndtr(upper)
        inner = log_upper + torch.log(-torch.expm1(log_lower - log_upper))

        result = torch.where(first, torch.special.log_ndtr(above), inner)
        return torch.where(last, torch.special.log_ndtr(-below), result).to(x0.dtype)


@frozen()
class Dequantize:
    r"""Uniform noise over the bins of a grid of levels, and the bits that go with it.

    .. code-block:: python

        grid = Dequantize(bits=8)                      # levels in [-1, 1]
        log_p = log_prob(diffusion.predictor(), grid(x0))
        bits = grid.bits_per_dim(log_p, space.dim(x0))

    On average over the noise these bits are an upper bound of those of the levels.

    Arguments:
        bits: The levels are 2 ** bits numbers, evenly from `low` to `high`, the middles of the bins.
        low, high: The first level and the last.

    Raises:
        ValueError: If the levels do not rise, or if bits lie outside [1, 16].

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
        """Levels -> real numbers, shaped like x0."""
        _check_free(space)
        # the space draws, for whichever generators; a normal's distribution function makes it uniform
        uniform = torch.special.ndtr(space.noise(x0, generator))
        return x0 + space.project(self.width * (uniform - 0.5))

    def bits_per_dim(self, log_prob: Tensor, dim: Tensor) -> Tensor:
        """Bits per dimension of the levels, of the log-density of their dequantised data, (B,).

        Arguments:
            log_prob: The log-density of dequantised data in nats, (B,).
            dim: (B,), ``space.dim(x0)``.
        """
        return bits_per_dim(log_prob, dim, self.width)


def bits_per_dim(log_prob: Tensor, dim: Tensor, width: float = 1.0) -> Tensor:
    r"""Bits per dimension of a log-probability in nats, (B,).

    .. math:: - \frac{\log p}{\dim \log 2} - \log_2 width

    Arguments:
        log_prob: (B,), of discrete values, or the log-density of dequantised ones.
        dim: (B,), ``space.dim(x0)``.
        width: For a density: the distance of neighbouring levels in the units of the data, 2 / 255 for
            256 levels in [-1, 1]. A bin's probability is its density times its volume.
    """
    return -log_prob / (dim.clamp(min=1) * math.log(2)) - math.log2(width)


def _check_grid(bits: int, low: float, high: float) -> None:
    check_range("[1, 16]", bits=bits)
    check_range(f"({low}, inf)", high=high)


def _check_free(space: Space) -> None:
    if not space.free:
        raise ValueError(
            f"{type(space).__name__} mixes entries, as centred columns are, and what is mixed lies on no "
            "grid of levels; take the density of those, ContinuousGaussian()."
        )
