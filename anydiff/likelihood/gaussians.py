r"""Normal distributions in a space: their density and their divergence.

A covariance is diagonal, and equal over entries that the projection P mixes, so that it commutes with
P. What counts the entries of a dense item, a sum or the power of :math:`2 \pi`, then counts with the
diagonal of P, whose sum is the dimension.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from anydiff.spaces import Space

__all__ = ["kl", "log_normal", "trace"]


def trace(values: Tensor | float, x: Tensor, space: Space) -> Tensor:
    """The trace of P diag(values) P, (B,): the values, summed over the space's dimensions.

    Arguments:
        values: Broadcasts with x.
        x: Gives the shape.
    """
    return space.sum(space.diagonal(x) * values)


def log_normal(away: Tensor, log_variance: Tensor, space: Space) -> Tensor:
    """The log-density of a normal at its mean + `away`, in nats, (B,).

    Arguments:
        away: In the space.
        log_variance: Broadcasts with it.
    """
    squares = space.sum(away.square() * torch.exp(-log_variance))
    return -0.5 * (squares + trace(log_variance + math.log(2 * math.pi), away, space))


def kl(away: Tensor, log_variance: Tensor, log_ratio: Tensor, space: Space) -> Tensor:
    r"""KL(N(m + away, q) || N(m, p)) in nats, (B,).

    .. math:: \tfrac12 \bigl( \lVert away \rVert^2 / p + \mathrm{tr} (q / p - 1 - \log q / p) \bigr)

    Arguments:
        away: The difference of the means, in the space.
        log_variance: log p; broadcasts with it.
        log_ratio: log q / p; broadcasts with it.
    """
    squares = space.sum(away.square() * torch.exp(-log_variance))
    return 0.5 * (squares + trace(torch.expm1(log_ratio) - log_ratio, away, space))
