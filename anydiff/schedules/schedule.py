r"""What a schedule is: how much data and how much noise there is at a time.

.. math:: x_t = \alpha_t x_0 + \sigma_t \epsilon, \qquad t \in [0, 1]

t = 0 is data, t = 1 is noise. The log signal-to-noise ratio,
:math:`\lambda_t = \log \alpha_t^2 - \log \sigma_t^2`, falls with t. All of it is computed in float64
and returned in the dtype of t: in float32, :math:`1 - \alpha^2` has lost its digits long before t
reaches 0.

A schedule is frozen and knows neither the data nor the number of sampling steps. A :class:`Level` is
a schedule at one time: with it go its rates, from which the drift and the diffusion of its SDE follow.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cache, cached_property
from typing import Any

import torch
from torch import Tensor, nn

__all__ = ["Level", "Schedule", "VariancePreserving"]


class Schedule(ABC):
    """t -> (alpha, sigma), with a log-SNR that falls."""

    def __call__(self, t: Tensor) -> tuple[Tensor, Tensor]:
        """alpha and sigma at the times t, both shaped like t and of its dtype."""
        alpha, sigma = self._levels(t.double())
        return alpha.to(t.dtype), sigma.to(t.dtype)

    @abstractmethod
    def _levels(self, t: Tensor) -> tuple[Tensor, Tensor]:
        """alpha and sigma at float64 times."""

    def _logsnr(self, t: Tensor) -> Tensor:
        """The log-SNR at float64 times."""
        alpha, sigma = self._levels(t)
        return 2 * (torch.log(alpha) - torch.log(sigma))

    def logsnr(self, t: Tensor) -> Tensor:
        r""":math:`\log(\alpha_t^2 / \sigma_t^2)`, shaped like t."""
        return self._logsnr(t.double()).to(t.dtype)

    def time(self, logsnr: Tensor) -> Tensor:
        """The t at which the log-SNR has the given value: the inverse of :meth:`logsnr`.

        Values outside the schedule's range give its nearest end.
        """
        target = logsnr.double()
        clean = self._logsnr(torch.zeros_like(target))
        noisy = self._logsnr(torch.ones_like(target))
        t = self._time(target).clamp(0, 1)
        t = torch.where(target < clean, t, 0.0)
        return torch.where(target > noisy, t, 1.0).to(logsnr.dtype)

    @torch.no_grad()
    def _time(self, logsnr: Tensor) -> Tensor:
        """The inverse at float64 values within the range: by bisection, to the last digit."""
        low, high = torch.zeros_like(logsnr), torch.ones_like(logsnr)
        for _ in range(60):
            middle = (low + high) / 2
            noisier = self._logsnr(middle) < logsnr  # then the time sought is earlier
            low, high = torch.where(noisier, low, middle), torch.where(noisier, middle, high)
        return low

    def ends(self, device: torch.device | str = "cpu") -> Tensor:
        """The log-SNRs of the clean end, t = 0, and the noisy one, t = 1: (2,), float64."""
        return self.logsnr(torch.tensor([0.0, 1.0], dtype=torch.float64, device=device))

    @torch.no_grad()
    def clip(self, logsnr_min: float, logsnr_max: float) -> tuple[float, float]:
        """The range of log-SNR, cut to the schedule's own.

        Arguments:
            logsnr_min, logsnr_max: The ends of the range.

        Raises:
            ValueError: If nothing is left of it.
        """
        clean, noisy = self.ends().tolist()
        low, high = max(logsnr_min, noisy), min(logsnr_max, clean)
        if not low < high:
            raise ValueError(
                f"log-SNRs from {logsnr_min:g} to {logsnr_max:g} are asked for, and {self} goes from "
                f"{noisy:g} to {clean:g}; give a range, or a start, that lies within these."
            )
        return low, high

    def rates(self, t: Tensor) -> tuple[Tensor, Tensor]:
        """The time derivatives of alpha and sigma, both shaped like t, of which they are not a function
        for autograd; of a learned schedule's weights they are."""
        # in reverse mode: forward mode's state is global, and threads may sample at once
        learned = isinstance(self, nn.Module) and torch.is_grad_enabled()
        with torch.enable_grad():
            t64 = t.detach().double().requires_grad_()
            alpha, sigma = (
                torch.autograd.grad(level.sum(), t64, retain_graph=True, create_graph=learned)[0]
                if level.requires_grad
                else torch.zeros_like(t64)
                for level in self._levels(t64)
            )
        return alpha.to(t.dtype), sigma.to(t.dtype)

    def at(self, t: Tensor) -> Level:
        """The levels at the times t, tensors shaped like t."""
        return Level(t, *self(t), self)

    def levels(self, times: Tensor) -> list[Level]:
        """A level of floats for each of the times (n,), float64: what a run of n - 1 steps needs."""
        t = times.detach().double().cpu()
        with torch.no_grad():
            columns = [c.tolist() for c in (t, *self(t))]

        @cache
        def rates() -> list[tuple[Any, Any]]:  # of all at once, when one of them is asked for
            with torch.no_grad():
                return list(zip(*(c.tolist() for c in self.rates(t)), strict=True))

        rows = zip(range(len(t)), *columns, strict=True)
        return [Level(*row, self, planned=lambda k=k: rates()[k]) for k, *row in rows]  # type: ignore

    def at_logsnr(self, logsnr: float) -> Level:
        """The level of floats with a log-SNR, or the schedule's nearest end."""
        with torch.no_grad():
            return self.levels(self.time(torch.tensor([logsnr], dtype=torch.float64)))[0]


class VariancePreserving(Schedule):
    r"""A schedule with :math:`\alpha^2 + \sigma^2 = 1`, which its log-SNR says everything about."""

    @abstractmethod
    def _logsnr(self, t: Tensor) -> Tensor:
        """The log-SNR at float64 times."""

    def _levels(self, t: Tensor) -> tuple[Tensor, Tensor]:
        logsnr = self._logsnr(t)
        return logsnr.sigmoid().sqrt(), (-logsnr).sigmoid().sqrt()


@dataclass(frozen=True, eq=False)
class Level:
    """A schedule at one time, or at one for each item: floats, or tensors (B,).

    Arguments:
        t: The time.
        alpha, sigma: What x_t is there: alpha x0 + sigma eps.
        schedule: Whose level it is.
        raised: A noisier level, up to which a sampler adds noise first; None where it adds none.
        planned: () -> the rates, of a level of floats that was made with others.
    """

    # floats or tensors: typed loosely, so that formulas read the same for both
    t: Any
    alpha: Any
    sigma: Any
    schedule: Schedule
    raised: Level | None = None
    planned: Callable[[], tuple[Any, Any]] | None = field(default=None, repr=False)

    @cached_property
    def rates(self) -> tuple[Any, Any]:
        """The time derivatives of alpha and sigma."""
        if self.planned is None and not isinstance(self.t, Tensor):
            return self.schedule.levels(torch.tensor([self.t], dtype=torch.float64))[0].rates
        return self.planned() if self.planned else self.schedule.rates(self.t)

    @property
    def logsnr(self) -> Any:
        r""":math:`\log(\alpha^2 / \sigma^2)`; infinite at either end of some schedules."""
        if isinstance(self.alpha, Tensor):
            return self.schedule.logsnr(self.t)
        if self.alpha == 0 or self.sigma == 0:
            return -math.inf if self.alpha == 0 else math.inf
        return 2 * (math.log(self.alpha) - math.log(self.sigma))

    @property
    def noise_to_signal(self) -> Any:
        """sigma / alpha: the noise level of Karras et al. Infinite where alpha is 0."""
        return self.sigma / self.alpha if torch.is_tensor(self.alpha) or self.alpha else math.inf

    @property
    def drift(self) -> Any:
        r"""f of the forward SDE :math:`dx = f x\,dt + g\,dw`: :math:`\alpha' / \alpha`."""
        return self.rates[0] / self.alpha

    @property
    def diffusion2(self) -> Any:
        r""":math:`g^2 = 2 \sigma \sigma' - 2 f \sigma^2` of the forward SDE."""
        return 2 * self.sigma * (self.rates[1] - self.drift * self.sigma)

    @property
    def logsnr_rate(self) -> Any:
        """The time derivative of the log-SNR; negative."""
        return 2 * (self.drift - self.rates[1] / self.sigma)
