r"""Schedules that modify another schedule.

Both change the ratio of data to noise and preserve the constraint of the original schedule:
:math:`\alpha^2 + \sigma^2 = 1`, :math:`\alpha + \sigma = 1` or :math:`\alpha = 1`. The results are
ordinary schedules, and can be modified again.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import field

import torch
from torch import Tensor, nn

from anydiff.checks import check_kind, frozen
from anydiff.schedules.schedule import Schedule

__all__ = ["Shifted", "ZeroTerminalSNR"]


@frozen()
class ZeroTerminalSNR(Schedule):
    r"""A variance-preserving schedule, rescaled to end in pure noise.

    .. math:: \alpha'_t = \alpha_0 \frac{\alpha_t - \alpha_1}{\alpha_0 - \alpha_1}, \qquad
        \sigma'^2_t = 1 - \alpha'^2_t

    A model trained with it can generate items whose mean differs strongly from that of noise, such as
    very bright and very dark ones. At t = 1 eps does not determine x0, so that a diffusion with the
    prediction "eps" raises an error: predict "v" or "x0".

    The paper leaves the first row of a table unchanged. Here the state at t = 0 is left unchanged, for a
    table as for any other schedule; for a table of 1000 steps the two differ by about 1e-5.

    Arguments:
        schedule: A schedule that preserves the variance.

    Raises:
        ValueError: If the schedule does not preserve the variance, or has weights.

    References:
        Common Diffusion Noise Schedules and Sample Steps are Flawed (Lin et al., 2024), algorithm 1.
        https://arxiv.org/abs/2305.08891
    """

    schedule: Schedule
    _ends: tuple[float, float, float] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        if _length(self.schedule) is not torch.hypot:
            raise ValueError(
                f"{self.schedule} does not keep alpha² + sigma² = 1; give one that does."
            )
        clean, noisy = self.schedule.levels(torch.tensor([0.0, 1.0]))
        # alpha at t = 0 and at t = 1, and 1 - alpha at t = 0
        ends = clean.alpha, noisy.alpha, clean.sigma**2 / (1 + clean.alpha)
        object.__setattr__(self, "_ends", ends)

    @property
    def first(self) -> float:  # type: ignore[override]
        return self.schedule.first

    def _change(self, t: Tensor) -> tuple[Tensor, Tensor]:
        """alpha and 1 - alpha, the latter without the cancellation of a subtraction near the data."""
        first, last, less = self._ends
        alpha, sigma = self.schedule._levels(t)
        lost = first * sigma**2 / (1 + alpha) - last * less
        return first * (alpha - last) / (first - last), lost / (first - last)

    def _levels(self, t: Tensor) -> tuple[Tensor, Tensor]:
        alpha, lost = self._change(t)
        return alpha, torch.sqrt(lost * (1 + alpha))

    def _logsnr(self, t: Tensor) -> Tensor:
        return _ratio(*self._change(t))

    def _rates(self, t: Tensor) -> tuple[Tensor, Tensor]:
        first, last, _ = self._ends
        alpha, sigma = self._levels(t)
        rate = first / (first - last) * self.schedule._rates(t)[0]
        return rate, -alpha * rate / sigma

    def _time(self, logsnr: Tensor) -> Tensor:
        first, last, less = self._ends
        alpha, lost = logsnr.sigmoid().sqrt(), (-logsnr).sigmoid()
        lost = (first - last) * lost / (1 + alpha) + last * less
        return self.schedule.time(_ratio(last + (first - last) * alpha / first, lost / first))


@frozen(factor="(0, inf)")
class Shifted(Schedule):
    r"""A schedule with its log-SNR shifted by a constant, for data of another resolution.

    .. math:: \alpha'_t / \sigma'_t = c\, \alpha_t / \sigma_t, \qquad
        \lambda'_t = \lambda_t + 2 \log c

    where alpha' and sigma' keep the sum that the schedule preserves. With d times as many points along
    each side, the same noise destroys less information: c = 1 / d compensates for that. For
    :class:`~anydiff.schedules.Flow` this is the time shift of Stable Diffusion 3,
    :math:`t' = s t / (1 + (s - 1) t)` with s = 1 / c.

    Arguments:
        schedule: One that preserves :math:`\alpha^2 + \sigma^2`, :math:`\alpha + \sigma` or
            :math:`\alpha`.
        factor: c, positive; below 1 means more noise.

    Raises:
        ValueError: If the factor is not positive, or if the schedule preserves none of these or has
            weights.

    References:
        simple diffusion (Hoogeboom et al., 2023), section 2.1. https://arxiv.org/abs/2301.11093
        Scaling Rectified Flow Transformers (Esser et al., 2024), section 5.3.2.
        https://arxiv.org/abs/2403.03206
    """

    schedule: Schedule
    factor: float

    def __post_init__(self) -> None:
        object.__setattr__(self, "_length", _length(self.schedule))

    @property
    def first(self) -> float:  # type: ignore[override]
        return self.schedule.first

    def _levels(self, t: Tensor) -> tuple[Tensor, Tensor]:
        alpha, sigma = self.schedule._levels(t)
        length = self._length(self.factor * alpha, sigma)  # type: ignore[attr-defined]
        return self.factor * alpha / length, sigma / length

    def _logsnr(self, t: Tensor) -> Tensor:
        return self.schedule._logsnr(t) + 2 * math.log(self.factor)

    def _time(self, logsnr: Tensor) -> Tensor:
        return self.schedule.time(logsnr - 2 * math.log(self.factor))


def _data(alpha: Tensor, sigma: Tensor) -> Tensor:
    return alpha


def _length(schedule: Schedule) -> Callable[[Tensor, Tensor], Tensor]:
    """The function of (alpha, sigma) that is 1 at all times of a schedule."""
    check_kind(Schedule, "a schedule, such as Cosine()", schedule=schedule)
    if isinstance(schedule, nn.Module):
        raise ValueError(
            f"{schedule} has weights, which a wrapper would hide; change its ends instead."
        )
    alpha, sigma = schedule(torch.linspace(0.05, 0.95, 7, dtype=torch.float64))
    for length in (torch.hypot, torch.add, _data):
        if torch.allclose(length(alpha, sigma), torch.ones_like(alpha), rtol=0, atol=1e-9):
            return length
    raise ValueError(
        f"{schedule} keeps neither alpha² + sigma² = 1, nor alpha + sigma = 1, nor alpha = 1, so that "
        "their ratio does not determine them; give a variance-preserving schedule, Flow, VE or Karras."
    )


def _ratio(alpha: Tensor, lost: Tensor) -> Tensor:
    """The log-SNR of a variance-preserving schedule, from alpha and lost = 1 - alpha."""
    return 2 * torch.log(alpha) - torch.log(lost) - torch.log1p(alpha)
