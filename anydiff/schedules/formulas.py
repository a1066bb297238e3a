r"""Schedules that the literature defines by a formula for alpha and sigma.

Those defined by a noise rate are in :mod:`anydiff.schedules.rates`. Arguments are named as in the
papers; t runs from 0 to 1 in all schedules.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from anydiff.checks import check_range, frozen
from anydiff.schedules.schedule import Schedule, VariancePreserving

__all__ = ["VE", "Cosine", "Flow", "Geometric", "Karras", "Polynomial", "SigmoidAlphaBar"]


@frozen(logsnr_max="(logsnr_min, inf)")
class Cosine(VariancePreserving):
    r"""The cosine schedule, truncated to a range of log-SNR.

    .. math:: \alpha_u = \cos(\pi u / 2), \quad u = u_0 + t\,(u_1 - u_0)

    where u_0 and u_1 are the times at which the untruncated schedule has the log-SNR `logsnr_max`
    and `logsnr_min`. The table of Ho et al. ends at a log-SNR of -10, the default minimum; a lower one
    brings the terminal state closer to pure noise, where an `eps` prediction does not determine x0.

    Arguments:
        logsnr_min: The log-SNR at t = 1.
        logsnr_max: The log-SNR at t = 0.

    Raises:
        ValueError: If `logsnr_max` is not above `logsnr_min`.

    References:
        Improved Denoising Diffusion Probabilistic Models (Nichol & Dhariwal, 2021), section 3.2.
        https://arxiv.org/abs/2102.09672
        simple diffusion (Hoogeboom et al., 2023), appendix. https://arxiv.org/abs/2301.11093
    """

    logsnr_min: float = -10.0
    logsnr_max: float = 15.0

    def _logsnr(self, t: Tensor) -> Tensor:
        start, stop = self._angles()
        return -2 * torch.log(torch.tan(start + t * (stop - start)))

    def _time(self, logsnr: Tensor) -> Tensor:
        start, stop = self._angles()
        return (torch.atan(torch.exp(-logsnr / 2)) - start) / (stop - start)

    def _rates(self, t: Tensor) -> tuple[Tensor, Tensor]:
        start, stop = self._angles()
        alpha, sigma = self._levels(t)
        return (start - stop) * sigma, (stop - start) * alpha

    def _angles(self) -> tuple[float, float]:
        ends = self.logsnr_max, self.logsnr_min
        start, stop = (math.atan(math.exp(-logsnr / 2)) for logsnr in ends)
        return start, stop


@frozen(power="(0, inf)", precision="(0, 0.5)")
class Polynomial(VariancePreserving):
    r"""A polynomial schedule, bounded away from both ends: that of EDM (Hoogeboom et al.).

    .. math:: \alpha_t^2 = (1 - 2 s)\, (1 - t^p)^2 + s, \qquad \sigma_t^2 = 1 - \alpha_t^2

    Arguments:
        power: The exponent p; 2 gives the published ``polynomial_2``.
        precision: s, which bounds alpha and sigma away from 0: the state at t = 0 still has the noise
            :math:`\sigma_0 = \sqrt s`.

    Raises:
        ValueError: If a value lies outside its range.

    References:
        Equivariant Diffusion for Molecule Generation in 3D (Hoogeboom et al., 2022), appendix B.
        https://arxiv.org/abs/2203.17003
    """

    power: float = 2.0
    precision: float = 1e-5

    def _logsnr(self, t: Tensor) -> Tensor:
        s, u = self.precision, (t**self.power).clamp(max=self._last())
        alpha2 = (1 - 2 * s) * (1 - u) ** 2 + s
        sigma2 = (1 - 2 * s) * u * (2 - u) + s  # 1 - alpha2, without cancellation
        return torch.log(alpha2) - torch.log(sigma2)

    def _time(self, logsnr: Tensor) -> Tensor:
        s = self.precision
        noise = ((-logsnr).sigmoid() - s) / (1 - 2 * s)
        return (noise / (1 + torch.sqrt(1 - noise))) ** (1 / self.power)

    def _rates(self, t: Tensor) -> tuple[Tensor, Tensor]:
        u, rate = t**self.power, self.power * t ** (self.power - 1)
        push = (1 - 2 * self.precision) * (1 - u) * rate
        return self._turning(t, torch.where(u < self._last(), push, 0.0))

    def _last(self) -> float:
        """The largest t^p. The published table clips the ratio of successive alpha² at 0.001.

        Only the last of its 1000 steps is clipped: alpha² there is 0.001 times that of the step before.
        """
        return float(1 - 1e-3**0.5 * (1 - (1 - 1e-3) ** self.power))


@frozen(minimum="(0, 1)", end="(start, inf)")
class SigmoidAlphaBar(VariancePreserving):
    r"""The schedule of Jabri et al., whose :math:`\bar\alpha` is a sigmoid of t.

    .. math::
        \bar\alpha_t = (1 - m)\, \frac{S_1 - S_t}{S_1 - S_0} + m, \qquad
        S_t = \mathrm{sigmoid}\bigl((start + t\,(end - start)) / \tau\bigr)

    Many libraries call it ``"sigmoid"``. Others use that name for the schedule whose noise rate is a
    sigmoid: :class:`~anydiff.schedules.SigmoidBeta`.

    Arguments:
        start: The argument of the sigmoid at t = 0, before the division by tau.
        end: That at t = 1.
        tau: The temperature; a lower one is steeper.
        minimum: m, the value of :math:`\bar\alpha` at t = 1. The paper clips :math:`\bar\alpha` there;
            here the whole curve is rescaled, so that the SNR falls everywhere.

    Raises:
        ValueError: If a value lies outside its range.

    References:
        Scalable Adaptive Computation for Iterative Generation (Jabri et al., 2023), algorithm 4.
        https://arxiv.org/abs/2212.11972
    """

    start: float = -3.0
    end: float = 3.0
    tau: float = 1.0
    minimum: float = 1e-9

    def __post_init__(self) -> None:
        # below this, the sigmoid would be a step function in floating point
        least = max(abs(self.start), abs(self.end)) / 300
        check_range(f"({least:g}, inf)", tau=self.tau)

    def _logsnr(self, t: Tensor) -> Tensor:
        low, high, _ = self._ends()
        x = low + t * (high - low)
        # sigmoid(a) - sigmoid(b) = sigmoid(a) sigmoid(-b) (1 - e^(b - a)), without cancellation
        noise = -x.sigmoid() * _sigmoid(-low) * torch.expm1(-t * (high - low))
        data = -(-x).sigmoid() * _sigmoid(high) * torch.expm1((t - 1) * (high - low))
        least = self.minimum / (1 - self.minimum) * (noise + data)
        return torch.log(data + least) - torch.log(noise)

    def _time(self, logsnr: Tensor) -> Tensor:
        low, high, total = self._ends()
        noise = (-logsnr).sigmoid() / (1 - self.minimum)
        data = (logsnr.sigmoid() - self.minimum) / (1 - self.minimum)
        x = torch.log(_sigmoid(low) + noise * total) - torch.log(_sigmoid(-high) + data * total)
        return (x - low) / (high - low)

    def _rates(self, t: Tensor) -> tuple[Tensor, Tensor]:
        low, high, total = self._ends()
        x = low + t * (high - low)
        rise = (high - low) * x.sigmoid() * (-x).sigmoid() / total
        return self._turning(t, (1 - self.minimum) / 2 * rise)

    def _ends(self) -> tuple[float, float, float]:
        """The sigmoid's arguments at t = 0 and 1, and the difference of its values there."""
        low, high = self.start / self.tau, self.end / self.tau
        return low, high, -_sigmoid(high) * _sigmoid(-low) * math.expm1(low - high)


@frozen(low="(0, high)", high="(0, 1)")
class Geometric(VariancePreserving):
    r"""A variance of the noise that grows geometrically: the schedule of LSGM.

    .. math:: \sigma_t^2 = low^{1 - t}\, high^t, \qquad \alpha_t^2 = 1 - \sigma_t^2

    Uniform times are then nearly what makes a variational bound the least noisy. The published alpha is 1
    at t = 0, so that alpha² + sigma² is 1 up to `low`.

    Arguments:
        low: The variance at t = 0.
        high: That at t = 1.

    Raises:
        ValueError: If a value lies outside its range.

    References:
        Score-based Generative Modeling in Latent Space (Vahdat et al., 2021), appendix B.
        https://arxiv.org/abs/2106.05931
    """

    low: float = 3e-5
    high: float = 0.999

    def _logsnr(self, t: Tensor) -> Tensor:
        log_variance = self._log_variance(t)
        return torch.log(-torch.expm1(log_variance)) - log_variance

    def _time(self, logsnr: Tensor) -> Tensor:
        log_variance = torch.nn.functional.logsigmoid(-logsnr)
        return (log_variance - math.log(self.low)) / math.log(self.high / self.low)

    def _rates(self, t: Tensor) -> tuple[Tensor, Tensor]:
        growth = math.log(self.high / self.low) / 2
        return self._turning(t, growth * torch.exp(self._log_variance(t)))

    def _log_variance(self, t: Tensor) -> Tensor:
        return math.log(self.low) + t * math.log(self.high / self.low)


@frozen(sigma_min="(0, inf)", sigma_max="(sigma_min, inf)")
class VE(Schedule):
    r"""The variance-exploding SDE: data at constant scale, noise that grows geometrically.

    .. math:: \alpha_t = 1, \qquad \sigma_t = \sigma_{min} (\sigma_{max} / \sigma_{min})^t

    Arguments:
        sigma_min: The noise at t = 0, in units of the data.
        sigma_max: The noise at t = 1.

    Raises:
        ValueError: If a value lies outside its range.

    References:
        Score-Based Generative Modeling through SDEs (Song et al., 2021), eq. 31.
        https://arxiv.org/abs/2011.13456
    """

    sigma_min: float = 0.01
    sigma_max: float = 50.0

    def _levels(self, t: Tensor) -> tuple[Tensor, Tensor]:
        return torch.ones_like(t), self.sigma_min * (self.sigma_max / self.sigma_min) ** t

    def _rates(self, t: Tensor) -> tuple[Tensor, Tensor]:
        growth = math.log(self.sigma_max / self.sigma_min)
        return torch.zeros_like(t), growth * self._levels(t)[1]

    def _time(self, logsnr: Tensor) -> Tensor:
        return (-logsnr / 2 - math.log(self.sigma_min)) / math.log(self.sigma_max / self.sigma_min)


@frozen(sigma_min="(0, inf)", rho="(0, inf)", sigma_max="(sigma_min, inf)")
class Karras(Schedule):
    r"""The noise levels of Karras et al.: data at constant scale, noise that grows as a power of t.

    .. math::
        \alpha_t = 1, \qquad
        \sigma_t = \bigl((1 - t)\, \sigma_{min}^{1/\rho} + t\, \sigma_{max}^{1/\rho}\bigr)^\rho

    Arguments:
        sigma_min: The noise at t = 0, in units of the data.
        sigma_max: The noise at t = 1.
        rho: The exponent.

    Raises:
        ValueError: If a value lies outside its range.

    References:
        Elucidating the Design Space of Diffusion-Based Generative Models (Karras et al., 2022), eq. 5.
        https://arxiv.org/abs/2206.00364
    """

    sigma_min: float = 0.002
    sigma_max: float = 80.0
    rho: float = 7.0

    def _levels(self, t: Tensor) -> tuple[Tensor, Tensor]:
        low, high = self._roots()
        return torch.ones_like(t), (low + t * (high - low)) ** self.rho

    def _time(self, logsnr: Tensor) -> Tensor:
        low, high = self._roots()
        return (torch.exp(-logsnr / (2 * self.rho)) - low) / (high - low)

    def _rates(self, t: Tensor) -> tuple[Tensor, Tensor]:
        low, high = self._roots()
        root = low + t * (high - low)
        return torch.zeros_like(t), self.rho * (high - low) * root ** (self.rho - 1)

    def _roots(self) -> tuple[float, float]:
        return self.sigma_min ** (1 / self.rho), self.sigma_max ** (1 / self.rho)


@frozen()
class Flow(Schedule):
    r"""The straight path from data to noise, as in rectified flow and flow matching.

    .. math:: \alpha_t = 1 - t, \qquad \sigma_t = t

    It ends in pure noise, where eps does not determine x0: predict velocity, v or x0.

    References:
        Flow Straight and Fast (Liu et al., 2023). https://arxiv.org/abs/2209.03003
        Flow Matching for Generative Modeling (Lipman et al., 2023). https://arxiv.org/abs/2210.02747
    """

    def _levels(self, t: Tensor) -> tuple[Tensor, Tensor]:
        return 1 - t, t * 1.0

    def _time(self, logsnr: Tensor) -> Tensor:
        return (-logsnr / 2).sigmoid()

    def _rates(self, t: Tensor) -> tuple[Tensor, Tensor]:
        return -torch.ones_like(t), torch.ones_like(t)


def _sigmoid(x: float) -> float:
    return 1 / (1 + math.exp(-x)) if x > 0 else math.exp(x) / (1 + math.exp(x))
