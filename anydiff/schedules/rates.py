r"""Schedules that are defined by a noise rate.

The rate :math:`\beta(t)` of the forward SDE determines the schedule through its integral
:math:`B_t = \int_0^t \beta(u)\, du`:

.. math:: \alpha_t = e^{-B_t / 2}, \qquad \sigma_t^2 = 1 - e^{-B_t}

The rates are per unit of time: each step of a table of 1000 steps has a thousandth of them.
"""

from __future__ import annotations

from math import exp, sqrt

import torch
from torch import Tensor

from anydiff.checks import frozen
from anydiff.schedules.schedule import Schedule, VariancePreserving

__all__ = ["Linear", "ScaledLinear", "SigmoidBeta", "SubVP"]


@frozen(beta_min="(0, inf)", beta_max="[beta_min, inf)")
class Linear(VariancePreserving):
    r"""The variance-preserving SDE with a linear noise rate: the continuous limit of Ho et al.'s table.

    .. math:: B_t = \tfrac12 t^2 (\beta_{max} - \beta_{min}) + t \beta_{min}

    Arguments:
        beta_min: The rate at t = 0.
        beta_max: The rate at t = 1.

    Raises:
        ValueError: If a value lies outside its range.

    References:
        Score-Based Generative Modeling through SDEs (Song et al., 2021), eq. 32.
        https://arxiv.org/abs/2011.13456
    """

    beta_min: float = 0.1
    beta_max: float = 20.0

    def _logsnr(self, t: Tensor) -> Tensor:
        return _logsnr(_linear(t, self.beta_min, self.beta_max))

    def _time(self, logsnr: Tensor) -> Tensor:
        return _linear_time(_integral(logsnr), self.beta_min, self.beta_max)

    def _rates(self, t: Tensor) -> tuple[Tensor, Tensor]:
        return self._losing(t, self.beta_min + t * (self.beta_max - self.beta_min))


@frozen(beta_min="(0, inf)", beta_max="[beta_min, inf)")
class ScaledLinear(VariancePreserving):
    r"""A noise rate whose square root is linear: the continuous limit of Stable Diffusion's table.

    .. math::
        \beta(t) = (a + t d)^2, \quad a = \sqrt{\beta_{min}}, \quad d = \sqrt{\beta_{max}} - a,
        \qquad B_t = a^2 t + a d\, t^2 + \tfrac13 d^2 t^3

    It does not end in pure noise, but at :math:`\alpha_1 = 0.07`; see
    :class:`~anydiff.schedules.ZeroTerminalSNR`.

    Arguments:
        beta_min: The rate at t = 0.
        beta_max: The rate at t = 1.

    Raises:
        ValueError: If a value lies outside its range.

    References:
        High-Resolution Image Synthesis with Latent Diffusion Models (Rombach et al., 2022), whose code
        has the rate. https://arxiv.org/abs/2112.10752
    """

    beta_min: float = 0.85
    beta_max: float = 12.0

    def _logsnr(self, t: Tensor) -> Tensor:
        a, d = self._roots()
        return _logsnr(t * (a * a + t * (a * d + t * (d * d / 3))))

    def _time(self, logsnr: Tensor) -> Tensor:
        a, d = self._roots()
        integral = _integral(logsnr)
        root = (a**3 + 3 * d * integral) ** (1 / 3)  # a + t d
        return 3 * integral / (root**2 + a * root + a**2)  # (root - a) / d, without cancellation

    def _rates(self, t: Tensor) -> tuple[Tensor, Tensor]:
        a, d = self._roots()
        return self._losing(t, (a + t * d) ** 2)

    def _roots(self) -> tuple[float, float]:
        return sqrt(self.beta_min), sqrt(self.beta_max) - sqrt(self.beta_min)


@frozen(beta_min="(0, inf)", beta_max="[beta_min, inf)", limit="(0, 300)")
class SigmoidBeta(VariancePreserving):
    r"""A noise rate that is a sigmoid: the schedule of GeoDiff, and ``"sigmoid"`` in diffusers.

    .. math::
        \beta(t) = \beta_{min} + (\beta_{max} - \beta_{min})\, \mathrm{sigmoid}(c\,(2t - 1)), \qquad
        B_t = \beta_{min} t + \frac{\beta_{max} - \beta_{min}}{2c}
            \bigl[\mathrm{softplus}(c\,(2t - 1)) - \mathrm{softplus}(-c)\bigr]

    Other libraries use the name "sigmoid" for the schedule whose :math:`\bar\alpha` is a sigmoid:
    :class:`~anydiff.schedules.SigmoidAlphaBar`.

    Arguments:
        beta_min, beta_max: The rates between which the sigmoid rises.
        limit: c, below 300; the sigmoid is taken from -c to c.

    Raises:
        ValueError: If a value lies outside its range.

    References:
        GeoDiff: a Geometric Diffusion Model for Molecular Conformation Generation (Xu et al., 2022),
        whose code has the rate. https://arxiv.org/abs/2203.02923
    """

    beta_min: float = 0.1
    beta_max: float = 20.0
    limit: float = 6.0

    def _logsnr(self, t: Tensor) -> Tensor:
        # the difference of the softplus as one expression: no cancellation where t is small
        rise = torch.log1p(torch.expm1(2 * self.limit * t) / (1 + exp(self.limit)))
        slope = (self.beta_max - self.beta_min) / (2 * self.limit)
        return _logsnr(self.beta_min * t + slope * rise)

    def _rates(self, t: Tensor) -> tuple[Tensor, Tensor]:
        rise = torch.sigmoid(self.limit * (2 * t - 1))
        return self._losing(t, self.beta_min + (self.beta_max - self.beta_min) * rise)


@frozen(beta_min="(0, inf)", beta_max="[beta_min, inf)")
class SubVP(Schedule):
    r"""The sub-VP SDE: the alpha of :class:`Linear` with less noise.

    .. math:: \alpha_t = e^{-B_t / 2}, \qquad \sigma_t = 1 - e^{-B_t}

    so that :math:`\sigma = 1 - \alpha^2`, which never exceeds the :math:`\sqrt{1 - \alpha^2}` of the
    variance-preserving SDE.

    Arguments:
        beta_min: The rate at t = 0.
        beta_max: The rate at t = 1.

    Raises:
        ValueError: If a value lies outside its range.

    References:
        Score-Based Generative Modeling through SDEs (Song et al., 2021), eq. 29.
        https://arxiv.org/abs/2011.13456
    """

    beta_min: float = 0.1
    beta_max: float = 20.0

    def _levels(self, t: Tensor) -> tuple[Tensor, Tensor]:
        integral = _linear(t, self.beta_min, self.beta_max)
        return torch.exp(-integral / 2), -torch.expm1(-integral)

    def _logsnr(self, t: Tensor) -> Tensor:
        integral = _linear(t, self.beta_min, self.beta_max)
        return -integral - 2 * torch.log(-torch.expm1(-integral))

    def _time(self, logsnr: Tensor) -> Tensor:
        # alpha / (1 - alpha²) = r, a quadratic; where alpha is nearly 1, use sigma's form
        r = torch.exp(logsnr / 2)
        root = 1 + torch.sqrt(1 + 4 * r * r)
        noisy, clean = 2 * torch.log(2 * r / root), torch.log1p(-2 / root)
        return _linear_time(-torch.where(r < 1, noisy, clean), self.beta_min, self.beta_max)

    def _rates(self, t: Tensor) -> tuple[Tensor, Tensor]:
        alpha, _ = self._levels(t)
        beta = self.beta_min + t * (self.beta_max - self.beta_min)
        return -beta / 2 * alpha, beta * alpha**2


def _logsnr(integral: Tensor) -> Tensor:
    """The log-SNR of a variance-preserving schedule, from the integral B of its rate."""
    return -integral - torch.log(-torch.expm1(-integral))


def _integral(logsnr: Tensor) -> Tensor:
    """The inverse, from log-SNR to B: the softplus of -logsnr, in full precision."""
    return torch.logaddexp(torch.zeros_like(logsnr), -logsnr)


def _linear(t: Tensor, low: float, high: float) -> Tensor:
    return 0.5 * t**2 * (high - low) + t * low


def _linear_time(integral: Tensor, low: float, high: float) -> Tensor:
    return 2 * integral / (low + torch.sqrt(low**2 + 2 * (high - low) * integral))
