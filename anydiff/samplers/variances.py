r"""The variance of a reverse step: the two extremes, and what a network says between them.

.. math::
    \tilde\beta = \sigma_{ts}^2 \sigma_s^2 / \sigma_t^2, \qquad
    \beta = \sigma_{ts}^2 = \sigma_t^2 - (\alpha_t / \alpha_s)^2 \sigma_s^2
        = \sigma_t^2 \bigl(1 - e^{\lambda_t - \lambda_s}\bigr)

The first is the posterior's, right for data at a point; the second is the forward step's, right for
standard normal data. In between, the log-variance is a share v of the way from one to the other, entry
by entry. Both are computed from the log-SNR: as a difference of squares, a short step has no digits.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from anydiff.schedules import Level
from anydiff.spaces import DENSE, Space

__all__ = ["VARIANCES", "log_variances", "reverse_log_variance", "tied"]


VARIANCES = ("small", "large", "learned")
"""The first, the second, and between them."""


def log_variances(t: Level, s: Level) -> tuple[Any, Any]:
    r""":math:`\log \tilde\beta` and :math:`\log \beta` of the step from t down to s.

    Floats or tensors, as the levels are. A step onto the data itself, where sigma is 0, has the
    posterior variance 0, and its logarithm is -inf.

    Arguments:
        t, s: Levels of floats or of tensors; s is the cleaner one.
    """
    log_sigma_t, log_sigma_s = _log(t.sigma), _log(s.sigma)
    fall = 2 * (_log(t.alpha) - log_sigma_t) - 2 * (_log(s.alpha) - log_sigma_s)
    kept = _log(-torch.expm1(fall) if isinstance(fall, Tensor) else -math.expm1(fall))
    return 2 * log_sigma_s + kept, 2 * log_sigma_t + kept


def reverse_log_variance(t: Level, s: Level, extra: Tensor | None, space: Space = DENSE) -> Tensor:
    r"""The log-variance that a network has learned for the step from t to s, shaped like `extra`.

    .. math:: \log \Sigma = v \log \beta + (1 - v) \log \tilde\beta, \qquad v = (extra + 1) / 2

    v is not held to [0, 1]: a variance may lie outside, as in the paper.

    Arguments:
        t, s: Levels of floats, or of tensors that broadcast with `extra`; sigma_s above 0.
        extra: The second half of a denoiser's output, :attr:`anydiff.Prediction.extra`.
        space: The space of the draw whose variance it is, see :func:`tied`.

    References:
        Improved Denoising Diffusion Probabilistic Models (Nichol & Dhariwal, 2021), eq. 15.
        https://arxiv.org/abs/2102.09672
    """
    small, large = log_variances(t, s)
    return between(small, large, tied(extra, space))


def between(small: Any, large: Any, extra: Tensor) -> Tensor:
    """The share (extra + 1) / 2 of the way from one log-variance to the other.

    Arguments:
        small, large: Log-variances, floats or tensors that broadcast with `extra`.
        extra: From -1, the small one, to 1, the large one.
    """
    return torch.add((extra + 1) / 2 * (large - small), small)


def tied(extra: Tensor | None, space: Space) -> Tensor:
    """`extra`, made equal over the entries whose mean the space takes away, shaped like it.

    Only then does the projection commute with the variances, and a draw with them stays in the space.
    Where every entry is free, nothing changes.

    Arguments:
        extra: Of a prediction, shaped like x_t.
        space: The batch's space.

    Raises:
        ValueError: If a denoiser gave none.
    """
    if extra is None:
        raise ValueError("the denoiser gives no variance; choose the variance 'small' or 'large'.")
    if space.free:
        return extra
    share = space.diagonal(extra)
    return torch.where((share > 0) & (share < 1), extra - space.project(extra), extra)


def _log(x: Any) -> Any:
    if isinstance(x, Tensor):
        return x.log()
    return math.log(x) if x > 0 else -math.inf
