r"""Where the times of a sampling run lie.

A grid is a frozen object, (schedule, steps, start) -> the falling times, (steps + 1,), the last one 0.
Runs that begin amid the noise, as edits do, have a start below 1. How the times are spaced matters more
than the solver: near the data and near pure noise a state hardly changes, and equal steps in t spend
themselves there.
"""

from __future__ import annotations

from math import exp, log
from typing import Protocol

import torch
from torch import Tensor

from anydiff.checks import frozen
from anydiff.schedules import Schedule

__all__ = ["Grid", "KarrasGrid", "LogSNR", "Quadratic", "Uniform"]


class Grid(Protocol):
    """A rule for the times of a run."""

    def __call__(self, schedule: Schedule, steps: int, start: float = 1.0) -> Tensor:
        """Falling times, (steps + 1,), float64, from `start` to 0."""


@frozen()
class Uniform:
    """Equal steps in t. A table's own chain, and every n-th row of it."""

    def __call__(self, schedule: Schedule, steps: int, start: float = 1.0) -> Tensor:
        return torch.linspace(start, 0, steps + 1, dtype=torch.float64)


@frozen()
class Quadratic:
    """Steps that shrink towards the data, t = u².

    References:
        Denoising Diffusion Implicit Models (Song et al., 2021), appendix D.2.
        https://arxiv.org/abs/2010.02502
    """

    def __call__(self, schedule: Schedule, steps: int, start: float = 1.0) -> Tensor:
        return torch.linspace(start**0.5, 0, steps + 1, dtype=torch.float64) ** 2


@frozen(power="(0, inf)", logsnr_max="(logsnr_min, inf)")
class LogSNR:
    r"""Steps in the log-SNR, :math:`\lambda_k = \lambda_T + (\lambda_{max} - \lambda_T) (k / (n-1))^p`.

    Arguments:
        power: p. 1 is equal steps; below 1 the first steps, out of pure noise, are longer.
        logsnr_max: Where the last but one time lies; then comes the data. No further than the
            schedule goes.
        logsnr_min: Where the run begins, if the schedule goes further; a run from pure noise makes
            its first step from t = 1 all the same.

    Raises:
        ValueError: If a value lies outside its range.

    References:
        DPM-Solver (Lu et al., 2022), section 3.3, with p = 1. https://arxiv.org/abs/2206.00927
    """

    power: float = 0.8
    logsnr_max: float = 12.0
    logsnr_min: float = -10.0

    def __call__(self, schedule: Schedule, steps: int, start: float = 1.0) -> Tensor:
        low, high = _range(schedule, self.logsnr_min, self.logsnr_max, start)
        u = torch.linspace(0, 1, steps, dtype=torch.float64) ** self.power
        return _closed(schedule, low + (high - low) * u, start)


@frozen(rho="(0, inf)", sigma_min="(0, inf)", sigma_max="(sigma_min, inf)")
class KarrasGrid:
    r"""The steps of Karras et al., equal in :math:`(\sigma / \alpha)^{1 / \rho}`.

    Arguments:
        rho: 7 is the published power.
        sigma_min, sigma_max: The last noise before the data and the first; no further
            than the schedule goes.

    Raises:
        ValueError: If a value lies outside its range.

    References:
        Elucidating the Design Space of Diffusion-Based Generative Models (Karras et al., 2022), eq. 5.
        https://arxiv.org/abs/2206.00364
    """

    rho: float = 7.0
    sigma_min: float = 0.002
    sigma_max: float = 80.0

    def __call__(self, schedule: Schedule, steps: int, start: float = 1.0) -> Tensor:
        noisy, clean = -2 * log(self.sigma_max), -2 * log(self.sigma_min)
        low, high = _range(schedule, noisy, clean, start)
        first, last = exp(-low / (2 * self.rho)), exp(-high / (2 * self.rho))
        roots = torch.linspace(first, last, steps, dtype=torch.float64)
        return _closed(schedule, -2 * self.rho * roots.log(), start)


def _range(schedule: Schedule, low: float, high: float, start: float) -> tuple[float, float]:
    """The log-SNRs of a grid: within the schedule's own, and from where the run starts."""
    if start < 1:
        with torch.no_grad():
            low = max(low, float(schedule.logsnr(torch.tensor(start, dtype=torch.float64))))
    return schedule.clip(low, high)


def _closed(schedule: Schedule, logsnr: Tensor, start: float) -> Tensor:
    """The times of log-SNRs, from the start to 0."""
    # the schedule's own clean end is a level with noise; the data after it are another
    times = schedule.time(logsnr).clamp(min=1e-15)
    times[0] = start
    return torch.cat([times, times.new_zeros(1)])
