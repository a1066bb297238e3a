r"""The schedules of the literature that are a formula for alpha and sigma themselves.

Those that are given by a rate of noise are in :mod:`anydiff.schedules.rates`. The names of their
arguments are those of the papers; t runs from 0 to 1 in all.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from anydiff.checks import check_range, frozen
from anydiff.schedules.schedule import Schedule, VariancePreserving

__all__ = ["VE", "Cosine", "Flow", "Karras", "Polynomial", "SigmoidAlphaBar"]


@frozen(logsnr_max="(logsnr_min, inf)")
class Cosine(VariancePreserving):
    r"""The cosine schedule, cut off at a range of log-SNR.

    .. math:: \alpha_u = \cos(\pi u / 2), \quad u = u_0 + t\,(u_1 - u_0)

    where u_0 and u_1 are the times at which the untruncated schedule has the log-SNR `logsnr_max`
    and `logsnr_min`. The default minimum, -10, is where the table of Ho et al. ends; a lower one
    brings the terminal state nearer to pure noise, and with it the point where an `eps` prediction
    says nothing of x0.

    Raises:
        ValueError: If a value lies outside its range.

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

    def _angles(self) -> tuple[float, float]:
        ends = self.logsnr_max, self.logsnr_min
        start, stop = (math.atan(math.exp(-logsnr / 2)) for logsnr in ends)
        return start, stop


@frozen(power="(0, inf)", precision="(0, 0.5)")
class Polynomial(VariancePreserving):
    r"""A polynomial, kept off both ends: the schedule of EDM (Hoogeboom et al.).

    .. math:: \alpha_t^2 = (1 - 2 s)\, (1 - t^p)^2 + s, \qquad \sigma_t^2 = 1 - \alpha_t^2

    Arguments:
        power: p. 2 gives the published ``polynomial_2``.
        precision: s; keeps both ends away from 0, so that the state at t = 0 still has the noise
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
        # The published table clips the ratio of neighbouring squares at 0.001, which acts on the
        # last of its 1000 steps alone: the square there is 0.001 times the one before.
        last = 1 - 1e-3**0.5 * (1 - (1 - 1e-3) ** self.power)
        s, u = self.precision, (t**self.power).clamp(max=last)
        alpha2 = (1 - 2 * s) * (1 - u) ** 2 + s
        sigma2 = (1 - 2 * s) * u * (2 - u) + s  # 1 - alpha2, no digit lost
        return torch.log(alpha2) - torch.log(sigma2)

    def _time(self, logsnr: Tensor) -> Tensor:
        s = self.precision
        noise = ((-logsnr).sigmoid() - s) / (1 - 2 * s)
        return (noise / (1 + torch.sqrt(1 - noise))) ** (1 / self.power)


@frozen(minimum="(0, 1)", end="(start, inf)")
class SigmoidAlphaBar(VariancePreserving):
    r"""A level that is a sigmoid: the schedule of Jabri et al., ``"sigmoid"`` to many.

    .. math::
        \bar\alpha_t = (1 - m)\, \frac{S_1 - S_t}{S_1 - S_0} + m, \qquad
        S_t = \mathrm{sigmoid}\bigl((start + t\,(end - start)) / \tau\bigr)

    Others call "sigmoid" the schedule whose rate is one: :class:`~anydiff.schedules.SigmoidBeta`.

    Arguments:
        start, end, tau: As published; a lower tau is steeper.
        minimum: m, where :math:`\bar\alpha` ends. The publication cuts off there; here the whole is
            scaled to it, so that the SNR falls to the last.

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
        # beyond, the sigmoid would be a step
        least = max(abs(self.start), abs(self.end)) / 300
        check_range(f"({least:g}, inf)", tau=self.tau)

    def _logsnr(self, t: Tensor) -> Tensor:
        low, high, _ = self._ends()
        x = low + t * (high - low)
        # sigmoid(a) - sigmoid(b) = sigmoid(a) sigmoid(-b) (1 - e^(b - a)), which loses no digit
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

    def _ends(self) -> tuple[float, float, float]:
        """The sigmoid's arguments at t = 0 and 1, and its rise between them."""
        low, high = self.start / self.tau, self.end / self.tau
        return low, high, -_sigmoid(high) * _sigmoid(-low) * math.expm1(low - high)


@frozen(sigma_min="(0, inf)", sigma_max="(sigma_min, inf)")
class VE(Schedule):
    r"""The variance-exploding SDE: data that stay, noise that grows geometrically.

    .. math:: \alpha_t = 1, \qquad \sigma_t = \sigma_{min} (\sigma_{max} / \sigma_{min})^t

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

    def _time(self, logsnr: Tensor) -> Tensor:
        return (-logsnr / 2 - math.log(self.sigma_min)) / math.log(self.sigma_max / self.sigma_min)


@frozen(sigma_min="(0, inf)", rho="(0, inf)", sigma_max="(sigma_min, inf)")
class Karras(Schedule):
    r"""The noise levels of Karras et al.: data that stay, noise that grows as a power of t.

    .. math::
        \alpha_t = 1, \qquad
        \sigma_t = \bigl((1 - t)\, \sigma_{min}^{1/\rho} + t\, \sigma_{max}^{1/\rho}\bigr)^\rho

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

    def _roots(self) -> tuple[float, float]:
        return self.sigma_min ** (1 / self.rho), self.sigma_max ** (1 / self.rho)


@frozen()
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

    def _time(self, logsnr: Tensor) -> Tensor:
        return (-logsnr / 2).sigmoid()


def _sigmoid(x: float) -> float:
    return 1 / (1 + math.exp(-x)) if x > 0 else math.exp(x) / (1 + math.exp(x))
