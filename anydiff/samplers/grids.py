r"""Grids: the times of a sampling run.

A grid is a frozen object, (schedule, steps, start) -> falling times, (steps + 1,), the last one 0. Runs
that start at an intermediate noise level, as edits do, have a start below 1. The spacing of the times
matters more than the solver: near the data and near pure noise the state hardly changes, so that equal
steps in t waste most network calls there. The last time before the data is never before the first row of
a table, where its networks were not trained.
"""

from __future__ import annotations

from math import exp, expm1, inf, log, log1p
from typing import Protocol

import torch
from torch import Tensor

from anydiff.checks import check_kind, check_range, check_whole, frozen
from anydiff.schedules import Schedule

__all__ = ["Grid", "KarrasGrid", "LogSNR", "Quadratic", "Uniform", "Variances"]

PUREST = -12.0
"""The least log-SNR to which the rates of :class:`Variances` lead; lower ones take rates of nearly 1."""


class Grid(Protocol):
    """A rule for the times of a run; any function with these arguments is one."""

    def __call__(self, schedule: Schedule, steps: int, start: float = 1.0) -> Tensor:
        """Falling times, (steps + 1,), float64, from `start` to 0.

        Arguments:
            schedule: The schedule of the model.
            steps: The number of steps, at least 1.
            start: The first time, in (0, 1].
        """


@frozen()
class Uniform:
    """Equal steps in t: the chain of a table, or every n-th row of it."""

    def __call__(self, schedule: Schedule, steps: int, start: float = 1.0) -> Tensor:
        return _even(schedule, steps, start)


@frozen()
class Quadratic:
    """Steps that shrink towards the data, t = u².

    References:
        Denoising Diffusion Implicit Models (Song et al., 2021), appendix D.2.
        https://arxiv.org/abs/2010.02502
    """

    def __call__(self, schedule: Schedule, steps: int, start: float = 1.0) -> Tensor:
        return _even(schedule, steps, start, power=2)


@frozen(power="(0, inf)", logsnr_max="(logsnr_min, inf)")
class LogSNR:
    r"""Steps in the log-SNR, :math:`\lambda_k = \lambda_T + (\lambda_{max} - \lambda_T) (k / (n-1))^p`.

    Arguments:
        power: p. 1 gives equal steps; below 1 the first steps, near pure noise, are longer.
        logsnr_max: The log-SNR of the last time before the data, limited to the schedule's range.
        logsnr_min: The log-SNR of the first time, limited to the schedule's range. A run from pure noise
            still starts at t = 1.

    Raises:
        ValueError: If a value lies outside its range.

    References:
        DPM-Solver (Lu et al., 2022), section 3.3, with p = 1. https://arxiv.org/abs/2206.00927
    """

    power: float = 0.8
    logsnr_max: float = 12.0
    logsnr_min: float = -10.0

    def __call__(self, schedule: Schedule, steps: int, start: float = 1.0) -> Tensor:
        _check(schedule, steps, start)
        low, high = _range(schedule, self.logsnr_min, self.logsnr_max, start)
        u = torch.linspace(0, 1, steps, dtype=torch.float64) ** self.power
        return _closed(schedule, low + (high - low) * u, start)


@frozen(rho="(0, inf)", sigma_min="(0, inf)", sigma_max="(sigma_min, inf)")
class KarrasGrid:
    r"""The steps of Karras et al., equal in :math:`(\sigma / \alpha)^{1 / \rho}`.

    Arguments:
        rho: The exponent; 7 is the published one.
        sigma_min: The noise-to-signal ratio of the last time before the data, limited to the schedule's
            range.
        sigma_max: That of the first time, limited likewise.

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
        _check(schedule, steps, start)
        noisy, clean = -2 * log(self.sigma_max), -2 * log(self.sigma_min)
        low, high = _range(schedule, noisy, clean, start)
        first, last = exp(-low / (2 * self.rho)), exp(-high / (2 * self.rho))
        roots = torch.linspace(first, last, steps, dtype=torch.float64)
        return _closed(schedule, -2 * self.rho * roots.log(), start)


@frozen(kind=("linear", "quadratic"), first="(0, 1)")
class Variances:
    r"""The levels of a chain of n steps, whose rates of noise rise linearly or quadratically.

    .. math:: \eta_k = \eta_1 \bigl(1 + c\,(k - 1)\bigr)^p, \qquad
        \bar\alpha_k = \prod_{j \le k} (1 - \eta_j), \qquad \bar\alpha_n = \bar\alpha_{start}

    The last equation determines c. A level is found by its log-SNR,
    :math:`\ln \bar\alpha_k - \ln(1 - \bar\alpha_k)`, in any schedule: :math:`\bar\alpha` is
    :math:`\alpha^2 / (\alpha^2 + \sigma^2)`, which is :math:`\alpha^2` if the schedule preserves the
    variance. A run from purer noise, below a log-SNR of -12, has the levels of a run from there after its
    first.

    It is the VAR of FastDPM, with :class:`~anydiff.samplers.DDIM`. The paper finds the times of a table
    between two rows by gamma functions; here they are the table's own, which differ from those by at most
    a few hundredths of a row.

    Arguments:
        kind: ``"linear"`` rates, p = 1, or ``"quadratic"`` ones, p = 2.
        first: The first rate, the variance of the noise at the last time before the data; 1e-4 is that of
            the table of Ho et al. It is limited to the range of the schedule, and to the rate of n equal
            steps.

    Raises:
        ValueError: If a value lies outside its range.

    References:
        On Fast Sampling of Diffusion Probabilistic Models (Kong & Ping, 2021), section 3.
        https://arxiv.org/abs/2106.00132
    """

    kind: str = "linear"
    first: float = 1e-4

    def __call__(self, schedule: Schedule, steps: int, start: float = 1.0) -> Tensor:
        _check(schedule, steps, start)
        if steps == 1:
            return torch.tensor([start, 0], dtype=torch.float64)
        noisy, clean = _range(schedule, PUREST, inf, start)
        total, power = -log1p(exp(-noisy)), 1 if self.kind == "linear" else 2
        first = max(min(self.first, -expm1(total / steps)), exp(-clean) / (1 + exp(-clean)))
        rest = total - log1p(-first)

        k = torch.arange(1, steps, dtype=torch.float64)
        lowest = min(first, -expm1(rest / (steps - 1)))
        low, high = 0.0, (lowest ** (-1 / power) - 1) / (steps - 1)  # there the last rate is 1
        for _ in range(100):
            c = (low + high) / 2
            logs = torch.log1p(-lowest * (1 + c * k) ** power)
            low, high = (c, high) if logs.sum() > rest else (low, c)

        log_alpha2 = log1p(-first) + torch.cat([k.new_zeros(1), logs.cumsum(0)])
        logsnr = log_alpha2 - torch.log(-torch.expm1(log_alpha2))
        return _closed(schedule, logsnr.flip(0), start)


def _even(schedule: Schedule, steps: int, start: float, power: int = 1) -> Tensor:
    """Times whose roots are equally spaced, down to the data."""
    _check(schedule, steps, start)
    high, low = start ** (1 / power), schedule.first ** (1 / power)
    if low <= (1 + 1e-9) * high / steps:
        return torch.linspace(high, 0, steps + 1, dtype=torch.float64) ** power
    times = torch.linspace(high, low, steps, dtype=torch.float64) ** power
    return torch.cat([times.clamp(min=schedule.first), times.new_zeros(1)])


def _check(schedule: Schedule, steps: int, start: float) -> None:
    check_kind(Schedule, "a schedule, such as Cosine()", schedule=schedule)
    check_whole("[1, inf)", steps=steps)
    check_range("(0, 1]", start=start)


def _range(schedule: Schedule, low: float, high: float, start: float) -> tuple[float, float]:
    """The range of log-SNR of a grid: limited to that of the schedule and to the start of the run."""
    with torch.no_grad():
        ends = torch.tensor([start, schedule.first], dtype=torch.float64)
        noisy, clean = schedule._logsnr(ends).tolist()
    return schedule.clip(max(low, noisy), min(high, clean))


def _closed(schedule: Schedule, logsnr: Tensor, start: float) -> Tensor:
    """The times of the log-SNRs, with the start in place of the first, and 0 at the end."""
    # t = 0 is the data; the schedule's clean end, which has some noise, is a separate level before it
    times = schedule.time(logsnr).clamp(min=max(schedule.first, 1e-15))
    times[0] = float(start)
    return torch.cat([times, times.new_zeros(1)])
