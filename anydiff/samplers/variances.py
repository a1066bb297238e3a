r"""The variance of a reverse step: its two extremes, and a learned variance between them.

.. math::
    \tilde\beta = \sigma_{ts}^2 \sigma_s^2 / \sigma_t^2, \qquad
    \beta = \sigma_{ts}^2 = \sigma_t^2 - (\alpha_t / \alpha_s)^2 \sigma_s^2
        = \sigma_t^2 \bigl(1 - e^{\lambda_t - \lambda_s}\bigr)

The first is that of the posterior, exact for data at a single point; the second is that of the forward
step, exact for standard normal data. A learned log-variance interpolates between the two with a weight v
for each entry. Both are computed from the log-SNR, since a difference of squares loses all precision to
cancellation in short steps.
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
"""The first, the second, and the interpolation between them."""


def log_variances(t: Level, s: Level) -> tuple[Any, Any]:
    r""":math:`\log \tilde\beta` and :math:`\log \beta` of the step from t down to s.

    Floats or tensors, like the levels. A step to the data, where sigma is 0, has the posterior variance
    0, whose logarithm is -inf.

    Arguments:
        t: The level at which the step starts, of floats or of tensors.
        s: The level at which it ends, with less noise.
    """
    log_sigma_t, log_sigma_s = _log(t.sigma), _log(s.sigma)
    fall = 2 * (_log(t.alpha) - log_sigma_t) - 2 * (_log(s.alpha) - log_sigma_s)
    kept = _log(-torch.expm1(fall) if isinstance(fall, Tensor) else -math.expm1(fall))
    return 2 * log_sigma_s + kept, 2 * log_sigma_t + kept


def reverse_log_variance(t: Level, s: Level, extra: Tensor | None, space: Space = DENSE) -> Tensor:
    r"""The log-variance that a network has learned for the step from t to s, shaped like `extra`.

    .. math:: \log \Sigma = v \log \beta + (1 - v) \log \tilde\beta, \qquad v = (extra + 1) / 2

    v is not clamped to [0, 1], as in the paper.

    Arguments:
        t: The level at which the step starts, of floats, or of tensors that broadcast with `extra`.
        s: The level at which it ends, likewise, with sigma above 0.
        extra: The denoiser's second output, :attr:`anydiff.Prediction.extra`.
        space: The batch's space, see :func:`tied`.

    Raises:
        ValueError: If `extra` is None, since the denoiser has no second output.

    References:
        Improved Denoising Diffusion Probabilistic Models (Nichol & Dhariwal, 2021), eq. 15.
        https://arxiv.org/abs/2102.09672
    """
    small, large = log_variances(t, s)
    return between(small, large, tied(extra, space))


def between(small: Any, large: Any, extra: Tensor) -> Tensor:
    """Interpolate linearly between two log-variances with the weight (extra + 1) / 2.

    Arguments:
        small: The log-variance at extra = -1; a float, or a tensor that broadcasts with `extra`.
        large: The log-variance at extra = 1, likewise.
        extra: The position between the two.
    """
    return torch.add((extra + 1) / 2 * (large - small), small)


def tied(extra: Tensor | None, space: Space) -> Tensor:
    """`extra`, averaged over the entries that the space's projection mixes; same shape.

    Equal variances commute with the projection, so that noise with these variances lies in the space. In
    a space that mixes no entries, `extra` is returned unchanged.

    Arguments:
        extra: The second output of a prediction, shaped like x_t.
        space: The batch's space.

    Raises:
        ValueError: If `extra` is None, since the denoiser has no second output.
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
