r"""The interface of a noise schedule: how much data and how much noise x_t holds at time t.

.. math:: x_t = \alpha_t x_0 + \sigma_t \epsilon, \qquad t \in [0, 1]

t = 0 is data, t = 1 is noise. The log signal-to-noise ratio (log-SNR),
:math:`\lambda_t = \log \alpha_t^2 - \log \sigma_t^2`, falls with t. Everything is computed in float64
and returned in the dtype of t: in float32, :math:`1 - \alpha^2` loses all precision to cancellation
long before t reaches 0.

A schedule is frozen and depends neither on the data nor on the number of sampling steps. A
:class:`Level` is a schedule at one time; its time derivatives give the drift and the diffusion of the
SDE.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cache
from typing import Any

import torch
from torch import Tensor
from torch.func import vjp

from anydiff.checks import check_floating, check_kind, check_range, check_shape, read, real

__all__ = ["Level", "Schedule", "VariancePreserving", "check_times", "once"]


TIMES = "a tensor of floating-point times in [0, 1]"


class once:
    """A property that is computed on first access and cached.

    Unlike functools.cached_property in older Pythons it has no lock, which a compiler cannot trace; no
    lock is needed, since two threads share neither a level nor a prediction.
    """

    def __init__(self, function: Callable[[Any], Any]) -> None:
        self.function, self.__doc__ = function, function.__doc__

    def __get__(self, instance: Any, owner: Any = None) -> Any:
        if instance is None:
            return self
        value = instance.__dict__[self.function.__name__] = self.function(instance)
        return value


def check_times(hint: str, t: Tensor, slack: float = 1e-5) -> Tensor:
    """The times, if they are floating-point numbers in [0, 1].

    The values are checked on a CPU only: reading them from a device would wait for it.

    Arguments:
        hint: What to give.
        t: The times, of any shape.
        slack: How far a time may lie outside: rounding, and finite differences at the ends.

    Raises:
        ValueError: If t is no tensor, of another dtype, or if a time lies outside.
    """
    check_kind(Tensor, hint, t=t)
    if not t.is_floating_point():
        raise ValueError(f"t is of {t.dtype}; give {hint}: k / T for step k of T.")
    if read(t, lambda t: ((t >= -slack) & (t <= 1 + slack)).all()) is False:
        raise ValueError(f"t goes from {t.min():.3g} to {t.max():.3g}; give {hint}.")
    return t


class Schedule(ABC):
    """A noise schedule t -> (alpha, sigma), whose log-SNR falls with t."""

    first = 0.0
    """The least time at which a sampler calls a denoiser: that of the first row, in a table."""

    def __call__(self, t: Tensor) -> tuple[Tensor, Tensor]:
        """alpha and sigma at the times t, both with the shape and dtype of t.

        Arguments:
            t: A tensor of floating-point times in [0, 1].

        Raises:
            ValueError: If t is none.
        """
        return self._pair(check_times(TIMES, t))

    def _pair(self, t: Tensor) -> tuple[Tensor, Tensor]:
        """alpha and sigma at times that are known to fit: for the inside of the library."""
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
        r""":math:`\log(\alpha_t^2 / \sigma_t^2)`, shaped like t.

        Arguments:
            t: A tensor of floating-point times in [0, 1].

        Raises:
            ValueError: If t is none.
        """
        return self._logsnr(check_times(TIMES, t).double()).to(t.dtype)

    def time(self, logsnr: Tensor) -> Tensor:
        """The time t at which the log-SNR has the given value: the inverse of :meth:`logsnr`.

        Arguments:
            logsnr: Log-SNRs, of any shape; values outside the schedule's range give the nearest end.

        Raises:
            ValueError: If they are no floating-point numbers.
        """
        check_floating(logsnr=logsnr)
        target = logsnr.double()
        clean = self._logsnr(torch.zeros_like(target))
        noisy = self._logsnr(torch.ones_like(target))
        t = self._time(target).clamp(0, 1)
        t = torch.where(target >= clean, 0.0, t)
        return torch.where(target <= noisy, 1.0, t).to(logsnr.dtype)  # NaN stays NaN

    @torch.no_grad()
    def _time(self, logsnr: Tensor) -> Tensor:
        """The inverse at float64 values within the range, by bisection to full precision."""
        low, high = torch.zeros_like(logsnr), torch.ones_like(logsnr)
        for _ in range(60):
            middle = (low + high) / 2
            noisier = self._logsnr(middle) < logsnr  # so the solution is an earlier time
            low, high = torch.where(noisier, low, middle), torch.where(noisier, middle, high)
        return low

    def ends(self, device: torch.device | str = "cpu") -> Tensor:
        """The log-SNRs of the clean end, t = 0, and the noisy one, t = 1: (2,), float64."""
        return self._logsnr(torch.tensor([0.0, 1.0], dtype=torch.float64, device=device))

    @torch.no_grad()
    def clip(self, logsnr_min: float, logsnr_max: float) -> tuple[float, float]:
        """The intersection of a range of log-SNR with the schedule's own.

        Arguments:
            logsnr_min: The lower end of the range.
            logsnr_max: The upper end.

        Raises:
            ValueError: If the two ranges do not overlap, or an end is no number.
        """
        check_range("[-inf, inf]", logsnr_min=logsnr_min, logsnr_max=logsnr_max)
        clean, noisy = self.ends().tolist()
        low, high = max(logsnr_min, noisy), min(logsnr_max, clean)
        if not low < high:
            raise ValueError(
                f"log-SNRs from {logsnr_min:g} to {logsnr_max:g} are asked for, and {self} goes from "
                f"{noisy:g} to {clean:g}; give a range, or a start, that lies within these."
            )
        return low, high

    def rates(self, t: Tensor) -> tuple[Tensor, Tensor]:
        """The time derivatives of alpha and sigma, both shaped like t.

        They are detached from t; those of a learned schedule are differentiable in its weights.

        Arguments:
            t: A tensor of floating-point times in [0, 1], whose values are not checked.

        Raises:
            ValueError: If it is no tensor of floating-point numbers.
        """
        check_floating(t=t)
        alpha, sigma = self._rates(t.detach().double())
        return alpha.to(t.dtype), sigma.to(t.dtype)

    def _rates(self, t: Tensor) -> tuple[Tensor, Tensor]:
        """The derivatives at float64 times: those of `_levels`, where a schedule has no formula."""
        # vjp works without gradients, compiled, and within vmap, jvp and grad
        with torch.inference_mode(False):
            levels, pull = vjp(self._levels, t.clone())  # type: ignore[misc]
            one, zero = torch.ones_like(levels[0]), torch.zeros_like(levels[0])
            return pull((one, zero))[0], pull((zero, one))[0]

    def at(self, t: Tensor) -> Level:
        """The level at the times t, of tensors shaped like t.

        Arguments:
            t: A tensor of floating-point times in [0, 1].

        Raises:
            ValueError: If t is none.
        """
        return self._at(check_times(TIMES, t))

    def _at(self, t: Tensor) -> Level:
        return Level(t, *self._pair(t), self)

    def levels(self, times: Tensor | Sequence[float]) -> list[Level]:
        """One level of floats for each of the times (n,), as a run of n - 1 steps needs them.

        Arguments:
            times: Times in [0, 1], (n,).

        Raises:
            ValueError: If they are none.
        """
        t = real("times (n,)", times=times).detach().cpu()
        check_shape((None,), "give a list of times", times=t)
        if outside := [s for s in t.tolist() if not 0 <= s <= 1]:
            raise ValueError(f"the times hold {outside[0]}; give times in [0, 1].")
        with torch.no_grad():
            columns = [c.tolist() for c in (t, *self._pair(t))]

        @cache
        def rates() -> list[tuple[Any, Any]]:  # of all levels at once, on the first access
            with torch.no_grad():
                return list(zip(*(c.tolist() for c in self.rates(t)), strict=True))

        rows = zip(range(len(t)), *columns, strict=True)
        return [Level(*row, self, planned=lambda k=k: rates()[k]) for k, *row in rows]  # type: ignore

    def at_logsnr(self, logsnr: float) -> Level:
        """The level of floats with the given log-SNR; outside the schedule's range, its nearest end.

        Arguments:
            logsnr: The log-SNR, a number.

        Raises:
            ValueError: If it is none, or NaN.
        """
        check_range("[-inf, inf]", logsnr=logsnr)
        with torch.no_grad():
            return self.levels(self.time(torch.tensor([logsnr], dtype=torch.float64)))[0]


class VariancePreserving(Schedule):
    r"""A schedule with :math:`\alpha^2 + \sigma^2 = 1`, which is determined by its log-SNR."""

    @abstractmethod
    def _logsnr(self, t: Tensor) -> Tensor:
        """The log-SNR at float64 times."""

    def _levels(self, t: Tensor) -> tuple[Tensor, Tensor]:
        logsnr = self._logsnr(t)
        return logsnr.sigmoid().sqrt(), (-logsnr).sigmoid().sqrt()

    def _losing(self, t: Tensor, beta: Tensor) -> tuple[Tensor, Tensor]:
        r"""The rates where alpha falls as :math:`\alpha' = -\tfrac12 \beta \alpha`."""
        alpha, sigma = self._levels(t)
        return -beta / 2 * alpha, beta / 2 * alpha**2 / sigma

    def _turning(self, t: Tensor, push: Tensor) -> tuple[Tensor, Tensor]:
        r"""The rates at which :math:`\sigma\sigma' = -\alpha\alpha'` is the given push."""
        alpha, sigma = self._levels(t)
        return -push / alpha, push / sigma


@dataclass(frozen=True, eq=False)
class Level:
    """A schedule at one time, as floats; or at one time for each item, as tensors (B,).

    Arguments:
        t: The time.
        alpha: The coefficient of x0 in x_t = alpha x0 + sigma eps.
        sigma: The coefficient of eps.
        schedule: The schedule.
        raised: A noisier level, up to which a sampler adds noise before its step; None if it adds none.
        planned: () -> the rates, for a level of floats that was computed together with others.
    """

    # floats or tensors: typed loosely, so that formulas read the same for both
    t: Any
    alpha: Any
    sigma: Any
    schedule: Schedule
    raised: Level | None = None
    planned: Callable[[], tuple[Any, Any]] | None = field(default=None, repr=False)

    @once
    def rates(self) -> Any:
        """The time derivatives of alpha and sigma, a pair, both shaped like t."""
        if self.planned is None and not isinstance(self.t, Tensor):
            return self.schedule.levels(torch.tensor([self.t], dtype=torch.float64))[0].rates
        return self.planned() if self.planned else self.schedule.rates(self.t)

    @property
    def logsnr(self) -> Any:
        r""":math:`\log(\alpha^2 / \sigma^2)`; infinite at the ends of some schedules."""
        if isinstance(self.alpha, Tensor):
            return self.schedule._logsnr(self.t.double()).to(self.t.dtype)
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
