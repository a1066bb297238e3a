r"""Normal distributions in a space: log-density and KL divergence.

Covariances are diagonal, and equal for entries that the projection P mixes, so that they commute with P.
Sums over entries, such as the log-determinant, are then weighted with the diagonal of P, whose sum is
the dimension.
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
        values: A scalar, or a tensor that broadcasts with x.
        x: Gives the shape.
        space: The batch's space.
    """
    return space.sum(space.diagonal(x) * values)


def log_normal(away: Tensor, log_variance: Tensor, space: Space) -> Tensor:
    """The log-density of a normal distribution at its mean + `away`, in nats, (B,).

    Arguments:
        away: The distance from the mean, in the space.
        log_variance: The log-variance of each entry; broadcasts with `away`.
        space: The batch's space.
    """
    squares = space.sum(away.square() * torch.exp(-log_variance))
    return -0.5 * (squares + trace(log_variance + math.log(2 * math.pi), away, space))


def kl(away: Tensor, log_variance: Tensor, log_ratio: Tensor, space: Space) -> Tensor:
    r"""KL(N(m + away, q) || N(m, p)) in nats, (B,).

    .. math:: \tfrac12 \bigl( \lVert away \rVert^2 / p + \mathrm{tr} (q / p - 1 - \log q / p) \bigr)

    Arguments:
        away: The difference of the means, in the space.
        log_variance: log p; broadcasts with `away`.
        log_ratio: log q / p; broadcasts with `away`.
        space: The batch's space.
    """
    squares = space.sum(away.square() * torch.exp(-log_variance))
    return 0.5 * (squares + trace(torch.expm1(log_ratio) - log_ratio, away, space))
