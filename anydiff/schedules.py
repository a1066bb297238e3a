r"""How much data and how much noise: t -> (alpha, sigma).

.. math:: x_t = \alpha_t x_0 + \sigma_t \epsilon, \qquad t \in [0, 1]

t = 0 is data, t = 1 is noise. The log signal-to-noise ratio,
:math:`\log \alpha_t^2 - \log \sigma_t^2`, falls with t and says everything about a
variance-preserving schedule (:math:`\alpha^2 + \sigma^2 = 1`), so the schedules here define it and
the rest follows. All of it is computed in float64 and returned in the dtype of t: in float32,
:math:`1 - \alpha^2` has lost its digits long before t reaches 0.

A schedule is frozen and knows neither the data nor the number of sampling steps.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

__all__ = ["Cosine", "Linear", "Polynomial", "Schedule", "Tabulated"]


class Schedule(ABC):
    """A variance-preserving schedule, given by its log-SNR."""

    def __call__(self, t: Tensor) -> tuple[Tensor, Tensor]:
        """alpha and sigma at the times t, both shaped like t and of its dtype."""
        logsnr = self._logsnr(t.double())
        alpha, sigma = logsnr.sigmoid().sqrt(), (-logsnr).sigmoid().sqrt()
        return alpha.to(t.dtype), sigma.to(t.dtype)

    @abstractmethod
    def _logsnr(self, t: Tensor) -> Tensor:
        """The log-SNR at float64 times."""

    def logsnr(self, t: Tensor) -> Tensor:
        r""":math:`\log(\alpha_t^2 / \sigma_t^2)`, shaped like t."""
        return self._logsnr(t.double()).to(t.dtype)

    def time(self, logsnr: Tensor) -> Tensor:
        """The t at which the log-SNR has the given value: the inverse of :meth:`logsnr`.

        By bisection, to the last digit of a float64. Values outside the schedule's range give its
        nearest end.
        """
        target = logsnr.double()
        low, high = torch.zeros_like(target), torch.ones_like(target)
        for _ in range(60):
            middle = (low + high) / 2
            noisier = self._logsnr(middle) < target  # then the time sought is earlier
            low, high = torch.where(noisier, low, middle), torch.where(noisier, middle, high)
        # the ends themselves are never a midpoint
        high = torch.where(self._logsnr(torch.ones_like(target)) >= target, 1.0, high)
        return torch.where(low == 0, low, high).to(logsnr.dtype)

    def rates(self, t: Tensor) -> tuple[Tensor, Tensor]:
        """The time derivatives of alpha and sigma, both shaped like t."""
        t64 = t.double()
        alpha, sigma = torch.func.jvp(self.__call__, (t64,), (torch.ones_like(t64),))[1]
        return alpha.to(t.dtype), sigma.to(t.dtype)


@dataclass(frozen=True)
class Cosine(Schedule):
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
class Linear(Schedule):
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
class Polynomial(Schedule):
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


@dataclass(frozen=True, eq=False)
class Tabulated(Schedule):
    r"""The chain of T steps that a table describes: row k is the time t = k / T.

    Row 0 is the data, :math:`\bar\alpha_0 = 1`. Between the rows :math:`\log \bar\alpha` is linear,
    which is the diffusion at constant rate that leads from one row to the next. Ancestral sampling
    of the whole chain takes ``steps=T``; fewer steps respace it.

    Arguments:
        alpha_bar: :math:`\bar\alpha_1 \dots \bar\alpha_T`, (T,), falling, in (0, 1).
    """

    alpha_bar: Tensor

    def __post_init__(self) -> None:
        table = torch.as_tensor(self.alpha_bar, dtype=torch.float64)
        rows = torch.cat([table.new_ones(1), table.flatten()])
        if table.ndim != 1 or not len(table) or not (rows.diff() < 0).all() or not rows[-1] > 0:
            raise ValueError(
                f"alpha_bar has shape {tuple(table.shape)} and runs from {table.flatten()[:1].tolist()} "
                f"to {table.flatten()[-1:].tolist()}; give T values that fall from below 1 to above 0."
            )
        object.__setattr__(self, "alpha_bar", table)
        object.__setattr__(self, "_log_rows", rows.log())

    @classmethod
    def linear(cls, steps: int = 1000, beta_min: float = 1e-4, beta_max: float = 0.02) -> Tabulated:
        """Ho et al.'s table of linearly rising rates.

        Both rates are those of 1000 steps and are scaled by 1000 / steps for another number, so
        that every chain ends at nearly the same noise.

        References:
            Denoising Diffusion Probabilistic Models (Ho et al., 2020), section 4.
            https://arxiv.org/abs/2006.11239
        """
        scale = 1000 / steps
        if not 0 < scale * beta_min <= scale * beta_max < 1:
            raise ValueError(
                f"{steps} steps scale the rates to {scale * beta_min:g} and {scale * beta_max:g}; "
                "they have to rise within (0, 1). Use more steps, or the continuous Linear()."
            )
        betas = torch.linspace(scale * beta_min, scale * beta_max, steps, dtype=torch.float64)
        return cls(torch.cumprod(1 - betas, 0))

    @classmethod
    def from_betas(cls, betas: Tensor | Sequence[float]) -> Tabulated:
        """The chain with the rates :math:`\\beta_1 \\dots \\beta_T`."""
        return cls(torch.cumprod(1 - torch.as_tensor(betas, dtype=torch.float64), 0))

    def _logsnr(self, t: Tensor) -> Tensor:
        rows = self._log_rows.to(t.device)  # type: ignore[attr-defined]
        steps = len(rows) - 1
        position = t * steps
        k = position.floor().clamp(0, steps - 1).long()
        log_alpha2 = torch.lerp(rows[k], rows[k + 1], position - k)
        return log_alpha2 - torch.log(-torch.expm1(log_alpha2))
