r"""The schedules of the literature that are a formula.

The names of their arguments are those of the papers; t runs from 0 to 1 in all.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from anydiff.schedules.base import Schedule, VariancePreserving

__all__ = ["VE", "Cosine", "Flow", "Karras", "Linear", "Polynomial"]


@dataclass(frozen=True)
class Cosine(VariancePreserving):
    r"""The cosine schedule, cut off at a range of log-SNR.

    .. math:: \alpha_u = \cos(\pi u / 2), \quad u = u_0 + t\,(u_1 - u_0)

    where u_0 and u_1 are the times at which the untruncated schedule has the log-SNR `logsnr_max`
    and `logsnr_min`. The default minimum, -10, is where the table of Ho et al. ends; a lower one
    brings the terminal state nearer to pure noise, and with it the point where an `eps` prediction
    says nothing of x0.

    References:
        Improved Denoising Diffusion Probabilistic Models (Nichol & Dhariwal, 2021), section 3.2.
        https://arxiv.org/abs/2102.09672
        simple diffusion (Hoogeboom et al., 2023), appendix. https://arxiv.org/abs/2301.11093
    """

    logsnr_min: float = -10.0
    logsnr_max: float = 15.0

    def __post_init__(self) -> None:
        if not self.logsnr_min < self.logsnr_max:
            raise ValueError(
                f"logsnr_min is {self.logsnr_min} and logsnr_max {self.logsnr_max}; "
                "the minimum has to be the smaller."
            )

    def _logsnr(self, t: Tensor) -> Tensor:
        start = math.atan(math.exp(-self.logsnr_max / 2))
        stop = math.atan(math.exp(-self.logsnr_min / 2))
        return -2 * torch.log(torch.tan(start + t * (stop - start)))


@dataclass(frozen=True)
class Linear(VariancePreserving):
    r"""The variance-preserving SDE with a linear rate.

    .. math::
        \log \alpha_t = -\tfrac14 t^2 (\beta_{max} - \beta_{min}) - \tfrac12 t \beta_{min}

    References:
        Score-Based Generative Modeling through SDEs (Song et al., 2021), eq. 32.
        https://arxiv.org/abs/2011.13456
    """

    beta_min: float = 0.1
    beta_max: float = 20.0

    def __post_init__(self) -> None:
        if not 0 < self.beta_min <= self.beta_max:
            raise ValueError(
                f"beta_min is {self.beta_min} and beta_max {self.beta_max}; "
                "give 0 < beta_min <= beta_max."
            )

    def _logsnr(self, t: Tensor) -> Tensor:
        log_alpha2 = -0.5 * t**2 * (self.beta_max - self.beta_min) - t * self.beta_min
        return log_alpha2 - torch.log(-torch.expm1(log_alpha2))


@dataclass(frozen=True)
class Polynomial(VariancePreserving):
    r"""A polynomial, kept off both ends: the schedule of EDM (Hoogeboom et al.).

    .. math:: \alpha_t^2 = (1 - 2 s)\, (1 - t^p)^2 + s, \qquad \sigma_t^2 = 1 - \alpha_t^2

    Arguments:
        power: p. 2 gives the published ``polynomial_2``.
        precision: s; keeps both ends away from 0, so that the state at t = 0 still has the noise
            :math:`\sigma_0 = \sqrt s`.

    References:
        Equivariant Diffusion for Molecule Generation in 3D (Hoogeboom et al., 2022), appendix B.
        https://arxiv.org/abs/2203.17003
    """

    power: float = 2.0
    precision: float = 1e-5

    def __post_init__(self) -> None:
        if not (self.power > 0 and 0 < self.precision < 0.5):
            raise ValueError(
                f"power is {self.power} and precision {self.precision}; "
                "give a positive power and a precision between 0 and 0.5."
            )

    def _logsnr(self, t: Tensor) -> Tensor:
        s, u = self.precision, t**self.power
        # The published table clips the ratio of neighbouring squares at 0.001, which acts on the
        # last of its 1000 steps alone: the square there is 0.001 times the one before.
        least = 1e-3 * (1 - (1 - 1e-3) ** self.power) ** 2
        square = ((1 - u) ** 2).clamp(min=least)
        alpha2 = (1 - 2 * s) * square + s
        sigma2 = (1 - 2 * s) * torch.minimum(
            u * (2 - u), 1 - square
        ) + s  # 1 - alpha2, no digit lost
        return torch.log(alpha2) - torch.log(sigma2)


@dataclass(frozen=True)
class VE(Schedule):
    r"""The variance-exploding SDE: data that stay, noise that grows geometrically.

    .. math:: \alpha_t = 1, \qquad \sigma_t = \sigma_{min} (\sigma_{max} / \sigma_{min})^t

    References:
        Score-Based Generative Modeling through SDEs (Song et al., 2021), eq. 31.
        https://arxiv.org/abs/2011.13456
    """

    sigma_min: float = 0.01
    sigma_max: float = 50.0

    def __post_init__(self) -> None:
        _check_sigmas(self.sigma_min, self.sigma_max)

    def _levels(self, t: Tensor) -> tuple[Tensor, Tensor]:
        return torch.ones_like(t), self.sigma_min * (self.sigma_max / self.sigma_min) ** t


@dataclass(frozen=True)
class Karras(Schedule):
    r"""EDM's noise levels: data that stay, noise that grows as a power of t.

    .. math::
        \alpha_t = 1, \qquad
        \sigma_t = \bigl((1 - t)\, \sigma_{min}^{1/\rho} + t\, \sigma_{max}^{1/\rho}\bigr)^\rho

    References:
        Elucidating the Design Space of Diffusion-Based Generative Models (Karras et al., 2022), eq. 5.
        https://arxiv.org/abs/2206.00364
    """

    sigma_min: float = 0.002
    sigma_max: float = 80.0
    rho: float = 7.0

    def __post_init__(self) -> None:
        _check_sigmas(self.sigma_min, self.sigma_max)
        if not self.rho > 0:
            raise ValueError(f"rho is {self.rho}; give a positive power, 7 is the published one.")

    def _levels(self, t: Tensor) -> tuple[Tensor, Tensor]:
        low, high = self.sigma_min ** (1 / self.rho), self.sigma_max ** (1 / self.rho)
        return torch.ones_like(t), (low + t * (high - low)) ** self.rho


@dataclass(frozen=True)
class Flow(Schedule):
    r"""The straight line from data to noise, of rectified flows and flow matching.

    .. math:: \alpha_t = 1 - t, \qquad \sigma_t = t

    It ends in pure noise, where eps says nothing of x0: predict velocity, v or x0.

    References:
        Flow Straight and Fast (Liu et al., 2023). https://arxiv.org/abs/2209.03003
        Flow Matching for Generative Modeling (Lipman et al., 2023). https://arxiv.org/abs/2210.02747
    """

    def _levels(self, t: Tensor) -> tuple[Tensor, Tensor]:
        return 1 - t, t * 1.0


def _check_sigmas(low: float, high: float) -> None:
    if not 0 < low < high:
        raise ValueError(
            f"sigma_min is {low} and sigma_max {high}; give 0 < sigma_min < sigma_max."
        )
